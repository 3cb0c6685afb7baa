"""What one contender achieved, and what it took from the machine meanwhile.

Must never divide by a window that held other work than the contender's.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker import clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured run.

    Attributes:
        callbacks: delivered and settled.
        elapsed_s: from the start of the contenders to the last settle.
        cpu_us: processor time per callback, microseconds, by who used it.
        busy: share of all cores in use, 0 to 1, by whomever.
    """

    callbacks: int
    elapsed_s: float
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    busy: float = 0.0

    @property
    def rate(self) -> float:
        """Callbacks per second."""
        return self.callbacks / self.elapsed_s

    def line(self) -> str:
        """Say it in one line."""
        parts = " + ".join(f"{name} {us:.0f}" for name, us in self.cpu_us.items())
        return (
            f"{self.rate:,.0f}/s, {sum(self.cpu_us.values()):.0f} µs of processor each ({parts}), "
            f"cores {self.busy:.0%} busy"
        )


class Meter:
    """Processor time of named process trees, and the busy share of all cores (Linux only).

    Args:
        roots: name of each part of a contender to the process ids its trees grow from.
    """

    def __init__(self, roots: Mapping[str, Sequence[int]]) -> None:
        self._roots = roots
        self._cpu = self._read()
        self._cores = _cores()

    def run(self, callbacks: int, elapsed_s: float) -> Run:
        """Close the window that began with the constructor."""
        cpu, cores = self._read(), _cores()
        total, idle = cores[0] - self._cores[0], cores[1] - self._cores[1]
        return Run(
            callbacks=callbacks,
            elapsed_s=elapsed_s,
            cpu_us={name: (cpu[name] - self._cpu[name]) * 1e6 / max(1, callbacks) for name in cpu},
            busy=1 - idle / total if total else 0.0,
        )

    def _read(self) -> dict[str, float]:
        parents, used = _processes()
        return {
            name: sum(used[pid] for pid in used if _grew_from(pid, set(pids), parents))
            for name, pids in self._roots.items()
        }


def _processes() -> tuple[dict[int, int], dict[int, float]]:
    """Return each process's parent, and its processor seconds so far."""
    parents, used = {}, {}
    tick = os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold spaces and brackets itself.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        used[pid] = (int(fields[11]) + int(fields[12])) / tick
    return parents, used


def _grew_from(pid: int, roots: set[int], parents: Mapping[int, int]) -> bool:
    while pid and pid not in roots:
        pid = parents.get(pid, 0)
    return pid in roots


def _cores() -> tuple[int, int]:
    """Return ticks of all cores since boot: all, and idle."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0, 0
    fields = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4]


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 when unknown."""
    return _processes()[0].get(pid, 0)


def progress(line: str) -> None:
    """Tell the person at the terminal what is going on (stderr)."""
    print(f"{clock.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)
