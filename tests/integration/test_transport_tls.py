"""A merchant whose TLS is not right in every way gets not one byte of a payload."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Issued, Mode, authority, authority_in, leaf
from tests.receiver import Receiver
from tests.sending import Sender, request
from worker.models import Failure, Request


class Shop:
    """A TLS merchant, the authority behind its certificate, and how to call it by name."""

    def __init__(self, folder: Path, mode: Mode) -> None:
        self.trusted: Issued = authority_in(folder)
        self.ca_pem = self.trusted.certificate_pem
        self.receiver = Receiver(folder, tls=mode)

    def resolve(self) -> tuple[str, ...]:
        return (f"merchant.test:{self.receiver.port}:127.0.0.1",)

    def order(self, *, ca_pem: str | None, client_pem: str | None = None) -> Request:
        url = self.receiver.url("/success", host="merchant.test")
        return request(url, ca_pem=ca_pem, client_pem=client_pem)


def shop(folder: Path, mode: Mode) -> Iterator[Shop]:
    made = Shop(folder, mode)
    with made.receiver:
        yield made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    yield from shop(tmp_path_factory.mktemp("good"), "good")


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    yield from shop(tmp_path_factory.mktemp("picky"), "client-cert")


def test_a_bundle_of_the_endpoint_lets_its_merchant_be_called(good: Shop) -> None:
    with Sender(resolve=good.resolve) as sender:
        reply = sender.send(good.order(ca_pem=good.ca_pem))
    assert (reply.failure, reply.status, reply.body) == (Failure.NONE, 200, b"success")


def test_a_bundle_of_the_process_lets_merchants_be_called(good: Shop, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(good.ca_pem)
    with Sender(resolve=good.resolve, ca_file=bundle) as sender:
        assert sender.send(good.order(ca_pem=None)).status == 200


def test_a_bundle_of_the_endpoint_replaces_the_process_bundle(good: Shop, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(good.ca_pem)
    other = authority("Somebody else").certificate_pem
    with Sender(resolve=good.resolve, ca_file=bundle) as sender:
        assert sender.send(good.order(ca_pem=other)).failure is Failure.TLS


@pytest.mark.parametrize("mode", ["expired", "self-signed", "wrong-host", "unknown-ca", "tls1.0"])
def test_a_merchant_with_wrong_tls_gets_no_request(mode: Mode, tmp_path: Path) -> None:
    made = Shop(tmp_path, mode)
    with made.receiver, Sender(resolve=made.resolve) as sender:
        reply = sender.send(made.order(ca_pem=made.ca_pem))
        assert (reply.failure, reply.status) == (Failure.TLS, 0)
        assert not reply.requested
        assert reply.detail
        assert made.receiver.ledger() == []


def test_the_system_does_not_trust_our_test_authority(good: Shop) -> None:
    before = len(good.receiver.ledger())
    with Sender(resolve=good.resolve) as sender:
        assert sender.send(good.order(ca_pem=None)).failure is Failure.TLS
    assert len(good.receiver.ledger()) == before


def test_a_connection_is_never_lent_to_an_endpoint_with_another_bundle(good: Shop) -> None:
    other = authority("Somebody else").certificate_pem
    with Sender(resolve=good.resolve) as sender:
        for ca_pem, failure in [(good.ca_pem, Failure.NONE), (other, Failure.TLS)] * 2:
            assert sender.send(good.order(ca_pem=ca_pem)).failure is failure


def test_a_client_certificate_is_shown_only_for_its_own_endpoint(picky: Shop) -> None:
    mine = leaf(picky.trusted, hosts=("client.test",)).pem
    stranger = leaf(authority("Somebody else"), hosts=("client.test",)).pem
    before = len(picky.receiver.ledger())
    with Sender(resolve=picky.resolve) as sender:
        for client_pem, answered in [(mine, True), (None, False), (stranger, False), (mine, True)]:
            reply = sender.send(picky.order(ca_pem=picky.ca_pem, client_pem=client_pem))
            assert (reply.status == 200) is answered, reply
    assert len(picky.receiver.ledger()) - before == 2


@pytest.mark.parametrize("pem", ["not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_an_unreadable_bundle_or_certificate_trusts_nobody(pem: str, good: Shop) -> None:
    before = len(good.receiver.ledger())
    with Sender(resolve=good.resolve) as sender:
        assert sender.send(good.order(ca_pem=pem)).failure is Failure.TLS
        assert sender.send(good.order(ca_pem=good.ca_pem, client_pem=pem)).failure is Failure.TLS
        assert sender.send(good.order(ca_pem=good.ca_pem)).status == 200
    assert len(good.receiver.ledger()) == before + 1
