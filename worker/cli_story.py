"""Shows one notification: what it is, what happened to it, what it waits for.

Must never show a secret, a signature or a whole card number, unless its payload was asked for.
"""

from dataclasses import dataclass

from sqlalchemy import Engine

from worker import evidence, lookup, timeline
from worker.cli_print import console, facts, table
from worker.masking import mask
from worker.plain_text import safe
from worker.timeline import Kind, Letter, Step, Timeline
from worker.views import Attempt, Notification

# Every byte may become four characters (\xHH).
_PAYLOAD_MAX = 4 * 262_144
_PAYLOAD_SHOWN = 4096
_REPLY_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One notification with its timeline and the payload as it may be shown."""

    notification: Notification
    timeline: Timeline
    payload: str


def read(engine: Engine, notification: Notification, *, whole_payload: bool) -> Story:
    """Gather what is shown of a notification.

    Args:
        engine: of the database with our tables.
        notification: which.
        whole_payload: show it as the merchant gets it; else masked and cut.
    """
    with engine.connect() as connection:
        data = lookup.payload(connection, notification.id)
    payload = (
        evidence.encode(data, _PAYLOAD_MAX)
        if whole_payload
        else mask(evidence.encode(data, _PAYLOAD_SHOWN))
    )
    return Story(
        notification=notification,
        timeline=timeline.of(engine, notification.id),
        payload=payload,
    )


def document(story: Story) -> dict[str, object]:
    """Return a story for JSON."""
    what, past = story.notification, story.timeline
    return {
        **brief(what),
        "standing": past.standing,
        "tries": past.tries,
        "breaker_until": past.breaker_until,
        "waits_for": past.waits_for,
        "superseded_by": past.superseded_by,
        "overtaken_by": past.overtaken_by,
        "payload": story.payload,
        "timeline": [_step(step) for step in past.steps],
    }


def brief(what: Notification) -> dict[str, object]:
    """Return a notification for JSON, as ``list`` prints it."""
    return {
        "id": what.id,
        "message_id": what.message_id,
        "endpoint": what.endpoint,
        "merchant": what.merchant,
        "event_type": what.event_type,
        "event_key": what.event_key,
        "order_no": what.order_no,
        "state": what.state.value,
        "held": what.held,
        "attempts": what.attempts,
        "created_at": what.created_at,
        "due_at": what.due_at,
        "finished_at": what.finished_at,
        "expires_at": what.expires_at,
        "notify_url": what.notify_url and mask(what.notify_url),
        "trace_id": what.trace_id,
        "payload_bytes": what.payload_bytes,
        "ordering_key": what.ordering_key,
        "superseded_by": what.superseded_by,
    }


def letter_document(letter: Letter) -> dict[str, object]:
    """Return a dead letter for JSON."""
    return {
        "id": letter.id,
        "notification_id": letter.notification_id,
        "message_id": letter.message_id,
        "endpoint": letter.endpoint,
        "merchant": letter.merchant,
        "event_type": letter.event_type,
        "order_no": letter.order_no,
        "reason": letter.reason.value,
        "last_status": letter.last_status or None,
        "last_error": mask(letter.last_error),
        "last_reply": mask(letter.last_reply),
        "attempts": letter.attempts,
        "first_failed_at": letter.first_failed_at,
        "last_failed_at": letter.last_failed_at,
        "died_at": letter.died_at,
        "resolution": letter.resolution,
        "resolved_at": letter.resolved_at,
        "resolved_by": letter.resolved_by,
        "resolved_why": letter.resolved_why,
    }


def last_answer(letter: Letter) -> str:
    """Say in a few words what the last attempt met."""
    return f"HTTP {letter.last_status}" if letter.last_status else mask(letter.last_error)[:60]


def show(story: Story) -> None:
    """Print a story for people."""
    what, past = story.notification, story.timeline
    out = console()
    out.print(
        facts(
            (
                ("notification", f"{what.id}  {what.message_id}"),
                ("state", _state(past)),
                ("endpoint", f"{what.endpoint} (merchant {what.merchant})"),
                ("event", f"{what.event_type}  key {what.event_key}"),
                ("order", what.order_no),
                ("ordering key", what.ordering_key),
                ("notify_url", what.notify_url and mask(what.notify_url)),
                ("next try", past.due_at),
                ("breaker until", past.breaker_until),
                ("expires", what.expires_at),
                ("trace", what.trace_id),
                ("payload", f"{what.payload_bytes} bytes: {story.payload}"),
            )
        )
    )
    out.print()
    out.print(
        table(("TIME", "WHAT", "MS", "DETAIL"), (_row(step) for step in past.steps)),
    )


def _state(past: Timeline) -> str:
    state = past.state.value
    return past.standing if past.standing.startswith(state) else f"{state}: {past.standing}"


def _row(step: Step) -> tuple[object, ...]:
    if step.attempt is not None:
        tried = step.attempt
        return (
            step.at,
            f"attempt {tried.attempt_no}: {tried.outcome.value if tried.outcome else 'open'}",
            tried.elapsed_ms if tried.outcome else None,
            _tried(tried),
        )
    return step.at, step.kind.value, None, _detail(step)


def _tried(tried: Attempt) -> str:
    parts = [
        f"route {tried.route}" if tried.route else "",
        f"HTTP {tried.status}" if tried.status else "",
        mask(tried.error),
    ]
    if tried.evidence:
        reply = mask(tried.evidence)
        parts.append(reply if len(reply) <= _REPLY_SHOWN else f"{reply[:_REPLY_SHOWN]}…")
    return safe("  ".join(part for part in parts if part))


def _detail(step: Step) -> str:
    letter = step.letter
    if letter is None:
        return ""
    if step.kind is Kind.DIED:
        tries = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
        return f"dead letter {letter.id}: {letter.reason.value} after {tries}"
    return f"dead letter {letter.id}, by {letter.resolved_by}: {letter.resolved_why}"


def _step(step: Step) -> dict[str, object]:
    made: dict[str, object] = {"at": step.at, "what": step.kind.value}
    if step.attempt is not None:
        tried = step.attempt
        made |= {
            "attempt_no": tried.attempt_no,
            "outcome": tried.outcome.value if tried.outcome else None,
            "status": tried.status or None,
            "error": mask(tried.error),
            "reply": mask(tried.evidence),
            "elapsed_ms": tried.elapsed_ms,
            "finished_at": tried.finished_at,
            "secret_version": tried.secret_version,
            "config_no": tried.config_no or None,
            "signed_at": tried.signed_at or None,
            "worker": tried.worker,
            "route": tried.route,
        }
    elif step.letter is not None:
        letter = step.letter
        made["letter_id"] = letter.id
        if step.kind is Kind.DIED:
            made["reason"] = letter.reason.value
        else:
            made |= {"by": letter.resolved_by, "why": letter.resolved_why}
    return made
