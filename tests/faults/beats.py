"""Acceptance: five beats and three workers, killed and frozen, and each tick runs exactly once.

Time is compressed: the lines tick every second or few, and every lease is the shortest there is.
"""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine, func, select

from schedules import tick_book
from tests.faults.fleet import ROOT, Fleet, until
from tests.faults.site import LEASE_S, Site
from tests.services import die_with_parent
from worker.settings import Settings, child_environment
from worker.station import beat_program
from worker.tables_schedules import tick

_BEATS, _WORKERS = 5, 3
# Longer than a lease.
_FROZEN_S = 8.0
# name: expression, seconds between two ticks, seconds of work.
_LINES = {
    "one": ("* * * * * *", 1, 0.02),
    "two": ("* * * * * *", 1, 0.1),
    "three": ("* * * * * */2", 2, 0.2),
    "long": ("* * * * * */5", 5, 1.5),
}
_LINE = """
[[schedule]]
name = "{name}"
cron = "{cron}"
job = "tests.faults.noting:note"
arguments = {{ ledger = "{ledger}", name = "{name}", work_s = {work_s} }}
catch_up = "all"
catch_up_limit = 200
time_limit_s = 20
"""


@dataclass(frozen=True, kw_only=True)
class Drill:
    """How a run went.

    Attributes:
        ticks: of each line.
        restarted: ticks that were begun more than once, because their runner was lost.
        ended: times the jobs say that they came to their end.
        killed: beats and workers.
        broken: promises; empty when all held.
    """

    ticks: dict[str, int]
    restarted: int
    ended: int
    killed: dict[str, int]
    elapsed_s: float
    broken: tuple[str, ...]

    def text(self) -> str:
        """The run in a few lines."""
        each = ", ".join(f"{name} {count}" for name, count in self.ticks.items())
        hurt = ", ".join(f"{count} {what}" for what, count in sorted(self.killed.items()))
        return (
            f"{sum(self.ticks.values())} ticks ({each}) in {self.elapsed_s:.0f} s; {hurt}; "
            f"{self.restarted} begun again, {self.ended} ends noted by the jobs"
        )


def run(place: Site, *, seconds: float, pause_s: float, seed: int = 7) -> Drill:
    """Kill or freeze a beat or a worker every ``pause_s`` seconds, then read the history.

    Args:
        place: the installation.
        seconds: how long things are killed.
        pause_s: between two.
        seed: of the choice whom.
    """
    ledger = place.folder / "jobs.txt"
    ledger.touch()
    chosen = place.settings.model_copy(update={"schedules_file": _cron_table(place, ledger)})
    killed: Counter[str] = Counter()
    with Fleet(chosen, place.folder, count=_WORKERS) as fleet, _beats(chosen, place) as beats:
        until(lambda: tick_book.history(place.engine, limit=1), within_s=60, why=fleet.last_words)
        began_s = time.monotonic()
        luck = random.Random(seed)
        frozen: list[tuple[float, _Process]] = []
        while time.monotonic() - began_s < seconds:
            what, process = _hurt(place.engine, fleet, beats, luck)
            killed[what] += 1
            if what.endswith("frozen"):
                frozen.append((time.monotonic() + _FROZEN_S, process))
            time.sleep(pause_s)
            frozen = _thaw(frozen)
            fleet.tend()
            beats.tend()
        _thaw(frozen, everybody=True)
        _take_one_from_its_tick(place.engine, fleet, killed)
        elapsed_s = time.monotonic() - began_s
        for beat in beats.members:
            beat.stop()

        def at_rest() -> bool:
            fleet.tend()
            return not _open(place.engine)

        until(at_rest, within_s=90, why=lambda: f"{_open(place.engine)}\n{fleet.last_words()}")
    return _judge(place.engine, ledger, dict(killed), elapsed_s)


class _Process(Protocol):
    """A beat or a worker."""

    def kill(self) -> object: ...

    def send(self, number: signal.Signals) -> None: ...


class _Beat:
    """One beat process and those that come after it."""

    def __init__(self, number: int, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._log = folder / f"beat-{number}.log"
        self.start()

    def start(self) -> None:
        program = beat_program(self._settings)
        environment = child_environment(self._settings, root=ROOT)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                program.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={n: v for n, v in environment.items() if n not in program.without},
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into a loaded library
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        self.process.terminate()
        # Killed by the signal: it had only just been started.
        ended_well = (0, -signal.SIGTERM)
        assert self.process.wait(10) in ended_well, self._log.read_text()[-2000:]


class _Beats:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self.members = [_Beat(number, settings, folder) for number in range(1, _BEATS + 1)]

    def tend(self) -> None:
        for beat in self.members:
            if beat.process.poll() is not None:
                beat.start()


@contextmanager
def _beats(settings: Settings, place: Site) -> Iterator[_Beats]:
    beats = _Beats(settings, place.folder)
    try:
        yield beats
    finally:
        for beat in beats.members:
            if beat.process.poll() is None:
                beat.kill()


def _cron_table(place: Site, ledger: Path) -> Path:
    path = place.folder / "schedules.toml"
    lines = (
        _LINE.format(name=name, cron=cron, ledger=ledger, work_s=work_s)
        for name, (cron, _, work_s) in _LINES.items()
    )
    path.write_text("".join(lines))
    return path


def _hurt(engine: Engine, fleet: Fleet, beats: _Beats, luck: random.Random) -> tuple[str, _Process]:
    """Kill or freeze somebody; says what was done, and to whom."""
    what = luck.choice(
        ["beats killed", "beats frozen", "workers killed", "workers killed", "workers frozen"]
    )
    everybody: list[_Process] = [*(beats if what.startswith("beats") else fleet).members]
    # Rather a worker in the middle of a tick that was begun for the first time.
    busy = [m for m in fleet.members if m.name in _runners(engine)] if what[0] == "w" else []
    chosen = luck.choice(busy or everybody)
    if what.endswith("killed"):
        chosen.kill()
    else:
        chosen.send(signal.SIGSTOP)
    return what, chosen


def _take_one_from_its_tick(engine: Engine, fleet: Fleet, killed: Counter[str]) -> None:
    """Kill workers in the middle of a tick until one was begun again: luck may have missed all."""

    def begun_again() -> bool:
        with engine.connect() as connection:
            if connection.scalar(select(func.count()).where(tick.c.runs > 1)):
                return True
        busy = [member for member in fleet.members if member.name in _runners(engine)]
        if busy:
            busy[0].kill()
            killed["workers killed"] += 1
            fleet.tend()
        return False

    # As long as a lease, so that a tick that was taken is seen to be begun again.
    until(begun_again, within_s=90, every_s=LEASE_S + 2, why=fleet.last_words)


def _thaw(
    frozen: list[tuple[float, _Process]], *, everybody: bool = False
) -> list[tuple[float, _Process]]:
    """Wake those whose time is over; returns the others."""
    for wake_at_s, process in frozen:
        if everybody or time.monotonic() >= wake_at_s:
            process.send(signal.SIGCONT)
    return [entry for entry in frozen if not everybody and time.monotonic() < entry[0]]


def _runners(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        query = select(tick.c.runner).where(tick.c.state == "running", tick.c.runs == 1)
        return set(connection.scalars(query))


def _open(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        query = select(tick.c.name).where(tick.c.state.in_(["due", "running"]))
        return list(connection.scalars(query))


def _judge(engine: Engine, ledger: Path, killed: dict[str, int], elapsed_s: float) -> Drill:
    broken: list[str] = []
    ended = Counter(
        line.split()[1] for line in ledger.read_text().splitlines() if line.startswith("end ")
    )
    with engine.connect() as connection:
        found = connection.execute(select(tick).order_by(tick.c.name, tick.c.tick_at)).all()
    ticks = {name: [row for row in found if row.name == name] for name in _LINES}
    for name, (_, every_s, _) in _LINES.items():
        rows = ticks[name]
        gaps = {int((b.tick_at - a.tick_at).total_seconds()) for a, b in pairwise(rows)}
        if gaps != {every_s}:
            broken.append(f"{name}: ticks are {sorted(gaps)} s apart, not {every_s}")
        states = Counter(row.state for row in rows)
        if set(states) != {"done"}:
            broken.append(f"{name}: not every tick is done: {dict(states)}")
        again = sum(row.runs - 1 for row in rows)
        # A job that ended and was killed before that was written down ends once more.
        if not len(rows) <= ended[name] <= len(rows) + again:
            broken.append(f"{name}: {ended[name]} ends for {len(rows)} ticks, {again} begun again")
    restarted = sum(row.runs > 1 for row in found)
    if not restarted:
        broken.append("no tick was ever begun again, so nothing was put to the test")
    return Drill(
        ticks={name: len(rows) for name, rows in ticks.items()},
        restarted=restarted,
        ended=ended.total(),
        killed=killed,
        elapsed_s=elapsed_s,
        broken=tuple(broken),
    )
