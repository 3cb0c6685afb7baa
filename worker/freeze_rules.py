"""When an endpoint is frozen, and what becomes of it after a probe.

Pure rules. Must never let an endpoint go that has not answered, and never by itself one whose
address or certificate is not the one that was frozen.

::

    active ── its breaker opens again and again ──► frozen: held, no try is used up
      ▲                                               │ a signed ping, every probe_s
      ├── acknowledged ◄──────────────────────────────┤
      ├── answers, but no ping is ever acknowledged: one notification is let through
      │                                               ├── 410: gone, waits for a person
      └── a person resumes it ◄── other URL, other certificate: waits for a person
"""

from dataclasses import dataclass
from enum import StrEnum

from worker.breaker import Policy
from worker.seen import Health

# A merchant that answers pings and fails payments is let go less and less often.
_WAIT_MAX_S = 600.0
_DOUBLINGS_MAX = 10
URL_CHANGED = "its URL was changed while it was frozen"
UNSENDABLE = "no ping can be signed for it"
CERTIFICATE_CHANGED = "it answers with another certificate than before it was frozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """When endpoints are frozen and how they are looked after; see ``settings.py`` for ranges.

    Attributes:
        trips: openings of the breaker in a row that freeze; 0 is never.
        open_s: seconds without a recovery since the breaker opened first that freeze; 0 is never.
        probe_s: seconds between two probes of one endpoint.
        trial_s: how long one is left that answers but never acknowledges a ping; 0 is for ever.
    """

    trips: int
    open_s: float
    probe_s: float
    trial_s: float


class Move(StrEnum):
    """What a probe orders."""

    UNFREEZE = "unfreeze"
    TRIAL = "trial"
    GONE = "gone"
    PERSON = "person"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known after one probe.

    Attributes:
        acked: the endpoint's ack rule was met.
        status: of the reply; 0 when none came.
        sendable: a ping could be made for it.
        same_url: its address is the one that was frozen.
        certificate, frozen_certificate: SHA-256 of what it showed now and before; empty where
            there was none.
        frozen_for_s: since it was frozen.
    """

    acked: bool
    status: int
    same_url: bool
    sendable: bool = True
    certificate: str
    frozen_certificate: str
    frozen_for_s: float


def why_freeze(health: Health, manner: Manner, breaker: Policy) -> str:
    """Say why a lane's endpoint is to be frozen; empty when it is not.

    Only a breaker that is open now counts: one whose pause is over waits for a notification, and
    where none comes, none is used up.

    Examples:
        >>> manner = Manner(trips=3, open_s=300, probe_s=30, trial_s=1800)
        >>> why_freeze(Health(open_for_s=9.0, opened_times=3), manner, Policy())
        'its breaker opened 3 times in a row'
        >>> why_freeze(Health(open_for_s=0.0, opened_times=3), manner, Policy())
        ''
    """
    if not health.open_for_s:
        return ""
    if manner.trips and health.opened_times >= manner.trips:
        times = "once" if health.opened_times == 1 else f"{health.opened_times} times in a row"
        return f"its breaker opened {times}"
    failing_s = failing_for_s(health, breaker)
    if manner.open_s and failing_s >= manner.open_s:
        return f"it has not recovered for {failing_s / 60:.0f} min"
    return ""


def failing_for_s(health: Health, breaker: Policy) -> float:
    """Compute how long ago at least a breaker opened first, seconds.

    The pauses before the present one are over; how long it waited for a probe in between is not
    known and not counted.

    Examples:
        >>> failing_for_s(Health(open_for_s=20.0, opened_times=3), Policy())
        190.0
    """
    if health.open_for_s is None:
        return 0.0
    pauses = [
        min(breaker.open_s * 2 ** min(place, 30), breaker.open_max_s)
        for place in range(health.opened_times)
    ]
    return max(0.0, float(sum(pauses)) - health.open_for_s)


def first_wait_s(times: int, probe_s: float) -> float:
    """Compute how long a frozen endpoint waits for its first probe, seconds.

    Args:
        times: how often it was frozen without a recovery in between, this one included.
        probe_s: between two probes.

    Examples:
        >>> [first_wait_s(times, 30) for times in (1, 2, 3, 9)]
        [30.0, 60.0, 120.0, 600.0]
    """
    doublings = min(max(0, times - 1), _DOUBLINGS_MAX)
    return float(max(probe_s, min(probe_s * 2**doublings, _WAIT_MAX_S)))


def after_probe(seen: Seen, manner: Manner) -> tuple[Move, str]:
    """Decide what becomes of a frozen endpoint; the second is the reason, in one clause.

    Examples:
        >>> manner = Manner(trips=3, open_s=300, probe_s=30, trial_s=1800)
        >>> well = Seen(acked=True, status=200, same_url=True, certificate="", \
frozen_certificate="", frozen_for_s=60)
        >>> after_probe(well, manner)[0].value
        'unfreeze'
    """
    answers = 100 <= seen.status < 500 and seen.status != 429
    on_trial = answers and bool(manner.trial_s) and seen.frozen_for_s >= manner.trial_s
    person = _for_a_person(seen, would_go=seen.acked or on_trial)
    if person:
        return Move.PERSON, person
    if seen.acked:
        return Move.UNFREEZE, "it acknowledged a ping"
    if seen.status == 410:
        return Move.GONE, "the merchant answered 410 Gone"
    if on_trial:
        return Move.TRIAL, "it answers but acknowledges no ping; one notification is tried"
    return Move.WAIT, ""


def _for_a_person(seen: Seen, *, would_go: bool) -> str:
    """Say why no probe may let it go; empty when one may."""
    if not seen.same_url:
        return URL_CHANGED
    if not seen.sendable:
        return UNSENDABLE
    known = seen.certificate and seen.frozen_certificate
    if would_go and known and seen.certificate != seen.frozen_certificate:
        return CERTIFICATE_CHANGED
    return ""
