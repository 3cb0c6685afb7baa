"""When a job has to stop: its time is up, or its process is asked to end.

A job looks at it between two batches. Must never interrupt anything by itself.
"""

from collections.abc import Callable

from worker import clock


class Deadline:
    """A point on the monotonic clock, and any other reason to stop before it.

    Args:
        seconds: from now; 0 or less is over at once.
        cut: says whether to stop early: the process ends, the tick belongs to somebody else.
        monotonic_s: the clock; a test brings its own.

    Examples:
        >>> Deadline(60).over, Deadline(0).over, Deadline(60, cut=lambda: True).over
        (False, True, True)
    """

    def __init__(
        self,
        seconds: float,
        *,
        cut: Callable[[], bool] = lambda: False,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._cut = cut
        self._at_s = monotonic_s() + seconds

    @property
    def over(self) -> bool:
        """Whether no further batch may begin."""
        return self.left_s <= 0

    @property
    def left_s(self) -> float:
        """Seconds that are left, 0 or more; what a single request may still take."""
        return 0.0 if self._cut() else max(0.0, self._at_s - self._monotonic_s())

    def within(self, seconds: float) -> "Deadline":
        """Return a deadline at most ``seconds`` from now that is over no later than this one.

        Examples:
            >>> Deadline(60).within(5).left_s <= 5, Deadline(0).within(5).over
            (True, True)
        """
        return Deadline(seconds, cut=lambda: self.over, monotonic_s=self._monotonic_s)
