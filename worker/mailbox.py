"""Celery's Redis transport, but what is no message is thrown away instead of ending the worker.

Whoever can write to Redis can push anything into a queue, and kombu lets the error of reading it
end the process: a thousand such pushes would be a thousand crashes. Must never look into a
message's body, nor act on one that is not whole.
"""

from contextlib import suppress
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from worker import telemetry

# Plain Redis, over TCP, TLS or a socket; Sentinel has a transport of its own.
_TRANSPORTS = {
    "redis": "worker.mailbox:Transport",
    "rediss": "worker.mailbox:Transport",
    "unix": "worker.mailbox:Transport",
    "sentinel": "worker.mailbox:SentinelTransport",
}


def install() -> None:
    """Put ours in the place of kombu's own, in this process; again is harmless.

    Under the same names: Flower looks into queues only of a broker whose name it knows.
    """
    TRANSPORT_ALIASES.update(_TRANSPORTS)


class _Reading:
    """Mixed into a channel: reads one message, and says when its connection is gone."""

    connection: Any

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except (ValueError, RecursionError) as error:
            # No JSON, or a body that cannot be decoded; it has left the queue already.
            _thrown_away(type(error).__name__)
            return True

    def _connparams(self, *given: Any, **named: Any) -> Any:
        if self.connection.client is None:
            # Closed, and asked all the same to put a message back. Where Celery then waits for
            # an error of the connection, kombu's own AttributeError would end the worker.
            raise ConnectionError("this connection to the broker is closed")
        return super()._connparams(*given, **named)  # type: ignore[misc]


class _Delivering:
    """Mixed into a transport: hands one message on."""

    channels: list[Any]

    def _deliver(self, message: object, queue: str) -> None:
        if not _is_whole(message):
            _thrown_away("not a message")
            return
        try:
            super()._deliver(message, queue)  # type: ignore[misc]
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            # What Celery makes of headers it did not write; an error of the connection is none
            # of these.
            _thrown_away(f"{type(error).__name__}: {error}")
            self._forget(message["properties"]["delivery_tag"])  # type: ignore[index]

    def _forget(self, tag: str) -> None:
        # Unanswered, a few of them would use up what the worker may prefetch.
        for channel in self.channels:
            with suppress(KeyError):
                channel.qos.get(tag)
                channel.basic_reject(tag, requeue=False)


class Channel(_Reading, redis.Channel):  # type: ignore[misc]
    """See the module."""


class SentinelChannel(_Reading, redis.SentinelChannel):  # type: ignore[misc]
    """See the module."""


class Transport(_Delivering, redis.Transport):  # type: ignore[misc]
    """See the module."""

    Channel = Channel


class SentinelTransport(_Delivering, redis.SentinelTransport):  # type: ignore[misc]
    """See the module."""

    Channel = SentinelChannel


def _is_whole(message: object) -> bool:
    """Tell whether it has what it takes to be thrown away by Celery, if it comes to that.

    Examples:
        >>> _is_whole({"headers": {}, "properties": {"delivery_tag": "1"}})
        True
        >>> _is_whole([]), _is_whole({"properties": {}})
        (False, False)
    """
    if not isinstance(message, dict):
        return False
    properties = message.get("properties")
    return (
        isinstance(properties, dict)
        and isinstance(properties.get("delivery_tag"), str)
        and isinstance(message.get("headers"), dict)
    )


def _thrown_away(why: str) -> None:
    telemetry.log(telemetry.Event.JUNK, level="warning", why=why)
