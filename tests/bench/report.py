"""The table a person reads and the JSON a script reads.

Must never print a ratio of numbers that were not measured in the same run.
"""

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import psycopg
import pycurl
from rich.console import Console
from rich.table import Table

from tests.bench.latency import Latency
from tests.bench.measure import Run
from tests.bench.ours import Wave

# What is wanted; beside each number so that nobody has to look it up.
OURS_TO_FLOOR = 0.40
OURS_TO_NAIVE = 15.0
ROUND_TRIPS = 0.1
P50_MS = 10.0
P99_MS = 50.0


@dataclass(kw_only=True)
class Report:
    """Everything measured; lists hold one entry per round."""

    machine: dict[str, str | int | float]
    floor: list[Run] = field(default_factory=list)
    naive: list[Run] = field(default_factory=list)
    ours: list[Wave] = field(default_factory=list)
    one_endpoint: list[Wave] = field(default_factory=list)
    latency: Latency | None = None

    def facts(self) -> dict[str, object]:
        """Return what was measured as plain values; what was not is left out."""
        runs = [wave.run for wave in self.ours]
        waits = asdict(self.latency) if self.latency else {}
        values = {
            "floor": _median(self.floor, _rate),
            "naive": _median(self.naive, _rate),
            "ours": _median(runs, _rate),
            "ours_one_endpoint": _median([wave.run for wave in self.one_endpoint], _rate),
            "ours_to_floor": ratio(runs, self.floor),
            "ours_to_naive": ratio(runs, self.naive),
            "ours_to_floor_cpu": _cpu_ratio(runs, self.floor),
            "floor_cpu_us": _median(self.floor, _cpu_us),
            "naive_cpu_us": _median(self.naive, _cpu_us),
            "ours_cpu_us": _median(runs, _cpu_us),
            "enqueue": _median(self.ours, lambda wave: wave.enqueue_rate),
            "round_trips_per_callback": _median(self.ours, lambda wave: wave.round_trips),
            "doubles": sum(wave.doubles for wave in self.ours) if self.ours else None,
            "p50_ms": waits.get("p50_ms"),
            "p99_ms": waits.get("p99_ms"),
            "max_ms": waits.get("max_ms"),
        }
        measured = {name: _short(value) for name, value in values.items() if value is not None}
        return {**measured, "machine": self.machine}

    def write(self, file: Path) -> None:
        """Write the facts and every single run as JSON."""
        runs = {
            "floor": [run.rate for run in self.floor],
            "naive": [run.rate for run in self.naive],
            "ours": [wave.run.rate for wave in self.ours],
        }
        rounds = {name: [_short(rate) for rate in rates] for name, rates in runs.items()}
        file.write_text(json.dumps({**self.facts(), "rounds": rounds}, indent=2) + "\n")

    def show(self) -> None:
        """Print the table."""
        console = Console()
        facts = self.facts()
        table = Table(title="Callbacks delivered and settled per second, everything on one machine")
        for column in ("", "measured", "wanted", ""):
            table.add_column(column, justify="left" if not column else "right")
        for name, label, form, wanted, holds in _ROWS:
            value = facts.get(name)
            if isinstance(value, (int, float)):
                verdict = "" if holds is None else "yes" if holds(value) else "NO"
                table.add_row(label, form.format(value), wanted, verdict)
        console.print(table)
        console.print(", ".join(f"{name} {value}" for name, value in self.machine.items()))


_T = TypeVar("_T")
_Holds = Callable[[float], bool]
_ROWS: tuple[tuple[str, str, str, str, _Holds | None], ...] = (
    ("floor", "floor: bare loops", "{:,.0f}/s", "", None),
    ("naive", "naive: a task per callback", "{:,.0f}/s", "", None),
    ("ours", "ours", "{:,.0f}/s", "", None),
    ("ours_one_endpoint", "ours, all to one endpoint", "{:,.0f}/s", "", None),
    (
        "ours_to_floor",
        "ours / floor",
        "{:.2f}",
        f"≥ {OURS_TO_FLOOR:.2f}",
        lambda value: value >= OURS_TO_FLOOR,
    ),
    ("ours_to_floor_cpu", "the same by processor time", "{:.2f}", "", None),
    (
        "ours_to_naive",
        "ours / naive",
        "{:.1f}",
        f"≥ {OURS_TO_NAIVE:.0f}",
        lambda value: value >= OURS_TO_NAIVE,
    ),
    ("floor_cpu_us", "processor time each, floor", "{:,.0f} µs", "", None),
    ("naive_cpu_us", "processor time each, naive", "{:,.0f} µs", "", None),
    ("ours_cpu_us", "processor time each, ours", "{:,.0f} µs", "", None),
    ("enqueue", "enqueue_many, one process", "{:,.0f}/s", "", None),
    (
        "round_trips_per_callback",
        "statements per callback",
        "{:.3f}",
        f"≤ {ROUND_TRIPS}",
        lambda value: value <= ROUND_TRIPS,
    ),
    ("doubles", "requests beyond one each", "{}", "0", lambda value: value == 0),
    (
        "p50_ms",
        "commit to merchant, p50",
        "{:.1f} ms",
        f"≤ {P50_MS:.0f} ms",
        lambda value: value <= P50_MS,
    ),
    (
        "p99_ms",
        "commit to merchant, p99",
        "{:.1f} ms",
        f"≤ {P99_MS:.0f} ms",
        lambda value: value <= P99_MS,
    ),
)


def ratio(runs: Sequence[Run], others: Sequence[Run]) -> float | None:
    """Return the median of the rounds' ratios; None when one side was not measured.

    The two of a round ran within seconds of each other, so a neighbour on the machine that
    slows a whole round down does not change its ratio.
    """
    pairs = [run.rate / other.rate for run, other in zip(runs, others, strict=False)]
    return statistics.median(pairs) if pairs else None


def _cpu_ratio(runs: Sequence[Run], others: Sequence[Run]) -> float | None:
    """Return what the ratio would be if both used all cores for themselves alone."""
    pairs = [_cpu_us(other) / _cpu_us(run) for run, other in zip(runs, others, strict=False)]
    return statistics.median(pairs) if pairs else None


def machine(connection: psycopg.Connection) -> dict[str, str | int | float]:
    """Describe what the numbers were measured on."""
    cpu = "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": connection.info.server_version // 10000,
        "libcurl": pycurl.version.split()[1].removeprefix("libcurl/"),
    }


def _rate(run: Run) -> float:
    return run.rate


def _cpu_us(run: Run) -> float:
    return sum(run.cpu_us.values())


def _median(items: Sequence[_T], measure: Callable[[_T], float]) -> float | None:
    return statistics.median(map(measure, items)) if items else None


def _short(value: float) -> float:
    return round(value, 4 if value < 100 else 1)
