"""Merchants that are slow, silent or endless cost nobody but themselves, and them little."""

import resource
import socket
from collections.abc import Iterator

import pytest

from tests.receiver import Receiver
from tests.sending import LATE_S, Sender, raw_server, request
from worker import clock
from worker.models import Failure


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("merchant")) as running:
        yield running


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    with Sender(connect_timeout_s=0.6) as running:
        yield running


@pytest.mark.parametrize("path", ["/hang", "/drip-head", "/drip-line", "/drip-1xx"])
@pytest.mark.parametrize("ms", [400, 50])
def test_a_merchant_that_drips_bytes_is_cut_at_the_deadline(
    path: str, ms: int, sender: Sender, receiver: Receiver
) -> None:
    reply, took_s = sender.timed(request(receiver.url(path, ms=ms), timeout_s=0.7))
    assert (reply.failure, reply.status, reply.requested) == (Failure.TIMEOUT, 0, True)
    assert 0.6 <= took_s <= 0.7 + LATE_S


@pytest.mark.parametrize("path", ["/drip-body", "/drip-chunk-ext"])
def test_a_dripping_body_is_cut_at_the_deadline_and_its_status_stands(
    path: str, sender: Sender, receiver: Receiver
) -> None:
    reply, took_s = sender.timed(request(receiver.url(path), timeout_s=0.7))
    assert (reply.failure, reply.status, reply.note) == (Failure.NONE, 200, "body_truncated")
    assert 0.6 <= took_s <= 0.7 + LATE_S


def test_endless_interim_replies_are_cut_at_the_deadline_and_never_believed(
    sender: Sender, receiver: Receiver
) -> None:
    reply, took_s = sender.timed(request(receiver.url("/drip-1xx", ms=1), timeout_s=1))
    assert (reply.failure, reply.status) == (Failure.PROTOCOL, 0)
    assert took_s < 3


def test_a_tls_handshake_that_drips_is_cut_at_the_connect_timeout(sender: Sender) -> None:
    with raw_server() as server:
        # The start of a handshake record of 16 KiB that never ends.
        server.script = [(b"\x16\x03\x03\x40\x00", 0.2), *[(b"\x02", 0.2)] * 20]
        server.listens = False
        url = f"https://localhost:{server.port}/"
        networks = ("127.0.0.0/8", "::1/128")
        reply, took_s = sender.timed(request(url, timeout_s=2, networks=networks))
    assert (reply.failure, reply.requested) == (Failure.TIMEOUT, False)
    assert took_s <= 0.6 + LATE_S


def test_an_address_that_swallows_packets_is_a_timeout_within_the_connect_timeout(
    sender: Sender,
) -> None:
    # A listener whose queue is full drops every further SYN, as a black hole does.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        stuffing = [socket.socket() for _ in range(3)]
        for one in stuffing:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        reply, took_s = sender.timed(request(f"http://127.0.0.1:{port}/", timeout_s=5))
        for one in stuffing:
            one.close()
    assert (reply.failure, reply.requested) == (Failure.TIMEOUT, False)
    assert took_s <= 0.6 + LATE_S


@pytest.mark.parametrize("path", ["/huge", "/long-line", "/gzip"])
def test_an_endless_body_is_read_up_to_the_cap_and_its_status_stands(
    path: str, sender: Sender, receiver: Receiver
) -> None:
    reply, took_s = sender.timed(request(receiver.url(path), timeout_s=5))
    assert (reply.failure, reply.status, reply.note) == (Failure.NONE, 200, "body_capped")
    assert len(reply.body) == 65_536
    assert took_s < 5


def test_a_compressed_body_is_not_unpacked(sender: Sender, receiver: Receiver) -> None:
    assert sender.send(request(receiver.url("/gzip"))).body[:2] == b"\x1f\x8b"


def test_fifty_endless_bodies_at_once_take_little_memory(receiver: Receiver) -> None:
    with Sender() as sender:
        sender.send(request(receiver.url("/huge")))
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in ("/huge", "/long-line", "/header-2mb", "/headers-5000"):
            sender.transport.submit([request(receiver.url(path))] * 50)
            assert len(sender.wait(50)) == 50
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 50 * 1024


def test_more_hanging_connections_than_select_can_count_delay_nobody(receiver: Receiver) -> None:
    with Sender(in_flight_max=2000) as sender:
        hanging = request(receiver.url("/hang"), timeout_s=4, tag="hanging")
        sender.transport.submit([hanging] * 1500)
        quick = [sender.timed(request(receiver.url("/success"), tag="quick")) for _ in range(20)]
        assert all(reply.status == 200 for reply, _ in quick)
        assert sorted(took_s for _, took_s in quick)[10] < 1
        assert sender.transport.in_flight == 1500
        since_s = clock.monotonic_s()
        replies = [reply for _, reply in sender.wait(1500)]
        assert {reply.failure for reply in replies} == {Failure.TIMEOUT}
        # All of them end in the same moment, and closing 1500 connections takes a while.
        assert clock.monotonic_s() - since_s < 4 + 4 * LATE_S
        assert max(reply.elapsed_ms for reply in replies) < (4 + 4 * LATE_S) * 1000
