"""A reconciliation in a test: real database, real simulated channels, a clock that is passed in."""

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, select

from schedules import rows
from schedules.channels import registry
from schedules.decisions import Policy
from schedules.order_notifications import OrderNotifications
from schedules.orders import Orders
from schedules.ports import Order, OrderState
from schedules.status_reconciliation import StatusReconciliation
from schedules.sweep import Sweep
from tests.channel_sim import ChannelSim
from tests.office import MASTER_KEY
from worker import database, runtime, tables, tables_orders
from worker.client import Notifier
from worker.settings import Settings


class Shop:
    """A host with orders, a merchant with an endpoint, and channels that are simulated.

    Args:
        engine: fresh and migrated.
        sim: the channels; nothing of another test may be in it.
        channels: file that the sweep reads.
        policy: of all merchants.
        orders: the port; ours if None.
        options: go to the sweep.
    """

    def __init__(
        self,
        engine: Engine,
        sim: ChannelSim,
        channels: Path,
        *,
        policy: Policy | None = None,
        orders: Orders | None = None,
        notifier: Notifier | None = None,
        **options: Any,
    ) -> None:
        self.engine, self.sim = engine, sim
        self.ahead = timedelta(0)
        self.orders = orders or Orders()
        self.policy = policy or Policy()
        notifier = notifier or Notifier()
        self.sweep = StatusReconciliation(
            engine,
            self.orders,
            registry.load(channels),
            notifier,
            policy_of=lambda _: self.policy,
            read_now=self.now,
            luck=lambda: 0.0,
            **options,
        )
        self.compensation = OrderNotifications(
            engine,
            self.orders,
            notifier,
            policy_of=lambda _: self.policy,
            read_now=self.now,
        )

    def now(self, tx: Connection) -> datetime:
        """The database's time, as far ahead as the test has let it pass."""
        return rows.now(tx) + self.ahead

    def later(self, **span: float) -> None:
        """Let time pass."""
        self.ahead += timedelta(**span)

    def merchant(self, name: str = "m-1", **fields: Any) -> None:
        """Register an endpoint for a merchant; nothing is ever sent to it."""
        values: dict[str, Any] = {
            "database_url": self.engine.url.render_as_string(hide_password=False),
            "master_key": MASTER_KEY,
        }
        desk = runtime.open_desk(Settings(**values))
        fields = {"url": "https://merchant.com/cb", **fields}
        try:
            desk.endpoints.register(name=f"{name}-e", merchant=name, who="test", **fields)
        finally:
            desk.engine.dispose()

    def order(
        self,
        order_no: str = "A7",
        minor: int = 1230,
        *,
        channel: str = "generic_json",
        state: OrderState = OrderState.PENDING,
        expires_in_s: float | None = None,
        **fields: Any,
    ) -> Order:
        """Write an order; ``expires_in_s`` from the database's real time."""
        with self.engine.begin() as tx:
            expires_at = expires_in_s and rows.now(tx) + timedelta(seconds=expires_in_s)
            values = {"merchant": "m-1", "currency": "CNY", "expires_at": expires_at, **fields}
            made = self.orders.add(
                tx, order_no=order_no, channel=channel, amount_minor=minor, **values
            )
        if state is not OrderState.PENDING:
            self.overwrite(order_no, state)
        return made

    def overwrite(self, order_no: str, state: OrderState, **values: Any) -> None:
        """Set an order's state as a host would, asking nobody."""
        table = tables_orders.payment_order
        with self.engine.begin() as tx:
            tx.execute(
                table.update()
                .where(table.c.order_no == order_no)
                .values({"state": state.value, "updated_at": rows.now(tx), **values})
            )

    def run(self, sweep: Sweep | None = None) -> dict[str, int]:
        """Run a round; returns its counts."""
        return run_round(sweep or self.sweep)

    def ask(self, **span: float) -> dict[str, int]:
        """Enrol what is there, let time pass, and run a round."""
        self.run()
        self.later(**(span or {"seconds": 61}))
        return self.run()

    def state(self, order_no: str = "A7") -> OrderState:
        """The state an order has now."""
        with self.engine.begin() as tx:
            found = self.orders.get(tx, order_no)
        assert found is not None
        return found.state

    def age(self, order_no: str) -> datetime:
        """When an order's row was last written."""
        with self.engine.begin() as tx:
            found = self.orders.get(tx, order_no)
        assert found is not None
        assert found.changed_at is not None
        return found.changed_at

    def cases(self, order_no: str = "A7", *, every: bool = False) -> list[str]:
        """Reasons of the open cases of a subject; of all cases with ``every``."""
        table = tables_orders.recon_case
        found = self._rows(table, table.c.subject_no == order_no)
        return [row.reason for row in found if every or row.resolved_at is None]

    def check(self, subject_no: str = "A7") -> Row[Any]:
        """The row that says when a subject is asked about."""
        table = tables_orders.check
        [found] = self._rows(table, table.c.subject_no == subject_no)
        return found

    def evidence(self, subject_no: str = "A7") -> list[Row[Any]]:
        """The evidence rows of a subject, in order."""
        table = tables_orders.evidence
        return self._rows(table, table.c.subject_no == subject_no)

    def told(self, order_no: str = "A7") -> list[dict[str, Any]]:
        """Payloads the merchant is told about an order, in order."""
        table = tables.notification
        return [json.loads(row.payload) for row in self._rows(table, table.c.order_no == order_no)]

    def _rows(self, table: Any, condition: Any) -> list[Row[Any]]:
        key = table.c.id
        with self.engine.connect() as connection:
            return list(connection.execute(select(table).where(condition).order_by(key)))


def run_round(sweep: Sweep) -> dict[str, int]:
    """Do a whole round of a sweep; returns its counts."""
    counts: dict[str, int] = {}
    cursor, steps = "", 0
    while True:
        step = sweep.step(cursor)
        for name, count in step.counts.items():
            counts[name] = counts.get(name, 0) + count
        cursor, steps = step.cursor, steps + 1
        assert steps < 10_000, "the round does not end"
        if not cursor:
            return counts


def main() -> None:
    """Reconcile round after round until killed; says when a round is over.

    Usage: python -m tests.reconciling DSN CHANNELS_FILE AHEAD_S
    """
    dsn, file, ahead_s = sys.argv[1:]
    engine = database.connect(dsn)
    sweep = StatusReconciliation(
        engine,
        Orders(),
        registry.load(Path(file)),
        Notifier(),
        read_now=lambda tx: rows.now(tx) + timedelta(seconds=float(ahead_s)),
        page=50,
        share=20,
    )
    while True:
        print(json.dumps(run_round(sweep)), flush=True)


if __name__ == "__main__":
    main()
