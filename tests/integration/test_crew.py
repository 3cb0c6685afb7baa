"""Children of a supervisor: started again, given up, ended; real processes, a moved clock."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from worker import clock, settings
from worker.crew import Crew, Program
from worker.errors import UnavailableError
from worker.settings import Settings


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    running = Crew({**os.environ}, tmp_path / "log")
    yield running
    now = Event()
    now.set()
    running.stop(now)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds the clock is ahead, one entry."""
    ahead = [0.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.monotonic() + ahead[0])
    return ahead


def _python(code: str, **fields: object) -> Program:
    values = {"name": "it", "stage": 0, "stop_s": 10.0, **fields}
    return Program(command=(sys.executable, "-S", "-c", code), **values)  # type: ignore[arg-type]


def _next(crew: Crew) -> str:
    """What the crew says next."""
    end = time.monotonic() + 20
    while not (lines := crew.check()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return lines[0]


def test_a_program_that_keeps_ending_is_given_up_after_growing_pauses(
    crew: Crew, moved: list[float], tmp_path: Path
) -> None:
    crew.start(_python("raise SystemExit(3)"))
    pauses: list[float] = []

    def go_on() -> None:
        while True:
            line = _next(crew)
            pauses.append(float(line.rpartition("in ")[2].removesuffix(" s")))
            moved[0] += pauses[-1]
            crew.check()

    with pytest.raises(UnavailableError, match="exit code 3 6 times in a row") as caught:
        go_on()
    assert pauses == [1, 2, 4, 8, 16]
    assert str(tmp_path / "log") in str(caught.value)


def test_a_program_that_is_killed_is_never_given_up(crew: Crew, moved: list[float]) -> None:
    crew.start(_python("import os; os.kill(os.getpid(), 9)"))
    for _ in range(10):
        line = _next(crew)
        assert "SIGKILL" in line
        moved[0] += 30
        crew.check()


def test_a_program_that_had_come_up_starts_over_with_a_short_pause(
    crew: Crew, moved: list[float]
) -> None:
    crew.start(_python("import time; time.sleep(60)"))
    for _ in range(3):
        moved[0] += 6
        os.kill(crew.pids[0], signal.SIGKILL)
        assert _next(crew).endswith("in 0.5 s")
        moved[0] += 1
        crew.check()


def test_stages_end_in_order_and_who_does_not_listen_is_killed(tmp_path: Path, crew: Crew) -> None:
    said = tmp_path / "said"
    begin = "import signal, sys, time\n"
    begin += f"note = lambda word: print(word, file=open({str(said)!r}, 'a'))\n"
    deaf = f"{begin}signal.signal(15, lambda *_: note('deaf'))\n"
    polite = f"{begin}signal.signal(15, lambda *_: (note('polite'), sys.exit()))\n"
    wait = "note('up')\nwhile True: time.sleep(0.05)"
    crew.start(_python(polite + wait, name="polite", stage=1))
    crew.start(_python(deaf + wait, name="deaf", stop_s=0.5))
    end = time.monotonic() + 20
    while not said.exists() or said.read_text().split() != ["up", "up"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert crew.stop(Event()) == ["deaf did not end in time and was killed"]
    assert said.read_text().split() == ["up", "up", "deaf", "polite"]


def test_a_child_reads_exactly_the_settings_of_its_parent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "paynotify.toml"
    file.write_text("slots = 9\nlog_level = 'debug'\n")
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(file))
    mine: Settings = settings.alone(
        data_dir=tmp_path,
        broker_url="redis://:p,w@127.0.0.1:1/0",
        schedule_s="2,4",
        flower_basic_auth="ops:secret,dev:other",
    )
    for name, text in settings.child_environment(mine).items():
        monkeypatch.setenv(name, text)
    assert settings.load() == mine
