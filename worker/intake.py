"""Writes accepted events as notifications, inside the host's own transaction.

Must never commit, and never write one event twice for one endpoint, whoever else writes it at
the same moment. An *entry* is one
event for one endpoint.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from worker import clock, columns, guard, intake_sql, ordering, tables
from worker.drafts import Draft, Enqueue
from worker.endpoint_rows import read_endpoint
from worker.errors import BadFieldError, EventKeyConflictError, NotFoundError, PaynotifyError
from worker.intake_sql import Entry, Key, Known
from worker.models import Endpoint, EndpointState, Pool
from worker.retry import matches

_ENDPOINT, _LANE, _DELIVERY = tables.endpoint, tables.lane, tables.delivery
Outcome = tuple[int, ...] | PaynotifyError


@dataclass(frozen=True, slots=True)
class _Lane:
    id: int
    pool: Pool
    # Commits at this monotonic time or later ring for it.
    ring_from_s: float


# What was seen of a lane is believed for so long: a transaction that goes on for longer rings.
_BELIEVED_S = 0.05


def _ready() -> ColumnElement[bool]:
    """Whether a claim may serve this lane now.

    A merchant that hangs, is paused or is shut off must not have workers woken for each of its
    events: who frees its next place goes on with what waits there, and so does the tick. A full
    lane in which nothing waits yet may be free before this event is committed, so it counts.
    """
    here = _DELIVERY.c.lane_id == _LANE.c.id
    waits = (
        exists()
        .where(
            columns.spelled(_DELIVERY.c.state, "pending"),
            _DELIVERY.c.abandoned < literal_column(str(tables.SUSPECT_AFTER)),
            here,
        )
        .correlate(_LANE)
    )
    on_wire = (
        select(func.count())
        .where(columns.spelled(_DELIVERY.c.state, "sending"), here)
        .correlate(_LANE)
        .scalar_subquery()
    )
    shut = _LANE.c.open_until
    return case(
        (or_(_LANE.c.held, shut > columns.database_now()), false()),
        (~waits, true()),
        else_=on_wire < _LANE.c.in_flight_cap,
    ).label("ready")


_ABOUT_LANE = (_LANE.c.id.label("lane_id"), _LANE.c.slow, _ready())


# A host we were never acked by gets few calls at once, doubled with each good answer: orders that
# name a new host each cannot fill the wire.
_UNPROVEN = 4


class Intake:
    """Takes drafts in for one transaction; forgets what it looked up when it is dropped.

    Args:
        connection: the host's, in its transaction.
        ordering_wait_s: of endpoints and events that name none.

    Attributes:
        pools: whom to ring for, once committed, from which monotonic time on; 0 is always.
    """

    def __init__(self, connection: Connection, *, ordering_wait_s: int) -> None:
        self._connection = connection
        self._ordering_wait_s = ordering_wait_s
        self._of_merchant: dict[str, tuple[Endpoint, ...]] = {}
        self._by_name: dict[str, Endpoint | None] = {}
        self._lanes: dict[tuple[int, str], _Lane] = {}
        self.pools: dict[Pool, float] = {}

    def take(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Write drafts; calling it again with the same ones writes nothing and answers the same.

        Args:
            drafts: up to a few thousand; one statement writes them all.

        Returns:
            Per draft the ids of its notifications, one per subscribed endpoint, or why it was
            refused: then nothing of it was written.
        """
        self._look_up(drafts)
        outcomes: list[Outcome] = []
        wanted: list[list[tuple[Endpoint, str]]] = []
        for draft in drafts:
            try:
                wanted.append(self._receivers(draft.event))
                outcomes.append(())
            except PaynotifyError as error:
                wanted.append([])
                outcomes.append(error)
        self._open_lanes({(to.id, host) for receivers in wanted for to, host in receivers if host})
        entries = [
            [self._entry(draft, to, host) for to, host in receivers]
            for draft, receivers in zip(drafts, wanted, strict=True)
        ]
        known, fresh = self._write([entry for group in entries for entry in group])
        halves: set[int] = set()
        for index, group in enumerate(entries):
            if group:
                outcomes[index] = outcome = _judge(group, known)
                if isinstance(outcome, PaynotifyError):
                    halves |= {fresh[entry.key] for entry in group if entry.key in fresh}
        if not halves:
            self._supersede(entries, fresh)
            return outcomes
        # A conflict on one endpoint, written for another. Other drafts may have been compared
        # with what goes away now, so all but a single one are judged anew.
        intake_sql.unwrite(self._connection, sorted(fresh.values()))
        if len(drafts) == 1:
            return outcomes
        middle = len(drafts) // 2
        return self.take(drafts[:middle]) + self.take(drafts[middle:])

    def _supersede(self, entries: list[list[Entry]], fresh: dict[Key, int]) -> None:
        newest: dict[str, int] = {}
        for entry in (entry for group in entries for entry in group):
            if entry.line is not None and entry.draft.event.supersede and entry.key in fresh:
                newest[entry.line] = max(newest.get(entry.line, 0), fresh[entry.key])
        ordering.supersede(self._connection, newest)

    def _look_up(self, drafts: Iterable[Draft]) -> None:
        merchants = {
            d.event.merchant for d in drafts if d.event.merchant
        } - self._of_merchant.keys()
        names = {d.event.endpoint for d in drafts if d.event.endpoint} - self._by_name.keys()
        if not merchants and not names:
            return
        query = (
            select(_ENDPOINT, *_ABOUT_LANE)
            .join(_LANE, (_LANE.c.endpoint_id == _ENDPOINT.c.id) & (_LANE.c.host == ""))
            .where(_ENDPOINT.c.merchant.in_(merchants) | _ENDPOINT.c.name.in_(names))
            .where(_ENDPOINT.c.state != EndpointState.DELETED)
            .order_by(_ENDPOINT.c.id)
        )
        self._of_merchant.update((merchant, ()) for merchant in merchants)
        self._by_name.update((name, None) for name in names)
        for row in self._connection.execute(query):
            endpoint = read_endpoint(row)
            self._lanes[endpoint.id, ""] = _seen(row)
            if endpoint.merchant in merchants:
                self._of_merchant[endpoint.merchant] += (endpoint,)
            if endpoint.name in names:
                self._by_name[endpoint.name] = endpoint

    def _receivers(self, event: Enqueue) -> list[tuple[Endpoint, str]]:
        if event.endpoint is not None:
            endpoint = self._by_name[event.endpoint]
            if endpoint is None:
                raise NotFoundError("endpoint", event.endpoint, "register it, or check the name")
            endpoints = [endpoint]
        else:
            endpoints = self._subscribed(event)
        if event.notify_url is None:
            return [(endpoint, "") for endpoint in endpoints]
        if len(endpoints) > 1:
            raise BadFieldError(
                "endpoint",
                f"merchant {event.merchant} has {len(endpoints)} endpoints that want "
                f"{event.event_type}; with a notify_url, name one of them: "
                + ", ".join(endpoint.name for endpoint in endpoints[:10]),
            )
        return [(endpoint, _host(event.notify_url, endpoint)) for endpoint in endpoints]

    def _subscribed(self, event: Enqueue) -> list[Endpoint]:
        of_merchant = self._of_merchant[str(event.merchant)]
        if not of_merchant:
            raise NotFoundError(
                "merchant", str(event.merchant), "register an endpoint for it first"
            )
        return [
            endpoint
            for endpoint in of_merchant
            if any(matches(pattern, event.event_type) for pattern in endpoint.events)
        ]

    def _open_lanes(self, wanted: set[tuple[int, str]]) -> None:
        missing = wanted - self._lanes.keys()
        if not missing:
            return
        missing -= self._read_lanes(missing)
        if missing:
            self._make_lanes(sorted(missing))
            self._read_lanes(missing)

    def _read_lanes(self, wanted: set[tuple[int, str]]) -> set[tuple[int, str]]:
        query = select(_LANE.c.endpoint_id, _LANE.c.host, *_ABOUT_LANE).where(
            tuple_(_LANE.c.endpoint_id, _LANE.c.host).in_(sorted(wanted))
        )
        found = set()
        for row in self._connection.execute(query):
            self._lanes[row.endpoint_id, row.host] = _seen(row)
            found.add((row.endpoint_id, row.host))
        return found

    def _make_lanes(self, wanted: list[tuple[int, str]]) -> None:
        # FOR SHARE, so that nobody pauses the endpoint while its new lane is not yet visible:
        # the lane would stay open. The copy below is a later statement and sees the last state.
        ids = sorted({endpoint_id for endpoint_id, _ in wanted})
        self._connection.execute(
            select(_ENDPOINT.c.id)
            .where(_ENDPOINT.c.id.in_(ids))
            .order_by(_ENDPOINT.c.id)
            .with_for_update(read=True)
        )
        copied = ("held", "in_flight_cap", "rate_per_s", "config_no")
        copy = select(
            _LANE.c.endpoint_id,
            bindparam("new_host", type_=_LANE.c.host.type),
            *(_LANE.c[name] for name in copied),
            literal(_UNPROVEN).label("ramp"),
        ).where(_LANE.c.endpoint_id == bindparam("of_endpoint"), _LANE.c.host == "")
        statement = _insert(self._connection, _LANE).from_select(
            ["endpoint_id", "host", *copied, "ramp"], copy
        )
        self._connection.execute(
            statement,
            [{"of_endpoint": endpoint_id, "new_host": host} for endpoint_id, host in wanted],
        )

    def _entry(self, draft: Draft, endpoint: Endpoint, host: str) -> Entry:
        lane = self._lanes[endpoint.id, host]
        event = draft.event
        made_by_us = None if "json" in endpoint.content_type else draft.payload_type
        entry = (
            endpoint,
            (endpoint.id, event.event_key),
            lane.id,
            lane.pool,
            lane.ring_from_s,
            event.content_type or made_by_us,
            draft,
        )
        if event.ordering_key is None:
            return Entry(*entry)
        wait_s = event.ordering_wait_s or endpoint.ordering_wait_s or self._ordering_wait_s
        return Entry(*entry, ordering.line(endpoint.id, event.ordering_key), wait_s)

    def _write(self, entries: list[Entry]) -> tuple[dict[Key, Known], dict[Key, int]]:
        """Write what is new; answer id and payload of all, and the ids of the new ones."""
        # The first of equal keys is written, the others are compared with it like any later call.
        first: dict[Key, Entry] = {}
        for entry in entries:
            first.setdefault(entry.key, entry)
        # In key order, so that two hosts that write the same events do not wait for each other
        # in a circle. Ordered ones stay as they were given: their lines take turns anyway.
        free = [first[key] for key in sorted(first) if first[key].line is None]
        in_line = [entry for entry in first.values() if entry.line is not None]
        fresh = intake_sql.write(self._connection, free + in_line)
        known = {key: Known(id_, first[key].draft.payload) for key, id_ in fresh.items()}
        old = sorted(first.keys() - fresh.keys())
        if old:
            known |= intake_sql.read(self._connection, old)
        now = clock.now()
        for key in fresh:
            entry = first[key]
            if entry.draft.deliver_at is None or entry.draft.deliver_at <= now:
                from_s = self.pools.get(entry.pool, entry.ring_from_s)
                self.pools[entry.pool] = min(from_s, entry.ring_from_s)
        return known, fresh


def _seen(row: Row[Any]) -> _Lane:
    pool = Pool.SLOW if row.slow else Pool.FAST
    return _Lane(row.lane_id, pool, 0.0 if row.ready else clock.monotonic_s() + _BELIEVED_S)


def _judge(entries: list[Entry], known: dict[Key, Known]) -> Outcome:
    ids = []
    for entry in entries:
        stored = known[entry.key]
        if not stored.carries(entry.draft.payload):
            return EventKeyConflictError(entry.endpoint.name, entry.key[1], stored.id)
        ids.append(stored.id)
    return tuple(ids)


def _host(notify_url: str, endpoint: Endpoint) -> str:
    return guard.origin(guard.check_url(notify_url, endpoint.allowed, field="notify_url"))


def _insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()
