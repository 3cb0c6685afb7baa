"""``paynotify hold …``: what must be kept, whatever its age.

Must never place or lift a hold without saying who and why.
"""

from typing import Annotated

import typer

from worker import holds
from worker.cli_input import Json, Who, Why, desk, example, need, person
from worker.cli_print import console, say, say_json, table

app = typer.Typer(no_args_is_help=True, help="What must be kept, whatever its age.")

_Order = Annotated[str | None, typer.Option("--order", help="Number of an order or a refund.")]
_Endpoint = Annotated[str | None, typer.Option("--endpoint", help="Name of an endpoint.")]


@app.command(epilog=example('paynotify hold add --order A7 --who li --why "claim 2026-17"'))
def add(
    order: _Order = None,
    endpoint: _Endpoint = None,
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Keep everything about an order, or of an endpoint; again changes nothing."""
    need(why, "--why", '"claim 2026-17"')
    with desk() as at:
        placed = holds.add(at.engine, order_no=order, endpoint=endpoint, who=person(who), why=why)
    subject = _subject(order, endpoint)
    if as_json:
        say_json({"held": subject, "placed": placed})
    else:
        say(f"{subject} is on hold" + ("" if placed else ", as it was before"))


@app.command(epilog=example('paynotify hold remove --order A7 --who li --why "settled"'))
def remove(
    order: _Order = None,
    endpoint: _Endpoint = None,
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Lift a hold; what is past its age is removed with the next retention."""
    need(why, "--why", '"settled"')
    with desk() as at:
        holds.lift(at.engine, order_no=order, endpoint=endpoint, who=person(who), why=why)
    subject = _subject(order, endpoint)
    say_json({"lifted": subject}) if as_json else say(f"{subject} is no longer on hold")


@app.command("list", epilog=example("paynotify hold list --json"))
def list_(as_json: Json = False) -> None:
    """List the holds, oldest first."""
    with desk() as at:
        found = holds.find(at.engine)
    if as_json:
        for hold in found:
            say_json(hold)
        return
    rows = ((_subject(h.order_no, h.endpoint), h.placed_at, h.who, h.why) for h in found)
    console().print(
        table(("HELD", "SINCE", "BY", "WHY"), rows)
        if found
        else "nothing is on hold; `paynotify hold add --help` shows how"
    )


def _subject(order: str | None, endpoint: str | None) -> str:
    return f"order {order}" if order is not None else f"endpoint {endpoint}"
