"""Carries answers out in groups, each a transaction that is over soon.

A group that fails is halved until the answer that is to blame stands alone, so that one bad order
takes no other along. Must never keep a group open for as long as anybody would notice.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from schedules.asking import Answered
from schedules.corrections import Corrector
from worker import clock, telemetry
from worker.errors import PaynotifyError

UNREADABLE = "unreadable"
BUSY = "busy"
# A group that took longer is followed by smaller ones. Half of what others may have to wait.
_LONG_S = 0.1
# What so many cost is what one costs: fewer would gain nothing.
_FEW = 6
# By SQLSTATE. Somebody else holds the row, or waits for one that we hold.
_BUSY = ("55P03", "40P01", "40001")
# What the host's own table refuses: values, constraints, its triggers.
_REFUSED = ("22", "23", "P0")


class AnswerGroups:
    """Carries out.

    Args:
        engine: of the database.
        corrector: does it.
        read_now: the database's time.
        most: answers in one group.
    """

    def __init__(
        self,
        engine: Engine,
        corrector: Corrector,
        read_now: Callable[[Connection], datetime],
        *,
        most: int,
    ) -> None:
        self._engine, self._corrector, self._read_now = engine, corrector, read_now
        self._most = self._size = most

    def carry_out(self, answers: Sequence[Answered]) -> Counter[str]:
        """Carry answers out; returns what was done, by name."""
        done: Counter[str] = Counter()
        left = list(answers)
        while left:
            group, left = _split(left, self._size)
            began_s = clock.monotonic_s()
            done += self._apply(group)
            took_s = clock.monotonic_s() - began_s
            self._size = next_size(self._size, len(group), took_s=took_s, most=self._most)
        return done

    def _apply(self, group: Sequence[Answered]) -> Counter[str]:
        try:
            with self._engine.begin() as tx:
                return Counter(self._corrector.apply(tx, group, now=self._read_now(tx)))
        except DBAPIError as error:
            # Otherwise the database is away, or our own mistake: the sweep's runner tells.
            if not (_is_busy(error) or _is_refused(error)):
                raise
            problem: Exception = error
        except (PaynotifyError, ArithmeticError, ValueError) as error:
            problem = error
        if len(group) == 1:
            return Counter([self._put_off(group[0], problem)])
        middle = len(group) // 2
        return self._apply(group[:middle]) + self._apply(group[middle:])

    def _put_off(self, answered: Answered, problem: Exception) -> str:
        seen, words = answered.question.check, _words(problem)
        busy = isinstance(problem, DBAPIError) and _is_busy(problem)
        telemetry.log(
            telemetry.Event.ORDER_FAULT,
            level="warning" if busy else "error",
            kind=seen.kind.value,
            subject_no=seen.subject_no,
            problem=words,
        )
        with self._engine.begin() as tx:
            if busy:
                self._corrector.leave(tx, seen, now=self._read_now(tx))
                return BUSY
            self._corrector.put_off(tx, seen, words, now=self._read_now(tx))
        return UNREADABLE


def next_size(size: int, count: int, *, took_s: float, most: int) -> int:
    """Say how many answers the next group may have.

    Args:
        size: how many this one might have had.
        count: how many it had.
        took_s: how long it took.
        most: never more.

    Examples:
        >>> next_size(50, 40, took_s=0.3, most=50), next_size(8, 2, took_s=0.3, most=50)
        (25, 6)
        >>> next_size(8, 8, took_s=0.02, most=50), next_size(8, 2, took_s=0.02, most=50)
        (16, 8)
    """
    if took_s > _LONG_S:
        return max(min(_FEW, most), size // 2)
    if took_s < _LONG_S / 2 and count == size:
        return min(most, 2 * size)
    return size


def _split(answers: Sequence[Answered], size: int) -> tuple[list[Answered], list[Answered]]:
    """Take a group about as many orders; an order and its refund are judged one after the other."""
    group: dict[str, Answered] = {}
    left = []
    for answered in answers:
        order_no = answered.question.order.order_no
        if len(group) < size and order_no not in group:
            group[order_no] = answered
        else:
            left.append(answered)
    return list(group.values()), left


def _is_busy(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _BUSY


def _is_refused(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return isinstance(error, IntegrityError)
    return bool(state.startswith(_REFUSED))


def _words(problem: Exception) -> str:
    """Say a problem without what a database adds to it: that may quote the row."""
    if not isinstance(problem, DBAPIError):
        return str(problem)
    first = str(problem.orig).strip().splitlines()
    return f"the database refused it: {first[0] if first else type(problem.orig).__name__}"
