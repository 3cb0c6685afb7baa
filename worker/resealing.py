"""Sealing everything anew under another master key, while everybody works.

In small batches, each row replaced only while it is what was read, so that a secret rotated in
between is never undone. Whoever is killed in the middle starts again and finds what is done done.
Must never leave a row that no configured key opens, nor touch one that none does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, insert, select, tuple_, update

from worker.endpoint_fields import check_person
from worker.endpoint_writes import client_row, secret_row
from worker.errors import SecretError
from worker.sealing import Sealer
from worker.tables import audit
from worker.tables import endpoint as _endpoint
from worker.tables import endpoint_secret as _secret

# Rows a transaction replaces: their locks are held for some 20 ms.
_BATCH = 200
_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How sealed rows stand; secrets and client keys together.

    Attributes:
        seen: rows looked at.
        old: of them, those under a previous key; after a reseal, those it has replaced.
        unreadable: names of rows that no configured key opens, at most 20 of them.
        lost: how many those are.
    """

    seen: int = 0
    old: int = 0
    unreadable: tuple[str, ...] = ()
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One sealed value. ``version`` is 0 for a client key."""

    endpoint_id: int
    version: int
    sealed: bytes

    @property
    def name(self) -> str:
        if not self.version:
            return client_row(self.endpoint_id)
        return secret_row(self.endpoint_id, self.version)


def look(engine: Engine, sealer: Sealer) -> Standing:
    """Count; changes nothing. Some 20 microseconds a row."""
    standing = Standing()
    for rows in _pages(engine):
        standing, _ = _counted(standing, rows, sealer)
    return standing


def reseal(
    engine: Engine,
    sealer: Sealer,
    *,
    who: str,
    why: str,
    on_progress: Callable[[Standing], None] = lambda _: None,
) -> Standing:
    """Seal everything that is under a previous key with the master key.

    Calling it again, or twice at once, replaces nothing twice. Each batch is kept in the audit
    log in its own transaction.

    Args:
        engine: of the database with our tables.
        sealer: with the new master key and the previous ones.
        who: kept in the audit log.
        why: kept in the audit log.
        on_progress: called after each batch.

    Raises:
        BadFieldError: ``who`` or ``why`` is missing; nothing was changed.
    """
    who, why = check_person(who, "who"), check_person(why, "why")
    standing = Standing()
    for rows in _pages(engine):
        counted, old = _counted(standing, rows, sealer)
        replaced = 0
        if old:
            with engine.begin() as tx:
                replaced = sum(_replace(tx, row, sealer) for row in old)
                _keep(tx, replaced, who, why)
        standing = replace(counted, old=standing.old + replaced)
        on_progress(standing)
    return standing


def _counted(
    standing: Standing, rows: Sequence[_Row], sealer: Sealer
) -> tuple[Standing, list[_Row]]:
    """Add a page to what was seen; returns it with the rows under a previous key."""
    old: list[_Row] = []
    shut: list[str] = []
    for row in rows:
        try:
            if not sealer.is_current(row.sealed, row=row.name):
                old.append(row)
        except SecretError:
            shut.append(row.name)
    return Standing(
        seen=standing.seen + len(rows),
        old=standing.old + len(old),
        unreadable=(*standing.unreadable, *shut)[:_NAMED],
        lost=standing.lost + len(shut),
    ), old


def _replace(tx: Connection, row: _Row, sealer: Sealer) -> int:
    """Replace one value while it is still what was read; 0 when somebody changed it."""
    anew = sealer.seal(sealer.open(row.sealed, row=row.name), row=row.name)
    if row.version:
        statement = (
            update(_secret)
            .where(
                _secret.c.endpoint_id == row.endpoint_id,
                _secret.c.version == row.version,
                _secret.c.sealed == row.sealed,
            )
            .values(sealed=anew)
        )
    else:
        # No new config_no: it is the same key, and workers that know it open need not ask again.
        statement = (
            update(_endpoint)
            .where(_endpoint.c.id == row.endpoint_id, _endpoint.c.client_pem == row.sealed)
            .values(client_pem=anew)
        )
    return tx.execute(statement).rowcount


def _keep(tx: Connection, count: int, who: str, why: str) -> None:
    if count:
        tx.execute(
            insert(audit).values(
                actor=who,
                action="secrets.reseal",
                subject="master key",
                why=why,
                facts=f'{{"rows":{count}}}',
            )
        )


def _pages(engine: Engine) -> Iterator[list[_Row]]:
    """Read every sealed value, a page at a time, each page in a transaction of its own."""
    key = tuple_(_secret.c.endpoint_id, _secret.c.version)
    after = (0, 0)
    while True:
        query = select(_secret).where(key > tuple_(*after))
        with engine.connect() as connection:
            found = connection.execute(
                query.order_by(_secret.c.endpoint_id, _secret.c.version).limit(_BATCH)
            ).all()
        if not found:
            break
        yield [
            _Row(endpoint_id=row.endpoint_id, version=row.version, sealed=row.sealed)
            for row in found
        ]
        after = (found[-1].endpoint_id, found[-1].version)
    last_id = 0
    while True:
        clients = select(_endpoint.c.id, _endpoint.c.client_pem).where(
            _endpoint.c.id > last_id, _endpoint.c.client_pem.is_not(None)
        )
        with engine.connect() as connection:
            pems = connection.execute(clients.order_by(_endpoint.c.id).limit(_BATCH)).all()
        if not pems:
            return
        yield [_Row(endpoint_id=row.id, version=0, sealed=row.client_pem) for row in pems]
        last_id = pems[-1].id
