"""Killed anywhere, the sweep finishes when it is run again, and does nothing twice."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, func, select

from schedules.orders import Orders
from schedules.ports import Move, Order, OrderState
from tests.channel_sim import ChannelSim
from tests.reconciling import Shop
from worker import tables, tables_orders
from worker.client import Notifier
from worker.drafts import Draft
from worker.intake import Outcome

ROOT = Path(__file__).resolve().parent.parent.parent


class Killed(BaseException):
    """The process ends here; nothing catches this."""


class Fuse:
    """Kills at one of the next seams that are passed."""

    def __init__(self, luck: random.Random) -> None:
        self._luck = luck
        self.left = 10**9

    def light(self, most: int) -> None:
        self.left = self._luck.randint(1, most)

    def seam(self) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


class FusedOrders(Orders):
    """Orders with a seam before and after every read and write."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse = fuse

    def get_many(self, tx: Connection, order_nos: Collection[str]) -> dict[str, Order | Exception]:
        self._fuse.seam()
        return super().get_many(tx, order_nos)

    def unsettled(self, tx: Connection, *, after: str, limit: int) -> Sequence[Order]:
        found = super().unsettled(tx, after=after, limit=limit)
        self._fuse.seam()
        return found

    def ended(self, tx: Connection, *, since: datetime, after: str, limit: int) -> Sequence[Order]:
        found = super().ended(tx, since=since, after=after, limit=limit)
        self._fuse.seam()
        return found

    def move_many(self, tx: Connection, moves: Sequence[Move], *, wait: bool) -> set[str]:
        self._fuse.seam()
        moved = super().move_many(tx, moves, wait=wait)
        self._fuse.seam()
        return moved


class FusedNotifier(Notifier):
    """A notifier with a seam before and after it writes."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse = fuse

    def take(self, connection: Connection, drafts: Sequence[Draft]) -> list[Outcome]:
        self._fuse.seam()
        done = super().take(connection, drafts)
        self._fuse.seam()
        return done


def _fill(shop: Shop, count: int) -> None:
    with shop.engine.begin() as tx:
        for number in range(count):
            shop.orders.add(
                tx,
                order_no=f"A{number:04}",
                merchant="m-1",
                channel="generic_json",
                amount_minor=100 + number,
                currency="CNY",
            )
    shop.sim.set_orders(
        [
            {
                "channel": "generic_json",
                "order_no": f"A{number:04}",
                "state": "paid" if number % 5 else "closed",
                "amount_minor": 100 + number,
            }
            for number in range(count)
        ]
    )


def _check(engine: Engine, count: int) -> None:
    """Every order ended as its channel says, was moved once and told once."""
    order, proof, note = tables_orders.payment_order, tables_orders.evidence, tables.notification
    with engine.connect() as connection:
        states: dict[str, int] = dict(
            connection.execute(select(order.c.state, func.count()).group_by(order.c.state)).all()
        )
        moves = connection.execute(
            select(proof.c.subject_no).where(proof.c.done.contains("pending ->"))
        ).scalars()
        moved = sorted(moves)
        told = sorted(connection.execute(select(note.c.order_no)).scalars())
    paid = [f"A{number:04}" for number in range(count) if number % 5]
    assert states == {"paid": len(paid), "closed": count - len(paid)}
    assert moved == [f"A{number:04}" for number in range(count)]
    assert told == paid


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_seams_it_finishes_and_does_nothing_twice(
    engine: Engine, sim: ChannelSim, tmp_path: Path, seed: int
) -> None:
    luck = random.Random(seed)
    fuse = Fuse(luck)
    file = sim.config(channels=["generic_json"], rate_per_s=1000)
    shop = Shop(
        engine,
        sim,
        file,
        orders=FusedOrders(fuse),
        notifier=FusedNotifier(fuse),
        page=10,
        share=10,
    )
    shop.merchant()
    _fill(shop, 30)
    kills = 0
    shop.later(minutes=2)
    for most in (1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 17, 20, 10**6):
        fuse.light(most)
        kills += _killed(shop.run)
        shop.later(minutes=2)
    fuse.left = 10**9
    shop.run()
    assert kills >= 5
    _check(engine, 30)


def _killed(work: Callable[[], object]) -> int:
    try:
        work()
    except Killed:
        return 1
    return 0


@pytest.mark.parametrize("seed", range(2))
def test_compensation_killed_at_random_seams_tells_everyone_once(
    engine: Engine, sim: ChannelSim, seed: int
) -> None:
    fuse = Fuse(random.Random(seed))
    file = sim.config(channels=["generic_json"])
    shop = Shop(engine, sim, file, orders=FusedOrders(fuse), notifier=FusedNotifier(fuse))
    shop.compensation._page = 7
    _fill(shop, 30)
    for number in range(30):
        shop.overwrite(f"A{number:04}", OrderState.PAID)
    shop.merchant()
    shop.later(minutes=10)
    kills = 0
    for most in (1, 2, 3, 4, 5):
        fuse.light(most)
        kills += _killed(lambda: shop.run(shop.compensation))
    fuse.left = 10**9
    shop.run(shop.compensation)
    assert kills >= 1
    note = tables.notification
    with engine.connect() as connection:
        told = sorted(connection.execute(select(note.c.order_no)).scalars())
    assert told == [f"A{number:04}" for number in range(30)]


def test_processes_that_are_killed_and_run_side_by_side_do_nothing_twice(
    dsn: str, engine: Engine, sim: ChannelSim
) -> None:
    file = sim.config(channels=["generic_json"], rate_per_s=1000)
    shop = Shop(engine, sim, file)
    shop.merchant()
    _fill(shop, 200)
    luck = random.Random(7)
    command = [sys.executable, "-m", "tests.reconciling", dsn, str(file)]
    for kill in range(4):
        children = [
            subprocess.Popen(
                [*command, str(120 + 3600 * kill)], cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        asked = len(sim.asked())
        until = time.monotonic() + 20
        # Somewhere in the middle of its questions.
        wanted = asked + luck.randint(5, 40)
        while len(sim.asked()) < wanted and time.monotonic() < until:
            time.sleep(0.02)
        for child in children:
            child.kill()
            child.wait(10)
            assert child.stdout is not None
            child.stdout.close()
    shop.later(days=1)
    shop.run()
    _check(engine, 200)
