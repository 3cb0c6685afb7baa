"""Sends suspects, one after the other, until there are none: ``python -m worker.alone``.

Started by :mod:`worker.quarantine`. Must never have two rows in hand at once: its death must
leave no doubt.
"""

import os
import sys
from pathlib import Path

from worker import lifeline, runtime, settings, telemetry
from worker.crew import Signals
from worker.errors import PaynotifyError, UnavailableError

# The kernel ends us, not our parent, when a row makes memory run out.
_OOM_SCORE = Path("/proc/self/oom_score_adj")


def main() -> int:
    """Send until there is none left or somebody asks us to stop; returns the exit code."""
    if _OOM_SCORE.exists():
        _OOM_SCORE.write_text("1000")
    chosen = settings.load()
    telemetry.configure(chosen.log_level, chosen.log_format)
    with Signals() as signals:
        try:
            desk = runtime.open_desk(chosen, pool_size=2)
        except UnavailableError:
            # Our parent sees that as well, and starts us again.
            return 0
        alone = runtime.Runtime(desk, lifeline.process_name(os.getpid()))
        alone.courier.start()
        try:
            while not signals.asked.is_set() and (sent := alone.courier.deliver_suspect()):
                sent.done.wait()
        except UnavailableError:
            return 0
        finally:
            alone.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PaynotifyError as error:
        sys.exit(f"worker.alone cannot start: {error}")
