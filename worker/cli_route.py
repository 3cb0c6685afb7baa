"""``paynotify endpoint route …``: the addresses of an endpoint, how they do, which one is used.

Must never show the query of a URL.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from worker import endpoint_routes
from worker.cli_endpoint import routes_of, routes_table
from worker.cli_fields import describe
from worker.cli_input import Json, Name, Who, Why, desk, example, person
from worker.cli_print import console, say, say_json
from worker.masking import mask
from worker.models import Endpoint
from worker.route_facts import OWN
from worker.route_rows import all_routes

app = typer.Typer(no_args_is_help=True, help="Other addresses, for when one is in trouble.")
No = Annotated[
    int, typer.Argument(help=f"Number of the route; {OWN} is the endpoint's own URL.", min=0)
]
_WEIGHT = "Share beside the others' weights, 0 to 100; 0: only when none with a weight is well."


@app.command(
    epilog=example(
        'paynotify endpoint route add acme https://backup.acme.com/pay --why "their second site"'
    )
)
def add(
    name: Name,
    url: Annotated[str, typer.Argument(help="Where it is called too.", show_default=False)],
    weight: Annotated[int, typer.Option(help=_WEIGHT)] = 0,
    why: Why = "",
    who: Who = "",
    as_json: Json = False,
) -> None:
    """Give an endpoint one more route, the last in order."""
    after = _changed(
        name, lambda before: endpoint_routes.added(before, url, weight=weight), "add", who, why
    )
    _tell(after, as_json, f"called through route {after.routes_made} too")


@app.command(epilog=example('paynotify endpoint route remove acme 1 --why "site closed"'))
def remove(name: Name, no: No, why: Why = "", who: Who = "", as_json: Json = False) -> None:
    """Take a route away."""
    after = _changed(name, lambda before: endpoint_routes.removed(before, no), "remove", who, why)
    _tell(after, as_json, f"not called through route {no} any more")


@app.command(epilog=example('paynotify endpoint route weight acme 1 30 --why "share the load"'))
def weight(
    name: Name,
    no: No,
    value: Annotated[int, typer.Argument(metavar="WEIGHT", help=_WEIGHT, show_default=False)],
    why: Why = "",
    who: Who = "",
    as_json: Json = False,
) -> None:
    """Change how much goes through a route."""
    after = _changed(
        name, lambda before: endpoint_routes.weighted(before, no, value), "weight", who, why
    )
    _tell(after, as_json, f"called through route {no} with weight {value}")


@app.command(epilog=example('paynotify endpoint route pin acme 1 --why "they move tonight"'))
def pin(name: Name, no: No, why: Why = "", who: Who = "", as_json: Json = False) -> None:
    """Send everything through one route, well or not."""
    after = _changed(name, lambda before: endpoint_routes.pinned(before, no), "pin", who, why)
    _tell(after, as_json, f"called through route {no} only")


@app.command(epilog=example('paynotify endpoint route unpin acme --why "they have moved"'))
def unpin(name: Name, why: Why = "", who: Who = "", as_json: Json = False) -> None:
    """Let the health of the routes decide again."""
    after = _changed(name, lambda before: endpoint_routes.pinned(before, None), "unpin", who, why)
    _tell(after, as_json, "called through whichever route is well")


def _changed(
    name: str, change: Callable[[Endpoint], Endpoint], action: str, who: str, why: str
) -> Endpoint:
    with desk() as at:
        return at.endpoints.change_routes(
            name, change, action=f"endpoint.route-{action}", who=person(who), why=why
        )


@app.command("list", epilog=example("paynotify endpoint route list acme"))
def list_(name: Name, as_json: Json = False) -> None:
    """List the routes of an endpoint and how they are doing."""
    with desk() as at:
        views = routes_of(at, at.endpoints.find(name))
    if as_json:
        for view in views:
            say_json(view)
    elif views:
        console().print(routes_table(views))
    else:
        say(f"endpoint {name} has but its own URL; `paynotify endpoint route add --help`")


def _tell(endpoint: Endpoint, as_json: bool, what: str) -> None:
    if not as_json:
        say(f"endpoint {endpoint.name} is {what}")
        return
    routes = [
        {"no": route.no, "url": mask(route.url), "weight": route.weight}
        for route in all_routes(endpoint)
    ]
    say_json({**describe(endpoint), "routes": routes})
