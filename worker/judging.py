"""From a reply to a settlement: the verdict with its evidence.

Must never call anything delivered but what its ack rule accepts, and never keep what a merchant
sent in a form that a database, a screen or an auditor would choke on.
"""

import random

from worker import clock, retry
from worker.evidence import encode
from worker.masking import mask
from worker.models import (
    Decision,
    Failure,
    Outcome,
    Reason,
    Reply,
    Schedule,
    Settlement,
    Verdict,
)
from worker.settler import Sent

_GONE = Verdict(decision=Decision.DEAD, outcome=Outcome.NOT_ACKED, reason=Reason.TERMINAL_STATUS)
_EXPIRED = Verdict(decision=Decision.DEAD, outcome=Outcome.NOT_SENT, reason=Reason.EXPIRED)


def judged(
    sent: Sent,
    reply: Reply,
    *,
    schedule: Schedule,
    terminal_statuses: tuple[int, ...],
    retry_after_max_s: int,
) -> Settlement:
    """Judge one reply by the rules of its notification and endpoint.

    Args:
        sent: whose reply.
        reply: what came back, or why nothing did.
        schedule: for endpoints that name none.
        terminal_statuses: for endpoints that name none.
        retry_after_max_s: longest wait a merchant can ask for.
    """
    claimed, endpoint = sent.claimed, sent.endpoint
    left_s = claimed.expires_in_s
    if left_s is not None and left_s <= 0 and reply.failure is Failure.UNSENDABLE:
        verdict = _EXPIRED
    else:
        verdict = retry.judge(
            reply,
            ack=endpoint.ack,
            schedule=claimed.schedule
            or retry.pick_schedule(endpoint, claimed.event_type, schedule),
            tries=claimed.tries,
            terminal_statuses=endpoint.terminal_statuses or terminal_statuses,
            retry_after_max_s=retry_after_max_s,
            expires_in_s=None if left_s is None else left_s - reply.elapsed_ms / 1000,
            now=clock.now(),
            luck=random.random(),
        )
        if verdict.decision is Decision.HOLD and claimed.notify_url:
            # The address of one order is gone, not the merchant: the others go on.
            verdict = _GONE
    return Settlement(
        claimed=claimed,
        verdict=verdict,
        status=reply.status,
        elapsed_ms=reply.elapsed_ms,
        evidence=mask(encode(reply.body)),
        error=_error(reply),
        remote_ip=reply.remote_ip,
        secret_version=sent.secret_version,
        signed_at=sent.signed_at,
        config_no=endpoint.config_no,
        via=sent.via,
    )


def _error(reply: Reply) -> str:
    if reply.failure is Failure.NONE:
        return reply.note
    error = f"{reply.failure}: {reply.detail}" if reply.detail else str(reply.failure)
    # A detail may quote what a merchant sent.
    return mask(encode(error.encode("utf-8", "surrogateescape"), 500))
