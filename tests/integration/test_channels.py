"""Every adapter against the simulator: each state, each lie, each trouble on the way."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schedules.channels.contract import Channel
from schedules.channels.registry import load
from schedules.ports import ChannelPort, ChannelState, Finding, RefundState
from tests.channel_sim import CHANNELS, ChannelSim, Kind
from tests.orders_asked import order, refund

_PAID_AT = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
_SIGNED = ("alipay", "wechat_v3", "unionpay")
# What each channel says for the states it has words for.
_SAYS: dict[str, dict[str, ChannelState]] = {
    "alipay": {
        "finished": ChannelState.FINISHED,
        "partial_refund": ChannelState.PAID,
        "refunded": ChannelState.REFUNDED,
        "closed": ChannelState.CLOSED,
    },
    "wechat_v3": {
        "partial_refund": ChannelState.PARTIAL_REFUND,
        "refunded": ChannelState.PARTIAL_REFUND,
        "closed": ChannelState.CLOSED,
        "failed": ChannelState.FAILED,
    },
    "unionpay": {
        "unpaid": ChannelState.UNKNOWN,
        "closed": ChannelState.CLOSED,
        "failed": ChannelState.FAILED,
    },
    "stripe": {
        "partial_refund": ChannelState.PARTIAL_REFUND,
        "refunded": ChannelState.REFUNDED,
        "closed": ChannelState.CLOSED,
    },
    "epay": {
        "partial_refund": ChannelState.PARTIAL_REFUND,
        "refunded": ChannelState.PARTIAL_REFUND,
    },
    "generic_json": {
        "finished": ChannelState.FINISHED,
        "partial_refund": ChannelState.PARTIAL_REFUND,
        "refunded": ChannelState.REFUNDED,
        "closed": ChannelState.CLOSED,
        "failed": ChannelState.FAILED,
    },
}
_ALL = {"paid": ChannelState.PAID, "unpaid": ChannelState.UNPAID}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChannelSim]:
    with ChannelSim(tmp_path_factory.mktemp("channels")) as started:
        yield started


@pytest.fixture(scope="module")
def channels(running: ChannelSim) -> dict[str, Channel]:
    return load(running.config(routes=("main", "backup"), timeout_s=1.0))


@pytest.fixture
def sim(running: ChannelSim) -> ChannelSim:
    running.forget()
    return running


def _port(channels: dict[str, Channel], channel: str) -> ChannelPort:
    return channels[channel].routes[0].port


def _ask(channels: dict[str, Channel], channel: str, order_no: str = "A7") -> Finding:
    return _port(channels, channel).query(order(order_no, channel))


@pytest.mark.parametrize(
    ("channel", "held", "said"),
    [
        (channel, held, said)
        for channel in CHANNELS
        for held, said in ({**_ALL, **_SAYS[channel]}).items()
    ],
)
def test_each_state_is_understood(
    sim: ChannelSim, channels: dict[str, Channel], channel: str, held: str, said: ChannelState
) -> None:
    refunded = 34 if held == "partial_refund" else 0
    sim.set_order(channel, "A7", held, 1234, paid_at=_PAID_AT, refunded_minor=refunded)
    found = _ask(channels, channel)
    assert (found.state, found.route_failed) == (said, False)
    assert len(found.reply_sha256) == 64
    if said in (ChannelState.PAID, ChannelState.FINISHED):
        assert (found.amount_minor, found.currency) == (1234, "CNY")
        assert found.paid_at == _PAID_AT
        assert found.channel_txn_no
    assert [(asked.what, asked.accepted) for asked in sim.asked()] == [("query", True)]


@pytest.mark.parametrize("channel", CHANNELS)
def test_an_order_nobody_knows_is_not_found(
    sim: ChannelSim, channels: dict[str, Channel], channel: str
) -> None:
    found = _ask(channels, channel)
    assert (found.state, found.route_failed) == (ChannelState.NOT_FOUND, False)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("order_no", ["A-7_x", "2026*|@1", "a'b", "订单7", "a b+c%2F", "x" * 64])
def test_any_order_number_is_asked_about_as_it_is(
    sim: ChannelSim, channels: dict[str, Channel], channel: str, order_no: str
) -> None:
    sim.set_order(channel, order_no, "paid", 1234)
    assert _ask(channels, channel, order_no).state is ChannelState.PAID
    assert [asked.order_no for asked in sim.asked()] == [order_no]


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_channel_that_names_another_amount_is_quoted_not_judged(
    sim: ChannelSim, channels: dict[str, Channel], channel: str
) -> None:
    sim.set_order(channel, "A7", "paid", 1234)
    sim.misbehave("amount", "A7")
    found = _ask(channels, channel)
    assert (found.state, found.amount_minor) == (ChannelState.PAID, 1235)


@pytest.mark.parametrize("channel", [name for name in CHANNELS if name != "epay"])
def test_a_channel_that_names_another_currency_is_quoted(
    sim: ChannelSim, channels: dict[str, Channel], channel: str
) -> None:
    sim.set_order(channel, "A7", "paid", 1234)
    sim.misbehave("currency", "A7")
    assert _ask(channels, channel).currency == "USD"


_UNKNOWN: dict[Kind, str] = {
    "other_order": "about another order",
    "garbage": "",
    "huge": "longer than",
    "gzip": "compressed",
    "redirect": "redirects are not followed",
    "500": "HTTP 500",
    "stall": "no whole answer within 0.3 s",
    "drip": "no whole answer within 0.3 s",
    "reset": "",
}


@pytest.fixture(scope="module")
def hasty(running: ChannelSim) -> dict[str, Channel]:
    """The same channels with short patience."""
    return load(running.config(file="hasty.toml", timeout_s=0.3))


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("kind", _UNKNOWN)
def test_each_trouble_is_unknown_and_the_routes_fault(
    sim: ChannelSim, hasty: dict[str, Channel], channel: str, kind: Kind
) -> None:
    sim.set_order(channel, "A7", "paid", 1234)
    sim.misbehave(kind, "A7")
    started = time.monotonic()
    found = _ask(hasty, channel)
    assert (found.state, found.route_failed) == (ChannelState.UNKNOWN, True), found
    assert _UNKNOWN[kind] in found.detail
    assert (found.amount_minor, found.channel_txn_no) == (None, "")
    assert time.monotonic() - started < 1.5
    sim.behave()
    assert _ask(hasty, channel).state is ChannelState.PAID


@pytest.mark.parametrize("channel", _SIGNED)
def test_a_bad_signature_is_unknown(
    sim: ChannelSim, channels: dict[str, Channel], channel: str
) -> None:
    for held in ("paid", "unpaid", "not_found"):
        sim.set_order(channel, "A7", held, 1234)
        sim.misbehave("bad_signature")
        found = _ask(channels, channel)
        assert (found.state, found.route_failed) == (ChannelState.UNKNOWN, True)
        assert "bad signature" in found.detail


def test_an_old_reply_of_wechat_is_unknown(sim: ChannelSim, channels: dict[str, Channel]) -> None:
    sim.set_order("wechat_v3", "A7", "paid", 1234)
    sim.misbehave("stale")
    found = _ask(channels, "wechat_v3")
    assert found.state is ChannelState.UNKNOWN
    assert "compare the clocks" in found.detail


@pytest.mark.parametrize("channel", CHANNELS)
def test_an_answer_that_is_late_but_in_time_counts(
    sim: ChannelSim, channels: dict[str, Channel], channel: str
) -> None:
    sim.set_order(channel, "A7", "paid", 1234)
    sim.misbehave("late", delay_s=0.2)
    assert _ask(channels, channel).state is ChannelState.PAID


@pytest.mark.parametrize("channel", ["alipay", "wechat_v3", "stripe"])
@pytest.mark.parametrize(
    ("held", "kind", "said", "then"),
    [
        ("unpaid", None, ChannelState.CLOSED, "closed"),
        ("not_found", None, ChannelState.NOT_FOUND, "not_found"),
        ("paid", None, ChannelState.UNKNOWN, "paid"),
        ("unpaid", "paid_on_close", ChannelState.UNKNOWN, "paid"),
    ],
)
def test_a_close_closes_or_says_that_it_could_not(
    sim: ChannelSim,
    channels: dict[str, Channel],
    channel: str,
    held: str,
    kind: Kind | None,
    said: ChannelState,
    then: str,
) -> None:
    sim.set_order(channel, "A7", held, 1234)
    if kind:
        sim.misbehave(kind)
    found = _port(channels, channel).close(order("A7", channel))
    if channel == "stripe" and said is ChannelState.UNKNOWN:
        # Stripe shows the intent as it is, so there is no need to ask again.
        assert (found.state, found.amount_minor) == (ChannelState.PAID, 1234)
    else:
        assert (found.state, found.route_failed) == (said, False)
    assert sim.state(channel, "A7") == then


@pytest.mark.parametrize("channel", ["unionpay", "epay", "generic_json"])
def test_a_channel_that_cannot_close_says_so_without_asking(
    sim: ChannelSim, channels: dict[str, Channel], channel: str
) -> None:
    found = _port(channels, channel).close(order("A7", channel))
    assert (found.state, found.route_failed) == (ChannelState.UNKNOWN, False)
    assert sim.asked() == []


@pytest.mark.parametrize(
    ("channel", "held", "said"),
    [
        ("alipay", "success", RefundState.SUCCESS),
        ("alipay", "processing", None),
        *(
            (channel, held, RefundState(held))
            for channel in ("wechat_v3", "stripe", "generic_json")
            for held in ("success", "processing", "failed")
        ),
        ("wechat_v3", "abnormal", RefundState.ABNORMAL),
        ("unionpay", "success", RefundState.SUCCESS),
        ("unionpay", "processing", RefundState.PROCESSING),
        ("unionpay", "failed", RefundState.FAILED),
        ("epay", "success", None),
    ],
)
def test_each_state_of_a_refund_is_understood(
    sim: ChannelSim,
    channels: dict[str, Channel],
    channel: str,
    held: str,
    said: RefundState | None,
) -> None:
    sim.set_order(channel, "A7", "partial_refund", 1234)
    sim.set_refund(channel, "A7", "R1", held, 34)
    found = _port(channels, channel).query_refund(order("A7", channel), refund())
    assert (found.state, found.route_failed) == (said, False)
    assert said is None or found.amount_minor == 34


@pytest.mark.parametrize("channel", [name for name in CHANNELS if name != "epay"])
@pytest.mark.parametrize("kind", ["500", "garbage", "other_order"])
def test_trouble_while_asking_about_a_refund_is_unknown(
    sim: ChannelSim, channels: dict[str, Channel], channel: str, kind: Kind
) -> None:
    sim.set_order(channel, "A7", "partial_refund", 1234)
    sim.set_refund(channel, "A7", "R1", "success", 34)
    sim.misbehave(kind)
    assert _port(channels, channel).query_refund(order("A7", channel), refund()).state is None


def test_stripe_is_asked_by_id_when_the_id_is_known(
    sim: ChannelSim, channels: dict[str, Channel]
) -> None:
    sim.set_order("stripe", "A7", "paid", 1234, txn_no="pi_known")
    port = _port(channels, "stripe")
    assert port.query(order("A7", "stripe", txn_no="pi_known")).state is ChannelState.PAID
    # The id of another order's payment: the metadata tell.
    assert port.query(order("A8", "stripe", txn_no="pi_known")).state is ChannelState.UNKNOWN
    assert port.query(order("A7", "stripe", txn_no="pi_gone")).state is ChannelState.NOT_FOUND


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_wrong_key_of_ours_is_unknown(sim: ChannelSim, channel: str) -> None:
    text = sim.config(channels=(channel,), file=f"wrong-{channel}.toml").read_text()
    (sim.folder / "wrong.key").write_text("not-the-key")
    text = text.replace("merchant.pem", "stranger.pem")
    for name in ("stripe", "epay", "generic"):
        text = text.replace(f"{name}.key", "wrong.key")
    file = sim.folder / f"wrong-{channel}.toml"
    file.write_text(text)
    sim.set_order(channel, "A7", "paid", 1234)
    found = _ask(load(file), channel)
    assert (found.state, found.route_failed) == (ChannelState.UNKNOWN, True)
    assert "not-the-key" not in found.detail
    assert [asked.accepted for asked in sim.asked()] == [False]


def test_one_route_fails_while_the_other_answers(
    sim: ChannelSim, channels: dict[str, Channel]
) -> None:
    sim.set_order("alipay", "A7", "paid", 1234)
    sim.misbehave("500", route="main")
    main, backup = (route.port.query(order("A7")) for route in channels["alipay"].routes)
    assert (main.state, main.route_failed) == (ChannelState.UNKNOWN, True)
    assert backup.state is ChannelState.PAID
    assert [asked.route for asked in sim.asked()] == ["main", "backup"]


def test_a_channel_that_is_down_is_unknown_at_once(tmp_path: Path, sim: ChannelSim) -> None:
    with ChannelSim(tmp_path) as gone:
        channels = load(gone.config(timeout_s=5.0))
    started = time.monotonic()
    for channel in CHANNELS:
        found = _ask(channels, channel)
        assert (found.state, found.route_failed) == (ChannelState.UNKNOWN, True)
        assert "connect" in found.detail
    assert time.monotonic() - started < 2


def test_many_threads_share_one_port(sim: ChannelSim, channels: dict[str, Channel]) -> None:
    count = 120
    for channel in CHANNELS:
        sim.set_orders(
            [
                {
                    "channel": channel,
                    "order_no": f"N{number}",
                    "state": "paid",
                    "amount_minor": 1000 + number,
                }
                for number in range(count)
            ]
        )
    questions = [(channel, number) for number in range(count) for channel in CHANNELS]
    with ThreadPoolExecutor(16) as pool:
        amounts = pool.map(
            lambda question: _ask(channels, question[0], f"N{question[1]}").amount_minor, questions
        )
        assert list(amounts) == [1000 + number for _, number in questions]
    assert all(asked.accepted for asked in sim.asked())


def test_a_slow_answer_holds_up_nobody_else(sim: ChannelSim, channels: dict[str, Channel]) -> None:
    sim.set_order("alipay", "A7", "paid", 1234)
    sim.set_order("alipay", "SLOW", "paid", 1234)
    sim.misbehave("stall", "SLOW")
    with ThreadPoolExecutor(9) as pool:
        slow = [pool.submit(_ask, channels, "alipay", "SLOW") for _ in range(8)]
        started = time.monotonic()
        assert _ask(channels, "alipay").state is ChannelState.PAID
        assert time.monotonic() - started < 0.8
        assert all(one.result().state is ChannelState.UNKNOWN for one in slow)
