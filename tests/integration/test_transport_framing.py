"""Replies that are not HTTP, or are HTTP in two ways at once: never misread, never reused."""

import base64
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.receiver import Receiver
from tests.sending import LATE_S, RawServer, Sender, raw_server, request
from worker.models import Failure

OK = b"HTTP/1.1 200 OK\r\n"
BAD_HEADS = {
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "html without a head": b"<html>success</html>",
    "http 0.9": b"success",
    "two lengths": OK + b"Content-Length: 7\r\nContent-Length: 4\r\n\r\nsuccess",
    "two lengths in other case": OK + b"Content-Length: 7\r\ncontent-length: 70\r\n\r\nsuccess",
    "length and chunked": OK
    + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nsuccess\r\n0\r\n\r\n",
    "chunked and length": OK
    + b"Transfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n7\r\nsuccess\r\n0\r\n\r\n",
    "chunked twice": OK
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nsuccess\r\n0\r\n\r\n",
    "negative length": OK + b"Content-Length: -7\r\n\r\nsuccess",
    "length in words": OK + b"Content-Length: seven\r\n\r\nsuccess",
    "two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 \r\nContent-Length: 0\r\n\r\n",
    "status zero": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "nul in a header": OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "no colon": OK + b"nonsense\r\nContent-Length: 0\r\n\r\n",
    "head without end": OK + b"Content-Length: 0\r\n",
    "unasked coding": OK + b"Transfer-Encoding: gzip\r\n\r\nsuccess",
    "5000 headers": OK + b"X: 1\r\n" * 5000 + b"\r\n",
    "101 headers": OK + b"X: 1\r\n" * 100 + b"Content-Length: 0\r\n\r\n",
    "2 MB line": OK + b"X: " + b"x" * 2_000_000 + b"\r\n\r\n",
    "endless status line": b"HTTP/1.1 200 " + b"O" * 2_000_000 + b"\r\n\r\n",
}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("merchant")) as running:
        yield running


@pytest.fixture
def sender() -> Iterator[Sender]:
    with Sender() as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with raw_server() as running:
        yield running


def after(receiver: Receiver, raw: bytes, sender: Sender) -> list[int]:
    """Send twice to a connection that stays open; return the connections that were used."""
    url = receiver.url("/raw", b64=base64.urlsafe_b64encode(raw).decode(), end="keep")
    for _ in range(2):
        sender.send(request(url, timeout_s=1))
    return [record.connection_no for record in receiver.ledger()[-2:]]


@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_head_that_is_not_right_is_a_protocol_error(
    name: str, sender: Sender, server: RawServer
) -> None:
    server.script = [(BAD_HEADS[name], 0)]
    reply = sender.send(request(server.url, timeout_s=2))
    assert (reply.failure, reply.status) == (Failure.PROTOCOL, 0), reply
    assert reply.requested
    assert reply.detail
    assert "\n" not in reply.detail


def test_interim_heads_alone_are_no_answer(sender: Sender, server: RawServer) -> None:
    server.script = [(b"HTTP/1.1 100 Continue\r\n\r\n" * 5, 0)]
    reply = sender.send(request(server.url))
    assert (reply.failure, reply.status, reply.requested) == (Failure.RESET, 0, True)


@pytest.mark.parametrize(
    "raw",
    [
        BAD_HEADS["two lengths"],
        BAD_HEADS["length and chunked"],
        BAD_HEADS["101 headers"],
        OK + b"Content-Length: 3\r\n\r\nsuccess",
        OK + b"Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsuccess",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_connection_with_odd_framing_is_not_used_again(
    raw: bytes, sender: Sender, receiver: Receiver
) -> None:
    first, second = after(receiver, raw, sender)
    assert first != second


def test_a_connection_with_a_right_reply_is_used_again(sender: Sender, receiver: Receiver) -> None:
    first, second = after(receiver, OK + b"Content-Length: 0\r\n\r\n", sender)
    assert first == second


def test_a_hundred_headers_are_still_read(sender: Sender, server: RawServer) -> None:
    server.script = [(OK + b"X: 1\r\n" * 99 + b"Content-Length: 0\r\n\r\n", 0)]
    assert sender.send(request(server.url)).status == 200


def test_a_length_said_twice_alike_is_read(sender: Sender, server: RawServer) -> None:
    server.script = [(OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", 0)]
    assert sender.send(request(server.url)).body == b"ok"


def test_interim_heads_and_trailers_are_not_the_answer(sender: Sender, server: RawServer) -> None:
    server.script = [
        (b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\nContent-Type: a/b\r\n\r\n", 0),
        (b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nRetry-After: 7\r\n\r\n", 0.05),
        (b"2\r\nno\r\n0\r\nRetry-After: 1\r\n\r\n", 0),
    ]
    reply = sender.send(request(server.url))
    assert (reply.status, reply.retry_after, reply.content_type) == (503, "7", "")
    assert reply.body == b"no"


def test_a_broken_chunk_after_a_full_head_is_only_noted(sender: Sender, server: RawServer) -> None:
    server.script = [(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n", 0)]
    reply = sender.send(request(server.url))
    assert (reply.status, reply.body, reply.note) == (200, b"ok", "body_truncated")


def pieces() -> st.SearchStrategy[list[tuple[bytes, float]]]:
    """Byte streams from honest to arbitrary, cut anywhere, with pauses."""
    fragments = st.sampled_from([
        OK, b"\x00", b"HTTP/1.1 404 No\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n", b"\r\n\r\n",
        b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n",
        b"0\r\n\r\n", b"success", b"X: " + b"y" * 70_000, b"z" * 100_000, b"a: b\r\n",
    ])  # fmt: skip
    stream = st.lists(fragments | st.binary(max_size=40), max_size=8).map(b"".join)
    cuts = st.lists(st.tuples(st.integers(0, 200), st.sampled_from([0, 0, 0.01, 0.3])), max_size=4)
    return st.builds(_cut, stream, cuts)


def _cut(stream: bytes, cuts: list[tuple[int, float]]) -> list[tuple[bytes, float]]:
    script = []
    for length, pause_s in cuts:
        script.append((stream[:length], pause_s))
        stream = stream[length:]
    return [*script, (stream, 0)]


@settings(max_examples=60)
@given(script=pieces(), hang=st.booleans())
@example(script=[(OK, 0.3), (b"\r\n", 0.3)], hang=True)
@example(script=[(b"HTTP/1.1 100 Continue\r\n\r\n", 0.3)], hang=True)
def test_for_any_bytes_at_any_pace_the_answer_is_one_of_ours_and_in_time(
    script: list[tuple[bytes, float]], hang: bool, server: RawServer
) -> None:
    server.script, server.hang = script, hang
    timeout_s = 0.4
    with Sender() as sender:
        reply, took_s = sender.timed(request(server.url, timeout_s=timeout_s))
    server.hang = False  # the tests that come after share it
    assert took_s <= timeout_s + LATE_S
    assert len(reply.body) <= 65_536
    assert reply.failure in set(Failure)
    stream = b"".join(piece for piece, _ in script)
    if reply.failure is Failure.NONE:
        assert 200 <= reply.status <= 999
        assert b" %d " % reply.status in stream
        assert b"\n\r\n" in stream or b"\n\n" in stream
    else:
        assert (reply.status, reply.body) == (0, b"")
