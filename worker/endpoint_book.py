"""The endpoints a worker remembers, with their secrets open.

Must never hand out a configuration older than a claim asks for, nor a secret that has retired.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from threading import Lock
from typing import Any

from sqlalchemy import Engine, Row, select

from worker import clock, columns, tables
from worker import endpoint_writes as write
from worker.endpoint_rows import read_endpoint
from worker.errors import NotFoundError
from worker.models import Endpoint, Secret
from worker.sealing import Sealer

_log = logging.getLogger(__name__)
_ENDPOINT = tables.endpoint
_SECRET = tables.endpoint_secret


class EndpointBook:
    """Remembers endpoints with their secrets open, for the hot path; safe between threads.

    A claim names the configuration number it wants; what is remembered is used until a claim
    names a higher one, so a change is never missed and nothing is ever polled. A secret that
    retires stops signing on time all the same.

    Args:
        engine: of the database with our tables.
        sealer: with the key the secrets were sealed with.
    """

    def __init__(self, engine: Engine, sealer: Sealer) -> None:
        self._engine = engine
        self._sealer = sealer
        self._known: dict[int, Endpoint] = {}
        # Monotonic time at which the older secret of an endpoint stops signing.
        self._retiring: dict[int, float] = {}
        self._lock = Lock()

    def at(self, endpoint_id: int, config_no: int) -> Endpoint:
        """Return an endpoint, at least as new as ``config_no``.

        Raises:
            NotFoundError: there is no such endpoint.
            SecretError: its secrets cannot be opened with this master key.
        """
        known = self._known.get(endpoint_id)
        if known is None or known.config_no < config_no:
            self._load([endpoint_id], strict=True)
            known = self._known.get(endpoint_id)
            if known is None:
                raise NotFoundError("endpoint", str(endpoint_id))
        if endpoint_id in self._retiring:
            known = self._retire(endpoint_id)
        return known

    def many(self, wanted: Iterable[tuple[int, int]]) -> dict[int, Endpoint]:
        """Return endpoints by id, loading those not remembered in one query.

        Args:
            wanted: endpoint ids with the configuration number a claim named.

        Returns:
            By endpoint id. One that does not exist, or whose configuration or secrets cannot be
            read, is left out, so that it spoils no batch; ``at`` says what is wrong with it.
        """
        newest = dict(sorted(wanted))
        missing = [
            endpoint_id
            for endpoint_id, config_no in newest.items()
            if (known := self._known.get(endpoint_id)) is None or known.config_no < config_no
        ]
        if missing:
            self._load(missing, strict=False)
        found = {}
        for endpoint_id, config_no in newest.items():
            held = self._known.get(endpoint_id)
            if held is not None and held.config_no >= config_no:
                found[endpoint_id] = (
                    self._retire(endpoint_id) if endpoint_id in self._retiring else held
                )
        return found

    def _retire(self, endpoint_id: int) -> Endpoint:
        with self._lock:
            known = self._known[endpoint_id]
            if self._retiring.get(endpoint_id, math.inf) <= clock.monotonic_s():
                known = replace(known, secrets=known.secrets[:1])
                self._known[endpoint_id] = known
                del self._retiring[endpoint_id]
        return known

    def _load(self, endpoint_ids: list[int], *, strict: bool) -> None:
        now = columns.database_now()
        query = (
            select(
                _ENDPOINT,
                _SECRET.c.version,
                _SECRET.c.sealed,
                _SECRET.c.retires_at,
                now.label("now"),
            )
            .join(_SECRET, _SECRET.c.endpoint_id == _ENDPOINT.c.id)
            .where(_ENDPOINT.c.id.in_(endpoint_ids))
            .where(_SECRET.c.retires_at.is_(None) | (_SECRET.c.retires_at > now))
        )
        started_s = clock.monotonic_s()
        by_id: dict[int, list[Row[Any]]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                by_id.setdefault(row.id, []).append(row)
        for rows in by_id.values():
            try:
                endpoint = self._open(rows)
            except Exception as error:  # a row of another version may fail in any way
                if strict:
                    raise
                _log.error(
                    "endpoint %d cannot be read (%s: %s)", rows[0].id, type(error).__name__, error
                )
                continue
            retires_s = [
                started_s + (row.retires_at - row.now).total_seconds()
                for row in rows
                if row.retires_at is not None
            ]
            self._remember(endpoint, min(retires_s, default=None))

    def _open(self, rows: list[Row[Any]]) -> Endpoint:
        endpoint = read_endpoint(rows[0])
        secrets = [
            Secret(
                version=row.version,
                value=self._sealer.open(row.sealed, row=write.secret_row(row.id, row.version)),
            )
            for row in rows
        ]
        sealed = rows[0].client_pem
        return replace(
            endpoint,
            secrets=tuple(sorted(secrets, key=lambda secret: -secret.version)),
            client_pem=(
                None
                if sealed is None
                else self._sealer.open(sealed, row=write.client_row(endpoint.id))
            ),
        )

    def _remember(self, endpoint: Endpoint, retires_s: float | None) -> None:
        with self._lock:
            known = self._known.get(endpoint.id)
            # Two threads may load at once; the one that read earlier must not win.
            if known is not None and known.config_no > endpoint.config_no:
                return
            self._known[endpoint.id] = endpoint
            self._retiring.pop(endpoint.id, None)
            if retires_s is not None:
                self._retiring[endpoint.id] = retires_s
