"""``paynotify endpoint …``, second part: pause, resume, delete, rotate the secret, test.

Must never show where a test message really went.
"""

from typing import Annotated

import typer

from worker.cli_endpoint import Secret, handed_over, show_secret, tell
from worker.cli_input import Json, Name, Who, Why, Yes, confirm, desk, example, person, secret, span
from worker.cli_print import say, say_json
from worker.endpoint_routes import through
from worker.route_facts import OWN


def pause(name: Name, why: Why = "", who: Who = "", as_json: Json = False) -> None:
    """Hold all notifications of an endpoint; no attempt burns meanwhile."""
    with desk() as at:
        tell(at.endpoints.pause(name, who=person(who), why=why), as_json, "paused")


def resume(name: Name, why: Why = "", who: Who = "", as_json: Json = False) -> None:
    """Let a paused, frozen or gone endpoint be called again."""
    with desk() as at:
        tell(at.endpoints.resume(name, who=person(who), why=why), as_json, "active again")


def delete(
    name: Name, why: Why = "", who: Who = "", yes: Yes = False, as_json: Json = False
) -> None:
    """Delete an endpoint for good: what it has waiting stays, held."""
    with desk() as at:
        at.endpoints.find(name)
        confirm(f"Delete endpoint {name} for good?", yes=yes)
        tell(at.endpoints.delete(name, who=person(who), why=why), as_json, "deleted")


def rotate_secret(
    name: Name,
    why: Why = "",
    overlap: Annotated[
        str, typer.Option(help="How long the old secret signs along: 0 to 72h; 0 after a leak.")
    ] = "24h",
    given_secret: Secret = None,
    who: Who = "",
    as_json: Json = False,
) -> None:
    """Give an endpoint a new secret; prints it, this once. Again: the oldest ends at once."""
    value, along = secret(given_secret), span(overlap, "--overlap")
    with desk() as at:
        made = at.endpoints.rotate_secret(
            name, who=person(who), why=why, overlap=along, secret=value
        )
        scheme = at.endpoints.find(name).scheme
    if as_json:
        shown = handed_over(scheme, made)
        say_json({"name": name, **shown, "overlap_s": int(along.total_seconds())})
    else:
        hours = along.total_seconds() / 3600
        old = (
            f"the old one signs along for {hours:g} h where two fit"
            if along
            else "the old one ends now"
        )
        say(f"endpoint {name} has a new secret; {old}")
        show_secret(scheme, made)


def ping_(
    name: Name,
    route: Annotated[
        int, typer.Option(help=f"Through which route; {OWN} is the endpoint's own URL.")
    ] = OWN,
    as_json: Json = False,
) -> None:
    """Send one signed test message as a real one would go; exits 0 when it is acknowledged."""
    # Brings libcurl along, which no other command needs.
    from worker.endpoint_book import EndpointBook  # noqa: PLC0415
    from worker.ping import ping  # noqa: PLC0415

    with desk() as at:
        endpoint = at.endpoints.find(name)
        opened = EndpointBook(at.engine, at.sealer).at(endpoint.id, endpoint.config_no)
        pong = ping(through(opened, route), at.settings)
    if as_json:
        say_json(
            {
                "endpoint": name,
                "code": pong.code,
                "status": pong.status or None,
                "elapsed_ms": pong.elapsed_ms,
                "message_id": pong.message_id,
            }
        )
    else:
        status = f" (HTTP {pong.status})" if pong.status else ""
        say(f"{pong.code}{status} after {pong.elapsed_ms} ms, message {pong.message_id}")
    if not pong.acked:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add these commands to ``endpoint``."""
    app.command(epilog=example('paynotify endpoint pause acme --why "they move until 6:00"'))(pause)
    app.command(epilog=example('paynotify endpoint resume acme --why "they are back"'))(resume)
    app.command(epilog=example('paynotify endpoint delete acme --why "contract ended"'))(delete)
    app.command(
        epilog=example(
            'paynotify endpoint rotate-secret acme --overlap 24h --why "yearly rotation"'
        )
    )(rotate_secret)
    app.command("test", epilog=example("paynotify endpoint test acme"))(ping_)
