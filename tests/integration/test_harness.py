"""The test harness does what it says; otherwise the tests above it prove nothing."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine, func, select

from tests.chaos_proxy import ChaosProxy
from tests.services import PostgresServer, RedisServer
from worker import tables


def _client(port: int, *, wait_s: float = 0.3) -> redis.Redis:
    once = Retry(NoBackoff(), 0)
    return redis.Redis(port=port, socket_timeout=wait_s, socket_connect_timeout=wait_s, retry=once)


def test_a_killed_redis_comes_back_on_its_port_with_its_log() -> None:
    with RedisServer(appendonly=True, appendfsync="always") as server:
        with _client(server.port, wait_s=5) as client:
            client.set("kept", "yes")
        server.restart()
        with _client(server.port, wait_s=5) as client:
            assert client.get("kept") == b"yes"


def test_a_paused_redis_answers_again_when_resumed(redis_server: RedisServer) -> None:
    with _client(redis_server.port) as client:
        redis_server.pause()
        try:
            with pytest.raises(redis.TimeoutError):
                client.ping()
        finally:
            redis_server.resume()
    with _client(redis_server.port, wait_s=5) as client:
        assert client.ping()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_keeps_committed_rows_over_a_restart(mode: str) -> None:
    with PostgresServer() as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        server.restart("fast" if mode == "fast" else "immediate")
        with server.connect() as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (7,)


def test_postgres_survives_sigkill_and_writes_through() -> None:
    with PostgresServer() as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
            row = connection.execute("SHOW fsync").fetchone()
        assert row == ("on",)
        server.kill()
        server.start()
        with server.connect() as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (7,)


def test_every_test_gets_a_database_of_its_own(postgres: PostgresServer) -> None:
    first, second = postgres.create_database(), postgres.create_database()
    with postgres.connect(first) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS n")
    with postgres.connect(second) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM mine")
    for name in (first, second):
        postgres.forget_database(name)


@pytest.mark.parametrize("round_no", [1, 2])
def test_an_engine_comes_migrated_and_empty(engine: Engine, round_no: int) -> None:
    with engine.begin() as connection:
        count = select(func.count()).select_from(tables.inbox)
        assert connection.execute(count).scalar_one() == 0
        row = {"merchant": "m", "event_type": "t", "event_key": "k", "payload": "{}"}
        connection.execute(tables.inbox.insert().values(**row))


def test_servers_die_and_leave_nothing_when_their_parent_is_killed() -> None:
    code = (
        "from tests.services import RedisServer; import sys\n"
        "server = RedisServer(); print(server.pid, server.folder, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout
        pid, folder = parent.stdout.readline().split()
        parent.kill()
    _until(lambda: not Path(f"/proc/{pid}").exists() and not Path(folder).exists())


def test_a_proxy_passes_bytes_both_ways(redis_server: RedisServer) -> None:
    with ChaosProxy(redis_server.port) as proxy, _client(proxy.port, wait_s=5) as client:
        assert client.set("through", "x" * 1_000_000)
        assert client.get("through") == b"x" * 1_000_000
        assert proxy.accepted == 1


def test_a_cut_refuses_until_restored(redis_server: RedisServer) -> None:
    with ChaosProxy(redis_server.port) as proxy, _client(proxy.port, wait_s=5) as client:
        client.ping()
        proxy.cut()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        with pytest.raises(redis.ConnectionError, match="refused"):
            client.ping()
        proxy.restore()
        assert client.ping()


def test_a_blackhole_answers_nothing_and_heals(redis_server: RedisServer) -> None:
    with ChaosProxy(redis_server.port) as proxy, _client(proxy.port) as client:
        client.ping()
        proxy.blackhole()
        with pytest.raises(redis.TimeoutError):
            client.set("sent", "in the hole")
        with redis_server.connect() as direct:
            assert direct.get("sent") is None
        proxy.restore()
        assert client.ping()


def test_a_half_open_connection_is_heard_but_does_not_answer(redis_server: RedisServer) -> None:
    with ChaosProxy(redis_server.port) as proxy, _client(proxy.port) as client:
        client.ping()
        proxy.half_open()
        with pytest.raises(redis.TimeoutError):
            client.set("heard", "yes")
        with redis_server.connect() as direct:
            assert direct.get("heard") == "yes"


def test_a_delay_holds_data_back(redis_server: RedisServer) -> None:
    with ChaosProxy(redis_server.port) as proxy, _client(proxy.port, wait_s=5) as client:
        client.ping()
        proxy.delay(0.1)
        started = time.monotonic()
        client.ping()
        assert time.monotonic() - started >= 0.2


def test_a_commit_can_happen_without_its_client_learning_it(postgres: PostgresServer) -> None:
    with postgres.connect() as direct:
        direct.execute("CREATE TABLE committed (n int)")
        with ChaosProxy(postgres.port) as proxy:
            with psycopg.connect(postgres.dsn(port=proxy.port).replace("+psycopg", "")) as client:
                client.execute("INSERT INTO committed VALUES (1)")
                proxy.drop_after(b"COMMIT")
                with pytest.raises(psycopg.OperationalError):
                    client.commit()
            _until(lambda: direct.execute("SELECT n FROM committed").fetchone() == (1,))
        direct.execute("DROP TABLE committed")


def test_settings_of_the_developer_do_not_reach_a_test() -> None:
    assert not [name for name in os.environ if name.startswith("PAYNOTIFY_")]


def _until(true: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
