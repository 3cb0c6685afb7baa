"""``paynotify endpoint …``: who is called, where and how.

Must never show a secret but in the moment it is made, nor an address inside our network.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from worker import cli_fields as options
from worker import freeze_views, lanes, route_rows
from worker.cli_fields import describe
from worker.cli_input import Json, Name, Who, Why, desk, example, person, secret
from worker.cli_print import cell, console, facts, note, say, say_json, table
from worker.models import Allowed, Endpoint
from worker.signers import registry
from worker.signers.contract import KeyPair

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
        '--event "payment.*" --ack "2xx exact:success"',
        "paynotify endpoint add card-shop --merchant shop-78 --url https://shop.example.com/notify "
        "--profile epay --field pid==1001",
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
    profile: options.Profile = None,
    scheme: options.Scheme = None,
    field: options.Field = None,
    option: options.Option = None,
    terminal_status: options.Terminal = None,
    allow_http: options.AllowHttp = None,
    allow_port: options.AllowPort = None,
    allow_network: options.AllowNetwork = None,
    ca: options.Ca = None,
    client_cert: options.Client = None,
    revive: options.Revive = None,
    freeze: options.Freeze = None,
    ordering_wait: options.OrderingWait = None,
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
        say_json({**describe(made), **handed_over(made.scheme, made.secrets[0].value)})
    else:
        say(f"endpoint {made.name} is registered for merchant {made.merchant}")
        show_secret(made.scheme, made.secrets[0].value)


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
    profile: options.Profile = None,
    scheme: options.Scheme = None,
    field: options.Field = None,
    option: options.Option = None,
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
    freeze: options.Freeze = None,
    ordering_wait: options.OrderingWait = None,
    why: Why = "",
    who: Who = "",
    as_json: Json = False,
) -> None:
    """Change an endpoint; what is not named stays as it is."""
    given = options.fields(ctx.params)
    if no_rate:
        given["rate_per_s"] = None
    with desk() as at:
        known = at.endpoints.find(name)
        given = options.over(known, given)
        before = Allowed() if allow_nothing else known.allowed
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
        frozen = freeze_views.of_endpoint(at.engine, endpoint.id)
    if as_json:
        say_json({**describe(endpoint), "last_freeze": frozen, "lanes": views, "routes": routes})
        return
    console().print(facts([*_rows(describe(endpoint)), ("last freeze", _freeze(frozen))]))
    if routes:
        console().print()
        console().print(routes_table(routes))
    console().print()
    console().print(lanes_table(views))


def _freeze(seen: freeze_views.FreezeView | None) -> str | None:
    """Tell of the present or last freeze in one line."""
    if seen is None:
        return None
    last = f", the last: {seen.code}" + (f" (HTTP {seen.status})" if seen.status else "")
    probed = f"{seen.probes} probes" + (last if seen.code else "")
    if seen.unfrozen_at is not None:
        end = f"ended after {seen.frozen_s} s by {seen.unfrozen_by}"
    elif seen.person:
        end = f"waits for a person ({seen.person}): paynotify endpoint resume"
    else:
        end = f"for {seen.frozen_s} s, probed next at {cell(seen.probe_at)}"
    return f"{cell(seen.frozen_at)}, {seen.why}; {probed}; {end}"


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


def handed_over(scheme: str, value: str) -> dict[str, str]:
    """Return what the merchant is given: the secret, or of a key pair what only verifies.

    A private key is never shown: nobody but us has a use for it.
    """
    found = registry.find(scheme)
    if isinstance(found, KeyPair):
        return {"for_merchant": found.for_merchant(value)}
    return {"secret": value}


def show_secret(scheme: str, value: str) -> None:
    """Show what the merchant is given, the one time it can be."""
    [(name, text)] = handed_over(scheme, value).items()
    say(f"secret: {text}" if name == "secret" else f"for the merchant, to verify with:\n{text}")
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
