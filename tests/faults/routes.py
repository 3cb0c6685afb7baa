"""Acceptance: a merchant with two sites loses the first one, and gets it back in grey steps.

Both sites keep ledgers of their own; the timeline is read from them and from the row that the
workers share. In the middle of the return a worker is killed.
"""

import time
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from tests.faults.books import Books, compare
from tests.faults.fleet import Fleet, until
from tests.faults.outage import Host
from tests.faults.site import Site
from tests.receiver import Received, Receiver
from worker import endpoint_routes
from worker.models import Allowed
from worker.route_facts import OWN, Standing
from worker.tables_routes import callback_route

_EVERY_S = 0.01
_WINDOW_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Move:
    """What became of the first route, as its row said; wall clock."""

    at_s: float
    standing: Standing
    step: int


@dataclass(frozen=True, kw_only=True)
class Routes:
    """How a run went; wall clock, seconds since 1970.

    Attributes:
        lost_at_s, mended_at_s: the first site began to fail, and stopped.
        moves: of the first route, oldest first.
        first, second: ledgers of the two sites.
        steps: percents of the settings.
        killed: names of killed workers.
        books: both ledgers together against the database.
    """

    lost_at_s: float
    mended_at_s: float
    moves: list[Move]
    first: list[Received]
    second: list[Received]
    steps: tuple[int, ...]
    killed: list[str]
    books: Books

    @property
    def tripped_at_s(self) -> float:
        """When the first route tripped."""
        return next(move.at_s for move in self.moves if move.standing is Standing.TRIPPED)

    @property
    def switch_ms(self) -> float:
        """From the trip to the last send that went to the first site all the same; 0: none did."""
        # A probe is alone and comes a pause later.
        late = [
            record.at_s
            for record in self.first
            if self.tripped_at_s < record.at_s < self.tripped_at_s + self._pause_s / 2
        ]
        return 1000 * (max(late, default=self.tripped_at_s) - self.tripped_at_s)

    @property
    def taken_over_ms(self) -> float:
        """From the first failed answer of the first site to the first send to the second."""
        failed = min(r.at_s for r in self.first if r.status == 503)
        return 1000 * (min(r.at_s for r in self.second if r.at_s > failed) - failed)

    @property
    def shares(self) -> list[tuple[int, float, int]]:
        """For each grey step its percent, the percent measured and the sends in it."""
        found = []
        for move, after in zip(self.moves, [*self.moves[1:], None], strict=True):
            if move.standing is Standing.RETURNING and after is not None:
                first, second = (
                    sum(move.at_s <= record.at_s < after.at_s for record in ledger)
                    for ledger in (self.first, self.second)
                )
                sends = first + second
                found.append((self.steps[move.step], 100 * first / max(1, sends), sends))
        return found

    @property
    def _pause_s(self) -> float:
        returned = [m.at_s for m in self.moves if m.standing is Standing.RETURNING]
        return min(returned) - self.tripped_at_s

    def text(self) -> str:
        """The run in a page: what happened when, and the sends of each half second."""
        begin = self.lost_at_s - 2 * _WINDOW_S
        events = [(self.lost_at_s, "the first site begins to fail")]
        events += [(self.mended_at_s, "the first site works again")]
        events += [(move.at_s, f"first route: {_words(move, self.steps)}") for move in self.moves]
        lines = ["     s  first ok  failed    second"]
        at_s = begin
        while at_s < self.moves[-1].at_s + 2 * _WINDOW_S:
            end_s = at_s + _WINDOW_S
            first = [record for record in self.first if at_s <= record.at_s < end_s]
            ok = sum(record.status == 200 for record in first)
            second = sum(at_s <= record.at_s < end_s for record in self.second)
            lines.append(f"{at_s - self.lost_at_s:6.1f}  {ok:8}  {len(first) - ok:6}  {second:8}")
            lines += [
                f"{when - self.lost_at_s:9.3f} {what}"
                for when, what in sorted(events)
                if at_s <= when < end_s
            ]
            at_s = end_s
        lines += [
            f"from the trip to the last send to the first site {self.switch_ms:.0f} ms",
            f"from its first failure to the first send to the second {self.taken_over_ms:.0f} ms",
            *(
                f"step {percent} %: {measured:.1f} % of {sends} sends"
                for percent, measured, sends in self.shares
            ),
            f"workers killed while it returned: {len(self.killed)}",
            self.books.text(),
        ]
        return "\n".join(lines)


def run(place: Site, *, per_s: float, workers: int) -> Routes:
    """Deliver ``per_s`` callbacks a second to one endpoint with a spare, and take its site away."""
    with Receiver(place.folder / "second", fast=True) as second:
        name = _endpoint(place, second)
        moves: list[Move] = []
        killed: list[str] = []
        with Fleet(place.settings, place.folder, count=workers) as fleet:
            place.receiver.control("first", 200)
            place.enqueue([name], 50)
            place.rest(fleet)
            host = Host(place, [name], per_s=per_s)
            host.start()
            until(lambda: len(place.receiver.ledger()) > 50 + per_s, why=fleet.last_words)
            lost_at_s = _now()
            place.receiver.control("first", 503)
            _follow(place, moves, Standing.TRIPPED, fleet)
            _rest_of(place.settings.breaker_open_s / 2)
            mended_at_s = _now()
            place.receiver.control("first", 200)
            _follow(place, moves, Standing.RETURNING, fleet)
            # The second site takes its time, so something is on every wire.
            killed.append(fleet.members[0].kill())
            fleet.tend()
            _follow(place, moves, Standing.SOUND, fleet)
            _rest_of(2 * _WINDOW_S)
            host.stop()
            place.rest(fleet, within_s=60)
        ledgers = place.receiver.ledger(), second.ledger()
    return Routes(
        lost_at_s=lost_at_s,
        mended_at_s=mended_at_s,
        moves=moves,
        first=ledgers[0],
        second=ledgers[1],
        steps=place.settings.route_steps,
        killed=killed,
        books=compare(place.engine, [*ledgers[0], *ledgers[1]], place.accepted),
    )


def _endpoint(place: Site, second: Receiver) -> str:
    name = place.endpoint("/toggle/first", in_flight_cap=1000)
    ports = (place.receiver.port, second.port)
    local = Allowed(http=True, ports=ports, networks=("127.0.0.0/8",))
    place.endpoints.update(name, who="test", why="two sites", allowed=local)
    place.endpoints.change_routes(
        name,
        lambda before: endpoint_routes.added(before, second.url("/slow?ms=150"), weight=0),
        action="endpoint.route-add",
        who="test",
        why="a second site",
    )
    return name


def _follow(place: Site, moves: list[Move], wanted: Standing, fleet: Fleet) -> None:
    """Write down every move of the first route until it is as wanted."""

    def arrived() -> bool:
        move = _read(place)
        if move is not None and (not moves or moves[-1] != move):
            moves.append(move)
        return bool(moves) and moves[-1].standing is wanted

    until(arrived, within_s=90, every_s=_EVERY_S, why=lambda: f"{moves}\n{fleet.last_words()}")


def _read(place: Site) -> Move | None:
    query = select(callback_route).where(
        callback_route.c.no == OWN, callback_route.c.moved_at.is_not(None)
    )
    with suppress(DBAPIError), place.engine.connect() as connection:
        row = connection.execute(query).first()
        if row is not None:
            return Move(
                at_s=row.moved_at.timestamp(), standing=Standing(row.standing), step=row.step
            )
    return None


def _words(move: Move, steps: tuple[int, ...]) -> str:
    if move.standing is Standing.RETURNING:
        return f"returning, {steps[move.step]} %"
    return move.standing.value


def _now() -> float:
    return time.time()


def _rest_of(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end_s)
