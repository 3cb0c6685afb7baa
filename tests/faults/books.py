"""Three books compared: what hosts were promised, what the merchant saw, what the database says.

The shape is Jepsen's total queue. Must never believe our own database about a merchant: what
arrived is read from the merchant's ledger only.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select

from tests.receiver import Received
from worker import tables
from worker.models import Failure

# How an attempt failed after its request may have arrived.
_CUT_SHORT = (f"{Failure.TIMEOUT}:", f"{Failure.RESET}:")
_FINISHED = ("delivered", "dead", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Books:
    """What a comparison found.

    Attributes:
        accepted: notifications whose host's commit succeeded.
        states: of them, by state.
        received: requests in the merchant's ledger.
        lost: neither finished nor waiting for a later time.
        phantom: delivered, and the merchant never said yes.
        unexpected: message ids the merchant saw and no host was promised.
        stuck: in sending though everything has come to rest.
        unclaimed: sent more often than there are attempts.
        doubles: 2xx answers beyond the first, by notification.
        unexplained: more doubles than attempts that were abandoned or cut short.
        outcomes: attempts by outcome; ``None`` is open.
        errors: why attempts failed; what the merchant answered in vain is explained by these.
        on_wire: attempts that were abandoned, by worker.
    """

    accepted: int
    states: Counter[str]
    received: int
    lost: list[int]
    phantom: list[int]
    unexpected: list[str]
    stuck: list[int]
    unclaimed: list[int]
    doubles: Counter[int]
    unexplained: list[int]
    outcomes: Counter[str | None]
    errors: Counter[str]
    on_wire: Counter[str]

    @property
    def duplicates(self) -> int:
        """All doubles together."""
        return self.doubles.total()

    def on_wire_of(self, workers: Iterable[str]) -> int:
        """How much these workers had on the wire when they ended."""
        return sum(self.on_wire[worker] for worker in workers)

    def text(self) -> str:
        """The comparison as a table."""
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        outcomes = ", ".join(f"{n} {outcome or 'open'}" for outcome, n in self.outcomes.items())
        rows = [
            ("accepted from hosts", f"{self.accepted}"),
            ("in the database", states),
            ("attempts", outcomes),
            *(("  failed", f"{count} {error}") for error, count in self.errors.most_common(5)),
            ("requests in the merchant's ledger", f"{self.received}"),
            ("lost", f"{len(self.lost)}"),
            ("phantom (delivered, never received)", f"{len(self.phantom)}"),
            ("unexpected (received, never accepted)", f"{len(self.unexpected)}"),
            ("stuck in sending", f"{len(self.stuck)}"),
            ("sent without a claim", f"{len(self.unclaimed)}"),
            ("duplicates", f"{self.duplicates}"),
            ("abandoned on the wire", f"{self.on_wire.total()}"),
            ("duplicates nothing explains", f"{len(self.unexplained)}"),
        ]
        return "\n".join(f"  {name:<38} {value}" for name, value in rows)

    def check(self) -> None:
        """Hold the promises that no fault may break.

        Raises:
            AssertionError: with the whole comparison.
        """
        wrong: dict[str, list[int] | list[str]] = {
            "lost": self.lost,
            "phantom": self.phantom,
            "unexpected": self.unexpected,
            "stuck": self.stuck,
            "unclaimed": self.unclaimed,
            "unexplained": self.unexplained,
        }
        found = {name: some[:5] for name, some in wrong.items() if some}
        assert not found, f"{found}\n{self.text()}"


def _may_have_missed_a_yes(attempt: Any) -> bool:
    """Tell whether a merchant may have said yes to it without our hearing it.

    It is asked again then, as it must be. What never reached a merchant, or was answered, explains
    no double.
    """
    if attempt.outcome == "failed":
        return str(attempt.error).startswith(_CUT_SHORT)
    return bool(attempt.outcome == "abandoned")


def compare(
    engine: Engine,
    ledger: Collection[Received],
    accepted: Collection[int],
    *,
    aside: Collection[int] = (),
) -> Books:
    """Compare the three books once everything has come to rest.

    Args:
        engine: of our database.
        ledger: of the merchant.
        accepted: ids of notifications whose host's commit succeeded.
        aside: those of them that are left out of the comparison.
    """
    with engine.connect() as connection:
        delivery, notification, attempt = tables.delivery, tables.notification, tables.attempt
        rows = {
            row.id: row
            for row in connection.execute(
                select(delivery.c.id, delivery.c.state, notification.c.message_id).join(
                    notification, notification.c.id == delivery.c.id
                )
            )
        }
        attempts = connection.execute(
            select(attempt.c.notification_id, attempt.c.outcome, attempt.c.worker, attempt.c.error)
        ).all()
    ids = {row.message_id: row.id for row in rows.values()}
    left_out = frozenset(aside)
    ledger = [record for record in ledger if ids.get(record.message_id) not in left_out]
    sent = Counter(ids.get(record.message_id) for record in ledger)
    said_yes = Counter(
        ids.get(record.message_id) for record in ledger if 200 <= record.status <= 299
    )
    unheard = Counter(row.notification_id for row in attempts if _may_have_missed_a_yes(row))
    tried = Counter(row.notification_id for row in attempts)
    doubles = Counter({id_: yes - 1 for id_, yes in said_yes.items() if id_ and yes > 1})
    promised = {id_: rows.get(id_) for id_ in accepted if id_ not in left_out}
    return Books(
        accepted=len(promised),
        states=Counter(row.state if row else "missing" for row in promised.values()),
        received=len(ledger),
        lost=[
            id_
            for id_, row in promised.items()
            if row is None or row.state not in (*_FINISHED, "waiting")
        ],
        phantom=[
            id_ for id_, row in rows.items() if row.state == "delivered" and not said_yes[id_]
        ],
        unexpected=[r.message_id for r in ledger if ids.get(r.message_id) not in promised],
        stuck=[id_ for id_, row in rows.items() if row.state == "sending" and id_ not in left_out],
        unclaimed=[id_ for id_, count in sent.items() if id_ and count > tried[id_]],
        doubles=doubles,
        unexplained=[id_ for id_, count in doubles.items() if count > unheard[id_]],
        outcomes=Counter(row.outcome for row in attempts),
        errors=Counter(row.error[:80] for row in attempts if row.outcome == "failed"),
        on_wire=Counter(row.worker for row in attempts if row.outcome == "abandoned"),
    )
