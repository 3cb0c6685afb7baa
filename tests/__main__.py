"""The one command that runs everything CI runs: ``python3 -m tests``.

    python3 -m tests                  format, lint, types, every test with coverage
    python3 -m tests --fast           the same without acceptance and faults
    python3 -m tests unit             only that room's tests (integration, acceptance, faults)
    python3 -m tests -k breaker -x    only these tests; whatever pytest understands

Must never report success when a step failed, nor skip what is not installed.
"""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

if sys.version_info < (3, 11):  # noqa: UP036 - an older one gets a sentence, not a traceback
    sys.exit("paynotify needs Python 3.11 or newer; run it as: python3.11 -m tests")

from tests import bytecode, programs
from worker import bootstrap

_UNSTEADY_MAX = 6
_TESTS_FAILED = 1  # pytest's exit code
_LAST_FAILED = bootstrap.ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
_ROOMS = ("unit", "integration", "acceptance", "faults")


def main(arguments: list[str]) -> int:
    """Run the steps and return the exit code: 0 when every one passed."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    bytecode.keep()
    bootstrap.ensure(groups=("test",))
    # A shell that starts us in the background has us ignore Ctrl-C, and so would every child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = [
        # Not after an option that takes a value: -k unit.
        f"tests/{word}" if word in _ROOMS and before not in ("-k", "-m", "-p", "-o") else word
        for before, word in zip(["", *arguments], arguments, strict=False)
    ]
    if chosen != ["tests/unit"] and not _servers_are_there():
        return 1
    whole = all(word == "--fast" for word in chosen)
    if whole:
        # What failed in an earlier run is not this one's business.
        _LAST_FAILED.unlink(missing_ok=True)
    with ThreadPoolExecutor() as beside:
        # While tests are collected and wait, a processor is free for it; it speaks when it is done.
        types = beside.submit(_run, "types", ["mypy"], keep=True) if whole else None
        results = [(name, *_run(name, command)) for name, command in _steps(chosen, whole=whole)]
        if types is not None:
            results = [("types", *types.result()), *map(_second_look, results)]
    print("\n" + "-" * 60)
    for name, code, seconds in results:
        print(f"{name:<10} {'FAILED' if code else 'passed'}  {seconds:7.1f} s")
    failed = [name for name, code, _ in results if code]
    print(f"FAILED: {', '.join(failed)}" if failed else "All passed.", flush=True)
    return 1 if failed else 0


def _steps(chosen: list[str], *, whole: bool) -> list[tuple[str, list[str]]]:
    if not whole:
        return [("tests", ["pytest", *chosen])]
    return [
        ("format", ["ruff", "format", "--check", "."]),
        ("lint", ["ruff", "check", "."]),
        # One more than processors: most tests wait for a process, a lease or a merchant. Who runs
        # beside whom: turns.py.
        ("tests", ["pytest", "-n", "3", "--cov", "--cov-report=term", *chosen]),
    ]


def _second_look(result: tuple[str, int, float]) -> tuple[str, int, float]:
    """Run the few tests that failed among thousands once more, alone, and name them.

    They start real servers and kill them on a machine that others share: what fails once and
    passes alone is a test to make steadier, said aloud, and no reason to call the code broken.
    """
    name, code, seconds = result
    # Any other code is a run that did not get to its end, and says nothing of what it left out.
    if name != "tests" or code != _TESTS_FAILED:
        return result
    failed = sorted(json.loads(_LAST_FAILED.read_text())) if _LAST_FAILED.exists() else []
    if not 0 < len(failed) <= _UNSTEADY_MAX:
        return result
    code, more_s = _run("again", ["pytest", "-p", "no:randomly", *failed])
    if code == 0:
        print("\nunsteady, failed once and passed alone:", *failed, sep="\n  ")
    return name, code, seconds + more_s


def _run(name: str, command: list[str], *, keep: bool = False) -> tuple[int, float]:
    """Run a step, return its exit code and seconds; ``keep`` prints what it says in one piece."""
    title = f"\n== {name}: {' '.join(command)}"
    if not keep:
        print(title, flush=True)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=bootstrap.ROOT,
        stdout=subprocess.PIPE if keep else None,
        stderr=subprocess.STDOUT if keep else None,
        text=True,
        check=False,
    )
    if keep:
        print(title, done.stdout, sep="\n", end="", flush=True)
    return done.returncode, time.monotonic() - started


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
