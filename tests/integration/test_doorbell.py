"""The doorbell against a real Redis, a frozen one, none at all, and a real Celery worker."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import kombu
import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker

from tests.services import Child, RedisServer, free_port
from worker.bells import AmqpBell, arguments
from worker.doorbell import KEY_PREFIX, TASK, Doorbell
from worker.errors import SettingsError
from worker.models import Pool

_BOUND_S = 0.05
_SLACK_S = 0.1  # two busy cores: waking up may take this long


@pytest.fixture
def broker(redis_server: RedisServer) -> RedisServer:
    redis_server.flushall()
    return redis_server


def _length(server: RedisServer, pool: Pool = Pool.FAST) -> int:
    with closing(server.connect()) as client:
        return int(client.llen(KEY_PREFIX + pool.value))


def _elapsed_s(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def test_a_ring_puts_one_message_into_its_queue(broker: RedisServer) -> None:
    doorbell = Doorbell(broker.url(), timeout_s=1)
    assert doorbell.ring()
    assert doorbell.ring(Pool.SLOW)
    assert (_length(broker), _length(broker, Pool.SLOW)) == (1, 1)


def test_rings_are_one_message_until_somebody_takes_it(broker: RedisServer) -> None:
    doorbells = [Doorbell(broker.url(), timeout_s=1) for _ in range(3)]
    for doorbell in doorbells:
        assert doorbell.ring()
    assert _length(broker) == 1
    with closing(broker.connect()) as client:
        assert client.rpop(KEY_PREFIX + Pool.FAST.value)
    assert doorbells[1].ring()
    assert _length(broker) == 1


def test_a_ring_of_one_pool_says_nothing_of_the_other(broker: RedisServer) -> None:
    doorbell = Doorbell(broker.url(), timeout_s=1)
    for pool in (Pool.SLOW, Pool.FAST, Pool.SLOW):
        assert doorbell.ring(pool)
    assert (_length(broker), _length(broker, Pool.SLOW)) == (1, 1)


def test_no_broker_is_silence() -> None:
    doorbell = Doorbell(None)
    assert doorbell.ring() is False


def test_a_refused_connection_costs_next_to_nothing() -> None:
    doorbell = Doorbell(f"redis://127.0.0.1:{free_port()}/0")
    assert doorbell.ring() is False
    took_s = _elapsed_s(lambda: [doorbell.ring() for _ in range(10_000)])
    assert took_s < 1


def test_a_frozen_redis_costs_one_timeout_then_nothing(broker: RedisServer) -> None:
    doorbell = Doorbell(broker.url(), timeout_s=_BOUND_S)
    assert doorbell.ring()
    with _frozen(broker):
        assert _elapsed_s(lambda: doorbell.ring(Pool.SLOW)) < _BOUND_S + _SLACK_S
        assert doorbell.ring(Pool.SLOW) is False
        took_s = _elapsed_s(lambda: [doorbell.ring(Pool.SLOW) for _ in range(1000)])
        assert took_s < _BOUND_S + _SLACK_S


def test_a_frozen_redis_costs_many_threads_no_more(broker: RedisServer) -> None:
    doorbell = Doorbell(broker.url(), timeout_s=_BOUND_S)
    slowest: list[float] = []
    with _frozen(broker):
        threads = [
            threading.Thread(target=lambda: slowest.append(_elapsed_s(doorbell.ring)))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(slowest) == 20
    assert max(slowest) < _BOUND_S + 3 * _SLACK_S


def test_a_first_connection_that_is_never_answered_is_cut_off() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        doorbell = Doorbell(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0", timeout_s=_BOUND_S)
        assert _elapsed_s(doorbell.ring) < _BOUND_S + _SLACK_S


def test_a_resolver_that_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        let_go.wait(20)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    doorbell = Doorbell("redis://broker.example.com/0", timeout_s=_BOUND_S)
    try:
        assert _elapsed_s(doorbell.ring) < _BOUND_S + _SLACK_S
    finally:
        let_go.set()


def test_a_redis_that_was_restarted_is_rung_at_once(broker: RedisServer) -> None:
    doorbell = Doorbell(broker.url(), timeout_s=1)
    assert doorbell.ring()
    broker.restart()
    assert doorbell.ring()
    assert _length(broker) == 1


def test_a_redis_that_returns_is_rung_again_within_seconds(broker: RedisServer) -> None:
    doorbell = Doorbell(broker.url(), timeout_s=_BOUND_S)
    broker.kill()
    try:
        assert doorbell.ring() is False
    finally:
        broker.start()
    _until(doorbell.ring)
    assert _length(broker) == 1


def test_a_full_redis_is_a_ring_that_failed(broker: RedisServer) -> None:
    with closing(broker.connect()) as client:
        client.config_set("maxmemory", "1")
        try:
            assert Doorbell(broker.url(), timeout_s=1).ring() is False
        finally:
            client.config_set("maxmemory", "0")


def test_a_forked_child_rings_with_a_connection_of_its_own(broker: RedisServer) -> None:
    doorbell = Doorbell(broker.url(), timeout_s=1)
    assert doorbell.ring()
    child = os.fork()
    if child == 0:
        os._exit(0 if doorbell.ring(Pool.SLOW) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert _length(broker, Pool.SLOW) == 1
    with closing(broker.connect()) as client:
        assert client.rpop(KEY_PREFIX + Pool.FAST.value)
    assert doorbell.ring()
    assert _length(broker) == 1


def test_its_thread_ends_with_it(broker: RedisServer) -> None:
    doorbell = Doorbell(broker.url(), timeout_s=1)
    doorbell.ring()
    thread = doorbell._thread
    assert thread is not None
    del doorbell
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("url", ["sqs://x", "redis://h:port", "nonsense", "sentinel://h:26379/0"])
def test_a_broker_url_that_cannot_be_used_is_a_setting_that_is_wrong(url: str) -> None:
    with pytest.raises(SettingsError, match="PAYNOTIFY_BROKER_URL"):
        Doorbell(url)


def test_a_password_never_stands_in_the_refusal() -> None:
    with pytest.raises(SettingsError) as caught:
        Doorbell("redis://:hunter2@host:port/0")
    assert "hunter2" not in str(caught.value)


@contextmanager
def _socket_redis() -> Iterator[str]:
    with RedisServer(unixsocket="redis.sock") as server:
        yield str(server.folder / "redis.sock")


@pytest.mark.parametrize(
    "shape", ["redis+socket://{}?virtual_host=3", "unix://{}?db=3"], ids=["kombu", "redis-py"]
)
def test_a_unix_socket_rings_in_its_database(shape: str) -> None:
    with _socket_redis() as path:
        assert Doorbell(shape.format(path), timeout_s=1).ring()
        with closing(redis.Redis(unix_socket_path=path, db=3)) as client:
            assert client.llen(f"{KEY_PREFIX}deliver") == 1


class _Sentinel(Child):
    def __init__(self, master: RedisServer) -> None:
        super().__init__("sentinel")
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.folder}\n"
            f"sentinel monitor shop 127.0.0.1 {master.port} 1\n"
        )
        self._run(["redis-server", str(config), "--sentinel"])
        assert self._await(self._answers)

    def _answers(self) -> bool:
        try:
            with closing(redis.Redis(port=self.port)) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def test_a_sentinel_leads_to_the_master(broker: RedisServer) -> None:
    with _Sentinel(broker) as sentinel:
        away = f"sentinel://127.0.0.1:{free_port()}"
        url = f"{away};sentinel://127.0.0.1:{sentinel.port}/0?master_name=shop"
        assert Doorbell(url, timeout_s=2).ring()
    assert _length(broker) == 1


@pytest.fixture
def app(broker: RedisServer) -> Iterator[Celery]:
    app = Celery("doorbell-test", broker=broker.url(), set_as_current=False)
    app.conf.update(
        broker_transport_options={"global_keyprefix": KEY_PREFIX},
        task_ignore_result=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )
    yield app
    app.close()


@pytest.mark.parametrize("pool", list(Pool))
def test_a_celery_worker_runs_and_acknowledges_what_was_rung(
    app: Celery, broker: RedisServer, pool: Pool
) -> None:
    heard: list[tuple[object, ...]] = []

    @app.task(name=TASK, acks_late=True, shared=False)  # type: ignore[untyped-decorator]
    def deliver(*args: object) -> None:
        heard.append(args)

    with start_worker(app, pool="threads", perform_ping_check=False, queues=pool.value):
        assert Doorbell(broker.url(), timeout_s=1).ring(pool)
        _until(lambda: bool(heard))
        with closing(broker.connect()) as client:
            _until(lambda: not client.exists(f"{KEY_PREFIX}unacked"))
            assert client.llen(KEY_PREFIX + pool.value) == 0
    assert heard == [tuple(arguments(pool))]


@pytest.mark.parametrize("pool", list(Pool))
def test_what_goes_through_kombu_says_the_same(pool: Pool) -> None:
    # kombu's own in-process transport: the message is built and routed as for RabbitMQ.
    wire = AmqpBell("memory://", 1)
    wire.ring(pool)
    with kombu.Connection("memory://") as connection:
        queue = connection.SimpleQueue(pool.value)
        message = queue.get(timeout=5)
        queue.close()
    args, kwargs, _ = message.payload
    assert (args, kwargs) == (arguments(pool), {})
    assert message.headers["task"] == TASK
    assert message.headers["id"] == message.properties["correlation_id"]
    wire.close()


def test_a_rabbitmq_that_is_away_is_a_ring_that_failed() -> None:
    assert Doorbell(f"amqp://127.0.0.1:{free_port()}//", timeout_s=1).ring() is False


def _until(true: Callable[[], bool], within_s: float = 15) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def _frozen(server: RedisServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()
