"""Which broker is chosen, and which one is refused before anything is lost in it."""

from pathlib import Path

import pytest

from tests.services import RedisServer, free_port
from worker import broker
from worker.errors import SettingsError, UnavailableError
from worker.settings import Settings


def _settings(tmp_path: Path, url: str | None = None) -> Settings:
    return Settings.model_validate({"data_dir": tmp_path, "broker_url": url})


def test_a_configured_broker_goes_before_our_own_and_is_never_stopped(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    chosen = _settings(tmp_path, redis_server.url())
    found = broker.resolve(chosen)
    assert (found.url, found.owned) == (redis_server.url(), False)
    found.stop()
    assert found.running
    assert not (tmp_path / "broker").exists()
    assert broker.current_url(chosen) == redis_server.url()


def test_without_a_configured_broker_our_own_is_started(tmp_path: Path) -> None:
    chosen = _settings(tmp_path)
    assert broker.current_url(chosen) is None
    found = broker.resolve(chosen)
    try:
        assert found.owned
        assert broker.current_url(chosen) == found.url
        broker.check_broker(found.url)
    finally:
        found.stop()


def test_a_redis_that_evicts_is_refused_with_the_setting_to_change(tmp_path: Path) -> None:
    with RedisServer(maxmemory="64mb", maxmemory_policy="allkeys-lru") as server:
        with pytest.raises(SettingsError, match=r"maxmemory-policy is allkeys-lru.*noeviction"):
            broker.resolve(_settings(tmp_path, server.url()))
        with server.connect() as client:
            client.config_set("maxmemory-policy", "noeviction")
        broker.check_broker(server.url())


def test_a_policy_without_a_limit_evicts_nothing_and_is_let_through() -> None:
    with RedisServer(maxmemory_policy="allkeys-lru") as server:
        broker.check_broker(server.url())


def test_a_wrong_password_is_a_settings_error_that_hides_it() -> None:
    with RedisServer(requirepass="right") as server:
        wrong = server.url().replace("redis://", "redis://:wr0ng@")
        with pytest.raises(SettingsError, match=r"PAYNOTIFY_BROKER_URL.*refuses us") as caught:
            broker.check_broker(wrong)
        assert "wr0ng" not in str(caught.value)


def test_a_broker_that_is_away_is_reported_but_does_not_keep_us_from_starting(
    tmp_path: Path,
) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(UnavailableError, match="PAYNOTIFY_BROKER_URL"):
        broker.check_broker(url)
    assert broker.resolve(_settings(tmp_path, url)).url == url


@pytest.mark.parametrize("url", ["redis://127.0.0.1:notaport/0", "redis://:s3cret@host:99999999/0"])
def test_an_unreadable_url_is_a_settings_error_that_hides_it(url: str) -> None:
    with pytest.raises((SettingsError, UnavailableError)) as caught:
        broker.check_broker(url)
    assert "s3cret" not in str(caught.value)


def test_rabbitmq_is_not_asked() -> None:
    broker.check_broker(f"amqp://guest@127.0.0.1:{free_port()}//")
