"""Private PostgreSQL and Redis servers: real ones, on free ports, gone when the tests are.

Must never touch a server of the machine, nor outlive the process that started them.
"""

import ctypes
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, LiteralString, Self

import psycopg
import redis
from psycopg import sql

from tests.programs import program


class Child:
    """One server process with a folder of its own; starts again on the same port.

    Args:
        name: for messages and the folder's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"pn-{name}-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._sweeper: int | None = _sweep_when_we_die(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """Freeze the server with all its processes, as a stopped virtual machine would."""
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._send_all(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once (SIGKILL). Again is harmless."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it; its folder is removed in the background. Again is harmless."""
        self._end(signal.SIGKILL)
        if self._sweeper is not None:
            os.close(self._sweeper)
            self._sweeper = None

    def log(self) -> str:
        """Return the last lines it wrote."""
        with suppress(OSError):
            return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-15:])
        return ""

    def _run(self, command: list[str], *, stdin: bytes = b"", user: str | None = None) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into a loaded library
                **_as_user(user),
            )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(stdin)

    def start(self) -> None:
        """Start it on its port and wait until it answers."""
        raise NotImplementedError

    def _first_start(self) -> None:
        try:
            self.start()
        except BaseException:
            self.stop()  # nobody else holds us yet
            raise

    def _send_all(self, number: signal.Signals) -> None:
        # The parent first: a frozen one starts no more children.
        self.send(number)
        with suppress(OSError):
            for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), number)

    def _end(self, number: signal.Signals, timeout_s: float = 30) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
            # A frozen process takes no other signal than SIGKILL until it goes on.
            self.resume()
        self._process.wait(timeout_s)
        self._process = None

    def _await(self, ready: Callable[[], bool], timeout_s: float = 30) -> bool:
        """Poll until ready; False when the process ended or time is up."""
        deadline = time.monotonic() + timeout_s
        while self.running and time.monotonic() < deadline:
            if ready():
                return True
            time.sleep(0.02)
        return False


class PostgresServer(Child):
    """PostgreSQL as production has it (``fsync`` on), and ``pg_stat_statements`` loaded.

    Args:
        settings: server settings that go before (``max_connections="10"``).
    """

    def __init__(self, **settings: str) -> None:
        super().__init__("pg")
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self._made = 0
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "shared_preload_libraries": "pg_stat_statements",
            "max_connections": "200",
            # Room enough that no checkpoint falls into a measurement.
            "max_wal_size": "4GB",
            **settings,
        }
        if os.geteuid() == 0:
            shutil.chown(self.folder, self._user)
        done = subprocess.run(
            [
                *(str(program("initdb")), "-D", "data", "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--no-locale", "--no-sync"),
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **_as_user(self._user),
        )
        if done.returncode:
            self.stop()
            raise RuntimeError(f"initdb failed: {done.stderr}")
        self._first_start()

    def start(self) -> None:
        """Start it on its port and wait until it takes connections."""
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        deadline = time.monotonic() + 30
        while True:
            self._run([str(program("postgres")), "-D", "data", *options], user=self._user)
            if self._await(self._answers):
                return
            # Orphans of a killed server hold its shared memory for a moment longer.
            if "shared memory block" not in self.log() or time.monotonic() > deadline:
                raise RuntimeError(f"postgres does not start:\n{self.log()}")
            self._end(signal.SIGKILL)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it as ``pg_ctl -m`` would and start it again on the same port."""
        self.halt(mode)
        self.start()

    def halt(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it and keep its data; ``start`` brings it back."""
        self._end(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def stop(self) -> None:
        """End it with all its backends; its folder is removed in the background."""
        self.halt("immediate")
        super().stop()

    def dsn(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Return the SQLAlchemy URL of a database; ``port`` of a proxy in front, if any."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{port or self.port}/{database}"

    def create_database(self, template: str = "template1") -> str:
        """Make a database of its own for one test; returns its name."""
        self._made += 1
        name = f"test_{self._made}"
        self.execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        return name

    def forget_database(self, name: str) -> None:
        """Cut whoever is still connected to a database and let it lie.

        Dropping waits for a checkpoint (0.6 s each); only what is large is worth that.
        """
        with self.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [name],
            )
            row = connection.execute("SELECT pg_database_size(%s)", [name]).fetchone()
        if row and row[0] > 50_000_000:
            self.execute("DROP DATABASE {} WITH (FORCE)", name)

    def execute(self, statement: LiteralString, *names: str) -> None:
        """Run one statement as the superuser, outside a transaction; ``{}`` are identifiers."""
        with self.connect() as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Open a plain superuser connection in autocommit."""
        return psycopg.connect(
            host=str(self.folder),
            port=self.port,
            user="postgres",
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False


class RedisServer(Child):
    """Redis, without a password unless ``requirepass`` is set.

    Args:
        appendonly: keeps its data over ``kill`` and ``start``; otherwise it comes back empty.
        settings: more lines of its configuration (``maxmemory="2mb"``).
    """

    def __init__(self, *, appendonly: bool = False, **settings: str) -> None:
        super().__init__("redis")
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": '""',
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        self._config = "".join(f"{name} {value}\n" for name, value in lines.items()).encode()
        self._password = settings.get("requirepass")
        self._first_start()

    def start(self) -> None:
        """Start it on its port and wait until it answers."""
        self._run([str(program("redis-server")), "-"], stdin=self._config)
        if not self._await(self._answers):
            raise RuntimeError(f"redis-server does not start:\n{self.log()}")

    def restart(self) -> None:
        """Kill it and start it again on the same port."""
        self.kill()
        self.start()

    def url(self, db: int = 0, *, port: int | None = None) -> str:
        """Return its URL; ``port`` of a proxy in front, if any."""
        return f"redis://127.0.0.1:{port or self.port}/{db}"

    def connect(self, db: int = 0) -> "redis.Redis":
        """Open a client; close it when done."""
        return redis.Redis(
            port=self.port,
            db=db,
            password=self._password,
            socket_timeout=5,
            decode_responses=True,
        )

    def flushall(self) -> None:
        """Throw everything away."""
        with closing(self.connect()) as client:
            client.flushall()

    def _answers(self) -> bool:
        with suppress(redis.RedisError), closing(self.connect()) as client:
            return bool(client.ping())
        return False


def free_port() -> int:
    """Return a TCP port nobody listens on, outside the range outgoing connections draw from.

    A port of that range could be taken by any client while a killed server is away.
    """
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends; for ``preexec_fn``."""
    if sys.platform == "linux":
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _sweep_when_we_die(folder: Path) -> int:
    """Start a process that removes ``folder`` when the returned pipe end closes, by us or death.

    It outlives us for as long as that takes: hundreds of databases need many seconds.
    """
    code = (
        "import os, shutil, sys, time\n"
        "if os.fork(): os._exit(0)\n"
        "sys.stdin.read()\n"
        "for _ in range(20):\n"
        "    shutil.rmtree(sys.argv[1], ignore_errors=True)\n"
        "    if not os.path.exists(sys.argv[1]): break\n"
        "    time.sleep(0.2)\n"
    )
    reading, writing = os.pipe()
    subprocess.run(
        [sys.executable, "-S", "-c", code, str(folder)],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
    )
    os.close(reading)
    return writing


def _as_user(name: str | None) -> dict[str, Any]:
    """Popen arguments that give up root, which PostgreSQL refuses to run as."""
    if name is None or os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


# Loaded here: between fork and exec nothing may be imported.
_libc = ctypes.CDLL(None)
