"""Flower: what it shows of our work, and to whom."""

import json
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.started import Started, until
from tests.office import MASTER_KEY, add_endpoint, enqueue, office, state_of
from tests.receiver import Receiver
from tests.services import RedisServer, free_port

_LOGIN = "ops:correct horse"


@pytest.mark.parametrize("command", ["flower", "up"])
def test_it_is_not_shown_to_others_without_a_login(command: str, tmp_path: Path) -> None:
    with Started(command, data_dir=tmp_path, flower_address="0.0.0.0") as refused:
        assert refused.ends() != 0
        assert "flower_basic_auth" in refused.said()
        assert "Traceback" not in refused.said()


def test_alone_it_needs_a_broker_that_runs(tmp_path: Path) -> None:
    with Started("flower", data_dir=tmp_path) as flower:
        assert flower.ends() != 0
        assert "paynotify up" in flower.said()


def test_it_shows_tasks_with_their_result_to_who_logs_in_and_401_to_others(
    tmp_path: Path, sqlite_dsn: str, redis_server: RedisServer
) -> None:
    redis_server.flushall()
    port = free_port()
    settings: dict[str, object] = {
        "database_url": sqlite_dsn,
        "broker_url": redis_server.url(),
        "master_key": MASTER_KEY,
        "flower_port": port,
        "flower_basic_auth": _LOGIN,
        "tick_s": 0.2,
    }
    url = f"http://127.0.0.1:{port}"
    with (
        Receiver(tmp_path / "merchant") as receiver,
        office(sqlite_dsn, start=False) as working,
        Started("up", "--processes", "1", **settings) as up,
    ):
        until(lambda: f"Flower is at {url}" in up.said())
        for page in ("/", "/tasks", "/api/tasks", "/broker"):
            assert _status(url + page) == 401, page
            assert _status(url + page, "ops:wrong") == 401, page
            assert _status(url + page, _LOGIN) == 200, page
        assert not [line for line in up.family().values() if _LOGIN in line]
        # What people reach by browser cannot open a merchant's secret.
        environment = Path(f"/proc/{up.child('flower')}/environ").read_text()
        assert MASTER_KEY not in environment
        endpoint = add_endpoint(working, receiver, name="acme")
        ids = [enqueue(working, endpoint, f"order-{number}") for number in range(5)]
        until(lambda: all(state_of(working, id_) == "delivered" for id_ in ids))
        # Events reach Flower a moment after the work is done.
        until(lambda: any("acme: " in str(task["result"]) for task in _tasks(url)))
        done = next(task for task in _tasks(url) if "acme: " in str(task["result"]))
        assert done["name"] == "paynotify.deliver"
        assert done["args"] == "[]"
        # As repr(): only the pages show it without quotes.
        assert done["result"].strip("'").endswith(" delivered")
        assert done["state"] == "SUCCESS"
        assert done["runtime"] > 0
        assert done["worker"].startswith("paynotify-1@")
        assert up.stop() == 0


def _tasks(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(_request(f"{url}/api/tasks", _LOGIN), timeout=10) as reply:
        return list(json.load(reply).values())


def _status(url: str, login: str | None = None) -> int:
    try:
        with urllib.request.urlopen(_request(url, login), timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def _request(url: str, login: str | None) -> urllib.request.Request:
    headers = {}
    if login is not None:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    return urllib.request.Request(url, headers=headers)
