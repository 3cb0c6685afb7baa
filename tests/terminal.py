"""A terminal for tests: runs commands in this process or in one of their own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from worker import cli

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Terminal:
    """Runs commands in this process; fast, and coverage sees them."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *words: object) -> Said:
        self._capture.readouterr()
        code = cli.run([str(word) for word in words])
        out, err = self._capture.readouterr()
        return Said(code=code, out=out, err=err)

    def ok(self, *words: object) -> Said:
        """Run a command that must succeed."""
        said = self(*words)
        assert said.code == 0, said
        return said


def paynotify(*words: str | bytes, folder: Path, **environment: str) -> Said:
    """Run a command as a process of its own, with nothing of ours but what is named here.

    Args:
        words: its arguments; bytes go as they are.
        folder: its ``data_dir``.
        environment: settings without their prefix (``database_url=…``).
    """
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PAYNOTIFY_")}
    clean["PAYNOTIFY_DATA_DIR"] = str(folder)
    clean |= {f"PAYNOTIFY_{name.upper()}": text for name, text in environment.items()}
    done = subprocess.run(
        [sys.executable, "-m", "worker", *words],
        input="",
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=clean,
        timeout=60,
    )
    return Said(code=done.returncode, out=done.stdout, err=done.stderr)
