"""``paynotify status``: how things stand now, once or again and again.

Reads only.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from worker import clock, freeze_views, lanes
from worker.cli_endpoint import lanes_table
from worker.cli_input import Json, desk, example
from worker.cli_print import console, facts, say_json

if TYPE_CHECKING:
    from worker.runtime import Desk

_LANES_SHOWN = 20


def status(
    watch: Annotated[
        float | None,
        typer.Option(min=0.2, max=3600, help="Show it again every so many seconds, until Ctrl-C."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what waits, what is on the wire, what fails, and how fast it goes."""
    with desk() as at:
        if watch is None:
            facts_now = _look(at)
            say_json(facts_now) if as_json else console().print(_drawn(facts_now))
        elif as_json:
            _again(at, watch)
        else:
            _live(at, watch)


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(epilog=example("paynotify status", "paynotify status --watch 2"))(status)


def _again(at: "Desk", every_s: float) -> None:
    while True:
        say_json(_look(at))
        clock.sleep(every_s)


def _live(at: "Desk", every_s: float) -> None:
    with Live(_drawn(_look(at)), console=console(), auto_refresh=False) as live:
        while True:
            clock.sleep(every_s)
            live.update(_drawn(_look(at)), refresh=True)


def _look(at: "Desk") -> dict[str, Any]:
    backlog = at.store.backlog()
    return {
        "at": at.store.now(),
        **asdict(backlog),
        "oldest_due_s": round(backlog.oldest_due_s, 3),
        "delivered_per_s": round(backlog.delivered_last_minute / 60, 2),
        "failed_per_s": round(backlog.failed_last_minute / 60, 2),
        "frozen": dict(zip(("all", "for_a_person"), freeze_views.count(at.engine), strict=True)),
        "lanes": lanes.troubled(at.engine, limit=_LANES_SHOWN),
    }


def _drawn(now: dict[str, Any]) -> Group:
    parts: list[Any] = [
        facts(
            (
                ("at", now["at"]),
                ("waiting", f"{now['waiting']} for their time"),
                ("blocked", f"{now['blocked']} behind an earlier one of their ordering key"),
                ("pending", f"{now['pending']} due, the oldest for {now['oldest_due_s']:.1f} s"),
                ("in flight", now["sending"]),
                ("held", f"{now['held']} of endpoints that are paused, frozen or gone"),
                ("frozen", _frozen(now["frozen"])),
                ("dead letters", f"{now['dead']} open"),
                ("pace", f"{now['delivered_per_s']:g}/s ok, {now['failed_per_s']:g}/s failed"),
                ("lanes", f"{now['open_breakers']} breakers open, {now['slow_lanes']} slow"),
                ("inbox", f"{now['inbox']} unread, {now['refused']} refused"),
            )
        )
    ]  # fmt: skip
    if now["lanes"]:
        parts += [Text(""), lanes_table(now["lanes"])]
    return Group(*parts)


def _frozen(counts: dict[str, int]) -> str | None:
    if not counts["all"]:
        return None
    return f"{counts['all']} endpoints; {counts['for_a_person']} of them wait for a person"
