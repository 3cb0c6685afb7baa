"""Routes to a channel: breaker, failover and pace, against simulated channels over real HTTP."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from schedules import rows
from schedules.channel_routes import Instant, Line, Said
from schedules.channels import registry
from schedules.ports import ChannelState, Finding, Order, OrderState
from schedules.route_book import RouteBook
from tests.channel_sim import ChannelSim

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ORDER = Order(
    order_no="A7",
    merchant="m",
    channel="generic_json",
    amount_minor=1230,
    currency="CNY",
    state=OrderState.PENDING,
    placed_at=NOON,
)


@pytest.fixture
def sim(running: ChannelSim) -> ChannelSim:
    running.forget()
    running.behave()
    running.set_order("generic_json", "A7", "paid", 1230)
    return running


@pytest.fixture
def file(sim: ChannelSim) -> Path:
    return sim.config(
        channels=["generic_json"],
        routes=["one", "two"],
        rate_per_s=1000,
        timeout_s=0.5,
        breaker_failures=3,
        breaker_open_s=30,
        breaker_open_max_s=100,
    )


class Caller:
    """One process that asks; time is its own."""

    def __init__(self, engine: Engine, file: Path, *, ahead_s: float = 0.0) -> None:
        self.book = RouteBook(engine)
        self.waited: list[float] = []
        with engine.begin() as tx:
            now = rows.now(tx) + timedelta(seconds=ahead_s)
        channel = registry.load(file)["generic_json"]
        self.line = Line(channel, self.book, Instant(now), wait=self.waited.append)

    def ask(self) -> Said[Finding] | None:
        return self.line.ask(lambda port: port.query(ORDER))

    def route(self) -> str:
        said = self.ask()
        assert said is not None
        assert said.finding.state is ChannelState.PAID
        return said.route


def asked(sim: ChannelSim) -> list[str]:
    return [one.route for one in sim.asked()]


def test_the_first_route_is_asked_while_it_works(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    caller = Caller(engine, file)
    assert [caller.route() for _ in range(5)] == ["one"] * 5
    assert caller.book.health("generic_json") == {}, "a healthy route costs no row"


@pytest.mark.parametrize("kind", ["500", "garbage", "reset", "stall"])
def test_a_route_that_fails_is_left_alone_after_its_breaker_tripped(
    engine: Engine, sim: ChannelSim, file: Path, kind: str
) -> None:
    sim.misbehave(kind, route="one")  # type: ignore[arg-type]
    caller = Caller(engine, file)
    assert [caller.route() for _ in range(6)] == ["two"] * 6
    assert asked(sim) == ["one", "two"] * 3 + ["two"] * 3
    # Another process knows it too, and so does this one after it was started again.
    assert Caller(engine, file).route() == "two"
    assert asked(sim)[-1] == "two"


def test_the_second_route_takes_over_within_half_a_second_of_the_first_tripping(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    sim.misbehave("500", route="one")
    caller = Caller(engine, file)
    caller.ask()
    caller.ask()
    caller.ask()
    health = caller.book.health("generic_json")["one"]
    assert health.open_until is not None
    tripped_s = time.monotonic()
    assert caller.route() == "two"
    took_s = time.monotonic() - tripped_s
    print(f"took over {took_s * 1000:.1f} ms after the first route tripped")
    assert took_s < 0.5


def test_a_stalling_route_under_load_gives_way_within_half_a_second_of_tripping(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    sim.misbehave("stall", route="one")
    caller = Caller(engine, file)
    ends: list[tuple[float, float]] = []

    def one(_: int) -> None:
        began = time.monotonic()
        assert caller.route() == "two"
        ends.append((began, time.monotonic()))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(24)))
    # All that began after the first four had tripped it went to the second route at once.
    tripped = sorted(end for _, end in ends)[3]
    later = [end - began for began, end in ends if began >= tripped]
    print(f"slowest of {len(later)} after the trip: {max(later) * 1000:.1f} ms")
    assert len(later) >= 16
    assert max(later) < 0.5
    assert asked(sim).count("one") <= 8


def test_one_probe_goes_out_when_the_pause_is_over_and_closes_the_breaker(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    sim.misbehave("500", route="one")
    early = Caller(engine, file)
    for _ in range(3):
        early.ask()
    sim.behave()
    late, other = Caller(engine, file, ahead_s=31), Caller(engine, file, ahead_s=31)
    assert late.line._admit("one") is True
    assert other.line._admit("one") is None, "somebody else probes"
    third = Caller(engine, file, ahead_s=31 + 61)
    assert third.route() == "one", "a probe nobody reported on is granted again"
    health = third.book.health("generic_json")["one"]
    assert (health.failures_in_row, health.open_until, health.opened_times) == (0, None, 0)


def test_a_failed_probe_doubles_the_pause_up_to_its_most(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    sim.misbehave("500")
    caller = Caller(engine, file)
    for _ in range(3):
        caller.ask()
    ahead_s, pauses = 0.0, []
    for _ in range(4):
        ahead_s += 200
        probing = Caller(engine, file, ahead_s=ahead_s)
        said = probing.ask()
        assert said is not None
        assert said.finding.state is ChannelState.UNKNOWN
        health = probing.book.health("generic_json")["one"]
        assert health.open_until is not None
        now = probing.line._instant.now()
        pauses.append(round((health.open_until - now).total_seconds(), -1))
    assert pauses == [60, 100, 100, 100]


def test_with_every_route_open_nothing_is_asked_and_nothing_counts(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    sim.misbehave("500")
    caller = Caller(engine, file)
    for _ in range(3):
        caller.ask()
    before = asked(sim)
    assert caller.ask() is None
    assert asked(sim) == before


def test_a_channel_that_does_not_know_is_no_fault_of_its_route(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    sim.set_order("generic_json", "A7", "not_found", 1230)
    caller = Caller(engine, file)
    for _ in range(5):
        said = caller.ask()
        assert said is not None
        assert said.finding.state is ChannelState.NOT_FOUND
    assert set(asked(sim)) == {"one"}


def test_questions_are_spaced_over_all_processes(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    text = file.read_text().replace("rate_per_s = 1000", "rate_per_s = 10")
    slow = file.parent / "slow.toml"
    slow.write_text(text)
    first, second = Caller(engine, slow), Caller(engine, slow)
    for _ in range(5):
        first.ask()
    for _ in range(5):
        second.ask()
    # Nobody really waited: each was told how long. The second process queues behind the first.
    assert max(first.waited, default=0) < 0.5
    assert 0.3 < max(second.waited) < 1.0
    now = first.line._instant.now()
    third = Caller(engine, slow)
    assert third.line.ask(lambda port: port.query(ORDER), by=now) is None, "no room in time"
