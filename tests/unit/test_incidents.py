"""One incident is one alert: opened once, told, over once, however its measure behaves."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from worker.incidents import (
    STORM,
    Alert,
    Conduct,
    Escalate,
    Keep,
    Open,
    Order,
    Resolve,
    Severity,
    Silence,
    Tell,
    Trip,
    orders,
    severity_at,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
CONDUCT = Conduct(rule="r", measure="m", cool_down_s=300, per_hour=3, fold_over=2)


def trip(subject: str = "", step: int = 0) -> Trip:
    return Trip(subject=subject, value="9", threshold="5", summary="9 of 10", step=step)


def alert(subject: str = "", *, minutes_ago: float = 0, **changes: object) -> Alert:
    then = NOON - timedelta(minutes=minutes_ago)
    made = Alert(
        id=1,
        rule="r",
        subject=subject,
        severity=Severity.WARNING,
        measure="m",
        value="9",
        threshold="5",
        step=0,
        summary="",
        opened_at=then,
        seen_at=then,
        told_at=then,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def decided(
    trips: list[Trip], alerts: list[Alert], conduct: Conduct = CONDUCT, **given: object
) -> list[Order]:
    rest = {"now": NOON, "lately": {}, **given}
    return orders(conduct, trips, alerts, **rest)  # type: ignore[arg-type]


def test_an_incident_that_lasts_is_kept_and_not_opened_again() -> None:
    assert decided([trip()], []) == [Open(trip=trip())]
    open_now = alert(minutes_ago=60)
    assert decided([trip()], [open_now]) == [Keep(alert=open_now, trip=trip())]


def test_an_incident_is_over_when_it_was_quiet_for_its_cool_down() -> None:
    assert decided([], [alert(minutes_ago=4.9)]) == []
    over = alert(minutes_ago=5)
    assert decided([], [over]) == [Resolve(alert=over)]


def test_many_subjects_at_once_are_one_alert_and_its_storm_takes_what_comes_after() -> None:
    [storm] = decided([trip("a"), trip("b"), trip("c", 1)], [])
    assert isinstance(storm, Open)
    assert (storm.trip.subject, storm.trip.subjects, storm.trip.step) == (STORM, 3, 1)
    assert storm.trip.summary == "3 at once: a, b, c. First: 9 of 10"
    raging = alert(STORM)
    [kept] = decided([trip("d")], [raging])
    assert isinstance(kept, Keep)
    assert kept.alert == raging
    assert kept.trip.subjects == 1


def test_alerts_from_before_a_storm_stay_their_own() -> None:
    before = alert("a")
    made = decided([trip("a"), trip("b"), trip("c"), trip("d")], [before])
    assert [type(each) for each in made] == [Keep, Open]
    assert isinstance(made[1], Open)
    assert made[1].trip.subjects == 3


def test_nothing_new_is_opened_while_another_alert_says_it_all() -> None:
    assert decided([trip("a")], [], covered=True) == []
    assert [type(each) for each in decided([trip("a")], [alert("a")], covered=True)] == [Keep]


def test_a_higher_threshold_makes_it_worse_and_a_lower_one_not_better() -> None:
    half_way = alert(step=1, told_step=1)
    [worse] = decided([trip(step=2)], [half_way])
    assert isinstance(worse, Keep)
    assert worse.worse
    [same] = decided([trip(step=0)], [half_way])
    assert isinstance(same, Keep)
    assert not same.worse
    assert severity_at(replace(CONDUCT, steps=3), 2) is Severity.CRITICAL


def test_what_nobody_takes_up_is_escalated_once() -> None:
    waiting = replace(CONDUCT, escalate_after_s=600)
    old = alert(minutes_ago=10, seen_at=NOON)
    assert Escalate(alert=old) in decided([trip()], [old], waiting)
    for seen in (
        replace(old, acknowledged_at=NOON),
        replace(old, escalated_at=NOON),
        replace(old, opened_at=NOON),
    ):
        assert Escalate(alert=seen) not in decided([trip()], [seen], waiting)


def test_what_gets_worse_when_it_is_overdue_is_told_once() -> None:
    waiting = replace(CONDUCT, escalate_after_s=600)
    old = alert(minutes_ago=10, seen_at=NOON)
    assert decided([trip(step=1)], [old], waiting) == [
        Keep(alert=old, trip=trip(step=1), worse=True, overdue=True)
    ]


def test_what_was_silenced_is_told_when_the_silence_ends() -> None:
    silence = [Silence(rule="r", subject="ac*")]
    untold = alert("acme", told_at=None)
    quiet = decided([trip("acme")], [untold], silences=silence)
    assert quiet == [Keep(alert=untold, trip=trip("acme"))]
    assert Tell(alert=untold) in decided([trip("acme")], [untold])
    over = replace(untold, seen_at=NOON - timedelta(minutes=6))
    assert decided([], [over], silences=silence) == [Resolve(alert=over)]


@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True), max_size=300))
def test_one_incident_is_one_open_alert_and_flapping_is_bounded(rounds: list[list[str]]) -> None:
    """Drive the rules minute by minute with any subjects over the threshold."""
    opened: dict[str, Alert] = {}
    openings: list[tuple[str, datetime]] = []
    resolved: Counter[int] = Counter()
    now = NOON
    for tripping in rounds:
        now += timedelta(minutes=1)
        hour_ago = now - timedelta(hours=1)
        lately = Counter(subject for subject, at in openings if at > hour_ago)
        made = orders(
            CONDUCT,
            [trip(subject) for subject in tripping],
            list(opened.values()),
            now=now,
            lately=lately,
        )
        for each in made:
            if isinstance(each, Open):
                subject = each.trip.subject
                assert subject not in opened, "a second alert for an incident that has one"
                openings.append((subject, now))
                opened[subject] = alert(
                    subject, id=len(openings), opened_at=now, seen_at=now, told_at=now
                )
            elif isinstance(each, Keep):
                opened[each.alert.subject] = replace(each.alert, seen_at=now)
            elif isinstance(each, Resolve):
                resolved[each.alert.id] += 1
                del opened[each.alert.subject]
        shown = set(opened)
        assert all(subject in shown or STORM in shown for subject in tripping), "nobody was told"
        assert all(count == 1 for count in resolved.values()), "it ended twice"
    for subject, at in openings:
        near = [t for s, t in openings if s == subject and at <= t < at + timedelta(hours=1)]
        assert len(near) <= CONDUCT.per_hour
