"""What becomes of incidents: opened once, kept while they last, escalated, over by themselves.

Pure rules over what a measure says now and which alerts are open. Must never open a second alert
for what one is open for, and never forget one that nobody was told of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase

# Stands for all the subjects of a storm.
STORM = "*"


class Severity(StrEnum):
    """How soon a person has to look; in rising order."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Occasion(StrEnum):
    """What a notice of an alert is about."""

    RAISED = "raised"
    ESCALATED = "escalated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """How the alerts of one rule behave.

    Attributes:
        severity: of a new alert; the last step of several is always critical.
        steps: how many thresholds the rule has, 1 or more.
        cool_down_s: an incident is over when its measure was quiet for so long.
        per_hour: alerts of one subject within an hour at most; the last one stays open meanwhile.
        escalate_after_s: an alert nobody acknowledged gets more severe after so long; 0 never.
        recovery: whether its end is told too.
        sinks: names of who is told.
        fold_over: more subjects than this at once are one alert.
    """

    rule: str
    measure: str
    severity: Severity = Severity.WARNING
    steps: int = 1
    cool_down_s: float = 300.0
    per_hour: int = 4
    escalate_after_s: float = 0.0
    recovery: bool = True
    sinks: tuple[str, ...] = ("log",)
    fold_over: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """One subject over its threshold.

    Attributes:
        subject: what it is about; empty is everything.
        value, threshold: as people write them.
        summary: one sentence for the person on call.
        step: number of the highest threshold reached, 0 the first.
        subjects: how many it stands for.
    """

    subject: str
    value: str
    threshold: str
    summary: str
    step: int = 0
    subjects: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One incident, open while ``resolved_at`` is None.

    Attributes:
        seen_at: when its measure was last over the threshold.
        told_at: when its first notice was written; None while it is silenced.
        subjects: how many it stands for, when a storm was folded into one.
        step: see :class:`Trip`; only rises.
        told_step: the highest that was told; behind ``step`` after it got worse in a silence.
    """

    id: int
    rule: str
    subject: str
    severity: Severity
    measure: str
    value: str
    threshold: str
    step: int
    summary: str
    opened_at: datetime
    seen_at: datetime
    subjects: int = 1
    told_at: datetime | None = None
    escalated_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    resolved_at: datetime | None = None
    told_step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """What is not to be told for a while; ``*`` stands for any.

    Attributes:
        rule: name of a rule.
        subject: name of a subject; may hold ``*`` and ``?``.
    """

    rule: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Order to open an alert."""

    trip: Trip


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Order to note that an incident lasts, and to say so when it got worse.

    Attributes:
        worse: it reached a higher threshold.
        overdue: nobody took it up in time either; one notice says both.
    """

    alert: Alert
    trip: Trip
    worse: bool = False
    overdue: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalate:
    """Order to make an alert that nobody took up more severe."""

    alert: Alert


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Order to write the notice that a silence kept back: of an alert, or that it got worse."""

    alert: Alert


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Order to end an alert."""

    alert: Alert


Order = Open | Keep | Escalate | Tell | Resolve


def orders(
    conduct: Conduct,
    trips: Sequence[Trip],
    alerts: Sequence[Alert],
    *,
    now: datetime,
    lately: dict[str, int],
    silences: Sequence[Silence] = (),
    covered: bool = False,
) -> list[Order]:
    """Decide what becomes of one rule's incidents.

    Args:
        conduct: of the rule.
        trips: subjects over the threshold now, each once.
        alerts: the rule's open ones.
        now: on the database's clock.
        lately: how many alerts of a subject were opened within the last hour, open ones too.
        silences: in force now.
        covered: another alert says it all already: nothing new is opened.

    Returns:
        What to do, in this order. Doing it and asking again at the same time gives only
        :class:`Keep` orders that change nothing.

    Examples:
        >>> from datetime import UTC
        >>> noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        >>> late = Trip(subject="acme", value="9", threshold="5", summary="9 of 10 failed")
        >>> orders(Conduct(rule="r", measure="m"), [late], [], now=noon, lately={})[0].trip.subject
        'acme'
    """
    opened = {alert.subject: alert for alert in alerts}
    due: list[Order] = []
    for trip in folded(conduct, trips, opened):
        alert = opened.pop(trip.subject, None)
        if alert is not None:
            due += _lasting(alert, trip, _restless(conduct, alert, now, silences))
        elif not covered and lately.get(trip.subject, 0) < conduct.per_hour:
            due.append(Open(trip=trip))
    for alert in opened.values():
        quiet_s = (now - alert.seen_at).total_seconds()
        many = lately.get(alert.subject, 0) >= conduct.per_hour
        if quiet_s >= conduct.cool_down_s and not many:
            due.append(Resolve(alert=alert))
        else:
            due += _restless(conduct, alert, now, silences)
    return due


def folded(conduct: Conduct, trips: Sequence[Trip], opened: dict[str, Alert]) -> list[Trip]:
    """Make one trip of many that came at once; those with an alert of their own stay theirs.

    While a storm's alert is open, it also takes what comes after.
    """
    own = [trip for trip in trips if trip.subject in opened]
    new = [trip for trip in trips if trip.subject not in opened]
    if not new or (len(new) <= conduct.fold_over and STORM not in opened):
        return [*own, *new]
    worst = max(new, key=lambda trip: trip.step)
    names = ", ".join(trip.subject for trip in new[:3])
    more = f" and {len(new) - 3} more" if len(new) > 3 else ""
    return [
        *own,
        Trip(
            subject=STORM,
            value=worst.value,
            threshold=worst.threshold,
            summary=f"{len(new)} at once: {names}{more}. First: {new[0].summary}",
            step=worst.step,
            subjects=sum(trip.subjects for trip in new),
        ),
    ]


def severity_at(conduct: Conduct, step: int) -> Severity:
    """Say how severe reaching a threshold is.

    Examples:
        >>> severity_at(Conduct(rule="r", measure="m", steps=4), 3).value
        'critical'
    """
    if conduct.steps > 1 and step == conduct.steps - 1:
        return Severity.CRITICAL
    return conduct.severity


def above(severity: Severity) -> Severity:
    """Return the next severity; critical stays.

    Examples:
        >>> above(Severity.INFO).value, above(Severity.CRITICAL).value
        ('warning', 'critical')
    """
    known = list(Severity)
    return known[min(known.index(severity) + 1, len(known) - 1)]


def gravest(*severities: Severity) -> Severity:
    """Return the highest of some severities.

    Examples:
        >>> gravest(Severity.CRITICAL, Severity.WARNING).value
        'critical'
    """
    return max(severities, key=list(Severity).index)


def is_silenced(rule: str, subject: str, silences: Sequence[Silence]) -> bool:
    """Tell whether nobody is to be told of a subject now.

    Examples:
        >>> is_silenced("dead-letters", "", [Silence(rule="*", subject="*")])
        True
        >>> is_silenced("gone", "acme-2", [Silence(rule="gone", subject="acme-1")])
        False
    """
    return any(each.rule in ("*", rule) and fnmatchcase(subject, each.subject) for each in silences)


def _lasting(alert: Alert, trip: Trip, restless: list[Order]) -> list[Order]:
    """What an alert needs whose subject is still over the threshold."""
    worse = trip.step > alert.step
    if not worse or alert.told_at is None:
        return [Keep(alert=alert, trip=trip, worse=worse), *restless]
    overdue = any(isinstance(each, Escalate) for each in restless)
    return [Keep(alert=alert, trip=trip, worse=True, overdue=overdue)]


def _restless(
    conduct: Conduct, alert: Alert, now: datetime, silences: Sequence[Silence]
) -> list[Order]:
    """What an alert that lasts needs although nothing happens."""
    if is_silenced(alert.rule, alert.subject, silences):
        return []
    if alert.told_at is None:
        return [Tell(alert=alert)]
    age_s = (now - alert.opened_at).total_seconds()
    waiting = alert.acknowledged_at is None and alert.escalated_at is None
    if conduct.escalate_after_s and waiting and age_s >= conduct.escalate_after_s:
        return [Escalate(alert=alert)]
    if alert.told_step < alert.step:
        return [Tell(alert=alert)]
    return []
