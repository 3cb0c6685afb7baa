"""Alerts as rows: opened, kept, escalated, resolved, acknowledged, silenced; and their notices.

What happens to an alert and the notices of it are one transaction. Two evaluations at once do
everything once: every change is guarded by the state it starts from. Must never send anything.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker import tables
from worker.endpoint_fields import check_person
from worker.errors import NotFoundError, WrongStateError
from worker.incidents import (
    Alert,
    Conduct,
    Escalate,
    Keep,
    Occasion,
    Open,
    Order,
    Resolve,
    Severity,
    Silence,
    Tell,
    Trip,
    above,
    gravest,
    is_silenced,
    orders,
    severity_at,
)
from worker.masking import mask
from worker.plain_text import safe
from worker.tables_alerts import alert, alert_delivery, silence

_HOUR = timedelta(hours=1)
_SUMMARY_MAX = 1000
PAGE_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What one evaluation of a rule changed; counts of alerts."""

    opened: int = 0
    escalated: int = 0
    resolved: int = 0
    open: int = 0


def settle(
    engine: Engine,
    conduct: Conduct,
    trips: Sequence[Trip],
    *,
    now: datetime,
    covered: bool = False,
) -> Moved:
    """Bring a rule's alerts in line with what its measure says now.

    Calling it twice, or in two processes at once, opens and resolves everything once.

    Args:
        engine: of the database with our tables.
        conduct: of the rule.
        trips: subjects over the threshold, each once.
        now: on the database's clock.
        covered: see :func:`worker.incidents.orders`.
    """
    with engine.begin() as tx:
        alerts = _open_of(tx, conduct.rule)
        silences = silences_at(tx, now)
        due = orders(
            conduct,
            trips,
            alerts,
            now=now,
            lately=_lately(tx, conduct.rule, now),
            silences=silences,
            covered=covered,
        )
        done = [_Clerk(tx, conduct, now, silences).carry_out(each) for each in due]
    opened, resolved = done.count("opened"), done.count("resolved")
    return Moved(
        opened=opened,
        escalated=done.count("escalated"),
        resolved=resolved,
        open=len(alerts) + opened - resolved,
    )


def retire(engine: Engine, rules: Collection[str], *, now: datetime) -> int:
    """Resolve, without a notice, what is open of rules that are no more; says how many.

    Args:
        engine: of the database with our tables.
        rules: names of those that are still there, also if they cannot be read at present.
        now: on the database's clock.
    """
    with engine.begin() as tx:
        return tx.execute(
            update(alert)
            .where(alert.c.resolved_at.is_(None), alert.c.rule.not_in(list(rules)))
            .values(resolved_at=now)
        ).rowcount


def find(
    engine: Engine, *, open_only: bool = True, before_id: int | None = None, limit: int = PAGE_MAX
) -> list[Alert]:
    """Return alerts, newest first; ``before_id`` goes on after a page."""
    query = select(alert).order_by(alert.c.id.desc()).limit(limit)
    if open_only:
        query = query.where(alert.c.resolved_at.is_(None))
    if before_id is not None:
        query = query.where(alert.c.id < before_id)
    with engine.connect() as connection:
        return [read(row) for row in connection.execute(query)]


def get(connection: Connection, alert_id: int) -> Alert:
    """Read one alert.

    Raises:
        NotFoundError: there is none.
    """
    row = connection.execute(select(alert).where(alert.c.id == alert_id)).first()
    if row is None:
        raise NotFoundError("alert", str(alert_id), "see `paynotify alert list --all`")
    return read(row)


def acknowledge(engine: Engine, alert_id: int, *, who: str, now: datetime) -> Alert:
    """Note that a person takes an alert up: it is no longer escalated by time. Again is harmless.

    Raises:
        NotFoundError: there is none.
        WrongStateError: it is over.
    """
    who = check_person(who, "who")
    with engine.begin() as tx:
        moved = tx.execute(
            update(alert)
            .where(
                alert.c.id == alert_id,
                alert.c.resolved_at.is_(None),
                alert.c.acknowledged_at.is_(None),
            )
            .values(acknowledged_at=now, acknowledged_by=who)
        ).rowcount
        found = get(tx, alert_id)
        if found.resolved_at is not None:
            raise WrongStateError(f"alert {alert_id}", "over", "there is nothing to take up")
        if moved:
            _audit(tx, who, "alert.acknowledged", f"alert/{alert_id}", "")
    return found


def keep_silent(
    engine: Engine, wanted: Silence, *, until: datetime, who: str, why: str, now: datetime
) -> int:
    """Tell nobody of some alerts until a time; returns the silence's id.

    Alerts open and end as ever. What is still open when the silence ends is told then.
    """
    who, why = check_person(who, "who"), check_person(why, "why")
    with engine.begin() as tx:
        silence_id = tx.execute(
            insert(silence)
            .values(
                rule=wanted.rule,
                subject=wanted.subject,
                until=until,
                who=who,
                why=why,
                created_at=now,
            )
            .returning(silence.c.id)
        ).scalar_one()
        _audit(tx, who, "alert.silenced", f"rule/{wanted.rule}/{wanted.subject}", why)
    return int(silence_id)


def end_silence(engine: Engine, silence_id: int, *, who: str, now: datetime) -> None:
    """End a silence now; one that is over stays over.

    Raises:
        NotFoundError: there is none in force.
    """
    who = check_person(who, "who")
    with engine.begin() as tx:
        ended = tx.execute(
            update(silence)
            .where(silence.c.id == silence_id, silence.c.until > now)
            .values(until=now)
        ).rowcount
        if not ended:
            raise NotFoundError("silence in force", str(silence_id), "see `paynotify alert list`")
        _audit(tx, who, "alert.silence_ended", f"silence/{silence_id}", "")


def silence_rows(engine: Engine, *, now: datetime) -> Sequence[Row[Any]]:
    """Return the silences in force, oldest first."""
    with engine.connect() as connection:
        query = select(silence).where(silence.c.until > now).order_by(silence.c.id)
        return connection.execute(query.limit(PAGE_MAX)).all()


def silences_at(connection: Connection, now: datetime) -> list[Silence]:
    """Read which silences are in force."""
    query = select(silence.c.rule, silence.c.subject).where(silence.c.until > now)
    return [Silence(rule=row.rule, subject=row.subject) for row in connection.execute(query)]


def line(found: Alert, occasion: Occasion) -> str:
    """Write what a person reads of an alert, one line."""
    about = f" {found.subject}" if found.subject else ""
    head = {
        Occasion.RAISED: found.severity.value,
        Occasion.ESCALATED: f"{found.severity.value}, escalated",
        Occasion.RESOLVED: "resolved",
    }[occasion]
    since = found.opened_at.strftime("%Y-%m-%d %H:%M:%SZ")
    text = f"[{head}] {found.rule}{about}: {found.summary} (alert {found.id}, since {since})"
    return safe(mask(" ".join(text.split())))


def read(row: Row[Any]) -> Alert:
    """Turn a row into an alert."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public way to the columns
    return Alert(**values | {"severity": Severity(values["severity"])})


class _Clerk:
    """Carries orders out in one transaction."""

    def __init__(
        self, tx: Connection, conduct: Conduct, now: datetime, silences: Sequence[Silence]
    ) -> None:
        self._tx = tx
        self._conduct = conduct
        self._now = now
        self._silences = silences

    def carry_out(self, order: Order) -> str:
        """Do what one order says; returns what was really changed, or nothing."""
        by_kind: dict[type[Order], Callable[[Any], str]] = {
            Open: self._open,
            Keep: self._keep,
            Escalate: self._escalate,
            Tell: self._tell,
            Resolve: self._resolve,
        }
        return by_kind[type(order)](order)

    def _open(self, order: Open) -> str:
        trip = order.trip
        silent = is_silenced(self._conduct.rule, trip.subject, self._silences)
        dialect = postgresql if self._tx.dialect.name == "postgresql" else sqlite
        row = self._tx.execute(
            dialect.insert(alert)
            .values(
                rule=self._conduct.rule,
                subject=trip.subject,
                measure=self._conduct.measure,
                severity=severity_at(self._conduct, trip.step).value,
                opened_at=self._now,
                told_at=None if silent else self._now,
                told_step=trip.step,
                **self._seen(trip),
            )
            .on_conflict_do_nothing(
                index_elements=["rule", "subject"], index_where=alert.c.resolved_at.is_(None)
            )
            .returning(alert)
        ).first()
        if row is None:
            return ""
        if not silent:
            self._notify(read(row), Occasion.RAISED)
        return "opened"

    def _keep(self, order: Keep) -> str:
        values: dict[str, object] = self._seen(order.trip)
        # Steps only rise: half of the way back is no other incident.
        which = alert.c.id == order.alert.id
        if order.worse:
            before = order.alert.severity
            after = gravest(
                before,
                severity_at(self._conduct, order.trip.step),
                above(before) if order.overdue else before,
            )
            values["severity"] = after.value
            if order.overdue:
                values["escalated_at"] = self._now
            if not self._silent(order.alert):
                values["told_step"] = order.trip.step
            # Another evaluation may have made it more severe meanwhile.
            which &= (alert.c.step < order.trip.step) & (alert.c.severity == before.value)
        else:
            del values["step"]
        changed = self._change(which, values)
        if not changed or not order.worse:
            return ""
        if changed.told_at is not None and not self._silent(changed):
            self._notify(changed, Occasion.ESCALATED)
        return "escalated"

    def _escalate(self, order: Escalate) -> str:
        changed = self._change(
            (alert.c.id == order.alert.id)
            & alert.c.escalated_at.is_(None)
            & alert.c.acknowledged_at.is_(None)
            & (alert.c.severity == order.alert.severity.value),
            {
                "severity": above(order.alert.severity).value,
                "escalated_at": self._now,
                "told_step": alert.c.step,
            },
        )
        if changed:
            self._notify(changed, Occasion.ESCALATED)
        return "escalated" if changed else ""

    def _tell(self, order: Tell) -> str:
        first = order.alert.told_at is None
        untold = alert.c.told_at.is_(None) if first else alert.c.told_step < alert.c.step
        values: dict[str, object] = {"told_step": alert.c.step}
        if first:
            values["told_at"] = self._now
        changed = self._change((alert.c.id == order.alert.id) & untold, values)
        if changed:
            self._notify(changed, Occasion.RAISED if first else Occasion.ESCALATED)
        return "told" if changed else ""

    def _resolve(self, order: Resolve) -> str:
        changed = self._change(alert.c.id == order.alert.id, {"resolved_at": self._now})
        # Nobody needs to hear the end of what he never heard of.
        if changed and changed.told_at is not None and self._conduct.recovery:
            self._notify(changed, Occasion.RESOLVED)
        return "resolved" if changed else ""

    def _change(self, which: Any, values: dict[str, object]) -> Alert | None:
        row = self._tx.execute(
            update(alert)
            .where(which, alert.c.resolved_at.is_(None))
            .values(values)
            .returning(alert)
        ).first()
        return None if row is None else read(row)

    def _seen(self, trip: Trip) -> dict[str, object]:
        return {
            "value": trip.value,
            "threshold": trip.threshold,
            "step": trip.step,
            "summary": mask(trip.summary)[:_SUMMARY_MAX],
            "subjects": trip.subjects,
            "seen_at": self._now,
        }

    def _silent(self, found: Alert) -> bool:
        return is_silenced(found.rule, found.subject, self._silences)

    def _notify(self, found: Alert, occasion: Occasion) -> None:
        for sink in self._conduct.sinks:
            self._tx.execute(
                insert(alert_delivery).values(
                    alert_id=found.id,
                    occasion=occasion.value,
                    sink=sink,
                    text=line(found, occasion),
                    written_at=self._now,
                    due_at=self._now,
                )
            )


def _open_of(tx: Connection, rule: str) -> list[Alert]:
    query = select(alert).where(alert.c.rule == rule, alert.c.resolved_at.is_(None))
    return [read(row) for row in tx.execute(query.order_by(alert.c.id))]


def _lately(tx: Connection, rule: str, now: datetime) -> dict[str, int]:
    query = (
        select(alert.c.subject, func.count())
        .where(alert.c.rule == rule, alert.c.opened_at > now - _HOUR)
        .group_by(alert.c.subject)
    )
    return {row[0]: row[1] for row in tx.execute(query)}


def _audit(tx: Connection, who: str, action: str, subject: str, why: str) -> None:
    tx.execute(insert(tables.audit).values(actor=who, action=action, subject=subject, why=why))
