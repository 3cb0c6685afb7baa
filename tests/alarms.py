"""What alert tests share: the shipped rules with other sinks, and rows that speak of trouble."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Row, insert, select

from schedules import alert_rules
from schedules.alert_evaluation import Evaluated, evaluate
from schedules.alert_rules import Book
from worker import settings
from worker.bootstrap import ROOT
from worker.columns import database_now
from worker.tables_alerts import alert, alert_delivery, rollup

SHIPPED = ROOT / "config" / "alerts.toml"
SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
CHOSEN = settings.alone()


def webhook(name: str, url: str, folder: Path, *, timeout_s: float = 2) -> str:
    """An entry for a webhook of the scripted merchant."""
    secret = folder / f"{name}.secret"
    secret.write_text(SECRET)
    port = re.search(r":(\d+)", url.partition("://")[2])
    return (
        f'[[sink]]\nname = "{name}"\nkind = "webhook"\nurl = "{url}"\n'
        f'secret_file = "{secret}"\nallow_http = true\ntimeout_s = {timeout_s}\n'
        f'allow_ports = [{port[1] if port else 443}]\nallow_networks = ["127.0.0.0/8"]\n'
    )


def shipped(folder: Path, *sinks: str, names: Iterable[str] = ("log",)) -> Book:
    """The rules as shipped, with these sinks; thresholds that need thousands of rows are lower."""
    named = ", ".join(f'"{name}"' for name in names)
    text = re.sub(r"(?m)^\[\[rule]]$", f"[[rule]]\nsinks = [{named}]", SHIPPED.read_text())
    text = text.replace("[20000, 100000]", "[5, 50]").replace("enabled = false", "enabled = true")
    file = folder / "alerts.toml"
    file.write_text("\n".join([text, *sinks]))
    book = alert_rules.load(CHOSEN, file)
    assert book.refused == (), book.refused
    return book


def written(folder: Path, text: str) -> Book:
    """The book of a file with this text."""
    file = folder / "alerts.toml"
    file.write_text(text)
    return alert_rules.load(CHOSEN, file)


def at(engine: Engine, book: Book, now: datetime) -> Evaluated:
    """Evaluate all rules at a time."""
    return evaluate(engine, book, now=now, breaker_failures=20)


def now_of(engine: Engine) -> datetime:
    """The database's clock."""
    with engine.connect() as connection:
        moment: datetime = connection.execute(select(database_now())).scalar_one()
        return moment


def count_up(engine: Engine, endpoint_id: int, when: datetime, **counts: int) -> None:
    """Write counts of one endpoint into a minute."""
    with engine.begin() as tx:
        tx.execute(
            insert(rollup).values(
                minute_at=when.replace(second=0, microsecond=0),
                endpoint_id=endpoint_id,
                worker="w1",
                **counts,
            )
        )


def alerts_of(engine: Engine, rule: str | None = None) -> list[Row[Any]]:
    """Alerts, oldest first."""
    query = select(alert).order_by(alert.c.id)
    with engine.connect() as connection:
        rows = connection.execute(query if rule is None else query.where(alert.c.rule == rule))
        return list(rows)


def notices_of(engine: Engine) -> list[Row[Any]]:
    """Notices, oldest first."""
    with engine.connect() as connection:
        return list(connection.execute(select(alert_delivery).order_by(alert_delivery.c.id)))


def minutes(count: float) -> timedelta:
    """So many minutes."""
    return timedelta(minutes=count)
