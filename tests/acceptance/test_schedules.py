"""``paynotify up`` and ``paynotify beat``: schedules run by themselves, and by hand."""

from pathlib import Path

import pytest

from tests.acceptance.started import Started, until
from tests.terminal import paynotify
from worker import settings
from worker.station import beat_program, flower_program, worker_program

_TABLE = """
[[schedule]]
name = "{name}"
cron = "{cron}"
job = "tests.faults.noting:note"
arguments = {{ ledger = "{ledger}", name = "{name}", work_s = 0 }}
"""


def test_up_runs_what_the_cron_table_says_and_an_edit_needs_no_restart(tmp_path: Path) -> None:
    file, ledger = tmp_path / "schedules.toml", tmp_path / "ledger"
    ledger.touch()
    file.write_text(_TABLE.format(name="first", cron="* * * * * *", ledger=ledger))
    with Started(
        *("up", "--processes", "1", "--no-flower"), data_dir=tmp_path, schedules_file=file
    ) as up:
        until(lambda: "end first" in ledger.read_text())
        # A line that ticks but once a year, so that only a person makes it run.
        yearly = _TABLE.format(name="second", cron="0 0 1 1 *", ledger=ledger)
        file.write_text(f"{yearly}\n[[schedule]]\nname = 5\n")
        until(lambda: "line 9: name: must be text" in up.said())
        assert up.said().count("line 9: name") == 1
        words = ("schedule", "run", "second", "--why", "test", "--json")
        said = paynotify(*words, folder=tmp_path, schedules_file=str(file))
        assert said.code == 0, said
        assert (said.json["state"], said.json["result"]) == ("done", "noted")
        assert "end second" in ledger.read_text()
        history = paynotify("schedule", "history", "--json", folder=tmp_path).lines
        assert {past["state"] for past in history if past["name"] == "first"} <= {"done", "running"}
        assert up.stop() == 0
        assert up.nobody_is_left(within_s=1)


def test_beat_alone_decides_and_ends_when_it_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "schedules.toml"
    file.write_text(_TABLE.format(name="first", cron="* * * * * *", ledger=tmp_path / "none"))
    # Beat makes no tables; any other command does.
    paynotify("status", folder=tmp_path)
    with Started("beat", data_dir=tmp_path, schedules_file=file) as beat:

        def due() -> bool:
            listed = paynotify(
                "schedule", "list", "--json", folder=tmp_path, schedules_file=str(file)
            )
            return bool(listed.json["due"])

        until(due)
        assert beat.stop() == 0
        assert beat.nobody_is_left(within_s=1)


def test_beat_ends_when_it_is_asked_in_the_middle_of_importing_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, reached = tmp_path / "schedules.toml", tmp_path / "reached"
    file.write_text('[[schedule]]\nname = "a"\ncron = "* * * * *"\njob = "slow_to_import:run"\n')
    (tmp_path / "slow_to_import.py").write_text(
        f"import pathlib, time\npathlib.Path({str(reached)!r}).touch()\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    paynotify("status", folder=tmp_path)
    with Started("beat", data_dir=tmp_path, schedules_file=file) as beat:
        until(reached.exists)
        assert beat.stop() == 0, beat.said()
        assert beat.nobody_is_left(within_s=1)


def test_beat_ends_before_the_workers_and_the_workers_before_flower() -> None:
    chosen = settings.alone(flower_port=0)
    programs = [beat_program(chosen), worker_program(chosen, 1), flower_program(chosen)[0]]
    stages = [program.stage for program in programs]
    assert stages == sorted(set(stages))
    assert "PAYNOTIFY_MASTER_KEY" in programs[0].without
