"""A PostgreSQL database full of rows that are over, and a known number that are not.

Written by the server itself, some 50 000 notifications a second. Must never be what a behaviour
is tested on: a crowd is there to be in the way.
"""

from sqlalchemy import Engine, text

LANES = 200
# Of those orders that are not settled.
CHANNELS = tuple(f"channel-{number}" for number in range(4))
# Of what is finished, every second row is older than what is kept.
_OLD, _YOUNG = "200 days", "10 days"

_ENDPOINTS = f"""
INSERT INTO paynotify_endpoint (name, merchant, url, config)
SELECT 'shop-' || n, 'shop-' || n, 'https://shop.example.com/', '{{}}'
  FROM generate_series(1, {LANES}) n;
INSERT INTO paynotify_lane (endpoint_id) SELECT id FROM paynotify_endpoint ORDER BY id;
"""

_NOTIFICATIONS = f"""
INSERT INTO paynotify_notification (endpoint_id, message_id, event_type, event_key, order_no,
    payload, created_at)
SELECT n % {LANES} + 1, 'msg_' || md5(n::text), 'payment.paid', :kind || n, 'o-' || n,
    decode(repeat(md5(n::text), 10), 'hex'), now() - CAST(:age AS interval)
  FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) n
"""

_DELIVERIES = """
INSERT INTO paynotify_delivery (id, lane_id, state, due_at, attempt_no, tries, claim_no,
    lease_until, finished_at)
SELECT n.id, n.endpoint_id, CAST(:state AS text), now() - CAST(:due AS interval), :tries, :tries,
    :tries,
    CASE WHEN :state = 'sending' THEN now() - interval '1 minute' END,
    CASE WHEN :state IN ('delivered', 'dead') THEN n.created_at END
  FROM paynotify_notification n
 WHERE n.id > :after;
"""

_ATTEMPTS = """
INSERT INTO paynotify_attempt (notification_id, attempt_no, claim_no, worker, started_at,
    finished_at, outcome, status, evidence, remote_ip)
SELECT n.id, 1, 1, 'host:1', n.created_at,
    CASE WHEN CAST(:outcome AS text) IS NOT NULL THEN n.created_at END, :outcome, 200, 'success',
    '192.0.2.1'
  FROM paynotify_notification n WHERE n.id > :after
"""

_LETTERS = """
INSERT INTO paynotify_dead_letter (notification_id, endpoint_id, reason, died_at)
SELECT n.id, n.endpoint_id, 'exhausted', now() - interval '1 day'
  FROM paynotify_notification n WHERE n.id > :after
"""

# Of the orders that are not settled half were never asked about, the others are due. Of some that
# are paid nobody was told.
_ORDERS = f"""
INSERT INTO paynotify_payment_order (order_no, merchant, channel, amount_minor, currency, state,
    created_at, updated_at)
SELECT 'o-' || n, 'shop-' || n % {LANES} + 1, 'channel-' || n % 4, 1230, 'CNY', 'paid',
    now() - interval '10 days', now() - interval '10 days'
  FROM generate_series(1, CAST(:finished AS bigint)) n;
INSERT INTO paynotify_check (subject_no, order_no, channel, placed_at, next_check_at, finished_at,
    finished_because)
SELECT 'o-' || n, 'o-' || n, 'channel-' || n % 4, now() - interval '10 days', now(),
    now() - interval '10 days', 'settled'
  FROM generate_series(1, CAST(:finished AS bigint)) n;
INSERT INTO paynotify_payment_order (order_no, merchant, channel, amount_minor, currency,
    created_at)
SELECT 'p-' || n, 'shop-' || n % {LANES} + 1, 'channel-' || n % 4, 1230, 'CNY',
    now() - interval '5 minutes'
  FROM generate_series(1, CAST(:due AS bigint)) n;
INSERT INTO paynotify_check (subject_no, order_no, channel, placed_at, next_check_at)
SELECT 'p-' || n, 'p-' || n, 'channel-' || n % 4, now() - interval '5 minutes',
    now() - interval '1 minute'
  FROM generate_series(1, CAST(:due AS bigint) / 2) n;
INSERT INTO paynotify_payment_order (order_no, merchant, channel, amount_minor, currency, state,
    paid_at, created_at, updated_at)
SELECT 'q-' || n, 'shop-' || n % {LANES} + 1, 'channel-' || n % 4, 1230, 'CNY', 'paid',
    now() - interval '1 hour', now() - interval '1 hour', now() - interval '1 hour'
  FROM generate_series(1, CAST(:due AS bigint) / 10) n;
INSERT INTO paynotify_refund (refund_no, order_no, amount_minor, created_at)
SELECT 'r-' || n, 'o-' || n, 100, now() - interval '5 minutes'
  FROM generate_series(1, CAST(:due AS bigint) / 10) n;
"""

# What stands beside: {count} rows each, half of them old.
_BESIDE = f"""
INSERT INTO paynotify_inbox (merchant, event_type, event_key, payload)
SELECT 'shop-' || n % {LANES} + 1, 'payment.paid', 'inbox' || n, '[1]'
  FROM generate_series(1, 5000) n;
INSERT INTO paynotify_tick (name, tick_at, state)
SELECT 'job-' || n % 10, now() - n * 60.0 / :count * interval '1 day', 'done'
  FROM generate_series(1, CAST(:count AS bigint)) n;
INSERT INTO paynotify_ordering (ordering, touched_at)
SELECT '1:line-' || n, now() - CASE WHEN n * 2 < :count THEN 400 ELSE 1 END * interval '1 day'
  FROM generate_series(1, CAST(:count AS bigint)) n;
INSERT INTO paynotify_rollup (minute_at, endpoint_id, worker, acked)
SELECT date_trunc('minute', now() - (n / 100) * 6000.0 / :count * interval '1 day'), n % 100 + 1,
    'host:1', 1
  FROM generate_series(1, CAST(:count AS bigint)) n;
INSERT INTO paynotify_rollup (minute_at, endpoint_id, worker, acked)
SELECT date_trunc('minute', now() - interval '5 minutes'), id, 'host:2', 1 FROM paynotify_endpoint;
INSERT INTO paynotify_recon_evidence (at, subject_no, channel, decision)
SELECT now() - CASE WHEN n * 2 < :count THEN 400 ELSE 1 END * interval '1 day', 'o-' || n, 'ali',
    'noted'
  FROM generate_series(1, CAST(:count AS bigint)) n;
INSERT INTO paynotify_recon_case (reason, subject_no, channel, opened_at, resolved_at)
SELECT 'late_payment', 'o-' || n, 'ali', now() - interval '400 days',
    CASE WHEN n > 50 THEN now() - interval '390 days' END
  FROM generate_series(1, CAST(:count AS bigint) / 10) n;
INSERT INTO paynotify_check (subject_no, channel, placed_at, next_check_at, finished_at)
SELECT 'old-' || n, 'ali', now() - interval '400 days', now(), now() - interval '399 days'
  FROM generate_series(1, CAST(:count AS bigint) / 10) n;
"""


def fill(engine: Engine, *, finished: int, due: int) -> None:
    """Write ``finished`` rows that are over and, apart from them, ``due`` rows that are not.

    There are as many orders, with what the channels were asked about them. Of the due
    notifications half are pending, a quarter wait for a time that has come, a tenth lost their
    lease, and the others are dead letters of endpoints that have recovered.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
        tx.execute(text("SET statement_timeout = 0"))
        tx.execute(text(_ENDPOINTS))
    step = 250_000
    for first in range(0, finished, step):
        age = _OLD if first * 2 < finished else _YOUNG
        _write(engine, "delivered", min(step, finished - first), first, age, "acked")
    # A crowd smaller than a step is old and young as well.
    if finished <= step:
        _rejuvenate(engine, finished // 2)
    _write(engine, "pending", due // 2, 0, "1 minute", None)
    _write(engine, "waiting", due // 4, 0, "1 minute", None)
    _write(engine, "sending", due // 10, 0, "1 minute", None)
    _write(engine, "dead", due - due // 2 - due // 4 - due // 10, 0, "1 day", "")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
        tx.execute(text("SET statement_timeout = 0"))
        for statement in _BESIDE.split(";")[:-1]:
            tx.execute(text(statement), {"count": finished // 10})
        for statement in _ORDERS.split(";")[:-1]:
            values = {"finished": finished, "due": due}
            named = {name: count for name, count in values.items() if f":{name}" in statement}
            tx.execute(text(statement), named)
        tx.execute(text("VACUUM ANALYZE"))


def rows(engine: Engine, table: str) -> int:
    """Say how many rows a table has, as PostgreSQL guesses it."""
    with engine.connect() as connection:
        query = text("SELECT reltuples FROM pg_class WHERE relname = :table")
        return int(connection.execute(query, {"table": table}).scalar_one())


def _write(
    engine: Engine, state: str, count: int, first: int, age: str, outcome: str | None
) -> None:
    with engine.begin() as tx:
        tx.execute(text("SET LOCAL statement_timeout = 0"))
        after = tx.execute(text("SELECT coalesce(max(id), 0) FROM paynotify_notification"))
        values = {
            "kind": state,
            "state": state,
            "age": age,
            "first": first + 1,
            "last": first + count,
            "after": after.scalar_one(),
            "due": "1 minute",
            "tries": 0 if state in ("pending", "waiting") else 1,
            "outcome": "not_acked" if outcome == "" else outcome,
        }
        tx.execute(text(_NOTIFICATIONS), values)
        tx.execute(text(_DELIVERIES), values)
        if values["tries"]:
            tx.execute(text(_ATTEMPTS), values)
        if state == "dead":
            tx.execute(text(_LETTERS), values)


def _rejuvenate(engine: Engine, from_id: int) -> None:
    with engine.begin() as tx:
        for table, column in (("notification", "created_at"), ("delivery", "finished_at")):
            tx.execute(
                text(
                    f"UPDATE paynotify_{table} SET {column} = now() - interval '{_YOUNG}' "
                    "WHERE id > :id"
                ),
                {"id": from_id},
            )
