"""What a channel is made of: its routes, its pace and its breaker's numbers.

What a route does is :class:`schedules.ports.ChannelPort`. Must never hold a key.
"""

from dataclasses import dataclass

from schedules.ports import ChannelPort
from worker.breaker import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to ask a channel; safe to share between threads."""

    name: str
    port: ChannelPort


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One payment channel of ``config/channels.toml``.

    Attributes:
        name: what orders call it.
        adapter: which file of this folder asks it.
        currency: ISO 4217, upper case; what its amounts are in unless it says otherwise.
        routes: at least one; the first is asked first, the next when its breaker is open.
        rate_per_s: most questions a second, over all routes and all processes.
        timeout_s: total deadline of one question on one route.
        breaker: when a route is left alone; only findings with ``route_failed`` count as failed.
    """

    name: str
    currency: str
    routes: tuple[Route, ...]
    rate_per_s: float
    timeout_s: float
    breaker: Policy
    adapter: str = ""
