"""Whatever a resolver says, and whenever it says it, no forbidden address is dialled."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.receiver import Receiver
from tests.sending import Sender, raw_server, request
from worker.models import Failure

# All of 127/8 is this machine, so a merchant that listens everywhere sees what was dialled.
PERMITTED = ("127.0.0.2/32", "127.0.0.3/32")


class Resolver:
    """Answers with the next list of addresses each time it is asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: list[list[str]] = []

    def __call__(self) -> tuple[str, ...]:
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return (f"rebind.merchant.com:{self.port}:{','.join(addresses)}",)

    @property
    def url(self) -> str:
        return f"http://rebind.merchant.com:{self.port}/success"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("merchant"), host="0.0.0.0") as running:
        yield running


@pytest.fixture(scope="module")
def resolver(receiver: Receiver) -> Resolver:
    return Resolver(receiver.port)


@pytest.fixture(scope="module")
def sender(resolver: Resolver) -> Iterator[Sender]:
    with Sender(resolve=resolver) as running:
        yield running


def test_a_public_name_that_leads_home_is_refused_at_the_socket(
    sender: Sender, resolver: Resolver, receiver: Receiver
) -> None:
    before = len(receiver.ledger())
    for address in ("127.0.0.1", "169.254.169.254", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
        resolver.answers = [[address]]
        reply = sender.send(request(resolver.url, networks=()))
        assert (reply.failure, reply.requested) == (Failure.REFUSED, False)
        assert reply.remote_ip == ""
        assert address.strip("[]") in reply.detail
    assert len(receiver.ledger()) == before


def test_a_resolver_that_changes_its_mind_gets_nobody_dialled_who_is_forbidden(
    sender: Sender, resolver: Resolver, receiver: Receiver
) -> None:
    before = len(receiver.ledger())
    resolver.answers = [["127.0.0.2"], ["127.0.0.1"], ["127.0.0.3"], ["127.0.0.9", "127.0.0.2"]]
    replies = [sender.send(request(resolver.url, networks=PERMITTED)) for _ in range(4)]
    # A kept connection to a permitted address may serve any of them; it was vetted when opened.
    assert all(reply.remote_ip in ("", "127.0.0.2", "127.0.0.3") for reply in replies)
    dialled = {record.local_ip for record in receiver.ledger()[before:]}
    assert dialled <= {"127.0.0.2", "127.0.0.3"}


@given(
    answers=st.lists(
        st.lists(st.integers(1, 6).map("127.0.0.{}".format), min_size=1, max_size=5, unique=True),
        min_size=1,
        max_size=5,
    )
)
def test_for_any_answers_of_a_resolver_only_vetted_addresses_are_dialled(
    answers: list[list[str]], receiver: Receiver
) -> None:
    resolver = Resolver(receiver.port)
    resolver.answers = answers
    known = len(receiver.ledger())
    with Sender(resolve=resolver) as sender:
        for _ in range(len(answers)):
            reply = sender.send(request(resolver.url, networks=PERMITTED))
            assert (reply.status == 200) == (reply.failure is Failure.NONE)
            assert reply.failure in (Failure.NONE, Failure.REFUSED)
    fresh = receiver.ledger()[known:]
    assert {record.local_ip for record in fresh} <= {"127.0.0.2", "127.0.0.3"}


def test_a_connection_of_a_permitted_endpoint_is_of_no_use_to_another(
    sender: Sender, resolver: Resolver, receiver: Receiver
) -> None:
    resolver.answers = [["127.0.0.2"]]
    for _ in range(3):
        assert sender.send(request(resolver.url, networks=PERMITTED)).status == 200
        before = len(receiver.ledger())
        assert sender.send(request(resolver.url, networks=())).failure is Failure.REFUSED
        assert sender.send(request(resolver.url, networks=("10.0.0.0/8",))).failure is (
            Failure.REFUSED
        )
        assert len(receiver.ledger()) == before


def test_nothing_is_even_connected_when_an_address_is_refused() -> None:
    with raw_server() as server:
        resolver = Resolver(server.port)
        resolver.answers = [["127.0.0.1"]]
        with Sender(resolve=resolver) as sender:
            for _ in range(50):
                assert sender.send(request(resolver.url, networks=())).failure is Failure.REFUSED
        assert server.connections == 0
