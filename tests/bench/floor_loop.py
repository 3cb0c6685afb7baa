"""One process of the floor: claim, send, settle in the barest loop there is.

Does the same durable work as the engine - the claim and its attempt rows are committed before
anything is sent, the verdict is committed after - and nothing else: no fairness, no breaker, no
guard, no signing schemes beyond one HMAC, no ORM, no queue. Started by ``floor.py`` as
``python -m tests.bench.floor_loop DSN``; each line it reads makes one run.
"""

import base64
import hmac
import json
import sys
import time

import psycopg
import pycurl

from tests.bench import workload
from worker.tables import SUSPECT_AFTER

# Rows per claim; a settle of what is done and the next claim share one round trip and commit.
BATCH = 400
# Requests on the wire. Loopback answers in microseconds: more of them only cost cache misses.
IN_FLIGHT = 64

_CLAIM = f"""
WITH due AS MATERIALIZED (
  SELECT id FROM paynotify_delivery
   WHERE state = 'pending' AND abandoned < {SUSPECT_AFTER}
   ORDER BY lane_id, priority, due_at LIMIT {BATCH} FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
  UPDATE paynotify_delivery d
     SET state = 'sending', claim_no = d.claim_no + 1, attempt_no = d.attempt_no + 1,
         tries = d.tries + 1, lease_until = now() + interval '60 s'
   WHERE d.id = ANY (ARRAY(SELECT id FROM due))
  RETURNING d.id, d.lane_id, d.attempt_no, d.claim_no
), opened AS (
  INSERT INTO paynotify_attempt (notification_id, attempt_no, claim_no, worker, started_at)
  SELECT id, attempt_no, claim_no, 'floor', now() FROM taken
)
SELECT t.id, t.claim_no, t.lane_id, n.message_id, n.payload
  FROM taken t CROSS JOIN LATERAL (
    SELECT message_id, payload FROM paynotify_notification WHERE id = t.id LIMIT 1) n
"""

# coalesce() hides the state from the planner: it would take the partial index of what is being
# sent, which it believes to be empty, and compare every row in it with every verdict.
_SETTLE = """
WITH v AS MATERIALIZED (
  SELECT * FROM unnest(%s::text::bigint[], %s::text::int[], %s::text::int[])
    AS v (id, claim_no, elapsed_ms)
), moved AS (
  UPDATE paynotify_delivery d
     SET state = 'delivered', abandoned = 0, lease_until = NULL, finished_at = now()
    FROM v WHERE d.id = v.id AND d.claim_no = v.claim_no AND coalesce(d.state) = 'sending'
  RETURNING d.id, d.attempt_no, v.elapsed_ms
)
UPDATE paynotify_attempt a
   SET finished_at = now(), outcome = 'acked', status = 200, evidence = 'success',
       elapsed_ms = moved.elapsed_ms, remote_ip = '127.0.0.1', secret_version = 1
  FROM moved
 WHERE a.notification_id = moved.id AND a.attempt_no = moved.attempt_no
"""

# Every lookup goes by primary key. Statistics taken while the attempts were still none would
# otherwise make the planner read the whole table for each settle: 117 ms instead of 4.
_PLANNER = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"

_URLS = "SELECT l.id, e.url FROM paynotify_lane l JOIN paynotify_endpoint e ON e.id = endpoint_id"


_Row = tuple[int, int, int, str, bytes]


class Loop:
    """The tools of one process, made once."""

    def __init__(self, dsn: str) -> None:
        self._db = psycopg.connect(dsn, autocommit=True, prepare_threshold=0, options=_PLANNER)
        self._urls: dict[int, str] = dict(self._db.execute(_URLS).fetchall())
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, IN_FLIGHT)
        self._idle = [_handle() for _ in range(IN_FLIGHT)]
        self._ready: list[_Row] = []
        self._done: list[tuple[int, int, int]] = []

    def run(self) -> int:
        """Deliver until nothing is due; returns how many."""
        sent, dry = 0, False
        busy = 0
        while True:
            if not self._ready and not dry:
                self._exchange()
                dry = not self._ready
            busy += self._start()
            self._multi.perform()
            finished = self._reap()
            busy -= finished
            sent += finished
            if dry and not busy:
                break
            if not finished and busy:
                self._multi.select(0.05)
        self._exchange()
        return sent

    def _exchange(self) -> None:
        """Settle what is done and claim the next batch: one round trip, one commit."""
        with self._db.pipeline(), self._db.transaction():
            if self._done:
                ids, claims, elapsed = zip(*self._done, strict=True)
                self._db.execute(_SETTLE, (_array(ids), _array(claims), _array(elapsed)))
            cursor = self._db.cursor(binary=True)
            cursor.execute(_CLAIM)
        self._done.clear()
        self._ready.extend(cursor.fetchall())

    def _start(self) -> int:
        """Put as many on the wire as fit; returns how many."""
        started = 0
        stamp = str(int(time.time()))
        while self._idle and self._ready:
            row = self._ready.pop()
            curl = self._idle.pop()
            message_id, payload = row[3], row[4]
            signed = b"%b.%b.%b" % (message_id.encode(), stamp.encode(), payload)
            signature = base64.b64encode(hmac.digest(workload.SECRET, signed, "sha256")).decode()
            curl.setopt(pycurl.URL, self._urls[row[2]])
            curl.setopt(pycurl.POSTFIELDS, payload)
            curl.setopt(
                pycurl.HTTPHEADER,
                [
                    "content-type: application/json",
                    f"webhook-id: {message_id}",
                    f"webhook-timestamp: {stamp}",
                    f"webhook-signature: v1,{signature}",
                ],
            )
            curl.row = row
            self._multi.add_handle(curl)
            started += 1
        return started

    def _reap(self) -> int:
        """Take finished requests off the wire; returns how many."""
        _, good, bad = self._multi.info_read(IN_FLIGHT)
        if bad:
            raise SystemExit(f"a request failed: {bad[0][2]}")
        for curl in good:
            self._multi.remove_handle(curl)
            if curl.getinfo(pycurl.RESPONSE_CODE) != 200 or b"".join(curl.chunks) != b"success":
                raise SystemExit("the receiver did not answer 200 success")
            curl.chunks.clear()
            elapsed_ms = int(curl.getinfo(pycurl.TOTAL_TIME) * 1000)
            self._done.append((curl.row[0], curl.row[1], elapsed_ms))
            self._idle.append(curl)
        return len(good)


def _handle() -> pycurl.Curl:
    curl = pycurl.Curl()
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.TIMEOUT_MS, 15_000)
    curl.chunks = []
    curl.setopt(pycurl.WRITEFUNCTION, curl.chunks.append)
    return curl


def _array(values: tuple[int, ...]) -> str:
    # PostgreSQL's own text form: psycopg would convert the numbers one by one in Python.
    return "{" + ",".join(map(str, values)) + "}"


def main() -> None:
    """Serve runs until the input ends."""
    loop = Loop(sys.argv[1])
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.monotonic()
        sent = loop.run()
        answer = {"sent": sent, "started": started, "ended": time.monotonic()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
