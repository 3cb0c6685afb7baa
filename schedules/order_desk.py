"""Opens what reconciliation works on: the orders, and how each merchant's are treated.

Must never go on with a description of the host's table that does not fit it.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from schedules import orders_mapped, orders_options
from schedules.decisions import Policy
from schedules.orders import Orders
from schedules.orders_options import OrdersOptions
from schedules.orders_sql import SqlOrders
from worker import settings

FILE = "orders.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDesk:
    """The orders in force.

    Attributes:
        orders: the host's table, or ours.
        own: ours, when the host has mapped none; else None.
        options: what the file says.
    """

    orders: SqlOrders
    own: Orders | None
    options: OrdersOptions

    def policy_of(self, merchant: str) -> Policy:
        """Return the policy of a merchant."""
        special = self.options.merchants.get(merchant)
        return self.options.policy.policy(None if special is None else special.late_payment)


def read_options(folder: Path) -> OrdersOptions:
    """Read ``orders.toml``; without the file, the defaults.

    Raises:
        SettingsError: with all problems of the file at once.
    """
    file = folder / FILE
    return orders_options.check(settings.read_toml(file) if file.exists() else {}, FILE)


def open_orders(engine: Engine, folder: Path) -> OrderDesk:
    """Read ``orders.toml`` and open the table it names; without the file ours, with defaults.

    Args:
        engine: of the database with our tables and the host's.
        folder: of the file.

    Raises:
        SettingsError: the file, or the table it describes; with all problems at once.
    """
    options = read_options(folder)
    if options.table is None:
        own = Orders()
        return OrderDesk(orders=own, own=own, options=options)
    mapped = orders_mapped.open_mapped(engine, options.table, where=FILE)
    return OrderDesk(orders=mapped, own=None, options=options)
