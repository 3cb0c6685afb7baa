"""Every metric, with its name as Prometheus sees it; counted per batch, never per row.

Importing this starts nothing; ``telemetry.serve_metrics`` shows them.
"""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

SETTLED = Counter("paynotify_settled_total", "Verdicts written.", ["decision"])
STALE = Counter(
    "paynotify_stale_settles_total", "Verdicts dropped: the claim was not ours any more."
)
SETTLE_RETRIES = Counter("paynotify_settle_retries_total", "Settles the database did not take.")
CLAIMS = Counter("paynotify_claims_total", "Claims made, empty ones included.")
CLAIMED = Counter("paynotify_claimed_total", "Notifications claimed.")
ABANDONED = Counter("paynotify_abandoned_attempts_total", "Attempts whose lease ran out.")
REFUSALS = Counter("paynotify_guard_refusals_total", "Requests the guard kept from going out.")
UNHEARD = Counter("paynotify_unheard_bells_total", "Rings no broker took; answered in-process.")
IN_FLIGHT = Gauge("paynotify_in_flight", "Requests on the wire now.")


def count_claim(rows: int) -> None:
    """Count one claim and what it got."""
    CLAIMS.inc()
    CLAIMED.inc(rows)


def count_settled(decisions: Iterable[str], stale: int) -> None:
    """Count verdicts that were written, and those that were not ours to write."""
    for decision, count in Tally(decisions).items():
        SETTLED.labels(decision).inc(count)
    STALE.inc(stale)
