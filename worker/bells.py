"""How a ring reaches each kind of broker: Redis in one round trip, AMQP through kombu.

May raise and may block for its timeouts: only ``doorbell.py`` calls this, on its own thread. A
message must never carry anything but which pool to look at.
"""

import json
from base64 import b64encode
from importlib import import_module
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from worker.errors import SettingsError
from worker.models import Pool

TASK = "paynotify.deliver"
KEY_PREFIX = "paynotify:"  # kombu's global_keyprefix, so that our keys are told from the host's
# Whoever pops the message that is waiting looks after this ring's commit, so one is enough. Once
# it is popped the next ring is a message again: it may come after that worker's look.
_RING = "if redis.call('LLEN', KEYS[1]) == 0 then redis.call('LPUSH', KEYS[1], ARGV[1]) end"


class Bell(Protocol):
    """One connection to a broker, used by one thread."""

    def ring(self, pool: Pool) -> None:
        """Put one message into the pool's queue unless one is waiting there."""

    def close(self) -> None:
        """Give the connection up."""


def arguments(pool: Pool) -> list[str]:
    """Return the task's arguments: none for the fast pool, the queue's name for the slow one."""
    return [] if pool is Pool.FAST else [pool.value]


def bell(url: str, timeout_s: float) -> Bell:
    """Open nothing yet: return the bell for a broker URL.

    Args:
        url: ``redis``, ``rediss``, ``redis+socket``, ``unix``, ``sentinel``, ``amqp`` or ``amqps``.
        timeout_s: for connecting and for each command.

    Raises:
        SettingsError: another scheme, or a URL that cannot be read.
    """
    scheme = url.partition("://")[0]
    try:
        if scheme in ("amqp", "amqps", "pyamqp"):
            return AmqpBell(url, timeout_s)
        client = redis_client(url, timeout_s)
        if client is not None:
            return RedisBell(client)
    except ValueError as error:
        # The text of the error may quote the URL's password: name its kind only.
        raise SettingsError(
            f"broker_url (PAYNOTIFY_BROKER_URL): cannot be read ({type(error).__name__}); write "
            "it like redis://:password@host:6379/0"
        ) from None
    raise SettingsError(
        f"broker_url (PAYNOTIFY_BROKER_URL): {scheme[:20]!r} is not supported; use redis, rediss, "
        "redis+socket, unix, sentinel or amqp"
    )


def redis_client(url: str, timeout_s: float) -> "redis.Redis | None":
    """Return a client for a Redis broker URL as kombu spells it; None for another broker.

    Raises:
        ValueError: the URL cannot be read.
        SettingsError: a sentinel URL without its master's name.
    """
    scheme = url.partition("://")[0]
    if scheme == "sentinel":
        return _sentinel(url, timeout_s)
    if scheme in ("redis", "rediss", "redis+socket", "unix"):
        return redis.Redis.from_url(_redis_url(url), **_options(timeout_s))
    return None


class RedisBell:
    """Pushes the message Celery would push, straight to the list its workers pop from."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client

    def ring(self, pool: Pool) -> None:
        """Push unless a message is waiting; a connection that died in the meantime is replaced."""
        try:
            self._push(pool)
        except redis.ConnectionError:
            # Redis was restarted since the last ring: the pool dials anew.
            self._push(pool)

    def _push(self, pool: Pool) -> None:
        self._client.eval(_RING, 1, KEY_PREFIX + pool.value, envelope(pool))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AmqpBell:
    """Publishes through kombu; every ring is a message, RabbitMQ has no pending key."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._producer: Any = None

    def ring(self, pool: Pool) -> None:
        """Publish to the pool's queue through the default exchange."""
        fresh = self._producer is None
        try:
            self._publish(pool)
        except Exception:
            # Whatever happened to it, this connection is not used again; one that was idle may
            # have died since the last ring, so that one is replaced at once.
            self._producer = None
            if fresh:
                raise
            self._publish(pool)

    def _publish(self, pool: Pool) -> None:
        if self._producer is None:
            # Looked up late and untyped: hosts on Redis need no kombu.
            kombu: Any = import_module("kombu")
            connection = kombu.Connection(self._url, connect_timeout=self._timeout_s, heartbeat=0)
            connection.connect()
            self._producer = connection.Producer(serializer="json")
        task_id = str(uuid4())
        self._producer.publish(
            _body(pool),
            routing_key=pool.value,
            headers=_headers(task_id, pool),
            correlation_id=task_id,
            delivery_mode=2,
            retry=False,
            timeout=self._timeout_s,
        )

    def close(self) -> None:
        """Close the connection."""
        if self._producer is not None:
            self._producer.connection.close()


def envelope(pool: Pool) -> bytes:
    """Write the message as kombu's Redis transport does (Celery task protocol 2).

    Source of the format: ``kombu/transport/virtual/base.py`` and ``celery/app/amqp.py``.
    """
    task_id = str(uuid4())
    return json.dumps(
        {
            "body": b64encode(json.dumps(_body(pool)).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": _headers(task_id, pool),
            "properties": {
                "correlation_id": task_id,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": pool.value},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
            },
        }
    ).encode()


def _body(pool: Pool) -> list[object]:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return [arguments(pool), {}, embed]


def _headers(task_id: str, pool: Pool) -> dict[str, object]:
    return {
        "lang": "py",
        "task": TASK,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": repr(arguments(pool)),
        "kwargsrepr": "{}",
        "origin": "paynotify",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }


def _options(timeout_s: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "protocol": 2,  # two round trips fewer at connect than RESP3
        "client_name": "paynotify-doorbell",
    }


def _redis_url(url: str) -> str:
    # kombu's spelling of two things that redis-py spells otherwise.
    if url.startswith("redis+socket://"):
        url = "unix://" + url.removeprefix("redis+socket://").replace("virtual_host=", "db=")
    for kombu, ours in (("CERT_REQUIRED", "required"), ("CERT_NONE", "none")):
        url = url.replace(f"ssl_cert_reqs={kombu}", f"ssl_cert_reqs={ours}")
    return url


def _sentinel(urls: str, timeout_s: float) -> "redis.Redis":
    parts = [urlsplit(url) for url in urls.split(";") if url]
    named = next((query for part in parts if (query := parse_qs(part.query))), {})
    if "master_name" not in named:
        raise SettingsError(
            "broker_url (PAYNOTIFY_BROKER_URL): a sentinel URL needs the master's name: "
            "sentinel://host:26379/0?master_name=mymaster"
        )
    hosts = [(part.hostname or "localhost", part.port or 26379) for part in parts]
    password = next((unquote(part.password) for part in parts if part.password), None)
    database = next((int(part.path[1:]) for part in parts if part.path.strip("/")), 0)
    options = _options(timeout_s)
    sentinel: Any = Sentinel(hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(
        named["master_name"][0], password=password, db=database, **options
    )
    return client
