"""Long work in pages, at a terminal: a progress bar, and Ctrl-C between two pages.

Must never let Ctrl-C cut a page in two.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worker import clock
from worker.cli_print import console


class Gate:
    """Lets Ctrl-C through between two pages only; pressed again, at once."""

    def __init__(self) -> None:
        self._waiting = False
        self._asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def wait(self, seconds: float) -> None:
        """Sleep, unless Ctrl-C."""
        self._waiting = True
        try:
            self.check()
            clock.sleep(seconds)
        finally:
            self._waiting = False

    def check(self) -> None:
        """Raise if Ctrl-C was pressed during the page."""
        if self._asked:
            raise KeyboardInterrupt

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self._waiting or self._asked:
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def progress_bar(total: int, what: str = "dead letters") -> Iterator[Callable[[int], None]]:
    """Draw how far long work is, on a terminal's standard error; elsewhere nothing.

    Returns:
        A function that is told how many are done.
    """
    out = console(stderr=True)
    if not out.is_terminal or not total:
        yield lambda _: None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda seen: progress.update(task, completed=seen)
