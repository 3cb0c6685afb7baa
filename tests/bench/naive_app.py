"""What one writes in an afternoon: a Celery task per callback, requests, the ORM.

Must never be tuned beyond what its documentation tells everybody, nor made worse than that.
"""

import os
from datetime import datetime
from functools import cache

import requests
from celery import Celery
from sqlalchemy import DateTime, Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from worker import clock

app = Celery("naive")
app.conf.task_ignore_result = True


class Base(DeclarativeBase):
    """The naive contender's own tables."""


class Callback(Base):
    """One callback and how it went."""

    __tablename__ = "naive_callback"

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str]
    payload: Mapped[str]
    state: Mapped[str] = mapped_column(default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    status: Mapped[int | None]
    reply: Mapped[str | None]
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


@cache
def engine() -> Engine:
    """Open the pool of this process, after the fork."""
    return create_engine(os.environ["BENCH_DSN"])


@app.task  # type: ignore[untyped-decorator]
def deliver(callback_id: int) -> None:
    """Send one callback and write down how it went."""
    with Session(engine()) as session:
        callback = session.get_one(Callback, callback_id)
        reply = requests.post(
            callback.url,
            data=callback.payload,
            headers={"Content-Type": "application/json"},
            timeout=15,
        )
        callback.attempts += 1
        callback.status = reply.status_code
        callback.reply = reply.text
        if reply.status_code == 200 and reply.text == "success":
            callback.state = "delivered"
            callback.finished_at = clock.now()
        session.commit()
