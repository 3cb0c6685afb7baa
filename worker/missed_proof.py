"""The proof that an export is ours: signed as a callback to that merchant is.

With the endpoint's own scheme and secret, so the merchant checks it with the code it has. Must
never hand anything out that is not in the audit log.
"""

import json
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Engine, insert

from worker import clock
from worker.endpoint_book import EndpointBook
from worker.endpoint_fields import check_person
from worker.endpoints import Endpoints
from worker.missed import PAGE_MAX, page
from worker.ping import signed
from worker.sealing import Sealer
from worker.tables import audit

_EXPORT = "paynotify.export"
_PAGE = "paynotify.missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A signed text.

    Attributes:
        body: a JSON object, exactly as it was signed.
        headers: as a callback with that body carries them.
        url: where the scheme signs in the query; empty elsewhere.
        rows: that it is about.
    """

    body: str
    headers: dict[str, str]
    url: str
    rows: int


def signed_page(
    engine: Engine,
    sealer: Sealer,
    *,
    endpoint: str,
    who: str,
    why: str,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str = "",
    limit: int = PAGE_MAX,
) -> Proof:
    """Return one page of what an endpoint missed, to be handed to its merchant as it is.

    The body holds ``rows`` and the ``cursor`` of the next page, which is empty after the last.

    Args:
        engine: of the database with our tables.
        sealer: opens the endpoint's secret, and signs cursors.
        endpoint: see :func:`worker.missed.page`, for the other arguments too.
        who: for whom it is; kept in the audit log.
        why: kept in the audit log.
        since: as there.
        until: as there.
        cursor: as there.
        limit: as there.

    Raises:
        BadFieldError: names the field; nothing was handed out.
        NotFoundError: no such endpoint.
    """
    who, why = check_person(who, "who"), check_person(why, "why")
    found = page(
        engine, sealer, endpoint=endpoint, since=since, until=until, cursor=cursor, limit=limit
    )
    facts: dict[str, object] = {
        "since": plain(found.since),
        "until": plain(found.until),
        "cursor": found.cursor,
        "rows": [{name: plain(value) for name, value in asdict(row).items()} for row in found.rows],
    }
    proof = prove(engine, sealer, endpoint, _PAGE, facts, rows=len(found.rows))
    keep(engine, "export.missed-page", endpoint, who, why, facts | {"rows": proof.rows})
    return proof


def prove_export(
    engine: Engine, sealer: Sealer, name: str, facts: dict[str, object], *, rows: int
) -> Proof:
    """Sign what was exported: the facts are its SHA-256 and what it is about."""
    return prove(engine, sealer, name, _EXPORT, facts, rows=rows)


def prove(
    engine: Engine,
    sealer: Sealer,
    name: str,
    kind: str,
    facts: dict[str, object],
    *,
    rows: int,
) -> Proof:
    """Sign a JSON object for an endpoint's merchant."""
    found = Endpoints(engine, sealer).find(name)
    endpoint = EndpointBook(engine, sealer).at(found.id, found.config_no)
    body = {"type": kind, "endpoint": name, **facts, "exported_at": plain(clock.now())}
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    request = signed(endpoint, kind, text.encode())
    return Proof(
        body=request.body.decode(),
        headers=dict(request.headers),
        url=request.url if request.url != endpoint.url else "",
        rows=rows,
    )


def keep(
    engine: Engine, action: str, name: str, who: str, why: str, facts: dict[str, object]
) -> None:
    """Write down what was handed out, to whom and why."""
    shown = {key: value for key, value in facts.items() if key != "cursor"}
    with engine.begin() as tx:
        tx.execute(
            insert(audit).values(
                actor=who,
                action=action,
                subject=f"endpoint {name}",
                why=why,
                facts=json.dumps(shown, separators=(",", ":")),
            )
        )


def plain(value: object) -> object:
    """Write a time as text; everything else stays."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    return value
