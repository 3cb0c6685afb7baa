"""What hosts and operators are shown: one notification, one attempt."""

from dataclasses import dataclass
from datetime import datetime

from worker.models import Outcome, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt as the timeline shows it; ``outcome`` None means it is still open."""

    attempt_no: int
    started_at: datetime
    finished_at: datetime | None
    outcome: Outcome | None
    status: int
    error: str
    evidence: str
    elapsed_ms: int
    remote_ip: str
    secret_version: int
    signed_at: int
    config_no: int
    worker: str
    route: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One notification as hosts and operators see it.

    Attributes:
        held: it is blocked, waiting or pending, but its endpoint is paused, gone or deleted.
        due_at: when it is or was to be sent next; None once finished and while blocked.
        payload_bytes: size only; the payload itself is read by ``Notifier.payload``.
        superseded_by: the newer one that it was cancelled for; None is none.
    """

    id: int
    message_id: str
    endpoint: str
    merchant: str
    event_type: str
    event_key: str
    order_no: str | None
    state: State
    held: bool
    attempts: int
    created_at: datetime
    due_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    notify_url: str | None
    trace_id: str | None
    payload_bytes: int
    ordering_key: str | None
    superseded_by: int | None
