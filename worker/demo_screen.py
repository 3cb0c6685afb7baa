"""What the demo shows: a live picture on a terminal, plain lines anywhere else."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker import clock
from worker.demo_books import Account, Try
from worker.models import State

_PLAIN_EVERY_S = 3.0
_COLOURS = {"acked": "green", "not_acked": "yellow", "failed": "red", "abandoned": "red"}
_LEFT = (State.WAITING, State.PENDING, State.SENDING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one merchant stands.

    Attributes:
        manner: how it behaves, in a few words.
        received: requests in its own book.
        acked: of these, answered ``success``.
        states: its notifications by state, from our database.
    """

    merchant: str
    manner: str
    received: int
    acked: int
    states: Mapping[State, int]


class Screen:
    """Draws; use it in a ``with`` block.

    Args:
        console: where to; a live picture when it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._step = ""
        self._began_s = clock.monotonic_s()
        self._said_s = self._began_s

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def step(self, line: str) -> None:
        """Say what the demo is at now."""
        self._step = line
        if self._live is None:
            self.say(f"{self._seconds()} {line}")

    def draw(self, rows: Sequence[Row], tries: Sequence[Try]) -> None:
        """Show how things stand."""
        if self._live is not None:
            self._live.update(
                Group(self._head(), "", _merchants(rows), "", _tries(tries)), refresh=True
            )
        elif clock.monotonic_s() - self._said_s >= _PLAIN_EVERY_S:
            self._said_s = clock.monotonic_s()
            self.say(f"{self._seconds()} " + "; ".join(map(_plain, rows)))

    def accounts(self, accounts: Sequence[Account]) -> None:
        """Show the comparison of the books."""
        table = Table(title="Three books: the shop's, our database, the merchants' own")
        table.add_column("merchant")
        names = ("promised", "delivered", "acked", "attempts", "requests", "forged")
        for name in names:
            table.add_column(name, justify="right")
        for one in accounts:
            numbers = (one.promised, one.delivered, one.acked, one.attempts, one.requests)
            table.add_row(one.merchant, *map(str, numbers), str(one.refused))
        self._console.print(table)

    def _seconds(self) -> str:
        return f"{clock.monotonic_s() - self._began_s:5.1f} s "

    def _head(self) -> Text:
        return Text.assemble((self._seconds(), "dim"), (self._step, "bold"))


def _merchants(rows: Sequence[Row]) -> Table:
    # Fits 80 columns, as the one below does.
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("merchant", no_wrap=True)
    table.add_column("what it does", style="dim", no_wrap=True)
    for name in ("got", "acked", "waiting", "delivered", "dead"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        dead = row.states.get(State.DEAD, 0)
        table.add_row(
            row.merchant,
            row.manner,
            str(row.received),
            str(row.acked),
            str(_left(row)),
            Text(str(row.states.get(State.DELIVERED, 0)), style="green"),
            Text(str(dead), style="bold red" if dead else "dim"),
        )
    return table


def _tries(tries: Sequence[Try]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("last attempts", "merchant", "order", "event", "try", "status", "ms", "outcome"):
        right = name in ("try", "status", "ms")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for one in tries:
        table.add_row(
            f"{one.at.astimezone():%H:%M:%S}",
            one.merchant,
            f"…{one.order_no[-4:]}",
            one.event_type.partition(".")[0],
            str(one.attempt_no),
            str(one.status or "-"),
            str(one.elapsed_ms),
            Text(one.outcome, style=_COLOURS.get(one.outcome, "dim")),
        )
    return table


def _plain(row: Row) -> str:
    counts = Counter(row.states)
    return (
        f"{row.merchant}: {counts[State.DELIVERED]} delivered, {_left(row)} waiting, "
        f"{counts[State.DEAD]} dead"
    )


def _left(row: Row) -> int:
    return sum(row.states.get(state, 0) for state in _LEFT)
