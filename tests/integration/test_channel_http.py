"""How a channel is dialled: guarded, within one deadline, trusting nothing it was not told to."""

import base64
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from schedules.channels.dial import ask_dns
from schedules.channels.http import Ask, Http, tls_context
from schedules.channels.registry import load
from schedules.ports import ChannelState
from tests.certificates import MODES, authority_in
from tests.channel_sim import ChannelSim
from tests.orders_asked import order
from tests.receiver import Receiver
from worker.errors import SettingsError
from worker.models import Allowed, Failure

_PUBLIC = "https://merchant.com/cb"
_REFUSED_URLS = (
    *("https://127.0.0.1/", "https://127.1/", "https://0/", "https://2130706433/"),
    *("https://0x7f.1/", "https://0177.0.0.1/", "https://169.254.169.254/latest/meta-data/"),
    *("https://100.100.100.200/", "https://10.0.0.5/", "https://[::1]/"),
    *("https://[::ffff:127.0.0.1]/", "https://[64:ff9b::7f00:1]/", "https://localhost/"),
    *("https://metadata.google.internal/", "https://redis/", "https://127.0.0.1.nip.io/"),
    *("https://user:pass@merchant.com/", "https://merchant.com@127.0.0.1/"),
    *("https://127.0.0.1#@merchant.com/", "https://merchant.com/cb%0d%0aX:1"),
    *("file:///etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL", "http://merchant.com/"),
    *("https://merchant.com:22/", "https://merchant.com:6379/", "//merchant.com/cb"),
    *("https:/127.0.0.1/", "https://xn--0000h.com/"),
)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("http")) as started:
        yield started


def _local(receiver: Receiver) -> Allowed:
    return Allowed(http=True, ports=(receiver.port,), networks=("127.0.0.0/8",))


@pytest.mark.parametrize("url", _REFUSED_URLS)
def test_a_channels_url_is_guarded_when_it_is_configured_and_when_it_is_asked(
    url: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("k")
    file = tmp_path / "channels.toml"
    file.write_text(
        '[channels.shop]\nadapter = "epay"\ncurrency = "CNY"\npid = "1"\nkey_file = "key"\n'
        f"url = '{url}'\n"
    )
    with pytest.raises(SettingsError, match="channel shop, route main: url: "):
        load(file)
    answer = Http(timeout_s=1).send(Ask(url=url))
    assert (answer.failure, answer.status) == (Failure.REFUSED, 0)


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("203.0.113.7", "127.0.0.1"),
        ("8.8.8.8", "127.0.0.1"),
        ("8.8.8.8", "fe80::1"),
        ("::ffff:8.8.8.8",),
        ("64:ff9b::808:808",),
        ("100.64.1.1",),
        ("168.63.129.16",),
        ("224.0.0.1",),
        ("2002:808:808::1",),
        ("fe80::1%eth0",),
        ("not an address",),
    ],
)
def test_a_name_that_leads_to_a_forbidden_address_is_not_dialled(
    addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: dialled.append(address))
    answer = Http(timeout_s=1, resolve=lambda *_: addresses).send(Ask(url=_PUBLIC))
    assert answer.failure is Failure.REFUSED
    assert dialled == []
    # Which address it was is nothing for whoever may read this.
    assert not any(address in answer.detail for address in addresses)


def test_a_name_without_address_is_no_answer() -> None:
    answer = Http(timeout_s=1, resolve=lambda *_: ()).send(Ask(url=_PUBLIC))
    assert answer.failure is Failure.DNS


def test_the_address_that_was_vetted_is_the_one_that_is_dialled(receiver: Receiver) -> None:
    answers = [("127.0.0.1",), ("169.254.169.254",)]
    http = Http(
        timeout_s=1,
        allowed=Allowed(http=True, ports=(receiver.port,), networks=("127.0.0.0/8",)),
        resolve=lambda *_: answers.pop(0),
    )
    url = f"http://shop.merchant.com:{receiver.port}/200"
    assert http.send(Ask(url=url)).status == 200
    assert http.send(Ask(url=url)).failure is Failure.REFUSED
    assert receiver.ledger()[-1].headers["host"] == f"shop.merchant.com:{receiver.port}"


def test_the_next_address_is_dialled_when_one_does_not_answer(receiver: Receiver) -> None:
    http = Http(
        timeout_s=2,
        allowed=_local(receiver),
        resolve=lambda *_: ("127.0.0.2", "127.0.0.1"),
    )
    # Only 127.0.0.1 listens there.
    assert http.send(Ask(url=f"http://a.merchant.com:{receiver.port}/200")).status == 200


def test_the_machines_resolver_gives_each_address_once() -> None:
    assert "127.0.0.1" in ask_dns("localhost", 80)
    assert len(set(ask_dns("localhost", 80))) == len(ask_dns("localhost", 80))


# Without a length a body ends with its connection: cut at the deadline, it looks whole.
_UNTIL_THE_END = base64.urlsafe_b64encode(b'HTTP/1.1 200 OK\r\n\r\n{"code":1}').decode()


@pytest.mark.parametrize(
    "path",
    [
        "/hang",
        *("/drip-line", "/drip-head", "/drip-body", "/drip-chunk-ext"),
        f"/raw?b64={_UNTIL_THE_END}&end=hang",
    ],
)
def test_the_deadline_holds_whatever_the_channel_does(receiver: Receiver, path: str) -> None:
    started = time.monotonic()
    answer = Http(timeout_s=0.5, allowed=_local(receiver)).send(Ask(url=receiver.url(path)))
    assert answer.failure is Failure.TIMEOUT
    assert answer.detail == "no whole answer within 0.5 s"
    assert (answer.status, answer.body) == (0, b"")
    assert 0.4 < time.monotonic() - started < 1.2


def test_the_deadline_holds_while_nobody_takes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        port = full.getsockname()[1]
        for _ in range(4):
            queued = waiting.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(("127.0.0.1", port))
        allowed = Allowed(http=True, ports=(port,), networks=("127.0.0.0/8",))
        started = time.monotonic()
        answer = Http(timeout_s=0.4, allowed=allowed).send(Ask(url=f"http://127.0.0.1:{port}/"))
        assert answer.failure is Failure.TIMEOUT
        assert time.monotonic() - started < 1.0


def test_the_deadline_holds_while_a_name_is_looked_up() -> None:
    never = threading.Event()

    def slow(host: str, port: int) -> tuple[str, ...]:
        never.wait(5)
        return ("8.8.8.8",)

    started = time.monotonic()
    answer = Http(timeout_s=0.3, resolve=slow).send(Ask(url=_PUBLIC))
    assert answer.failure is Failure.TIMEOUT
    assert time.monotonic() - started < 1.0
    never.set()


@pytest.mark.parametrize(
    "path",
    [
        *("/rst", "/close", "/close-mid", "/headers-5000", "/header-2mb", "/bad-framing"),
        *("/no-http", "/gzip", "/huge", "/long-line"),
    ],
)
def test_what_is_no_whole_answer_is_none(receiver: Receiver, path: str) -> None:
    started = time.monotonic()
    answer = Http(timeout_s=5, allowed=_local(receiver)).send(Ask(url=receiver.url(path)))
    assert answer.failure in (Failure.PROTOCOL, Failure.RESET)
    assert (answer.status, answer.body) == (0, b"")
    assert time.monotonic() - started < 3


def test_a_body_is_read_up_to_its_cap_and_no_further(receiver: Receiver) -> None:
    allowed = _local(receiver)
    word = receiver.url("/word", body="x" * 2000)
    assert len(Http(timeout_s=5, reply_max_bytes=2000, allowed=allowed).send(Ask(url=word)).body)
    cut = Http(timeout_s=5, reply_max_bytes=1999, allowed=allowed).send(Ask(url=word))
    assert cut.detail == "the answer is longer than 1999 bytes"


def test_nothing_of_the_machines_environment_goes_along(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password leaked\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    url = receiver.url("/200", asked="environment")
    assert Http(timeout_s=2, allowed=_local(receiver)).send(Ask(url=url)).status == 200
    seen = receiver.ledger()[-1]
    assert "asked=environment" in seen.target
    assert "leaked" not in str(seen)
    assert "authorization" not in seen.headers


def test_a_redirect_is_an_answer_and_not_an_order(receiver: Receiver) -> None:
    before = len(receiver.ledger())
    http = Http(timeout_s=2, allowed=_local(receiver))
    assert 300 <= http.send(Ask(url=receiver.url("/302"))).status < 400
    assert len(receiver.ledger()) == before + 1


def test_no_failure_puts_the_url_into_words(receiver: Receiver) -> None:
    allowed = Allowed(http=True, ports=(receiver.port, 1), networks=("127.0.0.0/8",))
    http = Http(timeout_s=1, allowed=allowed)
    local = f"127.0.0.1:{receiver.port}"
    for url in (
        *(f"http://{local}/{path}?key=hidden" for path in ("close", "hang", "rst", "no-http")),
        *(f"{base}/?key=hidden" for base in ("http://127.0.0.1:1", f"https://{local}")),
        *("https://127.0.0.1:22/?key=hidden", "https://hidden@127.0.0.1/", "hidden://x/"),
    ):
        answer = http.send(Ask(url=url))
        assert answer.failure, url
        assert "hidden" not in repr(answer) + answer.detail + repr(Ask(url=url))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "client-cert"])
def test_only_a_certificate_of_a_trusted_authority_for_that_name_is_believed(
    mode: str, tmp_path: Path
) -> None:
    authority_in(tmp_path)
    with ChannelSim(tmp_path, tls=mode) as sim:
        sim.set_order("epay", "A7", "paid", 1234)
        route = load(sim.config(timeout_s=2.0))["epay"].routes[0]
        found = route.port.query(order("A7", "epay"))
    if mode == "good":
        assert found.state is ChannelState.PAID
    else:
        assert found.state is ChannelState.UNKNOWN
        assert found.detail.startswith("tls: ")


def test_the_machines_authorities_do_not_stand_in_for_a_channels_own(tmp_path: Path) -> None:
    authority_in(tmp_path)
    context = tls_context((tmp_path / "ca.pem").read_text())
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
