"""From a claimed notification to the exact request of one attempt.

Must never change a byte of the payload but where the endpoint's scheme says so, and never let a
URL through that the guard forbids today.
"""

from worker.errors import PaynotifyError, SecretError, UnavailableError, UrlRefusedError
from worker.field_map import Told, charset_of, compiled
from worker.guard import check_url
from worker.models import Claimed, Encoding, Endpoint, Failure, Reply, Request
from worker.signers.contract import Message, Shaped
from worker.signers.registry import find

_RAW = Encoding.RAW
# Event type of a test message, whose payload has nothing of an order.
PING = "paynotify.ping"
# Stands in for an endpoint that is gone or whose secrets this worker cannot open.
UNREADABLE = Endpoint(id=0, name="?", merchant="", url="")


def shaped(
    claimed: Claimed,
    endpoint: Endpoint,
    *,
    signed_at: int,
    tag: object,
    timeout_max_s: float,
) -> Request:
    """Make the exact request of one attempt.

    Args:
        claimed: whose attempt.
        endpoint: at the version the claim names.
        tag: comes back with the reply.
        timeout_max_s: cuts the endpoint's own deadline.
        signed_at: whole seconds since 1970, as the signature will say.

    Raises:
        UrlRefusedError: the guard forbids the URL now, whatever it said at registration.
        BadFieldError: the scheme cannot sign this.
    """
    url = claimed.notify_url or endpoint.url
    check_url(url, endpoint.allowed)
    shape = signed(claimed, endpoint, url, signed_at)
    return Request(
        tag=tag,
        method=shape.method,
        url=shape.url,
        headers=shape.headers,
        body=shape.body,
        timeout_s=min(endpoint.timeout_s, timeout_max_s),
        allowed=endpoint.allowed,
        ca_pem=endpoint.ca_pem,
        client_pem=endpoint.client_pem,
    )


def signed(claimed: Claimed, endpoint: Endpoint, url: str, signed_at: int) -> Shaped:
    """Sign one attempt; asks nobody whether ``url`` may be called.

    Raises:
        BadFieldError: the fields cannot be made, or the scheme cannot sign them.
    """
    raw = endpoint.encoding is _RAW
    return find(endpoint.scheme).shape(
        Message(
            message_id=claimed.message_id,
            event_type=claimed.event_type,
            event_key=claimed.event_key,
            order_no=claimed.order_no,
            attempt_no=claimed.attempt_no,
            url=url,
            method=endpoint.method,
            content_type=claimed.content_type or endpoint.content_type,
            headers=claimed.headers,
            body=claimed.payload,
            signed_at=signed_at,
            secrets=endpoint.secrets,
            encoding=endpoint.encoding,
            fields=() if raw else _fields(claimed, endpoint, signed_at),
            options=endpoint.options,
        )
    )


def _fields(claimed: Claimed, endpoint: Endpoint, signed_at: int) -> tuple[tuple[str, str], ...]:
    """Make what the merchant is told, in its own names."""
    facts: dict[str, object] = {
        "id": claimed.message_id,
        "event_type": claimed.event_type,
        "event_key": claimed.event_key,
        "order_no": claimed.order_no,
        "merchant": endpoint.merchant,
        "time": signed_at,
    }
    return compiled(endpoint.fields, endpoint.currency, endpoint.zone).apply(
        Told(facts=facts, payload=claimed.payload, lenient=claimed.event_type == PING),
        encoding=endpoint.encoding,
        charset=charset_of(endpoint.encoding, endpoint.options),
    )


def check_sendable(row: Claimed, endpoint: Endpoint) -> None:
    """Refuse what must not or cannot be sent any more.

    Raises:
        PaynotifyError: it has expired.
        SecretError: this worker cannot read the endpoint.
    """
    if row.expires_in_s is not None and row.expires_in_s <= 0:
        raise PaynotifyError("it expired before it could be sent")
    if endpoint is UNREADABLE:
        raise SecretError(
            f"endpoint {row.endpoint_id}: its secrets cannot be opened with this worker's "
            "master key; set PAYNOTIFY_MASTER_KEY to the one they were sealed with"
        )


def not_sent(error: Exception) -> Reply:
    """Turn what kept a row from being sent into a reply.

    A forbidden target may be put right before the next try, a key we cannot read is our own
    fault, and a payload that cannot be signed stays one.
    """
    failure = Failure.UNSENDABLE
    if isinstance(error, UrlRefusedError):
        failure = Failure.REFUSED
    elif isinstance(error, SecretError):
        failure = Failure.LOCAL
    elif isinstance(error, UnavailableError):
        failure = Failure.DATABASE
    return Reply(
        failure=failure,
        detail=str(error) if isinstance(error, PaynotifyError) else type(error).__name__,
    )
