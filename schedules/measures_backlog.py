"""Measures of what waits, and of endpoints that cannot be called.

Counting stops where a rule needs to know no more. Must never read the rows of a long queue one by
one: what waits is counted lane by lane, from the index of rows that are ready.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, column, func, select, text

from schedules.readings import SUBJECTS_MAX, Measure, Question, Reading, span
from worker.columns import Moment
from worker.tables import SUSPECT_AFTER, endpoint, lane
from worker.tables_freeze import freeze

_READY = f"d.state = 'pending' AND d.abandoned < {SUSPECT_AFTER}"
_OPEN_LANE = (
    "EXISTS (SELECT 1 FROM paynotify_lane l WHERE l.id = hop.lane_id AND NOT l.held "
    "AND l.open_until IS NULL)"
)
# Lanes one measure looks at; beyond, what it says is "at least".
_HOPS = 5000
_COUNT_MAX = 500_000
_ROWS_MAX = 5000

_NEXT = (
    f"SELECT d.lane_id FROM paynotify_delivery d WHERE {_READY} AND d.lane_id > {{after}} "  # noqa: S608
    "ORDER BY d.lane_id LIMIT 1"
)

# Rows that could be claimed now, counted from lane to lane until there are :most.
_BACKLOG = text(f"""
WITH RECURSIVE hop (lane_id, total, no) AS (
  SELECT ({_NEXT.format(after="0")}), 0, 0
  UNION ALL
  SELECT ({_NEXT.format(after="hop.lane_id")}),
         hop.total + CAST((SELECT count(*) FROM (
            SELECT 1 FROM paynotify_delivery d
             WHERE {_READY} AND d.lane_id = hop.lane_id AND {_OPEN_LANE}
             LIMIT :most) few) AS integer),
         hop.no + 1
    FROM hop WHERE hop.lane_id IS NOT NULL AND hop.total < :most AND hop.no < :hops
)
SELECT max(total) FROM hop
""")  # noqa: S608 - constants

# The earliest due of each lane: the first of each priority, because that is how they are indexed.
_EARLIEST = ", ".join(f"({number})" for number in range(10))
_OLDEST = text(f"""
WITH RECURSIVE hop (lane_id, no) AS (
  SELECT ({_NEXT.format(after="0")}), 0
  UNION ALL
  SELECT ({_NEXT.format(after="hop.lane_id")}), hop.no + 1
    FROM hop WHERE hop.lane_id IS NOT NULL AND hop.no < :hops
),
priority (number) AS (VALUES {_EARLIEST})
SELECT min((SELECT d.due_at FROM paynotify_delivery d
             WHERE {_READY} AND d.lane_id = hop.lane_id AND d.priority = priority.number
             ORDER BY d.due_at LIMIT 1)) AS due_at
  FROM hop CROSS JOIN priority
 WHERE hop.lane_id IS NOT NULL AND {_OPEN_LANE}
""").columns(column("due_at", Moment()))  # noqa: S608 - constants
# Rows whose time has come are staged within a second whatever their lane: if not, nobody ticks.
_UNSTAGED = (
    text(
        "SELECT d.due_at FROM paynotify_delivery d WHERE d.state = 'waiting' AND d.due_at < :now "
        "ORDER BY d.due_at LIMIT 1"
    )
    .bindparams(bindparam("now", type_=Moment()))
    .columns(column("due_at", Moment()))
)

# Orders whose merchants have not heard of them. One probe a row: a join would be planned for
# however many rows the tables had when it was planned first.
_AMOUNT = text(f"""
WITH few AS (
  SELECT id FROM (SELECT d.id FROM paynotify_delivery d WHERE {_READY}
                   ORDER BY d.lane_id LIMIT :rows) ready
  UNION ALL
  SELECT id FROM (SELECT d.id FROM paynotify_delivery d WHERE d.state = 'waiting'
                   ORDER BY d.due_at LIMIT :rows) later
),
named AS (
  SELECT DISTINCT (SELECT n.order_no FROM paynotify_notification n WHERE n.id = few.id) AS order_no
    FROM few
),
paid AS (
  SELECT (SELECT o.currency FROM paynotify_payment_order o
           WHERE o.order_no = named.order_no) AS currency,
         (SELECT o.amount_minor FROM paynotify_payment_order o
           WHERE o.order_no = named.order_no) AS amount_minor
    FROM named WHERE named.order_no IS NOT NULL
)
SELECT currency, sum(amount_minor), count(*), (SELECT count(*) FROM few)
  FROM paid WHERE currency IS NOT NULL GROUP BY currency
""")  # noqa: S608 - constants


def _backlog(connection: Connection, question: Question) -> Sequence[Reading]:
    most = min(_COUNT_MAX, max(1, int(question.most) * 2))
    counted = connection.execute(_BACKLOG, {"most": most, "hops": _HOPS}).scalar_one() or 0
    about = "at least " if counted >= most else ""
    return [Reading(value=counted, summary=f"{about}{counted} notifications are due and not sent")]


def _oldest_due(connection: Connection, question: Question) -> Sequence[Reading]:
    found: list[datetime | None] = [
        connection.execute(_OLDEST, {"hops": _HOPS}).scalar_one_or_none(),
        connection.execute(_UNSTAGED, {"now": question.now}).scalar_one_or_none(),
    ]
    ages = [(question.now - due_at).total_seconds() for due_at in found if due_at is not None]
    late_s = max(0, int(max(ages, default=0)))
    return [Reading(value=late_s, summary=f"a notification has been due for {span(late_s)}")]


def _amount_waiting(connection: Connection, question: Question) -> Sequence[Reading]:
    rows = connection.execute(_AMOUNT, {"rows": _ROWS_MAX}).all()
    return [
        Reading(
            subject=currency,
            value=int(amount_minor),
            summary=(
                f"{'at least ' if looked_at >= _ROWS_MAX else ''}{int(amount_minor)} minor units "
                f"of {currency} in {orders} orders are not notified yet"
            ),
        )
        for currency, amount_minor, orders, looked_at in rows
    ]


def _failures_in_row(connection: Connection, question: Question) -> Sequence[Reading]:
    """How far an endpoint is on the way to an open breaker, percent."""
    in_row = func.max(lane.c.failures_in_row)
    limit = question.breaker_failures
    rows = connection.execute(
        select(endpoint.c.name, in_row, func.max(lane.c.open_until))
        .select_from(lane.join(endpoint, endpoint.c.id == lane.c.endpoint_id))
        .where(
            text("paynotify_lane.slow"),
            ~lane.c.held,
            lane.c.failures_in_row * 100 >= float(question.least) * limit,
        )
        .group_by(endpoint.c.name)
        .order_by(in_row.desc())
        .limit(SUBJECTS_MAX)
    ).all()
    return [
        Reading(
            subject=name,
            value=min(100, count * 100 // limit),
            summary=f"{count} failures in a row; {limit} open the breaker"
            + (" (it is open)" if open_until is not None else ""),
        )
        for name, count, open_until in rows
    ]


def _breakers_open(connection: Connection, question: Question) -> Sequence[Reading]:
    count = connection.execute(
        select(func.count())
        .select_from(lane)
        .where(text("paynotify_lane.slow"), lane.c.open_until.is_not(None), ~lane.c.held)
    ).scalar_one()
    return [
        Reading(value=count, summary=f"{count} breakers are open: those merchants hear nothing")
    ]


def _endpoints_gone(connection: Connection, question: Question) -> Sequence[Reading]:
    """Endpoints that answered 410, until somebody resumes or deletes them."""
    rows = connection.execute(
        select(endpoint.c.name, endpoint.c.state_reason)
        .where(endpoint.c.state == "gone", endpoint.c.id > 0)
        .order_by(endpoint.c.id)
        .limit(SUBJECTS_MAX)
    ).all()
    return [
        Reading(
            subject=name,
            value=1,
            summary=f"it said it is gone ({reason or '410'}); its notifications are held",
        )
        for name, reason in rows
    ]


def _endpoints_frozen(connection: Connection, question: Question) -> Sequence[Reading]:
    """Endpoints that kept failing and are held until they answer a ping."""
    return _frozen(connection, question, for_people=False)


def _freezes_for_people(connection: Connection, question: Question) -> Sequence[Reading]:
    """Frozen endpoints that no ping may let go."""
    return _frozen(connection, question, for_people=True)


def _frozen(connection: Connection, question: Question, *, for_people: bool) -> Sequence[Reading]:
    rows = connection.execute(
        select(freeze, endpoint.c.name)
        .join(endpoint, endpoint.c.id == freeze.c.endpoint_id)
        .where(freeze.c.unfrozen_at.is_(None), (freeze.c.person != "") == for_people)
        .order_by(freeze.c.frozen_at)
        .limit(SUBJECTS_MAX)
    ).all()
    readings = []
    for row in rows:
        frozen = span(max(0.0, (question.now - row.frozen_at).total_seconds()))
        last = f"; {row.probes} pings, the last: {row.code}" if row.code else ""
        held = f"; {row.person}: look and run `paynotify endpoint resume`" if row.person else ""
        readings.append(
            Reading(
                subject=row.name,
                value=1,
                summary=f"it has been frozen for {frozen} because {row.why}{last}{held}",
            )
        )
    return readings


MEASURES = (
    Measure(name="backlog", unit="notifications", subject="", take=_backlog),
    Measure(name="oldest_due_s", unit="seconds", subject="", take=_oldest_due),
    Measure(name="amount_waiting", unit="minor units", subject="currency", take=_amount_waiting),
    Measure(
        name="failures_in_row",
        unit="percent of what opens the breaker",
        subject="endpoint",
        take=_failures_in_row,
    ),
    Measure(name="breakers_open", unit="breakers", subject="", take=_breakers_open),
    Measure(name="endpoints_gone", unit="1", subject="endpoint", take=_endpoints_gone),
    Measure(name="endpoints_frozen", unit="1", subject="endpoint", take=_endpoints_frozen),
    Measure(name="freezes_for_people", unit="1", subject="endpoint", take=_freezes_for_people),
)
