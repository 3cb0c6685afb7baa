"""Kills one round of a sweep at chosen points, each time in a process of its own.

    python -m tests.faults.sweeping SWEEP DSN POINT...

A point is a number of lines of our own code, counted from the beginning of the round: the process
is gone (SIGKILL) before the next one runs. For each point one line is printed: ``killed``, or
``done`` when the round was over before. Point 0 kills nothing and prints how many lines there are.
"""

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from schedules import sweep as loop
from schedules.redrive import Redrive, pace
from schedules.retention import Ages, Retention
from schedules.sweep import Sweep
from tests.seeding import store_on
from tests.stepping import compensation_of
from worker import database
from worker.settings import alone

ROOT = Path(__file__).resolve().parents[2]
_OURS = (str(ROOT / "schedules"), str(ROOT / "worker"))


def sweep_of(name: str, engine: Any) -> Sweep:
    """Make one sweep; small batches, so that there is something between them."""
    store, chosen = store_on(engine), alone()
    made: dict[str, Callable[[], Sweep]] = {
        "compensation": lambda: compensation_of(engine, rows=3),
        "redrive": lambda: Redrive(engine, store, pace(chosen)),
        "retention": lambda: Retention(engine, Ages.of(chosen), now=store.now, rows_max=3),
    }
    return made[name]()


def main() -> None:
    """Go through the points."""
    name, dsn, *points = sys.argv[1:]
    for point in map(int, points):
        child = os.fork()
        if not child:
            _run(name, dsn, point)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print("killed", flush=True)
        elif point:
            print("done" if not status else f"failed {status}", flush=True)


def _run(name: str, dsn: str, point: int) -> None:
    lines = count(1)
    last = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal last
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        if event == "line":
            last = next(lines)
            if last == point:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    engine = database.connect(dsn)
    # A lease this short is over when the next process comes.
    sys.settrace(trace)
    loop.run(engine, sweep_of(name, engine), runner="test", budget_s=30, lease_s=0.0)
    sys.settrace(None)
    engine.dispose()
    if not point:
        print(last, flush=True)


if __name__ == "__main__":
    main()
