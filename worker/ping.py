"""One signed test message to an endpoint, through the guard and the transport of real ones.

Writes nothing. Must never say where a request really went: who may register a URL could use it
to look around in our network.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import cast

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
        certificate: SHA-256 of what the endpoint showed (hex); empty without TLS.
    """

    code: str
    status: int
    elapsed_ms: int
    message_id: str
    certificate: str = ""

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
    return once(endpoint, chosen, message_id=_new_id(), event_type=EVENT_TYPE, payload=_payload())


def ping_all(endpoints: Sequence[Endpoint], chosen: Settings) -> list[Pong]:
    """Ping many endpoints at once and wait for all of them; the slowest says how long that is.

    Args:
        endpoints: with their secrets; one with several routes once for each.
        chosen: for the transport's limits.

    Returns:
        One for each, in order. What cannot be signed or may not be called is a pong too.
    """
    pongs: dict[int, Pong] = {}
    requests: list[Request] = []
    for place, endpoint in enumerate(endpoints):
        message_id = _new_id()
        try:
            claimed = _claimed(endpoint, message_id, EVENT_TYPE, _payload())
            requests.append(_shaped(claimed, endpoint, chosen, tag=(place, message_id)))
        except BadFieldError as error:
            refused = isinstance(error, UrlRefusedError)
            code = Failure.REFUSED if refused else Failure.UNSENDABLE
            pongs[place] = Pong(code=code.value, status=0, elapsed_ms=0, message_id=message_id)
    for request, reply in _send(requests, chosen):
        place, message_id = cast("tuple[int, str]", request.tag)
        pongs[place] = _pong(endpoints[place], reply, message_id)
    return [pongs[place] for place in range(len(endpoints))]


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
        claimed = _claimed(endpoint, message_id, event_type, payload)
        request = _shaped(claimed, endpoint, chosen, tag=None)
    except UrlRefusedError:
        return Pong(code=Failure.REFUSED.value, status=0, elapsed_ms=0, message_id=message_id)
    [(_, reply)] = _send([request], chosen)
    return _pong(endpoint, reply, message_id)


def signed(endpoint: Endpoint, event_type: str, payload: bytes) -> Request:
    """Sign something for a merchant as a callback to it is signed, without sending it.

    Args:
        endpoint: with its secrets.
        event_type: for schemes that sign it.
        payload: the body.

    Raises:
        BadFieldError: the endpoint's scheme cannot sign it.
        UrlRefusedError: the guard forbids the endpoint's URL.
    """
    claimed = _claimed(endpoint, f"msg_{secrets.token_hex(12)}", event_type, payload)
    return shaped(
        claimed, endpoint, signed_at=clock.unix_s(), tag=None, timeout_max_s=endpoint.timeout_s
    )


def _new_id() -> str:
    return f"msg_ping_{secrets.token_hex(12)}"


def _payload() -> bytes:
    payload = {"type": EVENT_TYPE, "sent_at": clock.now().isoformat(timespec="seconds")}
    return json.dumps(payload, separators=(",", ":")).encode()


def _shaped(claimed: Claimed, endpoint: Endpoint, chosen: Settings, *, tag: object) -> Request:
    return shaped(
        claimed,
        endpoint,
        signed_at=clock.unix_s(),
        tag=tag,
        timeout_max_s=chosen.timeout_max_s,
    )


def _pong(endpoint: Endpoint, reply: Reply, message_id: str) -> Pong:
    return Pong(
        code=_code(reply, _verdict(endpoint, reply)),
        status=reply.status,
        elapsed_ms=reply.elapsed_ms,
        message_id=message_id,
        certificate=reply.certificate,
    )


def _send(requests: Sequence[Request], chosen: Settings) -> list[tuple[Request, Reply]]:
    """Send all of them at once; what does not come back in time has timed out."""
    if not requests:
        return []
    replies: dict[int, Reply] = {}
    arrived = Event()

    def keep(finished: Sequence[tuple[Request, Reply]]) -> None:
        replies.update((id(request), reply) for request, reply in finished)
        if len(replies) == len(requests):
            arrived.set()

    transport = Transport(
        keep,
        in_flight_max=len(requests),
        connect_timeout_s=chosen.connect_timeout_s,
        connection_max_age_s=chosen.connection_max_age_s,
        reply_max_bytes=chosen.reply_max_bytes,
    )
    transport.start()
    try:
        transport.submit(requests)
        arrived.wait(max(request.timeout_s for request in requests) + _GRACE_S)
    finally:
        transport.close(timeout_s=0)
    missing = Reply(failure=Failure.TIMEOUT)
    return [(request, replies.get(id(request), missing)) for request in requests]


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
