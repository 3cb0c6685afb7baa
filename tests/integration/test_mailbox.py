"""What Celery does to a connection whose broker has gone must stay an error it waits for."""

import pytest
from kombu import Connection, Queue

from tests.services import RedisServer
from worker import mailbox

_TRANSPORT = f"{mailbox.__name__}:Transport"


def _connection(server: RedisServer) -> Connection:
    # Quick, because nobody answers in here.
    options = {"socket_connect_timeout": 0.5, "socket_timeout": 0.5}
    # By its own name: kombu remembers whichever class a test before this one connected with.
    address = {"hostname": "127.0.0.1", "port": server.port, "virtual_host": "0"}
    return Connection(**address, transport=_TRANSPORT, transport_options=options)


def test_a_closed_connection_with_a_message_unanswered_is_an_error_of_the_connection() -> None:
    queue = Queue("held", routing_key="held")
    with RedisServer() as server:
        connection = _connection(server)
        producer = connection.Producer()
        producer.publish({"one": 1}, routing_key="held", declare=[queue])
        consumer = connection.Consumer([queue], on_message=lambda _message: None)
        consumer.consume()
        connection.drain_events(timeout=5)
        channel = connection.default_channel
        assert isinstance(channel, mailbox.Channel)
        assert list(channel.qos._delivered)
        server.kill()
    # As Celery's consumer does when its broker is lost; whoever still has the channel then asks
    # for a connection to nowhere.
    connection.collect(socket_timeout=0.5)
    assert channel.connection.client is None
    with pytest.raises(connection.connection_errors):
        mailbox.Channel._connparams(channel)
    connection.close()
