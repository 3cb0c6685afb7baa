"""Acceptance: many orders, channels that lose, lie and stall, hosts that close too early.

What each order must end as is written down before the first question; the channels' own lies are
taken back in the end, as a channel's are by its bill at the latest.
"""

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, insert, select

from schedules import notices, rows
from schedules.ports import OrderState
from tests.channel_sim import ChannelSim
from tests.reconciling import Shop
from worker import tables, tables_orders
from worker.client import Notifier

CHANNELS = ("generic_json", "epay", "wechat_v3")
_ROUNDS_MAX = 60
# What befalls an order, how often in a hundred, and what it must end as.
FATES = {
    "called_back": (20, "paid"),  # the host's callback came in by itself
    "lost_callback": (25, "paid"),
    "paid_later": (10, "paid"),  # paid between two questions
    "never_paid": (10, "closed"),  # expires
    "closed_there": (5, "closed"),
    "late_payment": (6, "closed"),  # closed here, then paid there
    "wrong_amount": (6, "pending"),
    "wrong_currency": (2, "pending"),
    "lies_unpaid": (6, "paid"),  # the channel says unpaid of a paid one for a while
    "lies_paid_then_unpaid": (2, "paid"),  # says unpaid of what we have as paid: never taken back
    "silent_a_while": (6, "paid"),  # 500, garbage, other orders
    "silent_for_ever": (2, "pending"),
}
_CASE_OF = {
    "late_payment": "late_payment",
    "wrong_amount": "amount_mismatch",
    "wrong_currency": "currency_mismatch",
    "lies_paid_then_unpaid": "status_mismatch",
    "silent_for_ever": "unanswered",
}
_NOISE = ("500", "garbage", "other_order", "reset")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        problems: promises that were broken, one sentence each.
    """

    count: int
    elapsed_s: float
    questions: int
    states: dict[str, int]
    cases: dict[str, int]
    told: int
    problems: Sequence[str] = field(default_factory=list)

    def text(self) -> str:
        """The run in a few lines."""
        return (
            f"{self.count} orders settled in {self.elapsed_s:.1f} s with {self.questions} answers: "
            f"{self.states}\ncases {self.cases}; {self.told} notifications\n"
            + "\n".join(self.problems)
        )


def run(engine: Engine, folder: Path, *, count: int, seed: int = 1) -> Outcome:
    """Place ``count`` orders, let things go wrong, reconcile until nothing is due any more."""
    luck = random.Random(seed)
    with ChannelSim(folder) as sim:
        # The faults belong to orders here, not to routes: those have tests of their own.
        file = sim.config(channels=CHANNELS, rate_per_s=1000, timeout_s=2.0, breaker_failures=1000)
        shop = Shop(engine, sim, file, share=200, page=1000)
        shop.merchant()
        fates = _place(shop, count, luck)
        began_s = time.monotonic()
        shop.run()
        _host_acts(shop, fates)
        for round_no in range(_ROUNDS_MAX):
            # 10 minutes by the minute, an hour by ten, then by the hour: past one day.
            shop.later(minutes=1.2 if round_no < 9 else 12 if round_no < 15 else 75)
            _things_happen(shop, fates, round_no)
            shop.run()
            if round_no > 30 and not _open(engine):
                break
        elapsed_s = time.monotonic() - began_s
        return _judge(shop, fates, elapsed_s)


def _place(shop: Shop, count: int, luck: random.Random) -> dict[str, str]:
    names, weights = list(FATES), [share for share, _ in FATES.values()]
    fates = {
        f"A{number:06}": fate for number, fate in enumerate(luck.choices(names, weights, k=count))
    }
    with shop.engine.begin() as tx:
        now = rows.now(tx)
        tx.execute(
            insert(tables_orders.payment_order),
            [
                {
                    "order_no": no,
                    "merchant": "m-1",
                    "channel": _channel(no, fate),
                    "amount_minor": _minor(no),
                    "currency": "CNY",
                }
                for no, fate in fates.items()
            ],
        )
        table = tables_orders.payment_order
        expiring = [no for no, fate in fates.items() if fate == "never_paid"]
        for some in _pages(expiring, 500):
            tx.execute(table.update().where(table.c.order_no.in_(some)).values(expires_at=now))
    there = {"never_paid": "unpaid", "closed_there": "closed", "paid_later": "unpaid"}
    there["late_payment"] = "unpaid"
    _at_channel(shop, {no: there.get(fate, "paid") for no, fate in fates.items()}, fates)
    for no, fate in fates.items():
        if fate == "lies_unpaid":
            shop.sim.misbehave("state", no)
        elif fate.startswith("silent"):
            shop.sim.misbehave(luck.choice(_NOISE), no)  # type: ignore[arg-type]
    return fates


def _host_acts(shop: Shop, fates: dict[str, str]) -> None:
    """The host hears of some payments itself, tells its merchants, and closes some too early."""
    notifier = Notifier()
    own = [no for no, fate in fates.items() if fate in ("called_back", "lies_paid_then_unpaid")]
    table = tables_orders.payment_order
    for some in _pages(own, 500):
        with shop.engine.begin() as tx:
            tx.execute(
                table.update()
                .where(table.c.order_no.in_(some))
                .values(state="paid", paid_at=rows.now(tx), updated_at=rows.now(tx))
            )
            # Half of them the host dies before telling: compensation must.
            told = [no for no in some if int(no[1:]) % 2]
            orders = [shop.orders.get(tx, no) for no in told]
            notifier.enqueue_many(
                tx, [notices.of_order(one, "payment.succeeded") for one in orders if one]
            )
    late = [no for no, fate in fates.items() if fate == "late_payment"]
    for some in _pages(late, 500):
        with shop.engine.begin() as tx:
            tx.execute(
                table.update().where(table.c.order_no.in_(some)).values(state=OrderState.CLOSED)
            )
    _at_channel(shop, dict.fromkeys(late, "paid"), fates)
    lying = [no for no, fate in fates.items() if fate == "lies_paid_then_unpaid"]
    _at_channel(shop, dict.fromkeys(lying, "unpaid"), fates)


def _things_happen(shop: Shop, fates: dict[str, str], round_no: int) -> None:
    if round_no == 3:
        later = [no for no, fate in fates.items() if fate == "paid_later"]
        _at_channel(shop, dict.fromkeys(later, "paid"), fates)
    if round_no == 6:
        # Only those that are silent for ever go on.
        shop.sim.behave()
        for no, fate in fates.items():
            if fate == "silent_for_ever":
                shop.sim.misbehave("garbage", no)
    if round_no == 12:
        shop.run(shop.compensation)


def _open(engine: Engine) -> int:
    """Count what is still to be settled: asked about, and neither a case nor ended."""
    check, case = tables_orders.check, tables_orders.recon_case
    cased = select(case.c.subject_no).where(case.c.resolved_at.is_(None))
    query = select(func.count()).where(
        check.c.finished_at.is_(None), check.c.subject_no.not_in(cased)
    )
    with engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def _judge(shop: Shop, fates: dict[str, str], elapsed_s: float) -> Outcome:
    order, case, note = (
        tables_orders.payment_order,
        tables_orders.recon_case,
        tables.notification,
    )
    proof = tables_orders.evidence
    with shop.engine.connect() as connection:
        states: dict[str, str] = dict(
            connection.execute(select(order.c.order_no, order.c.state)).all()
        )
        cases = connection.execute(
            select(case.c.subject_no, case.c.reason).where(case.c.resolved_at.is_(None))
        ).all()
        told = Counter(connection.execute(select(note.c.order_no)).scalars())
        unknown_moved = connection.execute(
            select(func.count()).where(proof.c.decision == "unknown", proof.c.done != "")
        ).scalar_one()
        questions = connection.execute(select(func.count()).select_from(proof)).scalar_one()
    problems = [
        f"order {no} ({fate}) is {states[no]}, must be {FATES[fate][1]}"
        for no, fate in fates.items()
        if states[no] != FATES[fate][1]
    ]
    problems += [
        f"order {no} ({fates[no]}) is {state} and was told {told[no]} times"
        for no, state in states.items()
        if told[no] != (state == "paid")
    ]
    had: dict[str, set[str]] = {}
    for row in cases:
        had.setdefault(row.subject_no, set()).add(row.reason)
    for no, fate in fates.items():
        wanted = {_CASE_OF[fate]} if fate in _CASE_OF else set()
        if had.get(no, set()) != wanted:
            problems.append(f"order {no} ({fate}) has cases {had.get(no)}, must have {wanted}")
    if unknown_moved:
        problems.append(f"{unknown_moved} unknown answers changed something")
    return Outcome(
        count=len(fates),
        elapsed_s=elapsed_s,
        questions=int(questions),
        states=dict(Counter(states.values())),
        cases=dict(Counter(row.reason for row in cases)),
        told=sum(told.values()),
        problems=problems[:20],
    )


def _at_channel(shop: Shop, states: dict[str, str], fates: dict[str, str]) -> None:
    orders: list[dict[str, Any]] = [
        {
            "channel": _channel(no, fates[no]),
            "order_no": no,
            "state": state,
            "amount_minor": _minor(no) + (fates[no] == "wrong_amount"),
            "currency": "USD" if fates[no] == "wrong_currency" else "CNY",
        }
        for no, state in states.items()
    ]
    for some in _pages(orders, 2000):
        shop.sim.set_orders(some)


def _channel(no: str, fate: str) -> str:
    # epay names no currency, and knows no closed order.
    plain = fate in ("wrong_currency", "closed_there")
    return CHANNELS[0 if plain else int(no[1:]) % len(CHANNELS)]


def _minor(no: str) -> int:
    return 100 + int(no[1:])


def _pages(items: Sequence[Any], size: int) -> list[Any]:
    return [items[at : at + size] for at in range(0, len(items), size)]
