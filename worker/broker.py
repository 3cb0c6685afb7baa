"""Which broker is in force, and whether it may be one.

Must never make anything depend on the broker being up: it is only the doorbell.
"""

from contextlib import closing, suppress

import redis

from worker import embedded
from worker.bells import redis_client
from worker.embedded import Broker
from worker.errors import SettingsError, UnavailableError
from worker.settings import Settings

_TIMEOUT_S = 3.0
_WHERE = "broker_url (PAYNOTIFY_BROKER_URL)"


def resolve(chosen: Settings) -> Broker:
    """Return the broker to use: the configured one, else our own, started if need be.

    Whoever calls this stops what it returns, after everything else; a configured broker is
    nobody's to stop and ``stop`` leaves it alone.

    Raises:
        SettingsError: the configured one must not be used; see :func:`check_broker`.
        UnavailableError: nothing is configured and no server program is there or starts.
    """
    if chosen.broker_url is None:
        return Broker.start(chosen.data_dir)
    url = chosen.broker_url.get_secret_value()
    # One that is away now is no reason not to start: callbacks go out without it.
    with suppress(UnavailableError):
        check_broker(url)
    return Broker(url)


def current_url(chosen: Settings) -> str | None:
    """Return the URL of the configured broker, else of our own if it runs now, else None."""
    if chosen.broker_url is not None:
        return chosen.broker_url.get_secret_value()
    return embedded.address(chosen.data_dir)


def check_broker(url: str) -> None:
    """Refuse a Redis that would throw messages away, or does not let us in.

    RabbitMQ is not asked anything.

    Raises:
        SettingsError: it evicts keys, refuses our password, or the URL cannot be read.
        UnavailableError: it does not answer.
    """
    try:
        client = redis_client(url, _TIMEOUT_S)
    except ValueError:
        # The text of the error may quote the password.
        raise SettingsError(
            f"{_WHERE}: cannot be read; write it like redis://:password@host:6379/0"
        ) from None
    if client is None:
        return
    with closing(client):
        try:
            memory = client.info("memory")
        except redis.AuthenticationError as error:
            raise SettingsError(f"{_WHERE}: the server refuses us: {error}") from None
        except redis.BusyLoadingError:
            return
        except redis.RedisError as error:
            raise UnavailableError(
                "broker", str(error) or type(error).__name__, f"check {_WHERE} and that it runs"
            ) from None
    policy, limit = memory.get("maxmemory_policy", "noeviction"), int(memory.get("maxmemory", 0))
    if limit and policy != "noeviction":
        raise SettingsError(
            f"{_WHERE}: this Redis throws keys away when it is full (maxmemory-policy is {policy}, "
            f"maxmemory {limit} bytes), queues among them; run "
            "`CONFIG SET maxmemory-policy noeviction` and write it into its redis.conf"
        )
