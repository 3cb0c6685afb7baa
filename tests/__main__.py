"""The one command that runs everything CI runs: ``python3 -m tests``.

    python3 -m tests                  format, lint, types, every test with coverage
    python3 -m tests --fast           the same without acceptance and faults
    python3 -m tests unit             only that room's tests (integration, acceptance, faults)
    python3 -m tests -k breaker -x    only these tests; whatever pytest understands

Must never report success when a step failed, nor skip what is not installed.
"""

import subprocess
import sys
import time

if sys.version_info < (3, 11):  # noqa: UP036 - an older one gets a sentence, not a traceback
    sys.exit("paynotify needs Python 3.11 or newer; run it as: python3.11 -m tests")

from tests import programs
from worker import bootstrap

_ROOMS = ("unit", "integration", "acceptance", "faults")


def main(arguments: list[str]) -> int:
    """Run the steps and return the exit code: 0 when every one passed."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    bootstrap.ensure(groups=("test",))
    chosen = [
        # Not after an option that takes a value: -k unit.
        f"tests/{word}" if word in _ROOMS and before not in ("-k", "-m", "-p", "-o") else word
        for before, word in zip(["", *arguments], arguments, strict=False)
    ]
    if chosen != ["tests/unit"] and not _servers_are_there():
        return 1
    whole = all(word == "--fast" for word in chosen)
    results = [(name, *_run(name, command)) for name, command in _steps(chosen, whole=whole)]
    print("\n" + "-" * 60)
    for name, passed, seconds in results:
        print(f"{name:<10} {'passed' if passed else 'FAILED'}  {seconds:7.1f} s")
    failed = [name for name, passed, _ in results if not passed]
    print(f"FAILED: {', '.join(failed)}" if failed else "All passed.", flush=True)
    return 1 if failed else 0


def _steps(chosen: list[str], *, whole: bool) -> list[tuple[str, list[str]]]:
    if not whole:
        return [("tests", ["pytest", *chosen])]
    return [
        ("format", ["ruff", "format", "--check", "."]),
        ("lint", ["ruff", "check", "."]),
        ("types", ["mypy"]),
        ("tests", ["coverage", "run", "-m", "pytest", *chosen]),
        ("coverage", ["coverage", "report"]),
    ]


def _run(name: str, command: list[str]) -> tuple[bool, float]:
    print(f"\n== {name}: {' '.join(command)}", flush=True)
    started = time.monotonic()
    passed = subprocess.run([sys.executable, "-m", *command], cwd=bootstrap.ROOT, check=False)
    return passed.returncode == 0, time.monotonic() - started


def _servers_are_there() -> bool:
    try:
        programs.install_missing()
    except programs.MissingProgramError as error:
        print(error, file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
