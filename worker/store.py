"""What the two databases promise the engine: the only writers of delivery state.

``store_postgresql.py`` and ``store_sqlite.py`` keep this contract; one conformance suite runs
against both. Every move is guarded by state, and every settle by the claim number as well, so a
worker that slept through its lease can never overwrite what came after it. Due times and leases
are measured on the database's clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from worker.breaker import Policy
from worker.models import Claimed, Pool, Settled, Settlement
from worker.seen import Measured, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one claim got.

    Attributes:
        rows: at most ``limit``; the caller owns them until the lease is over.
        more: there is probably more for this pool right now, so the bell should ring again.
        capped: some lane took all the room it had, so there may be more once these are settled.
        metered: some lane took all that its rate limit allowed: there is room again in a moment,
            whatever becomes of these.
        wrapped: it came to the end of the lanes and went on from the first.
    """

    rows: tuple[Claimed, ...] = ()
    more: bool = False
    capped: bool = False
    metered: bool = False
    wrapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What :meth:`Store.release` did.

    Attributes:
        again: rows back in the queue.
        poisoned: rows that became dead letters because they end whoever carries them.
    """

    again: int = 0
    poisoned: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How things stand, for ``status`` and the gauges; counts of notifications.

    Attributes:
        oldest_due_s: seconds the oldest claimable row is overdue; 0 when none is.
        blocked: rows that wait for an earlier one of their ordering key.
        held: blocked, waiting or pending rows of endpoints that are not active.
        open_breakers: lanes whose breaker is open.
        inbox: unread rows; ``refused`` those that were read and refused.
    """

    blocked: int
    waiting: int
    pending: int
    sending: int
    dead: int
    held: int
    oldest_due_s: float
    open_breakers: int
    slow_lanes: int
    inbox: int
    refused: int
    delivered_last_minute: int
    failed_last_minute: int


class Store(Protocol):
    """The engine's only door to delivery state; safe to share between threads."""

    def claim(self, pool: Pool, *, limit: int, worker: str) -> Claim:
        """Take due rows of ``pool``'s lanes for sending, fairly.

        Per lane at most its share of the batch, its in-flight cap less what it has on the wire,
        what its rate limit has saved up, one row while its breaker is half-open, none while the
        breaker is open or the endpoint held. Each row gets its next attempt number and an open
        attempt. A process that dies right after this leaves attempts that ``release`` closes.
        """
        ...

    def claim_suspect(self, *, worker: str) -> Claim:
        """Take at most one row that was lost :data:`worker.tables.SUSPECT_AFTER` times in a row.

        It counts as any other claim but travels alone.
        """
        ...

    def suspects(self) -> bool:
        """Say whether :meth:`claim_suspect` would find something now."""
        ...

    def condemn(self, *, worker: str, why: str) -> Released:
        """Take back what ``worker`` carried alone when it died, without waiting for its lease.

        A dead letter at the ``poison_after``-th loss in a row; before that, back in the queue.
        """
        ...

    def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """Write verdicts whose claim is still ours. Calling it again changes nothing.

        Ids whose verdict already stands through an earlier call that never answered count as
        written, not as stale. In the same transaction, ordered rows that a newer one has
        superseded are cancelled instead of tried again, and who waited for one of these is let go.
        """
        ...

    def tell_health(self, tallies: dict[int, Tally]) -> None:
        """Move the breakers of lanes (by id) on, given what was seen of them."""
        ...

    def roll_up(self, seen: Mapping[int, Measured], *, worker: str) -> None:
        """Add counts of endpoints (by id) to the present minute's rows of ``worker``.

        Calling it again adds again: what was written twice by a commit whose answer got lost is
        counted twice. Measures are advice, not truth.
        """
        ...

    def stage(self, *, limit: int) -> int:
        """Make waiting rows whose time has come pending; returns how many."""
        ...

    def look(self, *, limit: int) -> int:
        """Let blocked rows go that nothing holds up any more; returns how many.

        Settles do so at once. This finds what they could not see: a host that committed later, a
        row that was cancelled or superseded meanwhile, an earlier one that took too long. Each
        blocked row is looked at now and then.
        """
        ...

    def release(self, *, limit: int) -> Released:
        """Put rows whose lease ran out back, closing their attempts as abandoned.

        Nobody knows what ended their workers, so nothing is held against them; only what was
        lost :data:`LOST_MAX` times in a row is given up.
        """
        ...

    def due_pools(self) -> frozenset[Pool]:
        """Say for which pools a claim would find something now."""
        ...

    def backlog(self) -> Backlog:
        """Count. Costs an index scan over unfinished rows; not for the hot path."""
        ...

    def redrive(
        self,
        letter_ids: Sequence[int],
        *,
        who: str,
        why: str,
        over_s: float,
        out_of_order: bool = False,
    ) -> list[int]:
        """Send open dead letters again with a fresh budget; returns the letters it did.

        Rows become due evenly over the next ``over_s`` seconds. A letter that is not open is
        left alone, so calling it again sends nothing twice. So is one that a newer notification
        of its ordering key has overtaken (:func:`worker.ordering.overtaken`), unless
        ``out_of_order``.
        """
        ...

    def discard(self, letter_ids: Sequence[int], *, who: str, why: str) -> list[int]:
        """Close open dead letters for good; returns the letters it closed."""
        ...

    def now(self) -> datetime:
        """Read the database's clock."""
        ...


# Losses in a row, with no sign of a row's own fault, after which a person has to look.
LOST_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The numbers a store needs.

    Attributes:
        lease_s: how long a claim holds.
        poison_after: losses in a row that make a dead letter, the last one while alone.
        breaker: when a lane's breaker opens and how it recovers.
    """

    lease_s: float
    poison_after: int
    breaker: Policy
