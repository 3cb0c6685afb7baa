"""What a change of an endpoint writes: row, lanes, sealed secrets and the audit row.

Always inside the caller's transaction. Must never write a secret unsealed, nor into the audit log.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from worker import columns, tables, tables_routes
from worker.endpoint_rows import config_text, read_endpoint
from worker.models import Endpoint, EndpointState, Secret
from worker.route_facts import OWN
from worker.sealing import Sealer

_ENDPOINT = tables.endpoint
_SECRET = tables.endpoint_secret
_LANE = tables.lane
_ROUTE = tables_routes.callback_route


def locked(connection: Connection, which: ColumnElement[bool]) -> Endpoint | None:
    """Read one endpoint and keep others from changing it until the transaction ends."""
    # FOR NO KEY UPDATE: a host that adds a lane in the meantime waits only where it must.
    query = select(_ENDPOINT).where(which).with_for_update(key_share=True)
    row = connection.execute(query).first()
    return None if row is None else read_endpoint(row)


def save(connection: Connection, endpoint: Endpoint) -> None:
    """Write an endpoint, keep this version, and copy what claims need to all of its lanes."""
    config = config_text(endpoint)
    connection.execute(
        update(_ENDPOINT)
        .where(_ENDPOINT.c.id == endpoint.id)
        .values(
            url=endpoint.url,
            state=endpoint.state,
            state_reason=endpoint.state_reason,
            config=config,
            config_no=endpoint.config_no,
            updated_at=columns.database_now(),
        )
    )
    connection.execute(
        insert(tables.endpoint_version).values(
            endpoint_id=endpoint.id, config_no=endpoint.config_no, url=endpoint.url, config=config
        )
    )
    connection.execute(
        update(_LANE)
        .where(_LANE.c.endpoint_id == endpoint.id)
        .values(
            held=endpoint.state is not EndpointState.ACTIVE,
            in_flight_cap=endpoint.in_flight_cap,
            rate_per_s=endpoint.rate_per_s,
            config_no=endpoint.config_no,
        )
    )


def forget_routes(connection: Connection, before: Endpoint, after: Endpoint) -> None:
    """Forget how routes did that are gone, or lead somewhere else now."""
    now = dict(_urls(after))
    gone = [no for no, url in _urls(before) if now.get(no) != url]
    if gone:
        connection.execute(
            delete(_ROUTE).where(_ROUTE.c.endpoint_id == after.id, _ROUTE.c.no.in_(gone))
        )


def _urls(endpoint: Endpoint) -> list[tuple[int, str]]:
    return [(OWN, endpoint.url), *((route.no, route.url) for route in endpoint.routes)]


def seal_client(connection: Connection, sealer: Sealer, endpoint: Endpoint) -> None:
    """Write the client certificate and key of an endpoint, or that it has none."""
    pem = endpoint.client_pem
    sealed = None if pem is None else sealer.seal(pem, row=client_row(endpoint.id))
    connection.execute(
        update(_ENDPOINT).where(_ENDPOINT.c.id == endpoint.id).values(client_pem=sealed)
    )


def add_secret(
    connection: Connection, sealer: Sealer, endpoint_id: int, version: int, value: str
) -> None:
    """Write one secret."""
    connection.execute(
        insert(_SECRET).values(
            endpoint_id=endpoint_id,
            version=version,
            sealed=sealer.seal(value, row=secret_row(endpoint_id, version)),
        )
    )


def turn_secret(
    connection: Connection, sealer: Sealer, endpoint_id: int, value: str, overlap: timedelta
) -> int:
    """Make ``value`` the present secret; the one before retires after ``overlap``.

    Older ones are removed: a secret that signs nothing any more can only leak.

    Returns:
        The new version.
    """
    mine = _SECRET.c.endpoint_id == endpoint_id
    now = connection.execute(select(columns.database_now())).scalar_one()
    present: int = connection.execute(
        select(_SECRET.c.version).where(mine).order_by(_SECRET.c.version.desc()).limit(1)
    ).scalar_one()
    connection.execute(delete(_SECRET).where(mine, _SECRET.c.version < present))
    if overlap:
        connection.execute(
            update(_SECRET)
            .where(mine, _SECRET.c.version == present)
            .values(retires_at=now + overlap)
        )
    add_secret(connection, sealer, endpoint_id, present + 1, value)
    if not overlap:
        connection.execute(delete(_SECRET).where(mine, _SECRET.c.version == present))
    return present + 1


def live_secrets(connection: Connection, sealer: Sealer, endpoint_id: int) -> tuple[Secret, ...]:
    """Return the secrets that sign now, newest first.

    Raises:
        SecretError: one cannot be opened with this master key.
    """
    rows = connection.execute(
        select(_SECRET.c.version, _SECRET.c.sealed)
        .where(_SECRET.c.endpoint_id == endpoint_id)
        .where(_SECRET.c.retires_at.is_(None) | (_SECRET.c.retires_at > columns.database_now()))
        .order_by(_SECRET.c.version.desc())
    )
    return tuple(
        Secret(
            version=row.version,
            value=sealer.open(row.sealed, row=secret_row(endpoint_id, row.version)),
        )
        for row in rows
    )


def secret_row(endpoint_id: int, version: int) -> str:
    """Name the row a secret is bound to."""
    return f"endpoint/{endpoint_id}/secret/{version}"


def client_row(endpoint_id: int) -> str:
    """Name the row a client key is bound to."""
    return f"endpoint/{endpoint_id}/client"


def write_audit(
    connection: Connection,
    *,
    who: str,
    why: str,
    action: str,
    endpoint: Endpoint,
    facts: dict[str, object],
) -> None:
    """Keep who changed which endpoint, why, and what it was before and after."""
    connection.execute(
        insert(tables.audit).values(
            actor=who,
            action=action,
            subject=f"endpoint {endpoint.name}",
            why=why,
            facts=json.dumps(facts, ensure_ascii=False, separators=(",", ":")),
        )
    )


def changes(before: Endpoint, after: Endpoint, given: Iterable[str]) -> dict[str, object]:
    """Tell what a change did, as the audit log keeps it: no key, no query of a URL."""
    names = {"state", "config_no", "routes", "weight", "pinned"} | set(given)
    was, now = _facts(before), _facts(after)
    facts: dict[str, object] = {
        name: [was.get(name), now.get(name)]
        for name in sorted(names)
        if was.get(name) != now.get(name)
    }
    if "client_pem" in names:
        facts["client_pem"] = "set" if after.client_pem else "removed"
    return facts


def _facts(endpoint: Endpoint) -> dict[str, object]:
    facts: dict[str, object] = json.loads(config_text(replace(endpoint, ca_pem=None)))
    facts["ca_pem"] = "set" if endpoint.ca_pem else None
    facts["url"] = endpoint.url.partition("?")[0]  # legacy merchants keep keys in the query
    facts["routes"] = [
        [route.no, route.url.partition("?")[0], route.weight] for route in endpoint.routes
    ]
    facts["state"] = endpoint.state
    facts["config_no"] = endpoint.config_no
    return facts
