"""``paynotify alert …``: what is wrong, who looks after it, and whether sinks work.

Must never show an address that holds a token.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schedules import alert_delivery, alert_rules
from schedules.alert_file import nearest
from worker import alerts, telemetry
from worker.alert_post import Notice
from worker.cli_input import ID_MAX, Json, desk, example, need, person, span
from worker.cli_print import console, note, say, say_json, table
from worker.errors import BadFieldError, NotFoundError, PaynotifyError
from worker.incidents import Alert, Occasion, Severity, Silence

if TYPE_CHECKING:
    from worker.runtime import Desk

app = typer.Typer(no_args_is_help=True)

_Who = Annotated[
    str, typer.Option("--who", help="Who does it, for the audit log. [default: your login]")
]
_Id = Annotated[int, typer.Argument(min=1, max=ID_MAX, help="Id of the alert.", show_default=False)]


@app.command("list", epilog=example("paynotify alert list", "paynotify alert list --all --json"))
def list_(
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=alerts.PAGE_MAX, help="At most so many.")] = 50,
    before: Annotated[
        int | None,
        typer.Option(min=1, max=ID_MAX, help="Go on after a page: the last id it showed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List open alerts, newest first, and what is silenced."""
    with desk() as at:
        found = alerts.find(at.engine, open_only=not every, before_id=before, limit=limit)
        silent = alerts.silence_rows(at.engine, now=at.store.now())
    if as_json:
        for alert in found:
            say_json(alert)
        return
    columns = ("ID", "SEVERITY", "RULE", "SUBJECT", "SINCE", "STATE", "WHAT")
    console().print(table(columns, (_shown(alert) for alert in found)))
    if len(found) == limit:
        note(f"There may be more: add --before {found[-1].id}")
    for row in silent:
        note(
            f"Silenced until {_moment(row.until)}: rule {row.rule}, subject {row.subject}, by "
            f"{row.who} ({row.why}); end it with: paynotify alert silence --end {row.id}"
        )


@app.command(epilog=example("paynotify alert ack 17 --who li"))
def ack(alert_id: _Id, who: _Who = "") -> None:
    """Take an alert up: it is no longer escalated. Again is harmless."""
    with desk() as at:
        found = alerts.acknowledge(at.engine, alert_id, who=person(who), now=at.store.now())
    say(f"alert {found.id} ({found.rule}) is taken up by {found.acknowledged_by}")


@app.command(
    epilog=example(
        'paynotify alert silence endpoint-fails --subject "acme-*" --for 2h --why "they move"',
        "paynotify alert silence --end 3",
    )
)
def silence(
    rule: Annotated[
        str, typer.Argument(help="Name of the rule, or * for all.", show_default=False)
    ] = "",
    subject: Annotated[
        str, typer.Option("--subject", help="Of these subjects only; * and ? stand for any.")
    ] = "*",
    length: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 1d, up to 30d.")] = "",
    end: Annotated[
        int | None, typer.Option("--end", min=1, max=ID_MAX, help="End this silence instead.")
    ] = None,
    who: _Who = "",
    why: Annotated[str, typer.Option("--why", help="Why, for the audit log.")] = "",
) -> None:
    """Tell nobody of some alerts for a while; what is still open afterwards is told then."""
    if end is not None:
        with desk() as at:
            alerts.end_silence(at.engine, end, who=person(who), now=at.store.now())
        say(f"silence {end} is over")
        return
    wait = span(need(length, "--for", "2h"), "--for")
    if not 0 < wait.total_seconds() <= 30 * 86_400:
        raise BadFieldError("--for", "must be more than 0 and at most 30d")
    need(why, "--why", '"they move house"')
    with desk() as at:
        _check_rule(at, rule)
        now = at.store.now()
        silence_id = alerts.keep_silent(
            at.engine,
            Silence(rule=rule, subject=subject),
            until=now + wait,
            who=person(who),
            why=why,
            now=now,
        )
    say(f"silence {silence_id}: nobody is told of {rule} {subject} until {_moment(now + wait)}")


@app.command(epilog=example("paynotify alert test log", "paynotify alert test on-call"))
def test(
    sink: Annotated[str, typer.Argument(help="Name of the sink.", show_default=False)],
) -> None:
    """Send a test notice through a sink now, and say what happened."""
    with desk() as at:
        book = alert_rules.load(at.settings)
        found = book.sinks.get(sink)
        if found is None:
            _say_refused(book.refused)
            hint = nearest(sink, book.sinks).removeprefix("; ")
            raise NotFoundError("sink", sink, f"{hint} See config/alerts.toml")
        telemetry.configure(at.settings.log_level, at.settings.log_format)
        why = alert_delivery.send(found, _test_notice(sink, at.store.now()))
    if why:
        raise PaynotifyError(f"sink {sink}: not taken: {why}")
    say(f"sink {sink} took the test notice")


@app.command(epilog=example("paynotify alert rules"))
def rules(as_json: Json = False) -> None:
    """List the rules in force, and what is wrong in their file."""
    with desk() as at:
        book = alert_rules.load(at.settings)
    shown = [alert_rules.describe(rule) for rule in book.rules]
    if as_json:
        for each in shown:
            say_json(dict(each))
    else:
        columns = ("RULE", "MEASURE", "THRESHOLD", "UNIT", "WINDOW", "SEVERITY", "SINKS", "ON")
        console().print(table(columns, (_row(each.values()) for each in shown)))
    _say_refused(book.refused)
    if book.refused:
        raise typer.Exit(1)


def _row(values: Iterable[Any]) -> tuple[object, ...]:
    return tuple(("yes" if each else "no") if isinstance(each, bool) else each for each in values)


def _say_refused(refused: Iterable[str]) -> None:
    for problem in refused:
        note(f"refused: {problem}")


def _check_rule(at: "Desk", rule: str) -> None:
    names = [each.name for each in alert_rules.load(at.settings).rules]
    if rule != "*" and rule not in names:
        raise BadFieldError("rule", f"no rule {rule!r}{nearest(rule, names)} (* is all of them)")


def _shown(alert: Alert) -> tuple[object, ...]:
    state = "open"
    if alert.resolved_at is not None:
        state = f"over since {_moment(alert.resolved_at)}"
    elif alert.acknowledged_by:
        state = f"taken up by {alert.acknowledged_by}"
    elif alert.told_at is None:
        state = "silenced"
    return (
        alert.id,
        alert.severity.value,
        alert.rule,
        alert.subject,
        alert.opened_at,
        state,
        alert.summary,
    )


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _test_notice(sink: str, now: datetime) -> Notice:
    alert = Alert(
        id=0,
        rule="test",
        subject="",
        severity=Severity.INFO,
        measure="test",
        value="1",
        threshold="1",
        step=0,
        summary="this is a test; nothing is wrong",
        opened_at=now,
        seen_at=now,
    )
    return Notice(
        # The receiver must not take a second test for a double of the first.
        id=int(now.timestamp()),
        alert=alert,
        occasion=Occasion.RAISED,
        sink=sink,
        text=alerts.line(alert, Occasion.RAISED),
        tries=1,
        written_at=now,
    )
