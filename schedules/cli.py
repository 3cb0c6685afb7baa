"""``paynotify schedule …``: what runs when, what became of it, and a run by hand.

Must hold no rules, and never change anything without saying who and why.
"""

import difflib
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from worker import clock, settings
from worker.cli_input import Json, desk, example, moment, need, person, span
from worker.cli_print import console, note, say, say_json, table
from worker.errors import BadFieldError, NotFoundError

if TYPE_CHECKING:
    from schedules.crontable import Line, Table
    from schedules.tick_book import Past, Standing
    from worker.runtime import Desk

app = typer.Typer(no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="Name of the schedule.", show_default=False)]
_Who = Annotated[
    str, typer.Option("--who", help="Who does it, for the audit log. [default: your login]")
]
_Why = Annotated[str, typer.Option("--why", help="Why, for the audit log.")]
_POLL_S = 0.2
_NEXT_MAX = 1000
_SILENT_S = 30.0
_OVER = ("done", "failed")


@app.command("list", epilog=example("paynotify schedule list --json"))
def list_(as_json: Json = False) -> None:
    """List every schedule: when it runs next, how it ended last; 1 when a line was refused."""
    from schedules import tick_book  # noqa: PLC0415 - only what runs pays for it

    with desk() as at:
        found = _table(at)
        standings = tick_book.standings(at.engine)
        silent_s = tick_book.beat_age_s(at.engine)
    shown = [_document(line, standings.get(line.name)) for line in found.lines]
    if as_json:
        for document in shown:
            say_json(document)
    else:
        names = ("name", "cron", "zone", "job", "state", "next_at", "last_at", "last_result")
        console().print(
            table(
                [name.upper().replace("_", " ") for name in names],
                ([document[name] for name in names] for document in shown),
            )
        )
    for why in found.problems:
        note(f"REFUSED  {at.settings.cron_table}: {why}")
    if silent_s is None or silent_s > _SILENT_S:
        note("No beat is running, so nothing comes due; start `paynotify beat` or `paynotify up`")
    if found.problems:
        raise typer.Exit(1)


@app.command("next", epilog=example("paynotify schedule next retention -n 5"))
def next_(
    name: _Name,
    count: Annotated[int, typer.Option("-n", "--count", help=f"How many, 1 to {_NEXT_MAX}.")] = 5,
    as_json: Json = False,
) -> None:
    """Show the next times a schedule ticks, in its own zone and in UTC."""
    from schedules import crontable  # noqa: PLC0415 - as above
    from schedules.cron import next_ticks  # noqa: PLC0415 - as above

    if not 1 <= count <= _NEXT_MAX:
        raise BadFieldError("--count", f"is {count}, must be 1 to {_NEXT_MAX}")
    line = _line(crontable.load(settings.load(host=True).cron_table), name)
    zone = ZoneInfo(line.cron.zone)
    for tick_at in next_ticks(line.cron, after=clock.now(), count=count):
        local = tick_at.astimezone(zone).isoformat(sep=" ")
        if as_json:
            say_json({"name": name, "tick_at": tick_at, "local": local, "zone": line.cron.zone})
        else:
            say(f"{local} {line.cron.zone}  ({tick_at:%Y-%m-%d %H:%M:%SZ})")


@app.command(epilog=example('paynotify schedule run retention --why "disk is filling up"'))
def run(
    name: _Name,
    why: _Why = "",
    who: _Who = "",
    wait: Annotated[
        str, typer.Option(help="How long to wait for its end: 30s, 5m; 0 does not wait.")
    ] = "30s",
    as_json: Json = False,
) -> None:
    """Run a schedule's job now, once, whatever its hour; a worker does it."""
    from schedules import tick_book  # noqa: PLC0415 - as above

    need(why, "--why", '"a merchant waits"')
    wait_s = span(wait, "--wait").total_seconds()
    with desk() as at:
        line = _line(_table(at), name)
        tick_at = tick_book.order(at.engine, line, who=person(who), why=why)
        until_s = clock.monotonic_s() + wait_s
        found = tick_book.outcome(at.engine, name, tick_at)
        while found.state not in _OVER and clock.monotonic_s() < until_s:
            clock.sleep(_POLL_S)
            found = tick_book.outcome(at.engine, name, tick_at)
    say_json(found) if as_json else say(_sentence(found))
    if found.state == "failed":
        raise typer.Exit(1)


@app.command(epilog=example('paynotify schedule pause redrive --why "maintenance at acme"'))
def pause(name: _Name, why: _Why = "", who: _Who = "") -> None:
    """Let a schedule tick no more until it is resumed; what is due already waits."""
    from schedules import tick_book  # noqa: PLC0415 - as above

    need(why, "--why", '"maintenance"')
    with desk() as at:
        _known(at, name)
        tick_book.pause(at.engine, name, who=person(who), why=why)
    say(f"schedule {name} is paused")


@app.command(epilog=example('paynotify schedule resume redrive --why "maintenance is over"'))
def resume(name: _Name, why: _Why = "", who: _Who = "") -> None:
    """Let a paused schedule tick again from now on; nothing is caught up."""
    from schedules import tick_book  # noqa: PLC0415 - as above

    need(why, "--why", '"maintenance is over"')
    with desk() as at:
        _known(at, name)
        tick_book.resume(at.engine, name, who=person(who), why=why)
    say(f"schedule {name} ticks again")


@app.command(epilog=example("paynotify schedule history retention --limit 20"))
def history(
    name: Annotated[
        str | None, typer.Argument(help="Of one schedule; all if left out.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(help="At most, 1 to 1000.")] = 50,
    before: Annotated[
        str | None, typer.Option(help="Only older ticks: 15m, 2h, 3d, 2026-01-31T08:00:00Z.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List ticks, newest first: how often each was begun, how it ended, why it was skipped."""
    from schedules import tick_book  # noqa: PLC0415 - as above

    with desk() as at:
        if name is not None:
            _known(at, name)
        older = moment(before, "--before", now=at.store.now())
        found = tick_book.history(at.engine, name, limit=limit, before=older)
    if as_json:
        for past in found:
            say_json(past)
        return
    console().print(
        table(
            ("TICK", "NAME", "STATE", "RUNS", "STARTED", "FINISHED", "RESULT"),
            (
                (p.tick_at, p.name, p.state, p.runs, p.started_at, p.finished_at, _told(p))
                for p in found
            ),
        )
    )


def _table(at: "Desk") -> "Table":
    from schedules import crontable  # noqa: PLC0415 - as above

    return crontable.load(at.settings.cron_table)


def _line(found: "Table", name: str) -> "Line":
    line = found.find(name)
    if line is None:
        near = difflib.get_close_matches(name, [each.name for each in found.lines], n=1)
        hint = f"did you mean {near[0]}?" if near else "see `paynotify schedule list`"
        raise NotFoundError("schedule", name, hint)
    return line


def _known(at: "Desk", name: str) -> None:
    """Refuse a name that is neither in the file nor was ever."""
    from schedules import tick_book  # noqa: PLC0415 - as above

    if name not in tick_book.standings(at.engine):
        _line(_table(at), name)


def _document(line: "Line", standing: "Standing | None") -> dict[str, object]:
    from schedules.cron import next_ticks  # noqa: PLC0415 - as above

    state = "off" if not line.enabled else "paused" if standing and standing.paused else "on"
    last = standing.last if standing else None
    ticks = next_ticks(line.cron, after=clock.now(), count=1) if state == "on" else []
    return {
        "name": line.name,
        "cron": line.cron.expression,
        "zone": line.cron.zone,
        "job": line.job,
        "state": state,
        "due": standing.due if standing else 0,
        "next_at": ticks[0] if ticks else None,
        "last_at": last.tick_at if last else None,
        "last_state": last.state if last else None,
        "last_result": _told(last) if last else None,
    }


def _told(past: "Past") -> str:
    failed = "FAILED: " if past.state == "failed" else ""
    return f"{failed}{past.result}" if past.result else past.note


def _sentence(past: "Past") -> str:
    if past.state in _OVER:
        return f"{past.name} {past.state}: {past.result}"
    found = "a worker runs it" if past.state == "running" else "no worker has taken it yet"
    return f"{past.name} is {past.state}: {found}; see `paynotify schedule history {past.name}`"
