"""How rows become facts and verdicts become rows, the same for both stores."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker import ordering
from worker.models import Claimed, Decision, Schedule, Settlement, State, Verdict
from worker.seen import Measured

# The state each verdict leads to. A retry waits for its time; a hold is due as soon as its
# endpoint is active again.
STATE_AFTER = {
    Decision.DELIVERED: State.DELIVERED.value,
    Decision.RETRY: State.WAITING.value,
    Decision.DEAD: State.DEAD.value,
    Decision.HOLD: State.PENDING.value,
}

# What stands at an attempt whose end nobody saw.
LEASE_OVER = "nobody came back with an answer before the lease ran out"


def given_back(verdict: Verdict) -> int:
    """Say how many tries a verdict gives back, as both stores subtract them."""
    return int(verdict.given_back)


def seen_rows(seen: Mapping[int, Measured]) -> list[tuple[int, ...]]:
    """Write counts as rows that begin with their endpoint; in its order, as locks are taken.

    Examples:
        >>> seen_rows({7: Measured(acked=2, elapsed_ms=30)})
        [(7, 2, 0, 0, 0, 0, 0, 30)]
    """
    return [
        (
            endpoint_id,
            row.acked,
            row.failed,
            row.dead,
            row.held,
            row.abandoned,
            row.stale,
            row.elapsed_ms,
        )
        for endpoint_id, row in sorted(seen.items())
    ]


def claimed_row(row: Sequence[Any]) -> Claimed:
    """Read one row of a claim, in the column order of both stores' statements."""
    headers, schedule = row[14], row[16]
    return Claimed(
        id=row[0],
        lane_id=row[1],
        attempt_no=row[2],
        tries=row[3],
        claim_no=row[4],
        endpoint_id=row[5],
        config_no=row[6],
        troubled=bool(row[7]),
        message_id=row[8],
        event_type=row[9],
        event_key=row[10],
        order_no=row[11],
        payload=row[12],
        content_type=row[13],
        headers=read_headers(headers) if headers else (),
        notify_url=row[15],
        schedule=_schedule(schedule) if schedule else None,
        trace_id=row[17],
        expires_in_s=row[18],
        ordering_key=row[19],
    )


def read_headers(text: str | None) -> tuple[tuple[str, str], ...]:
    """Read the headers of a notification; None is none."""
    return tuple((name, value) for name, value in json.loads(text)) if text else ()


def lines_of(settlements: Sequence[Settlement]) -> set[str]:
    """Name the lines that some settlements may move on; none for what is unordered."""
    return {
        ordering.line(one.claimed.endpoint_id, one.claimed.ordering_key)
        for one in settlements
        if one.claimed.ordering_key is not None
    }


def _schedule(text: str) -> Schedule:
    found = json.loads(text)
    return Schedule(delays_s=tuple(found["delays_s"]), jitter_ratio=found["jitter_ratio"])


def room_of(lane: Sequence[Any], now_us: int) -> tuple[int, bool]:
    """Say how many rows of a lane SQLite may claim, and whether its rate limit is what says so.

    The same arithmetic as PostgreSQL's.

    Args:
        lane: id, cap, ramp, open_until, rate, tokens, tokens_at and how many are being sent.
        now_us: microseconds since 1970.
    """
    _, cap, ramp, open_until, rate, tokens, tokens_at, sending = lane
    most = 1 if open_until is not None else min(cap, cap if ramp is None else ramp)
    room: int = most - sending
    if rate is None:
        return room, False
    saved = int(min(max(rate, 1.0), tokens + rate * max(0, now_us - tokens_at) / 1_000_000))
    return min(room, saved), saved <= room
