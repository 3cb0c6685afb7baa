"""The loop every sweep shares: one runner at a time, bounded batches, a budget, a heartbeat.

A sweep says how to do one batch after a cursor; this file does the rest, so that a sweep can be
killed anywhere and goes on from its cursor. Must never be what correctness rests on: each batch
is safe to do twice.
"""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one batch did.

    Attributes:
        cursor: where the next batch begins; empty when the round is over.
        counts: what was done, by name; added up over the round.
    """

    cursor: str = ""
    counts: dict[str, int] = field(default_factory=dict)


class Sweep(Protocol):
    """One sweep; made once per process."""

    name: str

    def step(self, cursor: str) -> Step:
        """Do one batch, at most some 200 ms of the database's time, in its own transactions."""
        ...
