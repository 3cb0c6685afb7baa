"""What is to be asked about at the channels, and when: one row per order or refund.

Works in the caller's transaction, with the time it is given: the database's. Must never enrol one
twice, nor let an answer count for a question that somebody else has settled since.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from schedules import windows
from schedules.windows import Kind
from worker.tables_orders import check

# Asked about until the end of its windows; once more would not help.
TOO_OLD = "too_old"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An order or refund that is to be asked about."""

    kind: Kind
    no: str
    order_no: str
    channel: str
    placed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row as it was read.

    Attributes:
        checks: questions answered so far; also what fences a late answer off.
        unknowns: answers in a row that said nothing.
    """

    id: int
    kind: Kind
    subject_no: str
    order_no: str
    channel: str
    placed_at: datetime
    checks: int
    unknowns: int


class Checks:
    """Reads and writes the rows.

    Args:
        luck: returns 0 to 1; how much jitter is added.
    """

    def __init__(self, luck: Callable[[], float]) -> None:
        self._luck = luck

    def missing(self, tx: Connection, kind: Kind, numbers: Sequence[str]) -> set[str]:
        """Return those that have no row, or one that was finished though they go on.

        What was asked about until it was too old is not missing: a case says so.
        """
        if not numbers:
            return set()
        query = select(check.c.subject_no).where(
            check.c.kind == kind,
            check.c.subject_no.in_(numbers),
            check.c.finished_at.is_(None) | (check.c.finished_because == TOO_OLD),
        )
        return set(numbers) - set(tx.scalars(query))

    def enrol(self, tx: Connection, subjects: Sequence[Subject]) -> int:
        """Write a row for each; returns how many are new or began anew. Again is harmless."""
        if not subjects:
            return 0
        values = [
            {
                "kind": one.kind.value,
                "subject_no": one.no,
                "order_no": one.order_no,
                "channel": one.channel,
                "placed_at": one.placed_at,
                "next_check_at": windows.first_check(one.placed_at, luck=self._luck()),
            }
            for one in subjects
        ]
        dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
        statement: Any = dialect.insert(check).values(values).on_conflict_do_nothing()
        made = len(tx.execute(statement.returning(check.c.id)).all())
        if made == len(subjects):
            return made
        # A host that opens an ended order again under its old number wants it asked about again.
        for row in values:
            done = tx.execute(
                update(check)
                .where(
                    check.c.kind == row["kind"],
                    check.c.subject_no == row["subject_no"],
                    check.c.finished_at.is_not(None),
                    check.c.finished_because != TOO_OLD,
                )
                .values(
                    finished_at=None,
                    finished_because="",
                    channel=row["channel"],
                    placed_at=row["placed_at"],
                    next_check_at=row["next_check_at"],
                    unknowns=0,
                )
            )
            made += done.rowcount
        return made

    def channels(self, tx: Connection, *, after: str, limit: int) -> list[str]:
        """Return channels that anything is open at, by name; hops from one to the next."""
        found: list[str] = []
        behind = after
        while len(found) < limit:
            query = select(check.c.channel).where(
                check.c.finished_at.is_(None), check.c.channel > behind
            )
            name = tx.scalar(query.order_by(check.c.channel).limit(1))
            if name is None:
                break
            found.append(name)
            behind = name
        return found

    def due(self, tx: Connection, channel: str, *, now: datetime, limit: int) -> list[Check]:
        """Read what is to be asked at a channel now, longest due first."""
        query = select(check).where(
            check.c.channel == channel,
            check.c.finished_at.is_(None),
            check.c.next_check_at <= now,
        )
        order = (check.c.next_check_at, check.c.id)
        return [_read(row) for row in tx.execute(query.order_by(*order).limit(limit))]

    def hold(self, tx: Connection, seen: Collection[Check]) -> set[int]:
        """Lock rows for this transaction; returns the ids of those that still are as seen."""
        # By id, so that two of us do not wait for each other in a circle.
        query = (
            select(check.c.id, check.c.checks)
            .where(check.c.id.in_(sorted(one.id for one in seen)), check.c.finished_at.is_(None))
            .order_by(check.c.id)
            .with_for_update()
        )
        now = {row.id: row.checks for row in tx.execute(query)}
        return {one.id for one in seen if now.get(one.id) == one.checks}

    def put_off(
        self, tx: Connection, seen: Collection[Check], *, now: datetime, unknown: bool = False
    ) -> None:
        """Write when they are asked about again.

        Args:
            tx: in which they are held.
            seen: as they were read.
            now: the database's time.
            unknown: the answers said nothing.
        """
        values = []
        for one in seen:
            unknowns = one.unknowns + 1 if unknown else 0
            at = windows.next_check(
                one.kind, one.placed_at, now=now, luck=self._luck(), unknowns=unknowns
            )
            values.append(_as_seen(one) | {"next_check_at": at, "unknowns": unknowns})
        _write(tx, values)

    def leave(self, tx: Connection, seen: Check, *, now: datetime) -> None:
        """Ask again in a minute, whatever its window: the answer could not be written down."""
        at = windows.first_check(now, luck=self._luck())
        _write(tx, [_as_seen(seen) | {"next_check_at": at}])

    def follow(
        self, tx: Connection, seen: Check, *, channel: str, placed_at: datetime, now: datetime
    ) -> None:
        """Ask at another channel from now on: the payer chose it after the first question.

        Args:
            tx: the caller's.
            seen: as it was read.
            channel: that the order is at now.
            placed_at: when it was placed, as the host has it now (aware).
            now: the database's time.
        """
        first_at = windows.first_check(placed_at, luck=self._luck())
        values = {
            "channel": channel,
            "placed_at": placed_at,
            "next_check_at": max(now, first_at),
            "unknowns": 0,
        }
        _write(tx, [_as_seen(seen) | values])

    def finish(self, tx: Connection, ends: Collection[tuple[Check, str]], *, now: datetime) -> None:
        """Ask no more about them, each for its reason."""
        _write(
            tx,
            [
                _as_seen(seen) | {"finished_at": now, "finished_because": because}
                for seen, because in ends
            ],
        )


# Counted on with every write: what fences a late answer off.
_WRITE = (
    update(check)
    .where(
        check.c.id == bindparam("seen_id"),
        check.c.checks == bindparam("seen_checks"),
        check.c.finished_at.is_(None),
    )
    .values(checks=check.c.checks + 1)
)


def _as_seen(seen: Check) -> dict[str, object]:
    return {"seen_id": seen.id, "seen_checks": seen.checks}


def _write(tx: Connection, rows: Sequence[dict[str, object]]) -> None:
    if rows:
        tx.execute(_WRITE, rows)


def _read(row: Row[Any]) -> Check:
    return Check(
        id=row.id,
        kind=Kind(row.kind),
        subject_no=row.subject_no,
        order_no=row.order_no,
        channel=row.channel,
        placed_at=row.placed_at,
        checks=row.checks,
        unknowns=row.unknowns,
    )
