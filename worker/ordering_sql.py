"""The statements that keep ordered notifications in line, per database.

A *line* is one ordering key of one endpoint, written ``endpoint id:key``. Its unfinished rows stand
in an index of their own, by id. The first of them is sent; the others are ``blocked``, until no
earlier one holds them up any more. Must never wait for a row that a host's open transaction has
locked: what is skipped here is found by the next look.
"""

from worker.tables import IN_LINE, SUSPECT_AFTER

# Rows of one line dropped at once; what is left goes with the next look.
_DROP_MAX = 10_000

# Looks at a blocked row come further and further apart, by an eighth of the time it has waited:
# nearly all are let go by a settle, and what a settle misses it misses in the first second.
_LOOK_MIN_S = 1
_LOOK_MAX_S = 300

_PG_LINES = "(SELECT value AS ordering FROM json_array_elements_text(CAST(:lines AS json))) line"

# Cancel what a newer one has superseded and is not on the wire, in some lines.
DROP_POSTGRESQL = f"""
WITH old AS MATERIALIZED (
  SELECT d.id, mark.superseded_below
    FROM {_PG_LINES}
   CROSS JOIN LATERAL (
      SELECT * FROM paynotify_ordering
       WHERE ordering = line.ordering AND superseded_below IS NOT NULL LIMIT 1) mark
   CROSS JOIN LATERAL (
      SELECT id FROM paynotify_delivery
       WHERE ordering = line.ordering AND {IN_LINE} AND state <> 'sending'
         AND id < mark.superseded_below
       ORDER BY id LIMIT {_DROP_MAX} FOR NO KEY UPDATE SKIP LOCKED) d
)
UPDATE paynotify_delivery d
   SET state = 'cancelled', finished_at = statement_timestamp(),
       superseded_by = old.superseded_below
  FROM old WHERE d.id = old.id
"""  # noqa: S608 - constants

DROP_SQLITE = f"""
UPDATE paynotify_delivery
   SET state = 'cancelled', finished_at = :now,
       superseded_by = (SELECT mark.superseded_below FROM paynotify_ordering mark
                         WHERE mark.ordering = paynotify_delivery.ordering)
 WHERE id IN (
   SELECT d.id FROM json_each(:lines) line
     JOIN paynotify_ordering mark ON mark.ordering = line.value
     JOIN paynotify_delivery d ON d.ordering = mark.ordering
    WHERE d.{IN_LINE} AND d.state <> 'sending' AND d.id < mark.superseded_below)
"""  # noqa: S608 - constants

# What holds a blocked row `next` up: anything earlier in its line that is unfinished. But not a
# retry, or a row that another lane or the quarantine keeps, once its turn has lasted too long or it
# has expired; unless the lane of `next` is shut, because then it could not go either, and would
# only come out beside the earlier one when it opens.
_HELD_UP = f"""
     SELECT 1 FROM paynotify_delivery p
      WHERE p.ordering = next.ordering AND p.{IN_LINE} AND p.id < next.id
        AND NOT (next.open
          AND (p.state = 'waiting' AND p.due_at > {{now}} OR p.state = 'pending'
            AND (p.lane_id <> next.lane_id OR p.abandoned >= {SUSPECT_AFTER}))
          AND ({{turn_over}} <= {{now}}
            OR EXISTS (SELECT 1 FROM paynotify_notification e
                        WHERE e.id = p.id AND e.expires_at <= {{now}})))"""  # noqa: S608 - constants

# The first blocked row of each of some lines, if nothing holds it up any more.
PROMOTE_POSTGRESQL = f"""
WITH next AS MATERIALIZED (
  SELECT b.id, b.lane_id, line.ordering, n.ordering_wait_s, l.open
    FROM {_PG_LINES}
   CROSS JOIN LATERAL (
      SELECT id, lane_id FROM paynotify_delivery
       WHERE ordering = line.ordering AND {IN_LINE} AND state = 'blocked'
       ORDER BY id LIMIT 1) b
   CROSS JOIN LATERAL (
      SELECT ordering_wait_s FROM paynotify_notification WHERE id = b.id LIMIT 1) n
   CROSS JOIN LATERAL (
      SELECT NOT held AND (open_until IS NULL OR open_until <= statement_timestamp()) AS open
        FROM paynotify_lane WHERE id = b.lane_id LIMIT 1) l
),
free AS MATERIALIZED (
  SELECT next.id FROM next WHERE NOT EXISTS ({
    _HELD_UP.format(
        now="statement_timestamp()",
        turn_over="p.turn_at + make_interval(secs => next.ordering_wait_s)",
    )
})
),
locked AS MATERIALIZED (
  SELECT id FROM paynotify_delivery
   WHERE id = ANY(ARRAY(SELECT id FROM free)) AND state = 'blocked'
     FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE paynotify_delivery d
   SET state = CASE WHEN n.deliver_at > statement_timestamp() THEN 'waiting' ELSE 'pending' END,
       due_at = greatest(n.deliver_at, statement_timestamp()), turn_at = statement_timestamp()
  FROM locked
 CROSS JOIN LATERAL (
    SELECT deliver_at FROM paynotify_notification WHERE id = locked.id LIMIT 1) n
 WHERE d.id = locked.id
"""  # noqa: S608 - constants

PROMOTE_SQLITE = f"""
UPDATE paynotify_delivery
   SET state = CASE WHEN (SELECT n.deliver_at FROM paynotify_notification n
                           WHERE n.id = paynotify_delivery.id) > :now
                    THEN 'waiting' ELSE 'pending' END,
       due_at = max(:now, coalesce((SELECT n.deliver_at FROM paynotify_notification n
                                     WHERE n.id = paynotify_delivery.id), 0)),
       turn_at = :now
 WHERE id IN (
   SELECT next.id FROM (
     SELECT d.id, d.lane_id, d.ordering, n.ordering_wait_s,
            NOT l.held AND (l.open_until IS NULL OR l.open_until <= :now) AS open
       FROM (SELECT (SELECT b.id FROM paynotify_delivery b
                      WHERE b.ordering = line.value AND b.{IN_LINE} AND b.state = 'blocked'
                      ORDER BY b.id LIMIT 1) AS id
               FROM json_each(:lines) line) first
       JOIN paynotify_delivery d ON d.id = first.id
       JOIN paynotify_notification n ON n.id = d.id
       JOIN paynotify_lane l ON l.id = d.lane_id) next
    WHERE NOT EXISTS ({
    _HELD_UP.format(now=":now", turn_over="p.turn_at + next.ordering_wait_s * 1000000")
}))
"""  # noqa: S608 - constants

# Blocked rows that are to be looked at, with their lines.
LOOK_POSTGRESQL = """
SELECT id, ordering FROM paynotify_delivery
 WHERE state = 'blocked' AND due_at <= statement_timestamp()
 ORDER BY due_at LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
"""
LOOK_SQLITE = """
SELECT id, ordering FROM paynotify_delivery
 WHERE state = 'blocked' AND due_at <= :now ORDER BY due_at LIMIT :limit
"""

# Those of them that stay blocked are looked at again later.
LATER_POSTGRESQL = f"""
UPDATE paynotify_delivery d
   SET due_at = statement_timestamp() + make_interval(secs => greatest({_LOOK_MIN_S}, least(
         {_LOOK_MAX_S}, n.ordering_wait_s / 8,
         extract(epoch FROM statement_timestamp() - n.created_at)::float8 / 8)))
  FROM unnest(%(ids)s::bigint[]) AS seen (id)
 CROSS JOIN LATERAL (
    SELECT ordering_wait_s, created_at FROM paynotify_notification WHERE id = seen.id LIMIT 1) n
 WHERE d.id = seen.id AND d.state = 'blocked'
"""  # noqa: S608 - constants
LATER_SQLITE = f"""
UPDATE paynotify_delivery
   SET due_at = :now + (SELECT max({_LOOK_MIN_S}000000, min({_LOOK_MAX_S}000000,
         n.ordering_wait_s * 125000, (:now - n.created_at) / 8))
         FROM paynotify_notification n WHERE n.id = paynotify_delivery.id)
 WHERE state = 'blocked' AND id IN (SELECT value FROM json_each(:ids))
"""  # noqa: S608 - constants

# Take a line's turn to be written into, until this transaction ends. Not an advisory lock: ten
# thousand of them would use up the server's memory for locks. And an update, not a lock alone: a
# transaction that sees an older snapshot fails instead of overlooking whom it stands behind.
ENTER_POSTGRESQL = """
INSERT INTO paynotify_ordering (ordering)
SELECT value FROM json_array_elements_text(CAST(:lines AS json)) ORDER BY 1
ON CONFLICT (ordering) DO UPDATE SET touched_at = now()
"""

# Remember what superseded everything older in its line.
MARK = """
INSERT INTO paynotify_ordering (ordering, superseded_below) VALUES (:line, :id)
ON CONFLICT (ordering) DO UPDATE SET superseded_below = excluded.superseded_below
"""
