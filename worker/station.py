"""The processes of one machine and the programs they run: broker, workers, beat, Flower.

Must never let Flower be reached by others without a login, nor put a secret into an argument.
"""

import os
import socket
import sys
from pathlib import Path

import requests

from worker import broker, clock, database, runtime, schema
from worker.bootstrap import ROOT, SHIPPED
from worker.crew import Crew, Program, Signals
from worker.embedded import Broker
from worker.errors import BadFieldError, SettingsError, UnavailableError
from worker.settings import Settings, child_environment

_FLOWER_CONFIG = SHIPPED / "flowerconfig.py"
_QUEUES = "deliver,deliver.slow,sweep,alerts"
# What no process needs that sends nothing.
_KEYS = ("PAYNOTIFY_MASTER_KEY", "PAYNOTIFY_PREVIOUS_MASTER_KEYS")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROCESSES_MAX = 256
# On top of a request's deadline, for writing down what came back.
_STOP_GRACE_S = 5.0
_FLOWER_STOP_S = 5.0
_BEAT_STOP_S = 5.0
# They end in this order: nothing new comes up, what is on the wire is finished, then the console.
_BEAT_STAGE, _WORKER_STAGE, _FLOWER_STAGE = range(3)
_BROKER_CHECK_S = 2.0
_BROKER_RETRY_S = 15.0


class Station:
    """The processes of one machine.

    Args:
        settings: in force here and, through the environment, in every child.
        log: file the children write to; None is our standard error.
        config: settings file whose folder the children look into; None is that of this process.

    Attributes:
        broker_url: of the broker in use, with its password; empty until ``open``.
        flower_url: where Flower will answer; empty until ``start_flower``.
    """

    def __init__(
        self, settings: Settings, *, log: Path | None = None, config: Path | None = None
    ) -> None:
        self._settings = settings
        self._log = log
        self._config = config
        self._broker: Broker | None = None
        self._crew: Crew | None = None
        self._broker_check_s = clock.monotonic_s() + _BROKER_CHECK_S
        self.broker_url = ""
        self.flower_url = ""

    def open(self, *, migrate: bool) -> None:
        """Start or find the broker and look at the database; ``close`` undoes it, half done too.

        Args:
            migrate: whether a configured database's tables are brought up to date; otherwise
                they must be.

        Raises:
            SettingsError: a setting is missing or wrong.
            UnavailableError: the broker cannot be started or the database not be reached.
        """
        chosen = self._settings
        self._broker = broker.resolve(chosen)
        self.broker_url = self._broker.url
        self._crew = crew_for(chosen, self.broker_url, self._log, config=self._config)
        if migrate and chosen.database_url is not None:
            engine = database.connect(chosen.database_dsn)
            schema.migrate(engine)
            engine.dispose()
        runtime.open_desk(chosen).engine.dispose()

    def start_workers(self, processes: int | None = None) -> int:
        """Start worker processes; says how many.

        Args:
            processes: 1 to 256; None is one per core.
        """
        count = processes if processes is not None else os.cpu_count() or 1
        if not 1 <= count <= _PROCESSES_MAX:
            raise BadFieldError("processes", f"is {count}, must be 1 to {_PROCESSES_MAX}")
        for number in range(1, count + 1):
            self._opened.start(worker_program(self._settings, number))
        return count

    def start_beat(self) -> None:
        """Start what decides when the schedules run."""
        self._opened.start(beat_program(self._settings))

    def start_flower(self) -> str:
        """Start Flower; returns its URL, at which it answers a second or two later.

        Raises:
            SettingsError: others could reach it without a login.
            UnavailableError: its port is taken.
        """
        program, self.flower_url = flower_program(self._settings)
        self._opened.start(program)
        return self.flower_url

    def check(self) -> list[str]:
        """Start again what has ended; says in one line each what that was.

        Raises:
            UnavailableError: something cannot be kept running.
        """
        lines = []
        # A configured broker is not ours to start.
        if self._settings.embedded_broker and clock.monotonic_s() >= self._broker_check_s:
            self._broker_check_s = clock.monotonic_s() + _BROKER_CHECK_S
            if self._broker is not None and self._broker.lost:
                lines.append(self._restart_broker())
        return lines + self._opened.check()

    def _restart_broker(self) -> str:
        try:
            self._broker = Broker.start(self._settings.data_dir)
        except UnavailableError as error:
            # A try can take half a minute, in which nothing else is looked after.
            self._broker_check_s = clock.monotonic_s() + _BROKER_RETRY_S
            return f"{error}. Callbacks go out without it, up to a second later"
        note = self._broker.note
        return f"broker ended; started it again{f'; {note}' if note else ''}"

    @property
    def broker_note(self) -> str:
        """What people should know about the broker's start; usually empty."""
        return self._broker.note if self._broker else ""

    def flower_answers(self) -> bool:
        """Tell whether Flower is up."""
        try:
            with at_home() as session:
                return session.get(f"{self.flower_url}/healthcheck", timeout=0.5).ok
        except requests.RequestException:
            return False

    def close(self, signals: Signals) -> list[str]:
        """End everything that was started, the broker last; again is harmless.

        Returns:
            One line for each process that did not end well.
        """
        try:
            return self._crew.stop(signals.again) if self._crew else []
        finally:
            if self._broker is not None:
                self._broker.stop()

    @property
    def _opened(self) -> Crew:
        assert self._crew is not None  # noqa: S101 - open() comes first
        return self._crew


def worker_program(settings: Settings, number: int) -> Program:
    """Describe worker process ``number`` (from 1); its node name stays the same for ever."""
    command = (
        # In a container root is nobody in particular; our units name a user.
        *(sys.executable, "-W", "ignore:You're running the worker with superuser"),
        *("-m", "celery", "--quiet", "-A", "worker.app", "worker"),
        *("-P", "threads", "-c", str(settings.slots), "-Q", _QUEUES),
        *("-n", f"paynotify-{number}@%h", "-E", "--without-mingle", "--without-gossip"),
        *("--loglevel", settings.log_level.upper()),
    )
    stop_s = settings.timeout_s + _STOP_GRACE_S
    return Program(name=f"worker {number}", command=command, stage=_WORKER_STAGE, stop_s=stop_s)


def beat_program(settings: Settings) -> Program:
    """Describe beat; several of them on one or more machines are harmless."""
    command = (
        *(sys.executable, "-m", "celery", "--quiet", "-A", "worker.app", "beat"),
        # By its name: the schedules import the engine, never the other way round.
        *("-S", "schedules.beat:Scheduler", "--pidfile="),
        *("--loglevel", settings.log_level.upper()),
    )
    return Program(
        name="beat",
        command=command,
        stage=_BEAT_STAGE,
        stop_s=_BEAT_STOP_S,
        # It writes and rings; it needs no merchant's secret.
        without=_KEYS,
    )


def flower_program(settings: Settings) -> tuple[Program, str]:
    """Describe Flower and say where it will answer.

    Raises:
        SettingsError: others could reach it without a login.
        UnavailableError: its port is taken, or its configuration is not there.
    """
    host = settings.flower_address
    if host not in _LOOPBACK and not settings.flower_basic_auth:
        raise SettingsError(
            f"flower_address (PAYNOTIFY_FLOWER_ADDRESS): {host} can be reached by others; set "
            "flower_basic_auth (PAYNOTIFY_FLOWER_BASIC_AUTH) to user:password or bind to 127.0.0.1"
        )
    if not _FLOWER_CONFIG.exists():
        raise UnavailableError("Flower", f"{_FLOWER_CONFIG} is missing", "put it back")
    port = _bindable(host, settings.flower_port)
    command = (
        *(sys.executable, "-m", "celery", "-A", "worker.app", "flower"),
        *(f"--address={host}", f"--port={port}", f"--conf={_FLOWER_CONFIG}"),
        # At its start it warns that no worker answers yet.
        f"--logging={'debug' if settings.log_level == 'debug' else 'error'}",
    )
    program = Program(
        name="Flower",
        command=command,
        stage=_FLOWER_STAGE,
        stop_s=_FLOWER_STOP_S,
        # What people reach by browser needs no merchant's secret.
        without=_KEYS,
    )
    return program, f"http://{f'[{host}]' if ':' in host else host}:{port}"


def crew_for(
    settings: Settings,
    broker_url: str | None,
    log: Path | None = None,
    *,
    config: Path | None = None,
) -> Crew:
    """Make a crew whose children read exactly these settings and use this broker, if any."""
    environment = child_environment(settings, root=ROOT)
    if broker_url is not None:
        environment["PAYNOTIFY_BROKER_URL"] = broker_url
    if config is not None:
        environment["PAYNOTIFY_CONFIG"] = str(config)
    return Crew(environment, log)


def _bindable(host: str, port: int) -> int:
    """Return a port Flower can bind; 0 is any free one."""
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As Flower does: leftovers of closed connections are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise UnavailableError(
            "Flower",
            f"cannot listen on {host}, port {port} ({error.strerror})",
            "set PAYNOTIFY_FLOWER_PORT; 0 picks a free one",
        ) from None


def at_home() -> requests.Session:
    """Return a session for servers of our own: no proxy from the environment stands between."""
    session = requests.Session()
    session.trust_env = False
    return session
