"""README's words are run: whoever copies a line from it gets what it says."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from worker import cli, runtime, settings
from worker.bootstrap import ROOT
from worker.models import Pool

README = (ROOT / "README.md").read_text(encoding="utf-8")
# Run by tests of their own: they take a while, or never end by themselves.
_ELSEWHERE = {"python3 -m worker demo", "python3 -m tests", "paynotify up"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [
        line.removeprefix("$ ")
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(tmp_path))
    return tmp_path


def run(line: str) -> "subprocess.CompletedProcess[str]":
    line = re.sub(r"^paynotify\b", f"{sys.executable} -m worker", line)
    return subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env=os.environ,
        check=False,
        text=True,
        capture_output=True,
        timeout=60,
    )


def test_a_newcomer_registers_enqueues_and_sees_it(home: Path) -> None:
    script = "\n".join(blocks("python"))
    add, show, *later = [line for line in commands() if line not in _ELSEWHERE]
    assert add.startswith("paynotify endpoint add")
    added = run(add)
    assert added.returncode == 0, added.stderr
    with sqlite3.connect(home / "paynotify.db") as host:
        host.execute("CREATE TABLE my_order (no TEXT, paid BOOLEAN)")
        host.execute("INSERT INTO my_order VALUES ('A1001', false)")
    host.close()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        check=False,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    shown = run(show)
    assert shown.returncode == 0, shown.stderr
    assert "A1001:paid" in shown.stdout
    assert "pending" in shown.stdout
    for line in later:
        done = run(line)
        assert done.returncode == 0, done.stderr


def test_the_insert_of_a_host_without_python_becomes_a_notification(home: Path) -> None:
    [insert] = blocks("sql")
    [add] = [line for line in commands() if "endpoint add" in line]
    assert run(add).returncode == 0
    with sqlite3.connect(home / "paynotify.db") as host:
        host.execute(insert)
    host.close()
    working = runtime.Runtime(runtime.open_desk(settings.load()), "readme")
    # Taken in, not sent: acme.example.com is nobody's.
    working._take_in()
    with working.desk.engine.connect() as connection:
        [found] = working.desk.notifier.list_by_order(connection, "A1002")
    assert found.event_key == "A1002:paid"
    assert working.desk.store.due_pools() == {Pool.FAST}
    working.desk.engine.dispose()


def test_every_command_it_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    groups = {"endpoint", "dead", "hold", *cli.SCHEDULES}
    named = {
        " ".join(words.split()[: 2 if words.split()[0] in groups else 1])
        for words in re.findall(r"`paynotify ([a-z][^`]*)`", README)
    }
    assert {"status", "show", "endpoint pause", "alert ack", "schedule next"} <= named
    for words in sorted(named):
        assert cli.run([*words.split(), "--help"]) == 0, words
    assert "Example" in capsys.readouterr().out


def test_every_setting_it_names_exists() -> None:
    named = set(re.findall(r"PAYNOTIFY_([A-Z_]+)", README)) | {
        name.upper() for name in re.findall(r"^\| `([a-z_]+)` \|", README, flags=re.MULTILINE)
    }
    known = {name.upper() for name in settings.Settings.model_fields}
    assert {"DATABASE_URL", "MASTER_KEY", "SCHEDULE_S"} <= named
    assert named - known - {"", "CONFIG"} == set()  # the file they are read from is none of them
