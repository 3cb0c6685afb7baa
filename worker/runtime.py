"""Builds the tools of one process, once, after any fork; the only place that knows them all.

Importing this opens nothing. Must never be used before a fork that goes on to use it.
"""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from worker import broker, clock, database, inbox, lifeline, schema, settings, telemetry
from worker.breaker import Policy
from worker.client import Notifier
from worker.deliver import Courier, Manner
from worker.doorbell import Doorbell
from worker.endpoint_book import EndpointBook
from worker.endpoints import Endpoints
from worker.models import Reply, Request
from worker.quarantine import Quarantine
from worker.rollup import Rollup
from worker.route_board import RouteBoard
from worker.route_facts import RoutePolicy
from worker.sealing import Sealer, sealer_of
from worker.settings import Settings
from worker.store import Rules, Store
from worker.store_postgresql import PostgresqlStore
from worker.store_sqlite import SqliteStore
from worker.tick import Tick
from worker.transport import Transport
from worker.witness import Witness

# What a tick takes out of the inbox in one transaction.
_INBOX_STEP = 500
# On top of a request's deadline, for writing down what came back.
_SETTLE_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What one needs to look and to change things, without delivering."""

    settings: Settings
    engine: Engine
    store: Store
    endpoints: Endpoints
    sealer: Sealer
    broker_url: str | None
    notifier: Notifier


class Runtime:
    """A desk with a courier and its timer.

    Args:
        desk: from :func:`open_desk`.
        name: of this process, as attempts will say.
        place: of this process among others, the same after a restart; empty is ``name``.
    """

    def __init__(self, desk: Desk, name: str, *, place: str = "") -> None:
        chosen = desk.settings
        self.desk = desk
        self._rollup = Rollup(desk.store, place or name)
        self._witness = Witness(desk.engine)
        self.courier = Courier(
            store=desk.store,
            book=EndpointBook(desk.engine, desk.sealer),
            mark_gone=desk.endpoints.mark_gone,
            witness=self._witness,
            doorbell=Doorbell(desk.broker_url, timeout_s=1.0),
            rollup=self._rollup,
            routes=RouteBoard(desk.engine, route_policy(chosen)),
            manner=Manner(
                worker=name,
                batch_size=chosen.batch_size,
                in_flight_max=chosen.in_flight_max,
                lease_s=chosen.lease_s,
                timeout_max_s=chosen.timeout_max_s,
                linger_s=chosen.linger_ms / 1000,
                settle_s=chosen.settle_ms / 1000,
                slow_after_ms=chosen.slow_after_ms,
                slots=chosen.slots,
                schedule=chosen.schedule,
                terminal_statuses=chosen.terminal_statuses,
                retry_after_max_s=chosen.retry_after_max_s,
            ),
            make_transport=self._transport,
        )
        self._quarantine = Quarantine(desk.store, settings.child_environment(chosen))
        self.tick = Tick(
            store=desk.store,
            courier=self.courier,
            quarantine=self._quarantine,
            rollup=self._rollup,
            witness=self._witness,
            take_in=self._take_in,
            give_up=_give_up,
            every_s=chosen.tick_s,
        )

    def check_key(self) -> None:
        """Refuse to work with a master key that opens nothing: it would burn everybody's tries.

        Raises:
            SecretError: the newest endpoint cannot be read.
        """
        for endpoint in self.desk.endpoints.list()[-1:]:
            EndpointBook(self.desk.engine, self.desk.sealer).at(endpoint.id, endpoint.config_no)

    def start(self) -> None:
        """Start delivering: transport, settler, timer."""
        telemetry.show_in_flight(lambda: self.courier.in_flight)
        if self.desk.settings.metrics_port:
            telemetry.serve_metrics(self.desk.settings.metrics_port)
        self.courier.start()
        self.tick.start()

    def close(self) -> bool:
        """Finish what is on the wire within its deadline; see :meth:`Courier.close`."""
        self.courier.stop_claiming()
        self.tick.close()
        timeout_s = self.desk.settings.timeout_s + _SETTLE_GRACE_S
        end_s = clock.monotonic_s() + timeout_s
        self._quarantine.ask()
        written = self.courier.close(timeout_s=timeout_s)
        self._quarantine.close(timeout_s=max(0.0, end_s - clock.monotonic_s()))
        self._rollup.write()
        self.desk.engine.dispose()
        return written

    def _transport(
        self, on_replies: Callable[[Sequence[tuple[Request, Reply]]], None]
    ) -> Transport:
        chosen = self.desk.settings
        return Transport(
            on_replies,
            in_flight_max=chosen.in_flight_max,
            connect_timeout_s=chosen.connect_timeout_s,
            connection_max_age_s=chosen.connection_max_age_s,
            reply_max_bytes=chosen.reply_max_bytes,
        )

    def _take_in(self) -> bool:
        try:
            taken = inbox.accept(self.desk.engine, self.desk.notifier, limit=_INBOX_STEP)
        except DBAPIError as error:
            raise database.unavailable(error) from error
        return taken.accepted + taken.refused >= _INBOX_STEP


def open_desk(chosen: Settings, *, pool_size: int = 5) -> Desk:
    """Open the database and read the keys; starts nothing.

    The embedded database's tables are brought up to date; a configured one's must be.

    Raises:
        SettingsError: a setting is missing or wrong.
        UnavailableError: the database cannot be reached.
    """
    if chosen.database_url is None:
        chosen.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = database.connect(chosen.database_dsn, pool_size=pool_size)
    if chosen.database_url is None and not schema.is_current(engine):
        schema.migrate(engine)
    schema.require_current(engine)
    sealer = sealer_of(chosen)
    broker_url = broker.current_url(chosen)
    return Desk(
        settings=chosen,
        engine=engine,
        store=open_store(engine, chosen),
        endpoints=Endpoints(
            engine,
            sealer,
            timeout_s=chosen.timeout_s,
            timeout_min_s=0.1,
            timeout_max_s=chosen.timeout_max_s,
            in_flight_cap=chosen.endpoint_in_flight_cap,
        ),
        sealer=sealer,
        broker_url=broker_url,
        notifier=Notifier(broker_url, ordering_wait_s=chosen.ordering_wait_s),
    )


def route_policy(chosen: Settings) -> RoutePolicy:
    """Read when callback routes trip and how they return."""
    return RoutePolicy(
        failures=chosen.route_failures,
        ratio=chosen.breaker_ratio,
        window_s=chosen.breaker_window_s,
        minimum=chosen.breaker_minimum,
        pause_s=chosen.breaker_open_s,
        pause_max_s=chosen.breaker_open_max_s,
        steps=chosen.route_steps,
        step_s=chosen.route_step_s,
    )


def open_store(engine: Engine, chosen: Settings) -> Store:
    """Pick the store of this engine's database."""
    rules = Rules(
        lease_s=chosen.lease_s,
        poison_after=chosen.poison_after,
        breaker=breaker_policy(chosen),
    )
    if engine.dialect.name == "postgresql":
        return PostgresqlStore(engine, rules)
    return SqliteStore(engine, rules)


def breaker_policy(chosen: Settings) -> Policy:
    """Take from the settings when breakers open."""
    return Policy(
        failures=chosen.breaker_failures,
        ratio=chosen.breaker_ratio,
        window_s=chosen.breaker_window_s,
        minimum=chosen.breaker_minimum,
        open_s=chosen.breaker_open_s,
        open_max_s=chosen.breaker_open_max_s,
        slow_after_ms=chosen.slow_after_ms,
    )


def current(place: str = "") -> Runtime:
    """Return this process's runtime; built and started by the first call.

    Args:
        place: see :class:`Runtime`; read by the first call.

    Raises:
        SettingsError, UnavailableError: as :func:`open_desk`; the next call tries again.
        SecretError: the master key is not the one the endpoints' secrets were sealed with.
    """
    with _lock:
        if not _built:
            chosen = settings.load()
            telemetry.configure(chosen.log_level, chosen.log_format)
            # A slot each, the settler and the tick: nobody waits for a connection.
            desk = open_desk(chosen, pool_size=chosen.slots + 2)
            runtime = Runtime(desk, lifeline.process_name(os.getpid()), place=place)
            runtime.check_key()
            runtime.start()
            _built.append(runtime)
        return _built[0]


def stop_claiming() -> None:
    """Claim nothing new from now on; for a signal handler, so it waits for nothing."""
    # Not under the lock: the thread the signal interrupts may hold it.
    for runtime in _built:
        runtime.courier.stop_claiming()


def close() -> bool:
    """Close this process's runtime, if it was ever built; see :meth:`Runtime.close`."""
    with _lock:
        return _built.pop().close() if _built else True


def _give_up() -> None:
    telemetry.log(telemetry.Event.THREAD_LOST, level="error", pid=os.getpid())
    os.kill(os.getpid(), signal.SIGTERM)


_built: list[Runtime] = []
_lock = Lock()
