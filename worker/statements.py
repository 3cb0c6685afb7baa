"""PostgreSQL's statements of the delivery engine: each one line of what it is for.

Every row lookup by a set of ids is written ``= ANY(ARRAY(…))``: the planner then always uses the
primary key, whatever its statistics say about a table that was empty a minute ago.
"""

from worker.tables import SUSPECT_AFTER

# One claim at a time in the whole installation. A claim counts what each lane has on the wire;
# two at once would each see the other's rows missing and overshoot the cap together. A claim of
# 200 rows holds this for some 3 ms.
GATE = "SELECT pg_advisory_xact_lock(7274496)"

# Lanes with claimable rows after %(after)s, one index probe per lane. {lanes} is filled in below.
_HOP = f"""
WITH RECURSIVE hop (lane_id, no) AS (
  (SELECT d.lane_id, 1 FROM paynotify_delivery d
    WHERE d.state = 'pending' AND d.abandoned < {SUSPECT_AFTER} AND d.lane_id > %(after)s
    ORDER BY d.lane_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.lane_id FROM paynotify_delivery d
           WHERE d.state = 'pending' AND d.abandoned < {SUSPECT_AFTER}
             AND d.lane_id > hop.lane_id
           ORDER BY d.lane_id LIMIT 1), hop.no + 1
    FROM hop WHERE hop.lane_id IS NOT NULL AND hop.no <= %(hops)s
)"""  # noqa: S608 - a constant

# A lane with anything to remember: its successes matter too.
_TROUBLED = """lane.failures_in_row <> 0 OR lane.window_at IS NOT NULL
         OR lane.open_until IS NOT NULL OR lane.ramp IS NOT NULL OR lane.slow
         OR lane.latency_ms <> 0 AS troubled"""

# What each row of a claim carries away, from the narrow and the wide table.
_CARRIED = """
       t.id, t.lane_id, t.attempt_no, t.tries, t.claim_no, l.endpoint_id, l.config_no, l.troubled,
       n.message_id, n.event_type, n.event_key, n.order_no, n.payload, n.content_type, n.headers,
       n.notify_url, n.schedule, n.trace_id,
       extract(epoch FROM n.expires_at - statement_timestamp())::float8 AS expires_in_s,
       n.ordering_key"""

# Take due rows fairly: hop from lane to lane, take at most a share of each that has room, stop as
# soon as the batch is full; lease them, open their attempts, take their tokens. Always answers at
# least one row: where the next claim begins, 0 for in front.
CLAIM = f"""{_HOP},
picked AS MATERIALIZED (
  SELECT p.id, l.id AS lane_id, l.endpoint_id, l.config_no, l.rate_per_s, l.troubled, r.room,
         f.tokens
    FROM hop
   CROSS JOIN LATERAL (
      SELECT lane.*, {_TROUBLED}
        FROM paynotify_lane lane
       WHERE lane.id = hop.lane_id AND NOT lane.held AND lane.slow = %(slow)s
         AND (lane.open_until IS NULL OR lane.open_until <= statement_timestamp())
       LIMIT 1) l
   CROSS JOIN LATERAL (
      SELECT CASE WHEN l.rate_per_s IS NULL THEN NULL ELSE
        least(greatest(l.rate_per_s, 1), l.tokens + l.rate_per_s * greatest(0,
          extract(epoch FROM statement_timestamp() - l.tokens_at)::float8)) END AS tokens) f
   CROSS JOIN LATERAL (
      SELECT least(
        CASE WHEN l.open_until IS NOT NULL THEN 1
             ELSE least(l.in_flight_cap, coalesce(l.ramp, l.in_flight_cap)) END - count(*),
        coalesce(floor(f.tokens), 1000000))::int AS room
        FROM paynotify_delivery s WHERE s.state = 'sending' AND s.lane_id = l.id) r
   CROSS JOIN LATERAL (
      SELECT d.id FROM paynotify_delivery d
       WHERE d.state = 'pending' AND d.abandoned < {SUSPECT_AFTER} AND d.lane_id = l.id
         AND r.room > 0
       ORDER BY d.priority, d.due_at
       LIMIT greatest(0, least(%(share)s, r.room)) FOR NO KEY UPDATE SKIP LOCKED) p
   LIMIT %(limit)s
),
taken AS (
  UPDATE paynotify_delivery d
     SET state = 'sending', claim_no = d.claim_no + 1, attempt_no = d.attempt_no + 1,
         tries = d.tries + 1,
         lease_until = statement_timestamp() + make_interval(secs => %(lease_s)s)
   WHERE d.id = ANY(ARRAY(SELECT id FROM picked))
  RETURNING d.id, d.attempt_no, d.tries, d.claim_no
),
opened AS (
  INSERT INTO paynotify_attempt (notification_id, attempt_no, claim_no, worker, started_at)
  SELECT id, attempt_no, claim_no, %(worker)s, statement_timestamp() FROM taken
),
spent AS (
  UPDATE paynotify_lane l SET tokens = used.tokens - used.rows, tokens_at = statement_timestamp()
    FROM (SELECT lane_id, max(tokens) AS tokens, count(*) AS rows FROM picked
           WHERE rate_per_s IS NOT NULL GROUP BY lane_id) used
   WHERE l.id = used.lane_id
)
SELECT CASE WHEN (SELECT count(*) FROM picked) >= %(limit)s
            -- One probe says whether a next lane exists; else the next claim begins in front.
            THEN coalesce((SELECT last.id FROM (SELECT max(lane_id) AS id FROM picked) last
                            WHERE EXISTS (
                              SELECT 1 FROM paynotify_delivery d
                               WHERE d.state = 'pending' AND d.abandoned < {SUSPECT_AFTER}
                                 AND d.lane_id > last.id)), 0)
            WHEN (SELECT bool_or(lane_id IS NULL) FROM hop) IS DISTINCT FROM false THEN 0
            ELSE (SELECT max(lane_id) FROM hop) END AS next_after,
       c.*
  FROM (SELECT 1) one
  LEFT JOIN LATERAL (
    SELECT {_CARRIED.replace("t.lane_id", "l.lane_id")}, l.room,
           coalesce(l.room >= floor(l.tokens), false) AS metered
      FROM taken t
      JOIN picked l ON l.id = t.id
     CROSS JOIN LATERAL (SELECT * FROM paynotify_notification WHERE id = t.id LIMIT 1) n
  ) c ON true
"""  # noqa: S608 - constants

# The row that has been suspect for longest, whatever its pool.
_SUSPECT = f"""
  SELECT d.id FROM paynotify_delivery d
   CROSS JOIN LATERAL (
      SELECT 1 FROM paynotify_lane l
       WHERE l.id = d.lane_id AND NOT l.held
         AND (l.open_until IS NULL OR l.open_until <= statement_timestamp()) LIMIT 1) l
   WHERE d.state = 'pending' AND d.abandoned >= {SUSPECT_AFTER}
   ORDER BY d.due_at LIMIT 1"""  # noqa: S608 - a constant

# Take it.
CLAIM_SUSPECT = f"""
WITH picked AS MATERIALIZED ({_SUSPECT} FOR NO KEY UPDATE OF d SKIP LOCKED
),
taken AS (
  UPDATE paynotify_delivery d
     SET state = 'sending', claim_no = d.claim_no + 1, attempt_no = d.attempt_no + 1,
         tries = d.tries + 1,
         lease_until = statement_timestamp() + make_interval(secs => %(lease_s)s)
   WHERE d.id = ANY(ARRAY(SELECT id FROM picked))
  RETURNING d.id, d.lane_id, d.attempt_no, d.tries, d.claim_no
),
opened AS (
  INSERT INTO paynotify_attempt (notification_id, attempt_no, claim_no, worker, started_at)
  SELECT id, attempt_no, claim_no, %(worker)s, statement_timestamp() FROM taken
)
SELECT {_CARRIED}
  FROM taken t
 CROSS JOIN LATERAL (
    SELECT lane.*, {_TROUBLED} FROM paynotify_lane lane WHERE lane.id = t.lane_id LIMIT 1) l
 CROSS JOIN LATERAL (SELECT * FROM paynotify_notification WHERE id = t.id LIMIT 1) n
"""  # noqa: S608 - constants

# Which pools have a lane that a claim would serve. Slow lanes are few and in an index of their own;
# of the others the first will do. Answers one row: is the slow pool due, is the fast one, and how
# far it looked for that; NULL is to the end.
DUE_POOLS = f"""{_HOP}
SELECT EXISTS (
         SELECT 1 FROM paynotify_lane lane
          CROSS JOIN LATERAL (
             SELECT 1 FROM paynotify_delivery d
              WHERE d.state = 'pending' AND d.abandoned < {SUSPECT_AFTER} AND d.lane_id = lane.id
              LIMIT 1) d
          WHERE lane.slow AND NOT lane.held
            AND (lane.open_until IS NULL OR lane.open_until <= statement_timestamp())),
       coalesce(s.served, false), s.lane_id
  FROM (SELECT 1) one
  LEFT JOIN (
    SELECT hop.lane_id, hop.no, l.served
      FROM hop
      LEFT JOIN LATERAL (
        SELECT true AS served FROM paynotify_lane lane
         WHERE lane.id = hop.lane_id AND NOT lane.held AND NOT lane.slow
           AND (lane.open_until IS NULL OR lane.open_until <= statement_timestamp())
         LIMIT 1) l ON true
     WHERE l.served OR hop.lane_id IS NULL OR hop.no > %(hops)s
     LIMIT 1) s ON true
"""  # noqa: S608 - a constant

# A dead letter for each row of `buried` (id, reason, status, error, evidence).
_BURY = """
  INSERT INTO paynotify_dead_letter (notification_id, endpoint_id, reason, last_status, last_error,
      last_reply, attempts, first_failed_at, last_failed_at)
  SELECT b.id, n.endpoint_id, b.reason, b.status, b.error, b.evidence, b.attempt_no,
      (SELECT min(a.started_at) FROM paynotify_attempt a WHERE a.notification_id = b.id),
      statement_timestamp()
    FROM buried b
   CROSS JOIN LATERAL (SELECT endpoint_id FROM paynotify_notification WHERE id = b.id LIMIT 1) n"""

# Write verdicts whose claim still holds, close their attempts, bury the dead.
SETTLE = f"""
WITH v AS MATERIALIZED (
  SELECT * FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::float8[], %s::int[], %s::text[],
      %s::int[], %s::text[], %s::text[], %s::int[], %s::text[], %s::int[],
      %s::bigint[], %s::int[], %s::text[], %s::int[])
    AS v (id, claim_no, state, delay_s, given_back, outcome, status, error, evidence, elapsed_ms,
          remote_ip, secret_version, signed_at, config_no, reason, route)
),
moved AS (
  UPDATE paynotify_delivery d
     SET state = v.state,
         due_at = CASE WHEN v.state IN ('waiting', 'pending')
                       THEN statement_timestamp() + make_interval(secs => v.delay_s)
                       ELSE d.due_at END,
         tries = d.tries - v.given_back, abandoned = 0, lease_until = NULL,
         finished_at = CASE WHEN v.state IN ('delivered', 'dead') THEN statement_timestamp() END
    FROM v
   -- coalesce keeps the planner off the index of sending rows, which it would scan once per id.
   WHERE d.id = v.id AND d.claim_no = v.claim_no AND coalesce(d.state, '') = 'sending'
  -- Carries what the rest needs: a second join with v would be guessed at ten rows and looped.
  RETURNING d.id, d.attempt_no, v.state, v.outcome, v.status, v.error, v.evidence, v.elapsed_ms,
            v.remote_ip, v.secret_version, v.signed_at, v.config_no, v.reason, v.route
),
closed AS (
  UPDATE paynotify_attempt a
     SET finished_at = statement_timestamp(), outcome = m.outcome, status = m.status,
         error = m.error, evidence = m.evidence, elapsed_ms = m.elapsed_ms,
         remote_ip = m.remote_ip, secret_version = m.secret_version,
         signed_at = m.signed_at, config_no = m.config_no, route = m.route
    FROM moved m
   WHERE a.notification_id = m.id AND a.attempt_no = m.attempt_no
),
buried AS (
  SELECT * FROM moved WHERE state = 'dead'
),
letters AS ({_BURY}
)
SELECT id FROM moved
"""  # noqa: S608 - constants

# Which of these claims were settled already (asked after a connection broke mid-settle).
ALREADY = """
SELECT a.notification_id
  FROM unnest(%s::bigint[], %s::int[]) AS v (id, claim_no)
 CROSS JOIN LATERAL (
    SELECT a.notification_id FROM paynotify_attempt a
     WHERE a.notification_id = v.id AND a.claim_no = v.claim_no
       AND a.outcome IS NOT NULL AND a.outcome <> 'abandoned') a
"""

# Waiting rows whose time has come.
STAGE = """
WITH due AS MATERIALIZED (
  SELECT id FROM paynotify_delivery
   WHERE state = 'waiting' AND due_at <= statement_timestamp()
   ORDER BY due_at LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE paynotify_delivery SET state = 'pending' WHERE id = ANY(ARRAY(SELECT id FROM due))
"""

# What is sent alone would find something to send.
SUSPECTS = f"SELECT EXISTS ({_SUSPECT})"

# Whose lease ran out.
_LATE = """
  SELECT id FROM paynotify_delivery
   WHERE state = 'sending' AND lease_until < statement_timestamp()
   LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED"""

# What a worker that has just died carried alone.
_ALONE = f"""
  SELECT d.id FROM paynotify_delivery d
    JOIN paynotify_attempt a ON a.notification_id = d.id AND a.attempt_no = d.attempt_no
   WHERE d.state = 'sending' AND d.abandoned >= {SUSPECT_AFTER} AND a.worker = %(worker)s
     FOR NO KEY UPDATE OF d SKIP LOCKED"""  # noqa: S608 - a constant

# Lost rows back to pending, or dead when it happened too often in a row.
_TAKE_BACK = f"""
WITH lost AS MATERIALIZED ({{lost}}
),
moved AS (
  UPDATE paynotify_delivery d
     SET state = CASE WHEN d.abandoned + 1 >= %(dead_after)s THEN 'dead' ELSE 'pending' END,
         abandoned = d.abandoned + 1, lease_until = NULL, due_at = statement_timestamp(),
         finished_at = CASE WHEN d.abandoned + 1 >= %(dead_after)s
                            THEN statement_timestamp() END
   WHERE d.id = ANY(ARRAY(SELECT id FROM lost))
  RETURNING d.id, d.attempt_no, d.state, d.abandoned, d.ordering
),
closed AS (
  UPDATE paynotify_attempt a
     SET outcome = 'abandoned', finished_at = statement_timestamp(), error = %(why)s::text
    FROM moved
   WHERE a.notification_id = moved.id AND a.attempt_no = moved.attempt_no AND a.outcome IS NULL
),
buried AS (
  SELECT id, 'poison' AS reason, 0 AS status, '' AS evidence, attempt_no,
         'lost ' || abandoned || ' times in a row: ' || %(why)s::text AS error
    FROM moved WHERE state = 'dead'
),
letters AS ({_BURY}
)
SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'dead'),
       array_agg(DISTINCT ordering) FILTER (WHERE ordering IS NOT NULL)
  FROM moved
"""  # noqa: S608 - constants
RELEASE = _TAKE_BACK.format(lost=_LATE)
CONDEMN = _TAKE_BACK.format(lost=_ALONE)

# Add counts of endpoints to the rows of one worker in the present minute.
ROLL_UP = """
INSERT INTO paynotify_rollup AS r (minute_at, worker, endpoint_id, acked, failed, dead, held,
    abandoned, stale, elapsed_ms)
SELECT date_trunc('minute', statement_timestamp()), %s, v.*
  FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[],
      %s::bigint[]) AS v
ON CONFLICT (minute_at, endpoint_id, worker) DO UPDATE
   SET acked = r.acked + excluded.acked, failed = r.failed + excluded.failed,
       dead = r.dead + excluded.dead, held = r.held + excluded.held,
       abandoned = r.abandoned + excluded.abandoned, stale = r.stale + excluded.stale,
       elapsed_ms = r.elapsed_ms + excluded.elapsed_ms
"""
