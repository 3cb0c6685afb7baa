"""Every statement of the sweeps finds its rows by an index, beside any number of finished ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, text

from schedules.ports import OrderState
from tests.channel_sim import ChannelSim
from tests.reconciling import Shop

_OURS = ("paynotify_payment_order", "paynotify_refund", "paynotify_check", "paynotify_recon")

# Those that hold no finished row: their size is that of the work that is left.
_BY_STATE = (
    "paynotify_payment_order_unsettled",
    "paynotify_payment_order_ended",
    "paynotify_refund_open",
    "paynotify_check_due",
)


@contextmanager
def _statements(engine: Engine) -> Iterator[dict[str, Any]]:
    """Collect every statement that runs, with the last values it had."""
    seen: dict[str, Any] = {}

    def keep(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE")):
            # One row of many is planned as all of them.
            seen[statement] = values[0] if isinstance(values, list) else values

    event.listen(engine, "before_cursor_execute", keep)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", keep)


def _plan(connection: Connection, statement: str, values: Any) -> str:
    word = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    rows = connection.exec_driver_sql(f"{word} {statement}", values).all()
    return "\n".join(" ".join(map(str, row)) for row in rows)


def test_no_statement_reads_a_whole_table(engine: Engine, tmp_path: Path) -> None:
    with ChannelSim(tmp_path / "sim") as sim:
        shop = Shop(engine, sim, sim.config(channels=["generic_json"], rate_per_s=1000))
        shop.merchant()
        for number, state in enumerate(["paid", "unpaid", "closed", "paid", "paid"]):
            shop.order(f"A{number}", expires_in_s=1)
            sim.set_order("generic_json", f"A{number}", state, 1230 + (number == 4))
        shop.order("B", state=OrderState.PAID)
        with engine.begin() as tx:
            shop.orders.add_refund(tx, refund_no="R1", order_no="B", amount_minor=30)
        sim.set_order("generic_json", "B", "paid", 1230)
        sim.set_refund("generic_json", "B", "R1", "success", 30)
        with _statements(engine) as seen:
            shop.run()
            shop.overwrite("A3", OrderState.CLOSED)
            sim.misbehave("500", "A1")
            shop.later(minutes=30)
            shop.run()
            shop.run(shop.compensation)
    assert len(seen) > 20
    if engine.dialect.name == "postgresql":
        with engine.begin() as tx:
            tx.execute(text("SET LOCAL enable_seqscan = off"))
            plans = {one: _plan(tx, one, values) for one, values in seen.items()}
        bad = [f"{one}\n{plan}" for one, plan in plans.items() if "Seq Scan" in plan]
    else:
        with engine.connect() as connection:
            plans = {one: _plan(connection, one, values) for one, values in seen.items()}
        bad = [
            f"{one}\n{plan}"
            for one, plan in plans.items()
            if any(f"SCAN {name}" in plan and "INDEX" not in plan for name in _OURS)
        ]
    assert not bad, "\n\n".join(bad)
    used = "\n".join(plans.values())
    for index in _BY_STATE:
        assert index in used, f"nothing used {index}"
