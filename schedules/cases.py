"""Cases: disagreements that a person has to settle.

Must never be open twice for one reason and subject, nor be resolved by a person without a name
and a reason.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from schedules.decisions import CaseReason
from worker.columns import database_now
from worker.endpoint_fields import check_person
from worker.errors import BadFieldError, NotFoundError, WrongStateError
from worker.tables import audit
from worker.tables_orders import evidence, recon_case

PAGE_MAX = 200
# Who resolves a case when channel and order agree again.
OURSELVES = "reconciliation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """What a case is about, before it is one.

    Attributes:
        reason: a :class:`schedules.decisions.CaseReason`, or another sweep's code.
        kind: ``order`` or ``refund``.
        order_no: the order itself, or the refund's.
        suggestion: one sentence for the person who takes it up.
        facts: both sides; only what stays the same as long as the disagreement does.
        evidence_id: the row that shows it best; None when there is none.
    """

    reason: str
    kind: str
    subject_no: str
    order_no: str
    channel: str
    merchant: str = ""
    amount_minor: int | None = None
    currency: str | None = None
    suggestion: str = ""
    facts: Mapping[str, object]
    evidence_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case as people see it; ``resolved_at`` None while it is open."""

    id: int
    reason: str
    kind: str
    subject_no: str
    channel: str
    merchant: str
    amount_minor: int | None
    currency: str | None
    suggestion: str
    facts: str
    evidence_id: int | None
    opened_at: datetime
    seen_at: datetime
    times_seen: int
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One answer of a channel and what was done about it."""

    id: int
    at: datetime
    kind: str
    subject_no: str
    channel: str
    route: str
    ours: str
    theirs: str
    reply_sha256: str
    decision: str
    done: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which cases; all conditions hold together."""

    reason: str | None = None
    channel: str | None = None
    merchant: str | None = None
    subject_no: str | None = None
    open_only: bool = True


def see(tx: Connection, *found: Disagreement, now: datetime) -> int:
    """Open cases, or count that they were seen again; returns how many are new.

    What a person has resolved stays resolved for as long as the facts are the same.

    Args:
        tx: the caller's.
        found: no two of one reason and subject.
        now: the database's time.
    """
    settled = _settled(tx, found)
    values = [
        _values(one, facts) | {"opened_at": now, "seen_at": now}
        # In the order of their key, so that two of us do not wait for each other in a circle.
        for one in sorted(found, key=lambda one: (one.reason, one.kind, one.subject_no))
        if (one.reason, one.kind, one.subject_no, facts := _json(one.facts)) not in settled
    ]
    if not values:
        return 0
    dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
    statement: Any = dialect.insert(recon_case).values(values)
    said = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["reason", "kind", "subject_no"],
        index_where=recon_case.c.resolved_at.is_(None),
        set_={
            "times_seen": recon_case.c.times_seen + 1,
            "seen_at": said.seen_at,
            "facts": said.facts,
            "suggestion": said.suggestion,
            "evidence_id": said.evidence_id,
        },
    ).returning(recon_case.c.times_seen)
    return list(tx.scalars(statement)).count(1)


def record(tx: Connection, found: Disagreement, *, now: datetime, resolution: str) -> None:
    """Write a case that policy has settled already."""
    values = _values(found, _json(found.facts)) | {
        "opened_at": now,
        "seen_at": now,
        "resolved_at": now,
        "resolved_by": OURSELVES,
        "resolution": resolution,
    }
    tx.execute(insert(recon_case).values(values))


def heal(
    tx: Connection,
    kind: str,
    subject_nos: Collection[str],
    reasons: Iterable[CaseReason],
    *,
    now: datetime,
) -> int:
    """Resolve open cases of these subjects whose cause is gone; returns how many."""
    wanted = sorted(reason.value for reason in reasons)
    if not wanted or not subject_nos:
        return 0
    done = tx.execute(
        update(recon_case)
        .where(
            recon_case.c.subject_no.in_(sorted(subject_nos)),
            recon_case.c.kind == kind,
            recon_case.c.reason.in_(wanted),
            recon_case.c.resolved_at.is_(None),
        )
        .values(resolved_at=now, resolved_by=OURSELVES, resolution="its cause is gone")
    )
    return done.rowcount


def find(
    engine: Engine, filters: Filters = Filters(), *, after_id: int = 0, limit: int = PAGE_MAX
) -> list[Case]:
    """Return one page of cases, oldest first.

    Args:
        engine: of the database with our tables.
        filters: which ones.
        after_id: the last id of the page before; 0 for the first.
        limit: most cases, 1 to 200.

    Raises:
        BadFieldError: ``limit``.
    """
    if not 1 <= limit <= PAGE_MAX:
        raise BadFieldError("limit", f"is {limit}, must be 1 to {PAGE_MAX}")
    query = select(recon_case).where(recon_case.c.id > after_id)
    for name in ("reason", "channel", "merchant", "subject_no"):
        wanted = getattr(filters, name)
        if wanted is not None:
            query = query.where(recon_case.c[name] == wanted)
    if filters.open_only:
        query = query.where(recon_case.c.resolved_at.is_(None))
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(recon_case.c.id).limit(limit))
        return [_read(row) for row in rows]


def get(tx: Connection, case_id: int) -> Case:
    """Return one case.

    Raises:
        NotFoundError: nobody knows this id.
    """
    row = tx.execute(select(recon_case).where(recon_case.c.id == case_id)).one_or_none()
    if row is None:
        raise NotFoundError("case", str(case_id), "`paynotify case list --all` shows their ids")
    return _read(row)


def evidence_of(tx: Connection, kind: str, subject_no: str, *, limit: int = 20) -> list[Evidence]:
    """Return the last answers about an order or refund, oldest first."""
    query = (
        select(evidence)
        .where(evidence.c.subject_no == subject_no, evidence.c.kind == kind)
        .order_by(evidence.c.id.desc())
        .limit(limit)
    )
    names = Evidence.__dataclass_fields__
    found = [Evidence(**{name: getattr(row, name) for name in names}) for row in tx.execute(query)]
    return found[::-1]


def resolve(tx: Connection, case_id: int, *, who: str, why: str) -> Case:
    """Resolve an open case on a person's word; written to the audit log.

    Args:
        tx: the caller's.
        case_id: of the case.
        who: 1 to 500 characters.
        why: what was found and done, 1 to 500 characters; kept with the case.

    Raises:
        BadFieldError: ``who`` or ``why`` is missing; nothing was done.
        NotFoundError: nobody knows this id.
        WrongStateError: it is resolved already.
    """
    who, why = check_person(who, "who"), check_person(why, "why")
    before = get(tx, case_id)
    done = tx.execute(
        update(recon_case)
        .where(recon_case.c.id == case_id, recon_case.c.resolved_at.is_(None))
        .values(resolved_at=database_now(), resolved_by=who, resolution=why)
    )
    if done.rowcount != 1:
        raise WrongStateError(
            f"case {case_id}", f"resolved by {before.resolved_by}", "only open ones can be"
        )
    tx.execute(
        insert(audit).values(
            actor=who,
            action="case.resolve",
            subject=f"case/{case_id}",
            why=why,
            facts=_json({"reason": before.reason, before.kind: before.subject_no}),
        )
    )
    return get(tx, case_id)


def _settled(tx: Connection, found: Collection[Disagreement]) -> set[tuple[str, str, str, str]]:
    """Return reason, kind, subject and facts of what people have resolved of these subjects."""
    if not found:
        return set()
    query = select(
        recon_case.c.reason, recon_case.c.kind, recon_case.c.subject_no, recon_case.c.facts
    ).where(
        recon_case.c.subject_no.in_(sorted({one.subject_no for one in found})),
        recon_case.c.resolved_at.is_not(None),
        recon_case.c.resolved_by != OURSELVES,
    )
    return {(row.reason, row.kind, row.subject_no, row.facts) for row in tx.execute(query)}


def _values(found: Disagreement, facts: str) -> dict[str, object]:
    names = (
        *("reason", "kind", "subject_no", "order_no", "channel", "merchant"),
        *("amount_minor", "currency", "suggestion", "evidence_id"),
    )
    return {name: getattr(found, name) for name in names} | {"facts": facts}


def _read(row: Row[Any]) -> Case:
    return Case(**{name: getattr(row, name) for name in Case.__dataclass_fields__})


def _json(facts: Mapping[str, object]) -> str:
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
