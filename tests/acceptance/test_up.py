"""``paynotify up``: everything on one machine, with its own broker and with real servers."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.acceptance.started import Started, is_alive, until
from tests.office import MASTER_KEY, add_endpoint, enqueue, office, state_of
from tests.receiver import Receiver
from tests.services import PostgresServer, RedisServer
from worker import embedded
from worker.tables import attempt


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path / "merchant") as running:
        yield running


def test_with_nothing_configured_the_broker_is_ours_is_shared_and_ends_last(
    receiver: Receiver, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    with Started("up", "--processes", "1", data_dir=data_dir, flower_port=0) as up:
        until(lambda: "Flower is at" in up.said())
        url = embedded.address(data_dir)
        assert url is not None
        password = url.removeprefix("redis://:").partition("@")[0]
        lines = up.family().values()
        assert len(lines) == 4  # broker, Flower, one worker process, beat
        assert not [line for line in lines if password in line]
        assert password not in up.said()
        broker = up.child("valkey-server")
        with Started("worker", "--processes", "1", data_dir=data_dir, tick_s=0.2) as second:
            until(lambda: any("paynotify-1@" in line for line in second.family().values()))
            assert len(second.family()) == 1  # no broker of its own
            assert second.stop() == 0
        assert embedded.address(data_dir) == url
        assert up.stop(signal.SIGINT) == 0
        assert not is_alive(broker)
        assert up.nobody_is_left(within_s=1)
    assert embedded.address(data_dir) is None


def test_with_real_servers_it_makes_the_tables_delivers_and_leaves_them_running(
    receiver: Receiver, postgres: PostgresServer, redis_server: RedisServer
) -> None:
    redis_server.flushall()
    dsn = postgres.dsn(postgres.create_database())
    settings = {"database_url": dsn, "broker_url": redis_server.url(), "master_key": MASTER_KEY}
    with Started("up", "--processes", "2", "--no-flower", **settings) as up:
        until(lambda: sum("paynotify-" in line for line in up.family().values()) == 2)
        with office(dsn, start=False, broker_url=redis_server.url()) as working:
            endpoint = add_endpoint(working, receiver)
            notification_id = enqueue(working, endpoint, "order-1")
            until(lambda: state_of(working, notification_id) == "delivered")
            with working.desk.engine.connect() as connection:
                assert connection.execute(select(attempt.c.worker)).scalar_one()
        assert not [line for line in up.family().values() if MASTER_KEY in line]
        assert up.stop(signal.SIGINT) == 0
        assert up.nobody_is_left(within_s=1)
    assert redis_server.running
    assert [record.path for record in receiver.ledger()] == ["/success"]


def test_a_broker_that_dies_is_started_again_where_it_was(tmp_path: Path) -> None:
    with Started("up", "--processes", "1", "--no-flower", data_dir=tmp_path) as up:
        until(lambda: embedded.address(tmp_path))
        url = embedded.address(tmp_path)
        until(lambda: any("paynotify-1@" in line for line in up.family().values()))
        broker = up.child("valkey-server")
        os.kill(broker, signal.SIGKILL)
        until(lambda: "broker ended; started it again" in up.said())
        assert embedded.address(tmp_path) == url
        assert up.child("valkey-server") != broker
        assert up.stop() == 0


def test_a_broker_that_cannot_be_started_again_takes_nothing_with_it(tmp_path: Path) -> None:
    with Started("up", "--processes", "1", "--no-flower", data_dir=tmp_path) as up:
        until(lambda: any("paynotify-1@" in line for line in up.family().values()))
        worker = up.child("paynotify-1@")
        log = tmp_path / "broker" / "broker.log"
        log.unlink()
        log.mkdir()
        os.kill(up.child("valkey-server"), signal.SIGKILL)
        until(lambda: "Callbacks go out without it" in up.said())
        assert up.child("paynotify-1@") == worker
        log.rmdir()
        until(lambda: "broker ended; started it again" in up.said())
        assert up.child("paynotify-1@") == worker
        assert up.stop() == 0


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Started("up", data_dir=tmp_path, flower_port=port) as up:
            assert up.ends() != 0
            assert f"port {port}" in up.said()
            assert "PAYNOTIFY_FLOWER_PORT" in up.said()
            assert "Traceback" not in up.said()
    assert embedded.address(tmp_path) is None
