"""One signed test message to an endpoint, through the guard and the transport of real ones.

Writes nothing. Must never say where a request really went: who may register a URL could use it
to look around in our network.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from worker import clock, retry
from worker.errors import BadFieldError, UrlRefusedError
from worker.models import Claimed, Decision, Endpoint, Failure, Reply, Request, Schedule, Verdict
from worker.settings import Settings
from worker.shape import PING, shaped
from worker.transport import Transport

EVENT_TYPE = PING
# A single try: what it would do afterwards is no question here.
_ONCE = Schedule(delays_s=())
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """What became of a ping.

    Attributes:
        code: ``acked``, ``not_acked``, or why there was no reply (``timeout``, ``tls``, …).
        status: of the reply; 0 when there was none.
    """

    code: str
    status: int
    elapsed_ms: int
    message_id: str

    @property
    def acked(self) -> bool:
        """Whether the endpoint's ack rule was met."""
        return self.code == "acked"


def ping(endpoint: Endpoint, chosen: Settings) -> Pong:
    """Send one ``paynotify.ping`` and wait for the reply.

    Args:
        endpoint: with its secrets.
        chosen: for the transport's limits.

    Raises:
        BadFieldError: the endpoint's scheme cannot sign it.
    """
    payload = {"type": EVENT_TYPE, "sent_at": clock.now().isoformat(timespec="seconds")}
    return once(
        endpoint,
        chosen,
        message_id=f"msg_ping_{secrets.token_hex(12)}",
        event_type=EVENT_TYPE,
        payload=json.dumps(payload, separators=(",", ":")).encode(),
    )


def once(
    endpoint: Endpoint, chosen: Settings, *, message_id: str, event_type: str, payload: bytes
) -> Pong:
    """Send one signed message of any kind and wait for the reply; writes nothing.

    Args:
        endpoint: with its secrets.
        chosen: for the transport's limits.
        message_id: what the receiver tells doubles by; no dot in it.
        event_type: for schemes that sign it.
        payload: the body, sent as it is.

    Raises:
        BadFieldError: the endpoint's scheme cannot sign it.
    """
    try:
        request = shaped(
            _claimed(endpoint, message_id, event_type, payload),
            endpoint,
            signed_at=clock.unix_s(),
            tag=None,
            timeout_max_s=chosen.timeout_max_s,
        )
    except UrlRefusedError:
        return Pong(code=Failure.REFUSED.value, status=0, elapsed_ms=0, message_id=message_id)
    reply = _send(request, chosen)
    return Pong(
        code=_code(reply, _verdict(endpoint, reply)),
        status=reply.status,
        elapsed_ms=reply.elapsed_ms,
        message_id=message_id,
    )


def _send(request: Request, chosen: Settings) -> Reply:
    replies: list[Reply] = []
    arrived = Event()

    def keep(finished: Sequence[tuple[Request, Reply]]) -> None:
        replies.extend(reply for _, reply in finished)
        arrived.set()

    transport = Transport(
        keep,
        in_flight_max=1,
        connect_timeout_s=chosen.connect_timeout_s,
        connection_max_age_s=chosen.connection_max_age_s,
        reply_max_bytes=chosen.reply_max_bytes,
    )
    transport.start()
    try:
        transport.submit([request])
        arrived.wait(request.timeout_s + _GRACE_S)
    finally:
        transport.close(timeout_s=0)
    return replies[0] if replies else Reply(failure=Failure.TIMEOUT)


def _verdict(endpoint: Endpoint, reply: Reply) -> Verdict:
    return retry.judge(
        reply,
        ack=endpoint.ack,
        schedule=_ONCE,
        tries=1,
        terminal_statuses=(),
        retry_after_max_s=0,
        expires_in_s=None,
        now=clock.now(),
        luck=0.0,
    )


def _code(reply: Reply, verdict: Verdict) -> str:
    if verdict.decision is Decision.DELIVERED:
        return "acked"
    return reply.failure.value or "not_acked"


def _claimed(endpoint: Endpoint, message_id: str, event_type: str, payload: bytes) -> Claimed:
    if not endpoint.secrets:
        raise BadFieldError("endpoint", f"{endpoint.name} has no secret to sign with")
    return Claimed(
        id=0,
        lane_id=0,
        endpoint_id=endpoint.id,
        config_no=endpoint.config_no,
        attempt_no=1,
        tries=1,
        claim_no=0,
        troubled=False,
        message_id=message_id,
        event_type=event_type,
        event_key=message_id,
        order_no=None,
        payload=payload,
        content_type=None,
        headers=(),
        notify_url=None,
        schedule=None,
        trace_id=None,
        expires_in_s=None,
    )
