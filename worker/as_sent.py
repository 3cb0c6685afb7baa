"""Writes the request of an attempt once more, byte for byte as it was sent.

Nothing of a request is stored: the payload is frozen, every version of an endpoint is kept, a
scheme makes the same bytes of the same message, and an attempt remembers when and with which
secret it was signed. Reads only; :func:`masked` needs no secret at all.

Must never show what depends on a secret, and never call something exact that may not be.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, select

from worker import tables
from worker.endpoint_routes import through
from worker.endpoint_rows import read_config
from worker.endpoint_writes import secret_row
from worker.errors import NotFoundError, SecretError, WrongStateError
from worker.evidence import encode
from worker.masking import mask
from worker.models import Claimed, Endpoint, Outcome, Secret
from worker.sealing import Sealer
from worker.shape import signed
from worker.signers.contract import Shaped
from worker.signers.registry import find
from worker.store_rows import read_headers

_ATTEMPT, _NOTIFICATION = tables.attempt, tables.notification
_ENDPOINT, _VERSION = tables.endpoint, tables.endpoint_version
_SECRET = tables.endpoint_secret
_HIDDEN = "***"
_TOKEN = re.compile(r"[\w%+/.~-]+|.", re.DOTALL).findall
# Every byte may become four characters (\xHH).
_WHOLE = 4 * 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One request as a person may see it.

    Attributes:
        signed_at: whole seconds since 1970.
        body: as text; what depends on a secret is ``***``.
    """

    attempt_no: int
    secret_version: int
    config_no: int
    signed_at: int
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: str


@dataclass(frozen=True, slots=True)
class _Then:
    """What an attempt was made of; the endpoint is without secrets."""

    row: Row[Any]
    claimed: Claimed
    endpoint: Endpoint
    url: str

    def shape(self, secrets: tuple[Secret, ...]) -> Shaped:
        endpoint = replace(self.endpoint, secrets=secrets)
        return signed(self.claimed, endpoint, self.url, self.row.signed_at)


def masked(
    connection: Connection, notification_id: int, attempt_no: int | None, *, whole: bool = False
) -> Sight:
    """Show the request of an attempt; what depends on a secret, and by default cards, are hidden.

    It is signed twice with made-up secrets: what differs is what a secret has touched.

    Args:
        connection: to read from.
        notification_id: whose attempt.
        attempt_no: None is the last.
        whole: show card numbers and the like too, as the merchant got them.

    Raises:
        NotFoundError: no such notification or attempt.
        WrongStateError: nothing was sent, or what it was made of is not kept.
        BadFieldError: it cannot be signed, which is why it was not sent.
    """
    then = _read(connection, notification_id, attempt_no)
    scheme = find(then.endpoint.scheme)
    one, other = (then.shape((Secret(version=1, value=scheme.new_secret()),)) for _ in range(2))
    hide: Callable[[str], str] = str if whole else mask
    return Sight(
        attempt_no=then.row.attempt_no,
        secret_version=then.row.secret_version,
        config_no=then.row.config_no,
        signed_at=then.row.signed_at,
        method=one.method,
        url=_url(then.url, one.url, other.url, hide),
        headers=tuple(
            (name, hide(_same(value, then_value)))
            for (name, value), (_, then_value) in zip(one.headers, other.headers, strict=True)
        ),
        body=hide(_same(encode(one.body, _WHOLE), encode(other.body, _WHOLE))),
    )


def rebuilt(
    connection: Connection, sealer: Sealer, notification_id: int, attempt_no: int | None = None
) -> Shaped:
    """Return the bytes of an attempt, signed with the secrets of then; never for a screen.

    Raises:
        SecretError: a secret that signed is gone or cannot be opened.
        NotFoundError, WrongStateError, BadFieldError: as :func:`masked`.
    """
    then = _read(connection, notification_id, attempt_no)
    newest = then.row.secret_version
    mine = _SECRET.c.endpoint_id == then.endpoint.id
    rows = connection.execute(select(_SECRET).where(mine).order_by(_SECRET.c.version.desc())).all()
    signing = [
        row
        for row in rows
        if row.version == newest
        or (row.version == newest - 1 and _until_s(row) > then.row.signed_at)
    ]
    later = [row for row in rows if row.version > newest]
    if not signing or signing[0].version != newest or (later and newest > 1 and len(signing) < 2):
        raise SecretError(
            f"attempt {then.row.attempt_no}: a secret of endpoint {then.endpoint.name} that may "
            f"have signed it (version {newest} or the one before) is gone"
        )
    return then.shape(
        tuple(
            Secret(
                version=row.version,
                value=sealer.open(row.sealed, row=secret_row(row.endpoint_id, row.version)),
            )
            for row in signing
        )
    )


def _until_s(row: Row[Any]) -> float:
    return float("inf") if row.retires_at is None else row.retires_at.timestamp()


def _read(connection: Connection, notification_id: int, attempt_no: int | None) -> _Then:
    query = (
        select(
            _ATTEMPT.c.attempt_no,
            _ATTEMPT.c.outcome,
            _ATTEMPT.c.secret_version,
            _ATTEMPT.c.signed_at,
            _ATTEMPT.c.config_no,
            _ATTEMPT.c.route,
            *(column for column in _NOTIFICATION.c if column.name != "id"),
        )
        .join(_NOTIFICATION, _NOTIFICATION.c.id == _ATTEMPT.c.notification_id)
        .where(_ATTEMPT.c.notification_id == notification_id)
        .order_by(_ATTEMPT.c.attempt_no.desc())
        .limit(1)
    )
    if attempt_no is not None:
        query = query.where(_ATTEMPT.c.attempt_no == attempt_no)
    row = connection.execute(query).first()
    if row is None:
        what = f"{notification_id} attempt {attempt_no or 1}"
        raise NotFoundError("attempt", what, "`paynotify show ID` lists what there is")
    _check_kept(row, notification_id)
    endpoint = _endpoint(connection, row)
    url = row.notify_url or through(endpoint, row.route).url
    return _Then(row, _claimed(row, notification_id), endpoint, url)


def _check_kept(row: Row[Any], notification_id: int) -> None:
    subject = f"attempt {row.attempt_no} of notification {notification_id}"
    if row.forgotten_at is not None:
        raise WrongStateError(subject, "forgotten", "its payload is not kept any longer")
    if row.outcome is None:
        raise WrongStateError(subject, "still open", "look again when it has ended")
    if not row.signed_at or row.outcome == Outcome.NOT_SENT:
        raise WrongStateError(
            subject,
            "not known to have been sent",
            "its worker never came back, it could not be sent, or it is older than version 0.3",
        )


def _endpoint(connection: Connection, row: Row[Any]) -> Endpoint:
    found = connection.execute(
        select(_VERSION, _ENDPOINT.c.name, _ENDPOINT.c.merchant)
        .join(_ENDPOINT, _ENDPOINT.c.id == _VERSION.c.endpoint_id)
        .where(_VERSION.c.endpoint_id == row.endpoint_id, _VERSION.c.config_no == row.config_no)
    ).first()
    if found is None:
        raise WrongStateError(
            f"version {row.config_no} of its endpoint", "not kept", "it is older than version 0.3"
        )
    return Endpoint(
        id=found.endpoint_id,
        name=found.name,
        merchant=found.merchant,
        url=found.url,
        config_no=found.config_no,
        **read_config(found.config),
    )


def _claimed(row: Row[Any], notification_id: int) -> Claimed:
    return Claimed(
        id=notification_id,
        lane_id=0,
        endpoint_id=row.endpoint_id,
        config_no=row.config_no,
        attempt_no=row.attempt_no,
        tries=0,
        claim_no=0,
        troubled=False,
        message_id=row.message_id,
        event_type=row.event_type,
        event_key=row.event_key,
        order_no=row.order_no,
        payload=bytes(row.payload),
        content_type=row.content_type,
        headers=read_headers(row.headers),
        notify_url=row.notify_url,
        schedule=None,
        trace_id=row.trace_id,
        expires_in_s=None,
    )


def _url(plain: str, one: str, other: str, hide: Callable[[str], str]) -> str:
    """Show a URL: the merchant's own query is a secret of his, what we added is not."""
    if not one.startswith(plain):
        return mask(_same(one, other))
    return mask(plain) + hide(_same(one, other)[len(plain) :])


def _same(one: str, other: str) -> str:
    """Return ``one`` with every word hidden that ``other`` does not have in its place."""
    if one == other:
        return one
    mine, theirs = _TOKEN(one), _TOKEN(other)
    if len(mine) != len(theirs):
        return _HIDDEN
    return "".join(a if a == b else _HIDDEN for a, b in zip(mine, theirs, strict=True))
