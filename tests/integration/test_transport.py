"""What the transport sends, and what it makes of honest and dishonest replies."""

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.receiver import Received, Receiver
from tests.sending import Sender, raw_server, request
from worker import clock
from worker.errors import WrongStateError
from worker.models import Failure, Reply, Request
from worker.transport import Transport


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("merchant")) as running:
        yield running


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    with Sender() as running:
        yield running


def last(receiver: Receiver) -> Received:
    return receiver.ledger()[-1]


def test_the_bytes_and_headers_of_a_request_arrive_as_given(
    sender: Sender, receiver: Receiver
) -> None:
    headers = (("content-type", "application/json; a=b"), ("webhook-id", "msg_1"), ("x-empty", ""))
    reply = sender.send(
        request(receiver.url("/success?a=1"), body=b"\xe4\xb8\xad", headers=headers)
    )
    got = last(receiver)
    assert (reply.failure, reply.status, reply.body) == (Failure.NONE, 200, b"success")
    assert (reply.remote_ip, reply.requested, reply.note) == ("127.0.0.1", True, "")
    assert (got.method, got.target, got.body) == ("POST", "/success?a=1", "中")
    assert got.headers["content-type"] == "application/json; a=b"
    assert got.headers["x-empty"] == ""
    assert got.headers["user-agent"] == "paynotify/1"
    assert got.headers["accept-encoding"] == "identity"
    assert "expect" not in got.headers


@pytest.mark.parametrize(("method", "body"), [("PUT", b"new"), ("GET", b""), ("POST", b"")])
def test_each_method_is_sent_as_it_is(
    method: str, body: bytes, sender: Sender, receiver: Receiver
) -> None:
    reply = sender.send(request(receiver.url("/200"), method=method, body=body))
    assert (reply.status, last(receiver).method) == (200, method)
    assert last(receiver).body == body.decode()


def test_a_request_never_carries_what_an_earlier_one_left_on_its_handle(
    receiver: Receiver,
) -> None:
    with Sender(in_flight_max=1) as sender:
        sender.send(request(receiver.url("/200"), body=b"secret", headers=(("x-old", "1"),)))
        sender.send(request(receiver.url("/200"), body=b"", headers=()))
    first, second = receiver.ledger()[-2:]
    assert (first.body, second.body) == ("secret", "")
    assert first.headers["x-old"] == "1"
    assert not {"x-old", "content-type"} & second.headers.keys()


def test_a_large_payload_is_sent_without_asking_first(sender: Sender, receiver: Receiver) -> None:
    body = os.urandom(256 * 1024)
    reply = sender.send(request(receiver.url("/success"), body=body))
    assert (reply.status, last(receiver).headers.get("expect")) == (200, None)


def test_connections_are_kept_and_used_again(receiver: Receiver) -> None:
    with Sender() as sender:
        for _ in range(20):
            assert sender.send(request(receiver.url("/success"))).status == 200
    assert len({record.connection_no for record in receiver.ledger()[-20:]}) == 1


@pytest.mark.parametrize("status", [204, 302, 400, 410, 429, 500, 503, 599])
def test_any_final_status_is_a_reply(status: int, sender: Sender, receiver: Receiver) -> None:
    reply = sender.send(request(receiver.url(f"/{status}")))
    assert (reply.failure, reply.status) == (Failure.NONE, status)


def test_retry_after_and_content_type_are_handed_on_as_received(
    sender: Sender, receiver: Receiver
) -> None:
    reply = sender.send(request(receiver.url("/429", retry_after="Fri, 31 Dec 1999 23:59:59 GMT")))
    assert reply.retry_after == "Fri, 31 Dec 1999 23:59:59 GMT"
    reply = sender.send(request(receiver.url("/word", body="ok", type="application/json")))
    assert (reply.content_type, reply.retry_after) == ("application/json", None)


@pytest.mark.parametrize("path", ["/nul", "/utf8-bad", "/surrogate"])
def test_odd_bytes_in_a_body_are_kept_as_they_came(
    path: str, sender: Sender, receiver: Receiver
) -> None:
    reply = sender.send(request(receiver.url(path)))
    assert reply.status == 200
    assert any(odd in reply.body for odd in (b"\x00", b"\xff\xfe\x80", b"\xed\xa0\x80"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(status: int, sender: Sender, receiver: Receiver) -> None:
    before = len(receiver.ledger())
    reply = sender.send(request(receiver.url(f"/{status}", to=receiver.url("/sink"))))
    assert reply.status == status
    assert [record.path for record in receiver.ledger()[before:]] == [f"/{status}"]


def test_a_refresh_header_is_never_followed(sender: Sender, receiver: Receiver) -> None:
    before = len(receiver.ledger())
    assert sender.send(request(receiver.url("/refresh"))).status == 200
    assert [record.path for record in receiver.ledger()[before:]] == ["/refresh"]


def test_a_body_that_breaks_off_keeps_its_status(sender: Sender, receiver: Receiver) -> None:
    reply = sender.send(request(receiver.url("/close-mid")))
    assert (reply.failure, reply.status, reply.body) == (Failure.NONE, 200, b"suc")
    assert reply.note == "body_truncated"


def test_a_reset_before_the_status_says_that_the_request_was_out(
    sender: Sender, receiver: Receiver
) -> None:
    reply = sender.send(request(receiver.url("/rst")))
    assert (reply.failure, reply.status, reply.requested) == (Failure.RESET, 0, True)


@pytest.mark.parametrize("path", ["/rst", "/close"])
def test_a_request_is_never_sent_twice_though_a_kept_connection_died_under_it(
    path: str, receiver: Receiver
) -> None:
    with Sender() as sender:
        assert sender.send(request(receiver.url("/success"))).status == 200
        reply = sender.send(request(receiver.url(path)))
    first, second = receiver.ledger()[-2:]
    assert (reply.failure, reply.requested) == (Failure.RESET, True)
    assert (first.path, second.path) == ("/success", path)
    assert first.connection_no == second.connection_no


def test_after_one_unannounced_close_a_host_gets_a_connection_for_each_request(
    receiver: Receiver,
) -> None:
    with Sender() as sender:
        for path in ("/success", "/rst", "/success", "/success"):
            sender.send(request(receiver.url(path)))
    first, second, *later = [record.connection_no for record in receiver.ledger()[-4:]]
    assert first == second
    assert len({first, *later}) == 3


def test_a_port_nobody_listens_on_is_a_connect_failure(sender: Sender) -> None:
    with raw_server() as server:
        url = server.url
    reply = sender.send(request(url))
    assert (reply.failure, reply.requested, reply.status) == (Failure.CONNECT, False, 0)


def test_a_name_that_does_not_exist_is_a_dns_failure(sender: Sender) -> None:
    reply = sender.send(request("https://nowhere.invalid/", timeout_s=3))
    assert reply.failure in (Failure.DNS, Failure.TIMEOUT)
    assert not reply.requested


def test_a_url_the_guard_refuses_is_not_dialled(sender: Sender, receiver: Receiver) -> None:
    before = len(receiver.ledger())
    reply = sender.send(request(receiver.url("/success"), networks=()))
    assert (reply.failure, reply.requested) == (Failure.REFUSED, False)
    assert len(receiver.ledger()) == before


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "中"])
def test_a_header_that_cannot_be_sent_is_never_sent(
    value: str, sender: Sender, receiver: Receiver
) -> None:
    before = len(receiver.ledger())
    reply = sender.send(request(receiver.url("/success"), headers=(("x-note", value),)))
    assert (reply.failure, reply.requested) == (Failure.UNSENDABLE, False)
    assert len(receiver.ledger()) == before


def test_proxies_and_netrc_of_the_environment_are_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / ".netrc").write_text("default login a password b")
    monkeypatch.setenv("HOME", str(tmp_path))
    headers = (("x-seen", "1"),)
    with Sender() as sender, raw_server() as server:
        server.script = [(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0)]
        assert sender.send(request(server.url, headers=headers)).status == 200
    assert b"x-seen: 1" in server.heard[0]
    assert b"authorization" not in server.heard[0].lower()


def test_cookies_are_not_kept(sender: Sender) -> None:
    with raw_server() as server:
        server.script = [
            (b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nConnection: close\r\n", 0),
            (b"Content-Length: 0\r\n\r\n", 0),
        ]
        for _ in range(2):
            assert sender.send(request(server.url)).status == 200
    assert all(b"cookie" not in heard.lower() for heard in server.heard[:2])


def test_requests_beyond_the_cap_wait_for_a_place_and_all_are_answered(
    receiver: Receiver,
) -> None:
    with Sender(in_flight_max=3) as sender:
        sender.transport.submit([request(receiver.url("/success"), tag=n) for n in range(50)])
        finished = sender.wait(50)
        assert {one.tag for one, _ in finished} == set(range(50))
        assert sender.transport.in_flight == 0
    assert len({record.connection_no for record in receiver.ledger()[-50:]}) <= 3


def test_a_request_that_finds_no_place_in_its_time_is_given_up_unsent(receiver: Receiver) -> None:
    with Sender(in_flight_max=1) as sender:
        slow = request(receiver.url("/hang"), timeout_s=1.5, tag="slow")
        late = request(receiver.url("/success"), timeout_s=0.5, tag="late")
        sender.transport.submit([slow, late])
        (first, reply), (second, _) = sender.wait(2)
        assert (first.tag, second.tag) == ("late", "slow")
        assert (reply.failure, reply.requested) == (Failure.TIMEOUT, False)
        assert 500 <= reply.elapsed_ms < 1500


def test_replies_that_nobody_can_take_do_not_stop_the_transport(receiver: Receiver) -> None:
    taken: queue.SimpleQueue[Reply] = queue.SimpleQueue()

    def take(finished: Sequence[tuple[Request, Reply]]) -> None:
        for one, reply in finished:
            if one.tag == "bad":
                raise RuntimeError("cannot take this")
            taken.put(reply)

    transport = Transport(
        take,
        in_flight_max=10,
        connect_timeout_s=1,
        connection_max_age_s=10,
        reply_max_bytes=1024,
    )
    transport.start()
    transport.submit([request(receiver.url("/success"), tag="bad")])
    transport.submit([request(receiver.url("/slow", ms=200), tag="good")])
    assert taken.get(timeout=5).status == 200
    assert transport.alive
    transport.close(timeout_s=1)


def test_closing_waits_for_what_is_in_flight_and_refuses_more(receiver: Receiver) -> None:
    with Sender() as sender:
        sender.transport.submit([request(receiver.url("/slow", ms=300))])
        sender.transport.close(timeout_s=5)
        assert sender.wait(1)[0][1].status == 200
        with pytest.raises(WrongStateError):
            sender.transport.submit([request(receiver.url("/success"))])


def test_closing_leaves_what_hangs_without_a_report(receiver: Receiver) -> None:
    with Sender() as sender:
        sender.transport.submit([request(receiver.url("/hang"), timeout_s=20)])
        sender.send(request(receiver.url("/success")))
        since_s = clock.monotonic_s()
        sender.transport.close(timeout_s=0.2)
        assert clock.monotonic_s() - since_s < 2
        assert sender.transport.in_flight == 1


def test_many_threads_can_submit_at_once(receiver: Receiver) -> None:
    with Sender() as sender:
        some = [request(receiver.url("/success"))] * 25
        threads = [threading.Thread(target=sender.transport.submit, args=(some,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert {reply.status for _, reply in sender.wait(200)} == {200}
        for thread in threads:
            thread.join()
