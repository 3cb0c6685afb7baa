"""What stands in the repository: a fixed top level, short files, a lock anybody can use."""

import hashlib
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from tests import __main__ as everything
from worker.bootstrap import ROOT, is_built

_LOCK = ROOT / "config" / "requirements.lock"
_TOP = {"pyproject.toml", "worker", "schedules", "tests", "config", "README.md", "LICENSE"}
_MAX_LINES = 400


@cache
def _tracked() -> list[Path]:
    """What git keeps or would keep; everything below the root where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        paths = [p for top in ROOT.iterdir() if top.name[0] != "." for p in (top, *top.rglob("*"))]
        return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def _locked() -> dict[str, tuple[str, str]]:
    """Name: version, and the text of the whole entry."""
    text = re.sub(r"(?m)^#.*\n", "", _LOCK.read_text(encoding="utf-8"))
    entries = re.split(r"(?m)^(?=[a-zA-Z0-9])", text)
    found = {}
    for entry in filter(None, entries):
        name, _, rest = entry.partition("==")
        found[name] = (rest.split()[0], entry)
    return found


def test_the_top_level_is_fixed() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in _tracked()}
    assert {name for name in found if not name.startswith(".")} == _TOP


def test_every_room_introduces_itself() -> None:
    for room in ("worker", "schedules", "tests", "config"):
        text = (ROOT / room / "README.md").read_text(encoding="utf-8")
        assert 3 <= len(text.splitlines()) <= 80


def test_worker_readme_names_every_file() -> None:
    text = (ROOT / "worker" / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in (ROOT / "worker").glob("*.py")}
    known = re.findall(r"`([\w*]+\.py)`", text)
    assert not {name for name in names if not any(fnmatch(name, pattern) for pattern in known)}


def test_no_file_is_too_long_to_read() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("worker", "schedules")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > _MAX_LINES
    }
    assert not long, "look for the second idea in them"


def test_no_file_name_says_nothing() -> None:
    for path in _tracked():
        assert not re.search(r"util|common|helper|manager|^base\b|^process_", path.stem)


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    home = re.compile(r"/(?:home|Users)/[a-z]|/root/|/work[/]|/tmp/[a-z]{2,}/|file:///opt")
    for path in _tracked():
        if path.suffix in {".py", ".md", ".toml", ".lock", ".in", ".yaml", ".yml", ".html", ".js"}:
            if path == Path(__file__):
                continue
            found = home.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path}: {found and found.group()}"


def test_the_lock_carries_hashes_and_no_index_address() -> None:
    text = _LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"(?m)^\s*--(?!hash=)", text)
    entries = _locked()
    assert len(entries) > 50
    for name, (version, entry) in entries.items():
        assert re.fullmatch(r"[0-9][0-9a-z.+]*", version), name
        lines = [line.strip().rstrip("\\").strip() for line in entry.strip().splitlines()[1:]]
        assert lines, f"{name} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in lines), name


def test_the_lock_holds_everything_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *project["dependency-groups"]["test"],
    ]
    locked = _locked()
    for requirement in wanted:
        name, bounds = re.fullmatch(r"([A-Za-z0-9-]+)(?:\[\w+\])?(.*)", requirement).groups()  # type: ignore[union-attr]
        assert name in locked, f"{name} is not locked; see config/README.md"
        for sign, limit in re.findall(r"(>=|<)([0-9.]+)", bounds):
            version, bound = _numbers(locked[name][0]), _numbers(limit)
            assert (version >= bound) if sign == ">=" else (version < bound), requirement


@pytest.mark.parametrize("change", ["none", "lock", "cut short", "python gone"])
def test_a_venv_is_used_again_only_when_finished_from_this_lock(
    change: str, tmp_path: Path
) -> None:
    lock, venv = tmp_path / "requirements.lock", tmp_path / ".venv"
    lock.write_text("one==1\n")
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/bin/sh" if change != "python gone" else "/nowhere")
    digest = hashlib.sha256(b"one==1\n").hexdigest()
    (venv / "paynotify.stamp").write_text("unfinished" if change == "cut short" else digest)
    if change == "lock":
        lock.write_text("one==2\n")
    assert is_built(venv, lock) is (change == "none")


@pytest.mark.parametrize("code", [0, 2, 3, -9])
def test_only_a_run_that_got_to_its_end_is_looked_at_again(code: int) -> None:
    assert everything._second_look(("tests", code, 1.0)) == ("tests", code, 1.0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
