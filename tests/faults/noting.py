"""Jobs that a drill's cron table names: each writes down when it begins and when it ends.

Must never need the database: their ledger is what the drill believes.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from threading import Event

from schedules.deadline import Deadline
from worker.runtime import Desk


def note(desk: Desk, arguments: Mapping[str, object], deadline: Deadline) -> str:
    """Write ``begin`` and, ``work_s`` later, ``end`` into the file ``ledger``."""
    ledger, name = Path(str(arguments["ledger"])), arguments["name"]
    _append(ledger, f"begin {name} {os.getpid()}")
    Event().wait(min(float(str(arguments["work_s"])), deadline.left_s))
    if deadline.over:
        return "stopped early"
    _append(ledger, f"end {name} {os.getpid()}")
    return "noted"


def _append(ledger: Path, line: str) -> None:
    # One write of one line: the system keeps those of several processes apart.
    with ledger.open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode())
