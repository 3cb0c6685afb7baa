"""Sends that went well and badly, counted alike for a lane's breaker and for a route.

Pure. Must never believe in an order: a tally says how many, not which came first.
"""

from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar


class Tallied(Protocol):
    """How some sends went."""

    @property
    def ok(self) -> int:
        """Answered as agreed."""

    @property
    def failed(self) -> int:
        """Not."""


class Counts(Protocol):
    """A health that counts: what failed in a row, and what went how in its window."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def failures_in_row(self) -> int:
        """Since the last that went well."""

    @property
    def window_ok(self) -> int:
        """In the window that began with a failure."""

    @property
    def window_failed(self) -> int:
        """In the same window."""

    @property
    def window_age_s(self) -> float:
        """Since the window began, seconds."""


H = TypeVar("H", bound=Counts)


def counted(health: H, tally: Tallied, *, live: bool, **more: float) -> H:
    """Add a tally to a health.

    Args:
        health: before.
        tally: what is added.
        live: whether the window goes on; else the first failure begins a new one.
        more: of its other fields, set along with it.
    """
    # With any success among them, some run was at least failed / (ok + 1) long, whatever the
    # order: that much is certain and no more is claimed.
    in_row = tally.failed // (tally.ok + 1) + (0 if tally.ok else health.failures_in_row)
    ok, failed = (health.window_ok, health.window_failed) if live else (0, 0)
    if live or tally.failed:
        ok, failed = ok + tally.ok, failed + tally.failed
    return replace(
        health,
        failures_in_row=in_row,
        window_ok=ok,
        window_failed=failed,
        window_age_s=health.window_age_s if live else 0.0,
        **more,
    )


def is_live(health: Counts, window_s: float) -> bool:
    """Tell whether a window that lasts ``window_s`` seconds goes on."""
    return health.window_failed > 0 and health.window_age_s <= window_s


def too_many(health: Counts, failures: int, minimum: int, ratio: float) -> bool:
    """Tell whether it failed too often.

    Args:
        health: what is judged.
        failures: in a row that are too many.
        minimum: sends in a window that must have been counted before its ratio says anything.
        ratio: of failures among them that is too much, 0 to 1.
    """
    sends = health.window_ok + health.window_failed
    return health.failures_in_row >= failures or (
        sends >= minimum and health.window_failed >= ratio * sends
    )
