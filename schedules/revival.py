"""How many dead letters of one endpoint are revived next, as a pure rule.

Like a breaker's ramp: one letter first, twice as many while they are acknowledged, one again when
they fail. Must never allow a next batch while the last one is still on its way.
"""

from dataclasses import dataclass
from enum import StrEnum

# Who ordered it, as letters and the audit log say.
WHO = "revival"


class Fate(StrEnum):
    """What became of a revived notification.

    ``OUT``: no try of its new budget is over. ``FAILED``: one is, and it was not acknowledged; or
    somebody cancelled it, which proves nothing.
    """

    OUT = "out"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast letters are revived; see ``settings.py`` for ranges.

    Attributes:
        batch_max: letters of one endpoint at once.
        times_max: times one notification is revived; 0 is never.
        within_s: letters that died longer ago are left to people, seconds.
    """

    batch_max: int
    times_max: int
    within_s: float


def fate(state: str, *, tries: int) -> Fate:
    """Tell what became of a revived notification.

    Args:
        state: of its delivery now.
        tries: used of the present budget, the one on the wire included.

    Examples:
        >>> fate("sending", tries=1).value, fate("waiting", tries=1).value
        ('out', 'failed')
        >>> fate("delivered", tries=1).value, fate("dead", tries=8).value
        ('delivered', 'failed')
    """
    if state == "delivered":
        return Fate.DELIVERED
    if state in ("dead", "cancelled"):
        return Fate.FAILED
    first = tries == 0 if state in ("blocked", "pending", "waiting") else tries <= 1
    return Fate.OUT if first else Fate.FAILED


def next_size(
    last: int, fates: list[Fate], *, batch_max: int, in_flight_cap: int, rate_per_s: float | None
) -> int:
    """Compute how many letters may be revived now, 0 while the last batch is on its way.

    Args:
        last: size of the batch before; 0 when there was none.
        fates: what became of it.
        batch_max: most at once.
        in_flight_cap: of the endpoint.
        rate_per_s: of the endpoint; None is no limit.

    Examples:
        >>> caps = {"batch_max": 64, "in_flight_cap": 100, "rate_per_s": None}
        >>> next_size(0, [], **caps), next_size(2, [Fate.DELIVERED, Fate.DELIVERED], **caps)
        (1, 4)
        >>> next_size(4, [Fate.OUT, Fate.DELIVERED], **caps), next_size(4, [Fate.FAILED], **caps)
        (0, 1)
    """
    if Fate.OUT in fates:
        return 0
    well = fates.count(Fate.DELIVERED) > fates.count(Fate.FAILED)
    wanted = max(1, last * 2) if well else 1
    # A second's worth of its rate, so that what is new is not kept waiting by what is old.
    of_rate = batch_max if rate_per_s is None else max(1, int(rate_per_s))
    return min(wanted, batch_max, in_flight_cap, of_rate)
