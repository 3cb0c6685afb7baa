"""What operators do with dead letters: find, count, explain, redrive, discard.

Must never touch a letter that is not open, nor one that died after the order was given: a
merchant that fails again must not be redriven in a circle.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Connection, Engine, Select, func, select

from worker import clock, ordering, timeline
from worker.endpoint_fields import check_person
from worker.errors import BadFieldError, NotFoundError
from worker.models import Reason
from worker.store import Store
from worker.tables import dead_letter, endpoint
from worker.timeline import Letter, Timeline

PAGE_MAX = 200
RATE_MAX_PER_S = 10_000.0
# A page becomes due over this many seconds, so that whoever stops a redrive stops all but these.
_PAGE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which dead letters; all conditions hold together.

    Attributes:
        ids: of letters; empty is any.
        endpoint: name of one endpoint.
        reason: why they died.
        since, until: when they died (aware), ``until`` itself not included.
        open_only: leave out those that were redriven or discarded already.
    """

    ids: tuple[int, ...] = ()
    endpoint: str | None = None
    reason: Reason | None = None
    since: datetime | None = None
    until: datetime | None = None
    open_only: bool = True


ALL_OPEN = Filters()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a redrive or discard is.

    Attributes:
        seen: letters looked at; the others of a page were resolved by somebody else meanwhile.
        done: letters that were redriven or discarded.
        overtaken: letters left alone because a newer event of their ordering key was sent.
    """

    seen: int
    done: int
    overtaken: int = 0


def find(
    engine: Engine, filters: Filters = ALL_OPEN, *, after_id: int = 0, limit: int = PAGE_MAX
) -> list[Letter]:
    """Return one page of dead letters, oldest first.

    Args:
        engine: of the database with our tables.
        filters: which ones.
        after_id: the last id of the page before; 0 for the first.
        limit: most letters, 1 to 200.

    Raises:
        NotFoundError: no such endpoint.
        BadFieldError: ``limit``, or a time without a zone.
    """
    if not 1 <= limit <= PAGE_MAX:
        raise BadFieldError("limit", f"is {limit}, must be 1 to {PAGE_MAX}")
    with engine.connect() as connection:
        query = _filtered(connection, timeline.letters_query(), filters)
        rows = connection.execute(
            query.where(dead_letter.c.id > after_id).order_by(dead_letter.c.id).limit(limit)
        )
        return [timeline.read_letter(row) for row in rows]


def count(engine: Engine, filters: Filters = ALL_OPEN) -> int:
    """Count dead letters; what a redrive with the same filters would do.

    Raises:
        NotFoundError: no such endpoint.
    """
    with engine.connect() as connection:
        query = select(func.count()).select_from(dead_letter)
        counted: int = connection.execute(_filtered(connection, query, filters)).scalar_one()
    return counted


def count_overtaken(engine: Engine, filters: Filters = ALL_OPEN) -> int:
    """Count open dead letters that a redrive would leave alone, see :func:`redrive`.

    Raises:
        NotFoundError: no such endpoint.
    """
    return sum(len(overtaken(engine, ids)) for ids in _pages(engine, filters, PAGE_MAX))


def explain(engine: Engine, letter_id: int) -> Timeline:
    """Tell how a letter's notification came to be where it is.

    Raises:
        NotFoundError: no such dead letter.
    """
    with engine.connect() as connection:
        notification_id = connection.scalar(
            select(dead_letter.c.notification_id).where(dead_letter.c.id == letter_id)
        )
    if notification_id is None:
        raise NotFoundError(
            "dead letter", str(letter_id), "`paynotify dead list --all` shows their ids"
        )
    return timeline.of(engine, notification_id)


def redrive(
    store: Store,
    engine: Engine,
    *,
    filters: Filters,
    who: str,
    why: str,
    rate_per_s: float = 50.0,
    out_of_order: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    wait: Callable[[float], None] = clock.sleep,
) -> int:
    """Send open dead letters again, each with a fresh budget of tries.

    Works in pages, each a transaction of its own, and waits between them for the rate. Stopped
    anywhere, what is done stays done; calling it again goes on with the rest, because redriven
    letters are no longer open. Letters that die while it runs are left alone.

    Ordered notifications line up again: they go out by id, and those behind them wait. But one
    that a newer one of its key has overtaken stays dead, so that a merchant never gets an old
    state on top of a new one without somebody saying so.

    Args:
        store: the only writer of delivery state.
        engine: of the same database.
        filters: which ones; always only open ones.
        who: kept in the audit log, 1 to 500 characters.
        why: kept in the audit log, 1 to 500 characters.
        rate_per_s: most that become due in a second, above 0 to 10 000.
        out_of_order: send overtaken ones too, outside of any order.
        on_progress: called after each page.
        wait: blocks for so many seconds.

    Returns:
        How many letters were redriven.

    Raises:
        BadFieldError: ``who``, ``why`` or ``rate_per_s`` is missing or wrong; nothing was done.
        NotFoundError: no such endpoint, or ids nobody knows; nothing was done.
    """
    who, why = check_person(who, "who"), check_person(why, "why")
    check_rate(rate_per_s)
    size = max(1, min(PAGE_MAX, int(rate_per_s * _PAGE_S)))
    seen = done = left = 0
    ready_s = clock.monotonic_s()
    for ids in _pages(engine, filters, size):
        pause_s = ready_s - clock.monotonic_s()
        if pause_s > 0:
            wait(pause_s)
        over_s = len(ids) / rate_per_s
        ready_s = clock.monotonic_s() + over_s
        seen += len(ids)
        if not out_of_order:
            left += len(overtaken(engine, ids))
        done += len(store.redrive(ids, who=who, why=why, over_s=over_s, out_of_order=out_of_order))
        on_progress(Progress(seen=seen, done=done, overtaken=left))
    return done


def overtaken(engine: Engine, letter_ids: Sequence[int]) -> dict[int, int]:
    """Tell which open letters a newer event of their ordering key has overtaken.

    Returns:
        The newer notification, by the letter.
    """
    with engine.connect() as connection:
        rows = connection.execute(
            select(dead_letter.c.id, dead_letter.c.notification_id).where(
                dead_letter.c.id.in_(letter_ids), dead_letter.c.resolution.is_(None)
            )
        ).all()
        found = ordering.overtaken(connection, [row.notification_id for row in rows])
    return {row.id: found[row.notification_id] for row in rows if row.notification_id in found}


def check_rate(rate_per_s: float) -> None:
    """Refuse a rate that is not above 0 and at most 10 000 a second."""
    # Written this way round so that NaN is refused.
    if not 0 < rate_per_s <= RATE_MAX_PER_S:
        raise BadFieldError(
            "rate", f"is {rate_per_s:g} a second, must be above 0 and at most {RATE_MAX_PER_S:g}"
        )


def discard(
    store: Store,
    engine: Engine,
    *,
    filters: Filters,
    who: str,
    why: str,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Close open dead letters for good; their notifications are cancelled.

    Pages, stopping and going on are as in :func:`redrive`.

    Returns:
        How many letters were closed.

    Raises:
        BadFieldError: ``who`` or ``why`` is missing; nothing was done.
        NotFoundError: no such endpoint, or ids nobody knows; nothing was done.
    """
    who, why = check_person(who, "who"), check_person(why, "why")
    seen = done = 0
    for ids in _pages(engine, filters, PAGE_MAX):
        seen += len(ids)
        done += len(store.discard(ids, who=who, why=why))
        on_progress(Progress(seen=seen, done=done))
    return done


def _pages(engine: Engine, filters: Filters, size: int) -> Iterator[Sequence[int]]:
    """Hand out the ids of open letters that were dead when the first page was asked for."""
    with engine.connect() as connection:
        _check_ids(connection, filters.ids)
        last_id = connection.scalar(select(func.max(dead_letter.c.id))) or 0
    after_id = 0
    while after_id < last_id:
        with engine.connect() as connection:
            query = _filtered(connection, select(dead_letter.c.id), filters).where(
                dead_letter.c.resolution.is_(None),
                dead_letter.c.id > after_id,
                dead_letter.c.id <= last_id,
            )
            ids = connection.scalars(query.order_by(dead_letter.c.id).limit(size)).all()
        if not ids:
            return
        yield ids
        after_id = ids[-1]


def _check_ids(connection: Connection, ids: Sequence[int]) -> None:
    if not ids:
        return
    known = set(connection.scalars(select(dead_letter.c.id).where(dead_letter.c.id.in_(ids))))
    missing = sorted(set(ids) - known)
    if missing:
        raise NotFoundError(
            "dead letter",
            ", ".join(map(str, missing[:10])),
            "nothing was changed; `paynotify dead list` shows the open ones",
        )


def _filtered(connection: Connection, query: Select[Any], filters: Filters) -> Select[Any]:
    letter = dead_letter.c
    if filters.ids:
        query = query.where(letter.id.in_(filters.ids))
    if filters.endpoint is not None:
        query = query.where(letter.endpoint_id == _endpoint_id(connection, filters.endpoint))
    if filters.reason is not None:
        query = query.where(letter.reason == filters.reason.value)
    if filters.since is not None:
        query = query.where(letter.died_at >= _aware(filters.since, "since"))
    if filters.until is not None:
        query = query.where(letter.died_at < _aware(filters.until, "until"))
    if filters.open_only:
        query = query.where(letter.resolution.is_(None))
    return query


def _aware(moment: datetime, field: str) -> datetime:
    if moment.utcoffset() is None:
        raise BadFieldError(field, "needs a time zone, for example 2026-01-31T08:00:00Z")
    return moment


def _endpoint_id(connection: Connection, name: str) -> int:
    found: int | None = connection.scalar(select(endpoint.c.id).where(endpoint.c.name == name))
    if found is None:
        names = connection.scalars(select(endpoint.c.name).limit(5000))
        near = get_close_matches(name, names, n=1)
        raise NotFoundError("endpoint", name[:64], f"did you mean {near[0]}?" if near else "")
    return found
