"""Facts about callback routes: the addresses an endpoint can be reached at, and how each is doing.

Must never import anything that does IO.
"""

from dataclasses import dataclass
from enum import StrEnum

# Number of the route that is the endpoint's own URL.
OWN = 0


class Standing(StrEnum):
    """Whether a route is used; ``routes.py`` computes the next one."""

    SOUND = "sound"
    TRIPPED = "tripped"
    RETURNING = "returning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One address of an endpoint.

    Attributes:
        no: :data:`OWN` for the endpoint's own URL, else 1, 2, …; never given to another route of
            the endpoint.
        weight: share of the traffic while all are sound, 0 to 100 against the others' weights; 0
            is a spare, used only when none with a weight is sound.
    """

    no: int
    url: str
    weight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Via:
    """Which route a request took.

    Attributes:
        trips: of the route when it was chosen: what was on the wire when it tripped says nothing
            about it afterwards.
        pinned: a person chose it, so there was no other.
    """

    no: int
    trips: int = 0
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHealth:
    """How one route is doing, the same for all workers.

    Attributes:
        step: place in the grey steps while returning.
        failures_in_row: since the last success.
        window_ok, window_failed: counts since ``window_age_s`` ago. While sound the window opens
            with a failure; while returning it is the present step.
        probe_in_s: seconds until a tripped route may be probed; 0 is now.
        probing: the probe is out.
        pauses: times it tripped without a full return between; stretches the next pause.
        trips: times it tripped ever.
    """

    standing: Standing = Standing.SOUND
    step: int = 0
    failures_in_row: int = 0
    window_ok: int = 0
    window_failed: int = 0
    window_age_s: float = 0.0
    probe_in_s: float = 0.0
    probing: bool = False
    pauses: int = 0
    trips: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTally:
    """What one settle saw of one route.

    Attributes:
        trips: of the route when these were sent.
        gone: it answered 410.
    """

    trips: int
    ok: int = 0
    failed: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """When a route trips and how it returns; built from the settings by the caller.

    Attributes:
        failures: in a row that trip it.
        ratio: share of failures in the window that trips it, above 0 to 1.
        window_s: length of the window, seconds.
        minimum: sends in the window before the share counts.
        pause_s: until the first probe, seconds; doubles with each that fails.
        pause_max_s: longest such pause, seconds.
        steps: shares of its own traffic a returning route gets, percent, rising to 100.
        step_s: least length of a step, seconds.
    """

    failures: int = 5
    ratio: float = 0.5
    window_s: float = 60.0
    minimum: int = 40
    pause_s: float = 30.0
    pause_max_s: float = 600.0
    steps: tuple[int, ...] = (5, 25, 100)
    step_s: float = 20.0


def check_steps(steps: tuple[int, ...]) -> tuple[int, ...]:
    """Return the grey steps when they are percentages that rise to 100.

    Examples:
        >>> check_steps((5, 25, 100))
        (5, 25, 100)
    """
    if steps[-1:] != (100,) or sorted({*steps}) != [*steps] or steps[0] < 1:
        raise ValueError("must be percentages that rise to 100, like 5,25,100")
    return steps
