"""What runs by the clock in the demo: an order nobody was told of is put right, an alert trips.

Everything goes the way it goes in production: a cron table, a channel and a rule in files of the
demo's own, beat and workers as processes. Must never touch the orders it looks at but as a host.
"""

from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, insert, select

from worker import clock
from worker.demo_bank import NAME, Bank
from worker.tables_alerts import alert
from worker.tables_orders import payment_order

_SCHEDULES = """[[schedule]]
name = "status-reconciliation"
cron = "* * * * * *"
job = "status-reconciliation"

[[schedule]]
name = "alert-evaluation"
cron = "* * * * * *"
job = "alert-evaluation"
catch_up = "skip"
"""
_ALERTS = """[[sink]]
name = "log"
kind = "log"

[[rule]]
name = "dead-letters"
measure = "dead_letters"
threshold = 1
"""
_AMOUNT_MINOR, _CURRENCY = 8800, "CNY"


def write_files(folder: Path, bank: Bank) -> Path:
    """Write the files an operator would; returns the settings file they stand beside."""
    (folder / "schedules.toml").write_text(_SCHEDULES, encoding="utf-8")
    (folder / "alerts.toml").write_text(_ALERTS, encoding="utf-8")
    (folder / "channels.toml").write_text(bank.description(), encoding="utf-8")
    file = folder / "paynotify.toml"
    file.write_text("", encoding="utf-8")
    return file


def pay_in_silence(engine: Engine, bank: Bank, merchant: str) -> str:
    """Place an order that the bank was paid for without telling; returns its number."""
    order_no = f"{clock.now():%Y%m%d}-silent"
    bank.pay(order_no, _AMOUNT_MINOR, _CURRENCY)
    with engine.begin() as tx:
        tx.execute(
            insert(payment_order).values(
                order_no=order_no,
                merchant=merchant,
                channel=NAME,
                amount_minor=_AMOUNT_MINOR,
                currency=_CURRENCY,
                state="pending",
                # A channel gets a minute to call by itself before it is asked.
                created_at=clock.now() - timedelta(minutes=3),
            )
        )
    return order_no


def is_paid(engine: Engine, order_no: str) -> bool:
    """Say whether we know by now that it was paid."""
    query = select(payment_order.c.state).where(payment_order.c.order_no == order_no)
    with engine.connect() as tx:
        return bool(tx.execute(query).scalar_one() == "paid")


def alert_told(engine: Engine) -> str:
    """Return the sentence of the alert that tripped; empty while none has."""
    with engine.connect() as tx:
        return tx.execute(select(alert.c.summary).order_by(alert.c.id)).scalars().first() or ""
