"""What the retention removes, table by table: one bounded batch each, in the caller's transaction.

Every table is walked by its own key, so that a batch costs the same however large the table is,
and needs no index that somebody would have to pay for elsewhere. Must never remove what is not
over, nor what a legal hold names.

Why rows and not whole partitions: with attempts partitioned by notification_id (24 partitions,
PostgreSQL 15) settling cost a tenth more at best, and after an ANALYZE its UPDATE was planned over
all partitions and took 40 to 130 times as long. A hold or an open letter would also keep a whole
partition. Counts are removed from one end of their key, for about one page a row.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Table,
    and_,
    delete,
    exists,
    or_,
    select,
    text,
)

from worker import clock, holds, store_forget
from worker.columns import database_now
from worker.tables import IN_LINE, delivery, ordering
from worker.tables_alerts import alert, alert_delivery, rollup, silence
from worker.tables_orders import check, evidence, recon_case
from worker.tables_schedules import tick

_OPEN_TICKS = ("due", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one batch did.

    Attributes:
        after: where the part's next batch begins; empty when the part is over.
    """

    removed: int
    after: str = ""


class Part(Protocol):
    """One part; ``before`` is the moment before which what is over goes."""

    def __call__(self, tx: Connection, *, after: str, before: datetime, limit: int) -> Batch:
        """Remove from at most ``limit`` rows, from ``after`` on."""
        ...


def notifications(tx: Connection, *, after: str, before: datetime, limit: int) -> Batch:
    """Forget finished notifications; see :mod:`worker.store_forget`."""
    now = tx.execute(select(database_now())).scalar_one()
    done = store_forget.forget(tx, after_id=int(after or 0), limit=limit, before=before, now=now)
    return Batch(removed=done.count, after=str(done.last_id) if done.last_id else "")


def lines(tx: Connection, *, after: str, before: datetime, limit: int) -> Batch:
    """Remove lines nobody has stood in for a while; one that is needed again is made again."""
    page = tx.scalars(
        select(ordering.c.ordering)
        .where(ordering.c.ordering > after)
        .order_by(ordering.c.ordering)
        .limit(limit)
    ).all()
    standing = exists().where(delivery.c.ordering == ordering.c.ordering, text(IN_LINE))
    idle = (
        select(ordering.c.ordering)
        .where(ordering.c.ordering.in_(page), ordering.c.touched_at < before, ~standing)
        # A host that is writing into one keeps it.
        .with_for_update(skip_locked=True)
    )
    gone = tx.execute(delete(ordering).where(ordering.c.ordering.in_(idle)))
    return Batch(removed=_count(gone), after=page[-1] if len(page) == limit else "")


def ticks(tx: Connection, *, after: str, before: datetime, limit: int) -> Batch:
    """Remove old ticks that are over, schedule by schedule."""
    name, since_us = json.loads(after) if after else ("", None)
    if since_us is None:
        name = tx.scalar(
            select(tick.c.name).where(tick.c.name > name).order_by(tick.c.name).limit(1)
        )
        if name is None:
            return Batch(removed=0)
    mine = [tick.c.name == name, tick.c.tick_at < before]
    if since_us is not None:
        mine.append(tick.c.tick_at > clock.from_us(since_us))
    page = tx.scalars(select(tick.c.tick_at).where(*mine).order_by(tick.c.tick_at).limit(limit))
    moments = page.all()
    removed = 0
    if moments:
        removed = _count(
            tx.execute(
                delete(tick).where(
                    *mine, tick.c.tick_at <= moments[-1], tick.c.state.not_in(_OPEN_TICKS)
                )
            )
        )
    last_us = clock.to_us(moments[-1]) if len(moments) == limit else None
    return Batch(removed=removed, after=json.dumps([name, last_us]))


def rollups(tx: Connection, *, after: str, before: datetime, limit: int) -> Batch:
    """Remove old counts, whole minutes at a time."""
    old = select(rollup.c.minute_at).where(rollup.c.minute_at < before).order_by(rollup.c.minute_at)
    edge = tx.scalar(old.offset(limit).limit(1))
    if edge is None:
        return Batch(removed=_count(tx.execute(delete(rollup).where(rollup.c.minute_at < before))))
    # A minute with more rows than a batch goes as a whole, or nothing ever would.
    first = tx.scalar(old.limit(1))
    which = rollup.c.minute_at <= first if first == edge else rollup.c.minute_at < edge
    return Batch(removed=_count(tx.execute(delete(rollup).where(which))), after="more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A part whose ids rise with time.

    Attributes:
        began: when a row came to be, or last mattered; a page without an old one is the last.
        over: which rows may go, given the moment before which they must have ended.
    """

    table: Table
    began: Column[datetime]
    over: Callable[[datetime], ColumnElement[bool]]

    def __call__(self, tx: Connection, *, after: str, before: datetime, limit: int) -> Batch:
        """Remove what is over among the next ``limit`` rows."""
        holds.freeze(tx)
        row_id = self.table.c.id
        page = tx.execute(
            select(row_id, self.began).where(row_id > int(after or 0)).order_by(row_id).limit(limit)
        ).all()
        if not any(moment < before for _, moment in page):
            return Batch(removed=0)
        first, last = page[0][0], page[-1][0]
        gone = tx.execute(delete(self.table).where(row_id.between(first, last), self.over(before)))
        return Batch(removed=_count(gone), after=str(last) if len(page) == limit else "")


def _free(table: Table) -> ColumnElement[bool]:
    """Say in SQL that no hold names the order or refund of a row, nor the order of its refund."""
    # The refund itself may stand in a table of the host's.
    return ~or_(holds.on_order(table.c.subject_no), holds.on_order(table.c.order_no))


def _settled(table: Table) -> ColumnElement[bool]:
    """Say in SQL that no case is open about the subject of a row."""
    return ~exists().where(
        recon_case.c.subject_no == table.c.subject_no,
        recon_case.c.kind == table.c.kind,
        recon_case.c.resolved_at.is_(None),
    )


CASES = Walk(
    table=recon_case,
    began=recon_case.c.opened_at,
    over=lambda before: and_(recon_case.c.resolved_at < before, _free(recon_case)),
)
EVIDENCE = Walk(
    table=evidence,
    began=evidence.c.at,
    over=lambda before: and_(evidence.c.at < before, _free(evidence), _settled(evidence)),
)
CHECKS = Walk(
    table=check,
    began=check.c.placed_at,
    over=lambda before: and_(check.c.finished_at < before, _free(check), _settled(check)),
)
ALERTS = Walk(
    table=alert,
    began=alert.c.opened_at,
    # A notice that is still due needs its alert, however long its sink has been away.
    over=lambda before: and_(
        alert.c.resolved_at < before,
        ~exists().where(alert_delivery.c.alert_id == alert.c.id, alert_delivery.c.state == "due"),
    ),
)
ALERT_DELIVERIES = Walk(
    table=alert_delivery,
    began=alert_delivery.c.due_at,
    over=lambda before: and_(
        alert_delivery.c.due_at < before,
        alert_delivery.c.state != "due",
        ~exists().where(alert.c.id == alert_delivery.c.alert_id),
    ),
)
SILENCES = Walk(
    table=silence,
    began=silence.c.created_at,
    over=lambda before: silence.c.until < before,
)


def _count(result: CursorResult[Any]) -> int:
    return result.rowcount
