"""Asks every rule's measure, and brings its alerts in line with the answer.

A rule whose measure fails is logged and asked again next time; the others go on. Must never send
anything: what is to be told is a row, and :mod:`schedules.alert_delivery` sends it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from schedules import alert_rounds, alert_rules
from schedules.alert_rules import Book, Rule
from schedules.readings import Number, Question, Reading
from worker import alerts, database, telemetry
from worker.errors import BadFieldError
from worker.incidents import Trip
from worker.runtime import Desk


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What one evaluation did; ``open`` is how many alerts are open after it."""

    rules: int = 0
    failed: int = 0
    opened: int = 0
    escalated: int = 0
    resolved: int = 0
    open: int = 0

    def __str__(self) -> str:
        failed = f", {self.failed} rules failed" if self.failed else ""
        return (
            f"{self.rules} rules: {self.opened} opened, {self.escalated} escalated, "
            f"{self.resolved} resolved, {self.open} open{failed}"
        )


def evaluate(engine: Engine, book: Book, *, now: datetime, breaker_failures: int) -> Evaluated:
    """Evaluate all rules; again at the same time changes nothing more.

    A process that dies in here leaves whole rules done or not done.

    Args:
        engine: of the database with our tables.
        book: rules in force.
        now: on the database's clock.
        breaker_failures: failures in a row that open a breaker, from the settings.
    """
    for problem in book.refused:
        telemetry.log(telemetry.Event.RULE_REFUSED, level="warning", why=problem)
    moved: list[alerts.Moved] = []
    failed = 0
    covered: set[str] = set()
    rules = [rule for rule in book.rules if rule.enabled]
    for rule in rules:
        try:
            trips = _trips(engine, rule, now=now, breaker_failures=breaker_failures)
            done = alerts.settle(engine, rule.conduct, trips, now=now, covered=rule.name in covered)
        except DBAPIError as error:
            failed += 1
            why = str(database.unavailable(error))
            telemetry.log(telemetry.Event.RULE_FAILED, level="warning", rule=rule.name, why=why)
            continue
        moved.append(done)
        if done.open:
            covered.update(rule.covers)
    retired = _retire(engine, book, rules, now)
    return Evaluated(
        rules=len(rules),
        failed=failed,
        opened=sum(each.opened for each in moved),
        escalated=sum(each.escalated for each in moved),
        resolved=retired + sum(each.resolved for each in moved),
        open=sum(each.open for each in moved),
    )


def run(desk: Desk, arguments: Mapping[str, object], deadline: object) -> str:
    """Do the job ``alert-evaluation``: evaluate the rules in force; returns what came of it.

    Args:
        desk: tools of this process.
        arguments: none are known.
        deadline: not looked at: each rule is bounded by its measure.

    Raises:
        SettingsError: ``alerts.toml`` cannot be read.
    """
    if arguments:
        raise BadFieldError("arguments", f"has {', '.join(arguments)}; this job takes none")
    now = desk.store.now()
    alert_rounds.note_round(desk.engine, now=now)
    failures = desk.settings.breaker_failures
    book = alert_rules.load(desk.settings)
    return str(evaluate(desk.engine, book, now=now, breaker_failures=failures))


def reached(rule: Rule, value: Number) -> int | None:
    """Return the number of the highest threshold a value reaches; None when it reaches none."""
    return max((step for step, least in enumerate(rule.thresholds) if value >= least), default=None)


def _trips(engine: Engine, rule: Rule, *, now: datetime, breaker_failures: int) -> list[Trip]:
    question = Question(
        now=now,
        window_s=rule.window_s,
        baseline_s=rule.baseline_s,
        minimum=rule.minimum,
        least=rule.thresholds[0],
        most=rule.thresholds[-1],
        breaker_failures=breaker_failures,
    )
    with engine.connect() as connection:
        readings = rule.measure.take(connection, question)
    return [
        trip
        for reading in readings
        if rule.concerns(reading.subject) and (trip := _trip(rule, reading)) is not None
    ]


def _trip(rule: Rule, reading: Reading) -> Trip | None:
    step = reached(rule, reading.value)
    if step is None:
        return None
    return Trip(
        subject=reading.subject,
        value=f"{reading.value}",
        threshold=f"{rule.thresholds[step]}",
        summary=reading.summary,
        step=step,
    )


def _retire(engine: Engine, book: Book, enabled: list[Rule], now: datetime) -> int:
    """End what is open of rules that were taken away or switched off."""
    if book.names is None:
        return 0
    off = {rule.name for rule in book.rules} - {rule.name for rule in enabled}
    return alerts.retire(engine, book.names - off, now=now)
