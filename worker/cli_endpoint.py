"""``paynotify endpoint …``: who is called, where and how.

Must never show a secret but in the moment it is made, nor an address inside our network.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from worker import cli_fields as options
from worker import lanes, route_rows
from worker.cli_fields import describe
from worker.cli_input import Json, Name, Who, Why, desk, example, person, secret
from worker.cli_print import console, facts, note, say, say_json, table
from worker.models import Allowed, Endpoint

if TYPE_CHECKING:
    from worker.runtime import Desk

app = typer.Typer(no_args_is_help=True, help="Who is called, where and how.")
Secret = Annotated[
    str | None,
    typer.Option("--secret", help="'-' reads it from standard input; without, one is made."),
]


@app.command(
    epilog=example(
        "paynotify endpoint add acme --merchant shop-77 --url https://acme.com/pay/notify "
        '--event "payment.*" --ack "2xx exact:success"'
    )
)
def add(  # noqa: PLR0913, PLR0917 - one option per field
    ctx: typer.Context,
    name: Name,
    merchant: Annotated[str, typer.Option(help="The host's id of the merchant.")],
    url: Annotated[str, typer.Option(help="Where it is called.")],
    event: options.Event = None,
    ack: options.Ack = None,
    schedule: options.Plan = None,
    rate: options.Rate = None,
    cap: options.Cap = None,
    timeout: options.Timeout = None,
    method: options.Method = None,
    content_type: options.ContentType = None,
    scheme: options.Scheme = None,
    terminal_status: options.Terminal = None,
    allow_http: options.AllowHttp = None,
    allow_port: options.AllowPort = None,
    allow_network: options.AllowNetwork = None,
    ca: options.Ca = None,
    client_cert: options.Client = None,
    revive: options.Revive = None,
    given_secret: Secret = None,
    who: Who = "",
    why: Why = "registered",
    as_json: Json = False,
) -> None:
    """Register an endpoint; prints its secret, this once."""
    given = options.fields(ctx.params)
    allowed = options.exceptions(Allowed(), allow_http, allow_port, allow_network)
    if allowed is not None:
        given["allowed"] = allowed
    value = secret(given_secret)
    with desk() as at:
        made = at.endpoints.register(
            name=name, merchant=merchant, who=person(who), why=why, secret=value, **given
        )
    if as_json:
        say_json({**describe(made), "secret": made.secrets[0].value})
    else:
        say(f"endpoint {made.name} is registered for merchant {made.merchant}")
        show_secret(made.secrets[0].value)


@app.command(epilog=example('paynotify endpoint update acme --rate 50 --why "asked by mail"'))
def update(  # noqa: PLR0913, PLR0917 - one option per field
    ctx: typer.Context,
    name: Name,
    url: Annotated[str | None, typer.Option(help="Where it is called.")] = None,
    event: options.Event = None,
    ack: options.Ack = None,
    schedule: options.Plan = None,
    rate: options.Rate = None,
    no_rate: Annotated[bool, typer.Option("--no-rate", help="Lift the rate limit.")] = False,
    cap: options.Cap = None,
    timeout: options.Timeout = None,
    method: options.Method = None,
    content_type: options.ContentType = None,
    scheme: options.Scheme = None,
    terminal_status: options.Terminal = None,
    allow_http: options.AllowHttp = None,
    allow_port: options.AllowPort = None,
    allow_network: options.AllowNetwork = None,
    allow_nothing: Annotated[
        bool, typer.Option("--allow-nothing", help="Take back what was allowed, first.")
    ] = False,
    ca: options.Ca = None,
    client_cert: options.Client = None,
    revive: options.Revive = None,
    why: Why = "",
    who: Who = "",
    as_json: Json = False,
) -> None:
    """Change an endpoint; what is not named stays as it is."""
    given = options.fields(ctx.params)
    if no_rate:
        given["rate_per_s"] = None
    with desk() as at:
        before = Allowed() if allow_nothing else at.endpoints.find(name).allowed
        allowed = options.exceptions(before, allow_http, allow_port, allow_network)
        if allowed is not None or allow_nothing:
            given["allowed"] = allowed or before
        tell(at.endpoints.update(name, who=person(who), why=why, **given), as_json, "updated")


@app.command("list", epilog=example("paynotify endpoint list --json"))
def list_(
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List the endpoints by name."""
    with desk() as at:
        found = [describe(endpoint) for endpoint in at.endpoints.list(with_deleted=deleted)]
    if as_json:
        for endpoint in found:
            say_json(endpoint)
        return
    names = ("name", "merchant", "state", "url", "ack", "rate_per_s", "in_flight_cap")
    rows = ([endpoint[name] for name in names] for endpoint in found)
    console().print(
        table(("NAME", "MERCHANT", "STATE", "URL", "ACK", "RATE/S", "CAP"), rows)
        if found
        else "no endpoints; `paynotify endpoint add --help` shows how to make one"
    )


@app.command(epilog=example("paynotify endpoint show acme"))
def show(name: Name, as_json: Json = False) -> None:
    """Show an endpoint and how its lanes are doing; never its secrets."""
    with desk() as at:
        endpoint = at.endpoints.find(name)
        views = lanes.of_endpoint(at.engine, endpoint.id)
        routes = routes_of(at, endpoint)
    if as_json:
        say_json({**describe(endpoint), "lanes": views, "routes": routes})
        return
    console().print(facts(_rows(describe(endpoint))))
    if routes:
        console().print()
        console().print(routes_table(routes))
    console().print()
    console().print(lanes_table(views))


def lanes_table(views: list[lanes.LaneView]) -> object:
    """Show lanes: breaker, pace, what is on the wire."""
    return table(
        (
            "ENDPOINT",
            "HOST",
            "QUEUE",
            "FAILED IN ROW",
            "BREAKER OPEN UNTIL",
            "RAMP",
            "MS",
            "SENDING",
        ),
        (
            (
                view.endpoint,
                view.host or "(its URL)",
                view.pool.value,
                view.failures_in_row,
                view.breaker_until,
                view.ramp,
                view.latency_ms,
                view.sending,
            )
            for view in views
        ),
    )


def routes_of(at: "Desk", endpoint: Endpoint) -> list[route_rows.RouteView]:
    """Return how the routes of an endpoint are doing."""
    # Imported by the desk already; not by --help.
    from worker.runtime import route_policy  # noqa: PLC0415

    return route_rows.views(at.engine, endpoint, route_policy(at.settings))


def routes_table(views: list[route_rows.RouteView]) -> object:
    """Show routes: where they lead, their share now, and why."""
    return table(
        ("ROUTE", "URL", "WEIGHT", "SHARE", "STANDING", "FAILED", "PROBE AT", "SINCE"),
        (
            (
                view.no,
                view.url,
                view.weight,
                f"{view.percent:g} %",
                f"{view.standing}, pinned" if view.pinned else view.standing,
                f"{view.failed} of {view.sends}" if view.sends else None,
                view.probe_at,
                view.moved_at,
            )
            for view in views
        ),
    )


def tell(endpoint: Endpoint, as_json: bool, what: str) -> None:
    """Say what an endpoint is now."""
    if as_json:
        say_json(describe(endpoint))
    else:
        say(f"endpoint {endpoint.name} is {what}")


def show_secret(value: str) -> None:
    """Show a secret, the one time it can be."""
    say(f"secret: {value}")
    note("Give it to the merchant now; it is not shown again.")


def _rows(described: dict[str, object]) -> list[tuple[str, object]]:
    rows = []
    for name, value in described.items():
        shown = _joined(value)
        if isinstance(value, dict):
            shown = "; ".join(f"{key}: {_joined(item)}" for key, item in value.items() if item)
        rows.append((name, shown))
    return rows


def _joined(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
