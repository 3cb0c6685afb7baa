"""Measures of what was sent, from the counts per minute and endpoint.

Must never look at attempts: there are millions of them.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    case,
    func,
    literal,
    select,
    text,
    union_all,
)

from schedules.readings import SUBJECTS_MAX, Measure, Question, Reading, percent, span
from worker.columns import spelled
from worker.tables import delivery, endpoint, lane
from worker.tables_alerts import rollup

# A lease that has only just run out is the next tick's business.
_LEASE_GRACE = timedelta(seconds=30)
_LEASES_MAX = 10_000
# Of an endpoint's sends; from here on it counts as failing in a storm.
_FAILING = 0.5


def _sum_since(connection: Connection, column: Any, question: Question) -> int:
    query = select(func.coalesce(func.sum(column), 0)).where(rollup.c.minute_at >= question.since)
    return int(connection.execute(query).scalar_one())


def _dead_letters(connection: Connection, question: Question) -> Sequence[Reading]:
    count = _sum_since(connection, rollup.c.dead, question)
    within = span(question.window_s)
    return [Reading(value=count, summary=f"{count} notifications were given up within {within}")]


def _dead_letters_of(connection: Connection, question: Question) -> Sequence[Reading]:
    dead = func.sum(rollup.c.dead)
    rows = connection.execute(
        select(rollup.c.endpoint_id, dead)
        .where(rollup.c.minute_at >= question.since, rollup.c.endpoint_id > 0)
        .group_by(rollup.c.endpoint_id)
        .having(dead > 0)
        .order_by(dead.desc())
        .limit(SUBJECTS_MAX)
    ).all()
    names = _names(connection, [row[0] for row in rows])
    within = span(question.window_s)
    return [
        Reading(
            subject=names.get(row[0], str(row[0])),
            value=int(row[1]),
            summary=f"{row[1]} of its notifications were given up within {within}",
        )
        for row in rows
    ]


def _endpoint_failures(connection: Connection, question: Question) -> Sequence[Reading]:
    """How much more of an endpoint's sends fail than usual, 0 to 1."""
    rows = _tallies(connection, question)
    usual = _usual(connection, question, [row.endpoint_id for row in rows])
    names = _names(connection, [row[0] for row in rows])
    readings = []
    for row in rows:
        ok, bad = int(row.ok), int(row.bad)
        ratio, before = bad / (ok + bad), usual.get(row.endpoint_id, 0.0)
        readings.append(
            Reading(
                subject=names.get(row.endpoint_id, str(row.endpoint_id)),
                value=round(max(0.0, ratio - before), 4),
                summary=(
                    f"{bad} of {ok + bad} sends failed within {span(question.window_s)} "
                    f"({percent(ratio)}; usually {percent(before)})"
                ),
            )
        )
    return readings


def _tallies(connection: Connection, question: Question) -> Sequence[Row[int, int, int]]:
    ok, bad = func.sum(rollup.c.acked), func.sum(rollup.c.failed)
    return connection.execute(
        select(rollup.c.endpoint_id, ok.label("ok"), bad.label("bad"))
        .where(rollup.c.minute_at >= question.since, rollup.c.endpoint_id > 0)
        .group_by(rollup.c.endpoint_id)
        # What fails less often than the threshold cannot be above what is usual by as much.
        .having(bad > 0, ok + bad >= question.minimum, bad >= float(question.least) * (ok + bad))
        .order_by(bad.desc())
        .limit(SUBJECTS_MAX)
    ).all()


def _usual(connection: Connection, question: Question, ids: list[int]) -> dict[int, float]:
    """Share of failures before the window, of endpoints that had enough sends to say."""
    if not ids:
        return {}
    ok, bad = func.sum(rollup.c.acked), func.sum(rollup.c.failed)
    rows = connection.execute(
        select(rollup.c.endpoint_id, ok, bad)
        .where(
            rollup.c.endpoint_id.in_(ids),
            rollup.c.minute_at >= question.usual_since,
            rollup.c.minute_at < question.since,
        )
        .group_by(rollup.c.endpoint_id)
        .having(ok + bad >= question.minimum)
    )
    return {row[0]: int(row[2]) / (int(row[1]) + int(row[2])) for row in rows}


def _failing_share(connection: Connection, question: Question) -> Sequence[Reading]:
    """Share of the endpoints that were called, or would have been, of which most sends fail."""
    ok, bad = func.sum(rollup.c.acked), func.sum(rollup.c.failed)
    called = (
        select(rollup.c.endpoint_id, case((bad >= _FAILING * (ok + bad), 1), else_=0).label("bad"))
        .where(rollup.c.minute_at >= question.since, rollup.c.endpoint_id > 0)
        .group_by(rollup.c.endpoint_id)
        .having(ok + bad > 0)
    )
    # Behind an open breaker nothing is sent, which does not make it any better.
    shut = select(lane.c.endpoint_id, literal(1)).where(
        text("paynotify_lane.slow"), lane.c.open_until.is_not(None), ~lane.c.held
    )
    both = union_all(called, shut).subquery()
    each = select(func.max(both.c.bad).label("bad")).group_by(both.c.endpoint_id).subquery()
    total, failing = connection.execute(
        select(func.count(), func.coalesce(func.sum(each.c.bad), 0)).select_from(each)
    ).one()
    if total < question.minimum:
        return []
    summary = f"{failing} of {total} endpoints that are called fail; look at our own network first"
    return [Reading(value=round(int(failing) / total, 4), summary=summary)]


def _expired_leases(connection: Connection, question: Question) -> Sequence[Reading]:
    counted = _sum_since(connection, rollup.c.abandoned, question)
    few = (
        select(literal(1))
        .where(
            spelled(delivery.c.state, "sending"),
            delivery.c.lease_until < question.now - _LEASE_GRACE,
        )
        .limit(_LEASES_MAX)
        .subquery()
    )
    left = int(connection.execute(select(func.count()).select_from(few)).scalar_one())
    waiting = f"; {left} are not even back in the queue" if left else ""
    return [
        Reading(
            value=counted + left,
            summary=(
                f"{counted + left} claims ended without a verdict within "
                f"{span(question.window_s)}{waiting}: workers die or freeze"
            ),
        )
    ]


def _stale_settles(connection: Connection, question: Question) -> Sequence[Reading]:
    count = _sum_since(connection, rollup.c.stale, question)
    within = span(question.window_s)
    summary = f"{count} verdicts came after their lease was over within {within}"
    return [Reading(value=count, summary=summary)]


def _no_data(connection: Connection, question: Question) -> Sequence[Reading]:
    """Seconds since any worker process wrote its counts, which it does with no traffic too."""
    newest = select(rollup.c.minute_at).order_by(rollup.c.minute_at.desc()).limit(1)
    seen_at = connection.execute(newest).scalar_one_or_none()
    if seen_at is None:
        # Nothing was ever written, or it is too long ago to be kept.
        first = select(endpoint.c.created_at).order_by(endpoint.c.id).limit(1)
        seen_at = connection.execute(first).scalar_one_or_none()
    if seen_at is None:
        return []
    quiet_s = max(0, int((question.now - seen_at).total_seconds()))
    return [Reading(value=quiet_s, summary=f"no worker was heard of for {span(quiet_s)}")]


def _names(connection: Connection, ids: Sequence[int]) -> Mapping[int, str]:
    query = select(endpoint.c.id, endpoint.c.name).where(endpoint.c.id.in_(ids))
    return {row[0]: row[1] for row in connection.execute(query)} if ids else {}


MEASURES = (
    Measure(name="dead_letters", unit="notifications", subject="", take=_dead_letters),
    Measure(
        name="endpoint_dead_letters",
        unit="notifications",
        subject="endpoint",
        take=_dead_letters_of,
    ),
    Measure(
        name="endpoint_failures",
        unit="share of sends above the usual share",
        subject="endpoint",
        take=_endpoint_failures,
    ),
    Measure(name="failing_share", unit="share of endpoints", subject="", take=_failing_share),
    Measure(name="expired_leases", unit="claims", subject="", take=_expired_leases),
    Measure(name="stale_settles", unit="verdicts", subject="", take=_stale_settles),
    Measure(name="no_data_s", unit="seconds", subject="", take=_no_data),
)
