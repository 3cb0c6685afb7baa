"""The first start on a bare machine: ``.venv`` is made from the lock, once, and never half."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from worker.bootstrap import ROOT

_CLI = "def main():\n    import sys, tiny_thing\n    print('runs', tiny_thing.WORD, sys.argv[1:])\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one dependency, which only lies in a folder of wheels."""
    root = tmp_path / "project"
    (root / "worker").mkdir(parents=True)
    (root / "config").mkdir()
    for name in ("__init__.py", "__main__.py", "bootstrap.py"):
        shutil.copy(ROOT / "worker" / name, root / "worker")
    (root / "worker" / "cli.py").write_text(_CLI)
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["tiny-thing>=1,<2"]\n')
    _lock(root, _wheel(tmp_path / "wheels"))
    return root


def test_a_bare_python_builds_once_and_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    first = _run(project, "demo", "--keep")
    assert first.returncode == 0, first.stderr
    assert "First start: putting 1 packages into" in first.stdout
    assert "runs well ['demo', '--keep']" in first.stdout
    assert [*(project / ".venv").rglob("tiny_thing.*.pyc")], "compiled anew at each start"
    second = _run(project)
    assert second.stdout == "runs well []\n"
    # From inside as well, where the package is there anyway.
    inside = _run(project, python=project / ".venv" / "bin" / "python")
    assert inside.stdout == "runs well []\n"


def test_a_build_that_was_cut_short_is_made_anew(project: Path) -> None:
    (project / ".venv" / "lib").mkdir(parents=True)
    (project / ".venv" / "paynotify.stamp").write_text("unfinished")
    (project / ".venv" / "pyvenv.cfg").write_text("home = /nowhere\n")
    done = _run(project)
    assert "First start" in done.stdout
    assert done.stdout.endswith("runs well []\n")


def test_two_starts_at_once_build_once(project: Path) -> None:
    processes = [_start(project) for _ in range(2)]
    said = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted("First start" in text for text in said) == [False, True]
    assert all(text.endswith("runs well []\n") for text in said)


def test_ctrl_c_ends_the_build_in_one_sentence(project: Path) -> None:
    process = _start(project)
    assert process.stdout
    assert "First start" in process.stdout.readline()
    deadline = time.monotonic() + 30
    while not (project / ".venv" / "paynotify.stamp").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said, error = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "made anew at the next start" in error
    assert "Traceback" not in said + error
    assert _run(project).stdout.endswith("runs well []\n")


def test_a_package_with_another_hash_is_refused(project: Path) -> None:
    lock = project / "config" / "requirements.lock"
    lock.write_text(lock.read_text()[:-9] + "00000000\n")
    done = _run(project)
    assert done.returncode == 1
    assert "pip could not install the packages" in done.stderr
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_venv_that_somebody_else_made_is_never_thrown_away(project: Path) -> None:
    venv = project / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    done = _run(project)
    assert done.returncode == 1
    assert "lacks tiny-thing>=1,<2; install them or remove it" in done.stderr
    assert (venv / "pyvenv.cfg").exists()


def test_a_python_that_has_the_packages_builds_nothing(project: Path) -> None:
    own = project.parent / "own"
    subprocess.run([sys.executable, "-m", "venv", own], check=True)
    pip = [str(own / "bin" / "python"), "-m", "pip", "install", "--quiet", "tiny-thing"]
    subprocess.run(pip, check=True, env=_environment(project))
    done = _run(project, python=own / "bin" / "python")
    assert done.stdout == "runs well []\n"
    assert not (project / ".venv").exists()


def test_where_venv_is_missing_one_sentence_has_the_line_to_run(project: Path) -> None:
    code = (
        "import sys; sys.modules['ensurepip'] = None\n"
        "from worker import bootstrap; bootstrap.ensure()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (project / ".venv").exists()


@pytest.mark.parametrize("program", ["tests", "tests.bench", "tests.bench.sweeps", "tests.faults"])
def test_what_tests_can_be_asked_for_looks_for_packages_before_it_needs_one(
    program: str, tmp_path: Path
) -> None:
    for name in ("worker", "schedules", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "config").mkdir()
    shutil.copy(ROOT / "config" / "requirements.lock", tmp_path / "config")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    # Not ours, so it is named instead of filled.
    venv = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    words = [
        str(venv / "bin" / "python"),
        "-m",
        program,
        *(["--help"] if program != "tests" else []),
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"lacks .*alembic.*pytest.*; install them or remove it\n$", done.stderr)
    assert done.stderr.count("\n") == 1


def test_the_packages_of_these_tests_have_all_that_they_ask_for() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _wheel(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "tiny_thing-1.0-py3-none-any.whl"
    about = "tiny_thing-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_thing.py", "WORD = 'well'\n")
        wheel.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    return path


def _lock(root: Path, wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    text = f"tiny-thing==1.0 \\\n    --hash=sha256:{digest}\n"
    (root / "config" / "requirements.lock").write_text(text)


def _environment(project: Path) -> dict[str, str]:
    wheels = str(project.parent / "wheels")
    own = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "PIP_CONFIG_FILE": os.devnull}
    return {**os.environ, **own}


def _start(project: Path, *arguments: str, python: Path | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [python or sys.executable, "-m", "worker", *arguments],
        cwd=project,
        env=_environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _run(
    project: Path, *arguments: str, python: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    with _start(project, *arguments, python=python) as process:
        said, error = process.communicate(timeout=100)
    return subprocess.CompletedProcess(process.args, process.returncode, said, error)
