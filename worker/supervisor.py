"""Runs paynotify on one machine: broker, worker processes, beat and Flower under one parent.

Stops in this order: beat, workers (what is on the wire is finished), Flower, the broker last.
Must never leave a process behind.
"""

from collections.abc import Callable

from rich.console import Console

from worker import broker
from worker.crew import Program, Signals
from worker.errors import UnavailableError
from worker.masking import mask
from worker.settings import Settings
from worker.station import Station, beat_program, crew_for, flower_program

_CHECK_S = 0.2


def work(settings: Settings, *, processes: int | None = None) -> int:
    """Run worker processes until SIGTERM or Ctrl-C; what is on the wire then is finished.

    Args:
        settings: in force.
        processes: 1 to 256; None is one per core.

    Returns:
        The exit code: 0 when every process finished its work.

    Raises:
        PaynotifyError: something cannot be started or kept running.
    """
    return _run(
        settings,
        processes=processes,
        with_flower=False,
        with_beat=False,
        title="worker",
        on_ready=None,
    )


def up(
    settings: Settings,
    *,
    with_flower: bool = True,
    processes: int | None = None,
    on_ready: Callable[[], object] | None = None,
) -> int:
    """Run everything on this machine until SIGTERM or Ctrl-C; see :func:`work`.

    Args:
        settings: in force.
        with_flower: whether Flower runs too.
        processes: 1 to 256; None is one per core.
        on_ready: called once, when all of it has been started and Flower answers.
    """
    return _run(
        settings,
        processes=processes,
        with_flower=with_flower,
        with_beat=True,
        title="up",
        on_ready=on_ready,
    )


def flower(settings: Settings) -> int:
    """Run Flower alone until SIGTERM or Ctrl-C; returns the exit code.

    Raises:
        SettingsError: others could reach it without a login.
        UnavailableError: its port is taken, or no broker runs.
    """
    broker_url = broker.current_url(settings)
    if broker_url is None:
        raise UnavailableError(
            "broker",
            f"none runs in {settings.data_dir}",
            "start `paynotify up` or `paynotify worker` first, or set PAYNOTIFY_BROKER_URL",
        )
    program, url = flower_program(settings)
    return _keep_running(settings, broker_url, program, f"Flower is at {url}")


def beat(settings: Settings) -> int:
    """Run beat alone until SIGTERM or Ctrl-C; returns the exit code.

    Raises:
        UnavailableError: the cron table is not there.
    """
    if not settings.cron_table.exists():
        raise UnavailableError(
            "cron table",
            f"{settings.cron_table} is missing",
            "put it there or name another one in PAYNOTIFY_SCHEDULES_FILE",
        )
    # Without a broker it decides all the same; workers find due ticks without being rung for.
    broker_url = broker.current_url(settings)
    line = f"paynotify beat: {settings.cron_table}"
    return _keep_running(settings, broker_url, beat_program(settings), line)


def _keep_running(settings: Settings, broker_url: str | None, program: Program, line: str) -> int:
    crew = crew_for(settings, broker_url)
    with Signals() as signals:
        try:
            crew.start(program)
            _say(line)
            while not signals.asked.wait(_CHECK_S):
                _tell(crew.check())
        finally:
            problems = crew.stop(signals.again)
    return _tell(problems)


def _run(
    settings: Settings,
    *,
    processes: int | None,
    with_flower: bool,
    with_beat: bool,
    title: str,
    on_ready: Callable[[], object] | None,
) -> int:
    station = Station(settings)
    with Signals() as signals:
        try:
            station.open(migrate=with_beat)
            if with_flower:
                station.start_flower()
            count = station.start_workers(processes)
            if with_beat:
                station.start_beat()
            _introduce(
                settings,
                station,
                f"paynotify {title}: {count} worker process{'' if count == 1 else 'es'}",
            )
            waiting = True
            while not signals.asked.wait(_CHECK_S):
                _tell(station.check())
                if waiting and (not with_flower or station.flower_answers()):
                    waiting = False
                    if with_flower:
                        _say(f"Flower is at {station.flower_url}")
                    if on_ready is not None:
                        on_ready()
            _say("Stopping; what is on the wire is finished first.")
        finally:
            problems = station.close(signals)
    return _tell(problems)


def _introduce(settings: Settings, station: Station, title: str) -> None:
    ours = " (our own Valkey)" if settings.embedded_broker else ""
    _say(title)
    _say(f"  database  {mask(settings.database_dsn)}")
    _say(f"  broker    {mask(station.broker_url)}{ours}")
    if station.broker_note:
        _say(f"  {station.broker_note}")
    try:
        broker.check_broker(station.broker_url)
    except UnavailableError as error:
        _say(f"  {error}. Callbacks go out without it, up to a second later.")


def _tell(lines: list[str]) -> int:
    for line in lines:
        _say(line)
    return 1 if lines else 0


def _say(line: str) -> None:
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(line)
