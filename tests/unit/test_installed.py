"""What ``pip install`` puts into somebody's own environment: everything that runs, nothing more."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from worker.bootstrap import ROOT

_SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]


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
