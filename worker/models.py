"""The facts that travel between the files: frozen, keyword-only, no behaviour but their own.

Must never import anything that does IO.

The four that are made for every callback are not frozen: freezing costs 0.3 microseconds a field,
six of a hundred for the whole of a callback. Treat them as if they were.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from worker.route_facts import Route, Via


class State(StrEnum):
    """Where a notification is in its life; see ``states.py`` for the edges."""

    BLOCKED = "blocked"
    WAITING = "waiting"
    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"


class BodyRule(StrEnum):
    """How an ack rule reads the body of a reply."""

    ANY = "any"
    EXACT = "exact"
    IEXACT = "iexact"
    CONTAINS = "contains"
    JSON = "json"
    XML = "xml"


class Encoding(StrEnum):
    """How the fields of a notification travel; ``RAW`` is the payload's bytes as they are."""

    RAW = "raw"
    JSON = "json"
    FORM = "form"
    QUERY = "query"
    XML = "xml"


class Failure(StrEnum):
    """Why no whole reply came back. ``NONE``: a reply with a full head was read."""

    NONE = ""
    TIMEOUT = "timeout"
    CONNECT = "connect"
    DNS = "dns"
    TLS = "tls"
    RESET = "reset"
    PROTOCOL = "protocol_error"
    REFUSED = "target_refused"
    UNSENDABLE = "unsendable"
    LOCAL = "local_fault"
    DATABASE = "database_away"


class Outcome(StrEnum):
    """How an attempt ended; a row with none is still open."""

    ACKED = "acked"
    NOT_ACKED = "not_acked"
    FAILED = "failed"
    NOT_SENT = "not_sent"
    ABANDONED = "abandoned"


class Decision(StrEnum):
    """What a verdict orders."""

    DELIVERED = "delivered"
    RETRY = "retry"
    DEAD = "dead"
    HOLD = "hold"


class Reason(StrEnum):
    """Why a notification became a dead letter."""

    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    TERMINAL_STATUS = "terminal_status"
    POISON = "poison"
    UNSENDABLE = "unsendable"


class EndpointState(StrEnum):
    """Whether an endpoint may be called; only ``ACTIVE`` rows are claimed, the rest are held."""

    ACTIVE = "active"
    PAUSED = "paused"
    FROZEN = "frozen"
    GONE = "gone"
    DELETED = "deleted"


class Pool(StrEnum):
    """Which Celery queue a lane's notifications are claimed by."""

    FAST = "deliver"
    SLOW = "deliver.slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class AckRule:
    """What a merchant must answer.

    Attributes:
        statuses: inclusive ranges of HTTP status codes, e.g. ``((200, 299),)``.
        body: how the body is read.
        expected: the word (``exact``, ``iexact``, ``contains``), the expected JSON value
            written as text (``json``) or an element's text (``xml``); empty for ``any``.
        path: dotted path to a value in a JSON body (``data.code``), or the name of an element
            below the root of an XML body; only for ``json`` and ``xml``.
    """

    statuses: tuple[tuple[int, int], ...] = ((200, 299),)
    body: BodyRule = BodyRule.ANY
    expected: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What the guard lets one endpoint do beyond the rules for all.

    Attributes:
        http: plain ``http://`` and IP-literal hosts may be used.
        ports: TCP ports beyond 443 and 8443.
        networks: CIDR networks that may be dialled though they are not public.
    """

    http: bool = False
    ports: tuple[int, ...] = ()
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a notification is tried again.

    Attributes:
        delays_s: whole seconds after the first, second, … failed try; its length + 1 is the cap
            on tries.
        jitter_ratio: 0 to 0.1; how much is added at most, never subtracted.
    """

    delays_s: tuple[int, ...] = (60, 300, 600, 1800, 3600, 7200, 21600)
    jitter_ratio: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One live secret of an endpoint, decrypted. Its ``repr`` hides the value.

    Attributes:
        version: 1, 2, …; rises with each rotation.
        value: the text given to the merchant (``whsec_…`` for Standard Webhooks).
    """

    version: int
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where and how one merchant is called.

    Attributes:
        id: database key.
        name: operator's handle, unique, ``[a-z0-9][a-z0-9._-]{0,63}``.
        merchant: the host's id of the merchant, 1 to 64 visible ASCII characters.
        url: default address; a notification's own ``notify_url`` goes before it.
        events: patterns of event types that are wanted (``payment.*``, ``*``).
        scheme: name of the signing scheme.
        method: ``POST``, ``PUT`` or ``GET``.
        content_type: of the payload, unless the notification says otherwise.
        profile: name of the delivery profile it was made from; "" is none. Kept to be shown:
            everything it implied stands here.
        encoding: how ``fields`` travel; ``RAW`` sends the payload as it is.
        fields: the merchant's names, and how each is made (``field_map.py``).
        currency, zone: what amounts and times in ``fields`` are written with.
        options: what was chosen about scheme and encoding.
        timeout_s: total deadline of one request, 1 to 60 s.
        schedules: schedule per event-type pattern; first match wins, ``*`` last.
        rate_per_s: most sends a second; None is no limit.
        in_flight_cap: most requests on the wire at once, over all workers.
        ca_pem: CA bundle that replaces the system's for this endpoint; None is the system's.
        client_pem: client certificate and key, one PEM text; None is none.
        revive: dead letters are sent again by themselves, slowly, once it answers again.
        freeze: it is held when it keeps failing, and let go when it answers a ping again.
        ordering_wait_s: longest an event holds up later ones of its ordering key; None is the
            setting's.
        routes: other addresses of it, in order; used when ``url`` is in trouble, or beside it.
        weight: of ``url`` among them, see :class:`worker.route_facts.Route`.
        pinned: number of the route a person wants to be used and no other; None is none.
        routes_made: highest number a route of it ever had.
        secrets: live secrets, newest first, one or two.
        config_no: rises with every change; caches compare it.
    """

    id: int
    name: str
    merchant: str
    url: str
    state: EndpointState = EndpointState.ACTIVE
    state_reason: str = ""
    events: tuple[str, ...] = ("*",)
    scheme: str = "standard-webhooks"
    ack: AckRule = AckRule()
    method: str = "POST"
    content_type: str = "application/json"
    profile: str = ""
    encoding: Encoding = Encoding.RAW
    fields: tuple[tuple[str, str], ...] = ()
    currency: str = "payload.currency"
    zone: str = "+08:00"
    options: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 15.0
    schedules: tuple[tuple[str, Schedule], ...] = ()
    terminal_statuses: tuple[int, ...] = ()
    rate_per_s: float | None = None
    in_flight_cap: int = 100
    allowed: Allowed = Allowed()
    ca_pem: str | None = None
    client_pem: str | None = field(default=None, repr=False)
    revive: bool = True
    freeze: bool = True
    ordering_wait_s: int | None = None
    routes: tuple[Route, ...] = ()
    weight: int = 100
    pinned: int | None = None
    routes_made: int = 0
    secrets: tuple[Secret, ...] = field(default=(), repr=False)
    config_no: int = 1


@dataclass(slots=True, kw_only=True)  # not frozen: see the module
class Claimed:
    """One notification as a claim hands it out; the caller owns it until ``lease_s`` is over.

    Attributes:
        attempt_no: number of this attempt, counted at claim.
        tries: tries used of the present budget, this one included.
        claim_no: the fencing number a settle must show.
        config_no: version of the endpoint's configuration to send with.
        troubled: the lane's health is not spotless, so successes matter to it too.
        schedule: override frozen at enqueue; None means the endpoint's.
        expires_in_s: seconds left until ``expires_at`` on the database clock; None is never.
        ordering_key: what it is kept in order by, within its endpoint; None is nothing.
    """

    id: int
    lane_id: int
    endpoint_id: int
    config_no: int
    attempt_no: int
    tries: int
    claim_no: int
    troubled: bool
    message_id: str
    event_type: str
    event_key: str
    order_no: str | None
    payload: bytes
    content_type: str | None
    headers: tuple[tuple[str, str], ...]
    notify_url: str | None
    schedule: Schedule | None
    trace_id: str | None
    expires_in_s: float | None
    ordering_key: str | None = None


@dataclass(slots=True, kw_only=True)  # not frozen: see the module
class Request:
    """The exact bytes of one HTTP request, as a signing scheme shaped them.

    Attributes:
        tag: whatever the sender wants back with the reply; never read by the transport.
        headers: name and value, already vetted, without ``Host`` and ``Content-Length``.
        timeout_s: total deadline: resolve, connect, TLS, send and receive together.
        allowed: what the guard lets this endpoint's sockets do.
    """

    tag: object
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    timeout_s: float
    allowed: Allowed = Allowed()
    ca_pem: str | None = None
    client_pem: str | None = field(default=None, repr=False)


@dataclass(slots=True, kw_only=True)  # not frozen: see the module
class Reply:
    """What came back: a value, whatever the merchant did.

    Attributes:
        failure: why there is no whole reply; a full head followed by a broken body is a reply
            (``NONE``) with a ``note``.
        status: 100 to 999, or 0 when no full head was read.
        body: at most 64 KiB as received, not decoded.
        retry_after: raw header value; None when the merchant sent none.
        elapsed_ms: from handing over to the end, whole milliseconds.
        detail: one line for operators; never shown to merchants.
        note: remark about a reply that still counts (``body_truncated``, ``body_capped``).
        remote_ip: address that was dialled; empty when none was.
        requested: bytes of the request may have reached the merchant.
        certificate: SHA-256 (hex) of what the merchant's side showed when the connection that a
            reply came over was made; empty without TLS.
    """

    failure: Failure = Failure.NONE
    status: int = 0
    body: bytes = b""
    content_type: str = ""
    retry_after: str | None = None
    elapsed_ms: int = 0
    detail: str = ""
    note: str = ""
    remote_ip: str = ""
    requested: bool = False
    certificate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reply means for its notification.

    Attributes:
        decision: exactly one of delivered, retry, dead, hold.
        outcome: how the attempt is closed.
        delay_s: seconds until the next try (``retry``), else 0.
        reason: why it is dead; None otherwise.
        healthy: what the lane's breaker is told: True, False, or None when the reply says
            nothing about the merchant's health (throttled, refused by our own guard).
        given_back: the try does not count: it said nothing about this notification.
    """

    decision: Decision
    outcome: Outcome
    delay_s: float = 0.0
    reason: Reason | None = None
    healthy: bool | None = None
    given_back: bool = False


@dataclass(slots=True, kw_only=True)  # not frozen: see the module
class Settlement:
    """A verdict on its way into the database, with the evidence.

    Attributes:
        evidence: head of the reply body as safe text (see ``evidence.py``), at most 4 KiB.
        error: failure class and detail, one line; empty on success.
        secret_version: version of the newest secret that signed; 0 when none did.
        signed_at: whole seconds since 1970; 0 when nothing was signed.
        config_no: version of the endpoint it was sent with.
        via: the route it took; None when its endpoint has but one.
    """

    claimed: Claimed
    verdict: Verdict
    status: int
    elapsed_ms: int
    evidence: str
    error: str
    remote_ip: str
    secret_version: int
    signed_at: int = 0
    config_no: int = 0
    via: Via | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a settle really wrote.

    Attributes:
        written: ids whose verdict stands.
        stale: ids that somebody else owned by then; their verdicts were dropped.
        promoted: rows that had waited for one of these and are due now.
    """

    written: tuple[int, ...]
    stale: tuple[int, ...]
    promoted: int = 0
