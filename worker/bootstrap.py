"""Makes ``.venv`` from the hash-locked ``config/requirements.lock`` and goes on inside it.

Runs before any package is there: nothing but the standard library, and never a download whose
hash is not in the lock. A Python that already has the packages is left alone.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STAMP = "paynotify.stamp"
ROOT = Path(__file__).resolve().parent.parent
# pyproject.toml packs config/ into an installation under this name.
_PACKED = ROOT / "worker" / "shipped"
SHIPPED = _PACKED if _PACKED.is_dir() else ROOT / "config"
# Settings of pip that would put the packages somewhere else than into the new .venv.
_ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "PYTHONPATH")


def ensure(root: Path = ROOT, *, groups: tuple[str, ...] = ()) -> None:
    """Return when every package is there; else build ``.venv`` and start over inside it.

    Called twice, or in two processes at once, it builds once. A build that was cut short is
    thrown away and made anew.

    Args:
        root: the project's top folder.
        groups: dependency groups that are needed too (``test``).

    Raises:
        SystemExit: there is no way to get the packages; its message says what to run.
    """
    lock = root / "config" / "requirements.lock"
    if not lock.exists():  # installed as a package: whoever installed it brought the rest
        return
    venv = root / ".venv"
    inside = Path(sys.prefix).resolve() == venv.resolve()
    fresh = is_built(venv, lock)
    if (inside and fresh) or ((not inside or not _is_ours(venv)) and not missing(root, groups)):
        return
    if inside and not _is_ours(venv):
        sys.exit(f"{venv}: lacks {', '.join(missing(root, groups))}; install them or remove it")
    try:
        if not fresh and _is_ours(venv):
            with _alone(root):
                if not is_built(venv, lock):
                    _build(venv, lock)
        sys.stdout.flush()
        python = str(venv / "bin" / "python")
        os.execv(python, [python, *sys.orig_argv[1:]])  # noqa: S606 - ourselves, with packages
    except KeyboardInterrupt:
        sys.exit("\nStopped. The unfinished .venv is made anew at the next start.")
    except OSError as error:
        sys.exit(f"{venv} cannot be made or used: {error}")


def is_built(venv: Path, lock: Path) -> bool:
    """Tell whether ``venv`` was finished from exactly this lock and its Python still runs."""
    try:
        stamp = (venv / _STAMP).read_text()
    except OSError:
        return False
    return stamp == _digest(lock) and os.access(venv / "bin" / "python", os.X_OK)


def _is_ours(venv: Path) -> bool:
    """Tell whether ``venv`` may be thrown away: not one that somebody else made there."""
    return (venv / _STAMP).exists() or not (venv / "pyvenv.cfg").exists()


def missing(root: Path, groups: tuple[str, ...] = ()) -> list[str]:
    """List the requirements of ``pyproject.toml`` that this Python does not meet."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"]]
    for group in groups:
        wanted += project["dependency-groups"][group]
    return [line for line in wanted if not is_met(line)]


def is_met(requirement: str) -> bool:
    """Tell whether an installed package meets a requirement like ``celery>=5.7,<5.8``.

    Examples:
        >>> is_met("pip>=1"), is_met("no-such-package>=1")
        (True, False)
    """
    name = re.split(r"[\[<>=!~;\s]", requirement, maxsplit=1)[0]
    try:
        found = _numbers(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False
    for sign, text in re.findall(r"(>=|<)\s*([0-9.]+)", requirement):
        limit = _numbers(text)
        if (sign == ">=" and found < limit) or (sign == "<" and found >= limit):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    head = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(part) for part in head.group().split(".")) if head else ()


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the project folder itself as the lock: nothing to leave behind, freed with us."""
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another start is making .venv; waiting for it.", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _build(venv: Path, lock: Path) -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        sys.exit(
            "This Python cannot make virtual environments; run: "
            f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install python3-venv"
        )
    names = re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)
    print(
        f"First start: putting {len(names)} packages into {venv} (hashes checked against "
        f"config/{lock.name}); about a minute.",
        flush=True,
    )
    shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir(exist_ok=True)
    # Until the digest stands here the folder is unfinished, and known to be ours.
    (venv / _STAMP).write_text("unfinished")
    environment = {name: text for name, text in os.environ.items() if name not in _ELSEWHERE}
    environment["PIP_USER"] = "0"
    made = subprocess.run(  # noqa: S603 - our own Python
        [sys.executable, "-m", "venv", str(venv)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        sys.exit(f"{venv} cannot be made: {(made.stdout + made.stderr).strip()}")
    _install(venv, lock, environment, len(names))
    (venv / _STAMP).write_text(_digest(lock))
    print(f"\rPackages are in place.{' ' * 40}", flush=True)


def _install(venv: Path, lock: Path, environment: dict[str, str], total: int) -> None:
    """Run pip; what it says is kept for the case that it fails."""
    command = [
        *(str(venv / "bin" / "python"), "-m", "pip", "install", "--no-input"),
        *("--disable-pip-version-check", "--progress-bar=off"),
        # Python compiles what it imports and keeps it. Where it may not, as in many images, each
        # start would take three times as long.
        *(() if sys.dont_write_bytecode else ("--no-compile",)),
        # The lock is complete. A pip that resolves anew asks for the newest of a package that
        # another one wants with an extra (coverage[toml]), and stops at the day it is released.
        "--no-deps",
        # A package without a wheel would run its setup, with tools that no hash covers.
        *("--require-hashes", "--only-binary=:all:", "-r", str(lock)),
    ]
    said: list[str] = []
    with subprocess.Popen(  # noqa: S603 - fixed command
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as pip:
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(venv, said, total, done), daemon=True)
        watcher.start()
        try:
            assert pip.stdout is not None  # noqa: S101 - for the type checker
            said.extend(pip.stdout)
        except BaseException:
            pip.terminate()
            pip.wait()
            raise
        finally:
            done.set()
            watcher.join()
    if pip.returncode:
        errors = [line.strip() for line in said if line.startswith("ERROR")] or said[-3:]
        sys.exit("\npip could not install the packages:\n" + "\n".join(errors))


def _watch(venv: Path, said: list[str], total: int, done: threading.Event) -> None:
    """Draw how far pip is: packages fetched, then packages unpacked."""
    terminal = sys.stdout.isatty()
    shown = ""
    while not done.wait(0.2):
        fetched = sum(line.startswith("Collecting") for line in list(said))
        unpacked = len(list(venv.glob("lib/python3*/site-packages/*.dist-info"))) - 1
        text = f"  fetched {fetched} of {total}"
        if unpacked > 1:
            text = f"  unpacked {min(unpacked, total)} of {total}"
        # Without a terminal a line per ten packages is enough for a log.
        step = text if terminal else re.sub(r"\d(?= of)", "0", text)
        if step != shown:
            shown = step
            print(f"\r{text}   " if terminal else step, end="" if terminal else "\n", flush=True)
