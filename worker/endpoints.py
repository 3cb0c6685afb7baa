"""The endpoint registry: who is called, where and how; every change is kept in the audit log.

Must never show a stored secret again, and never leave a lane with another configuration number
than its endpoint has.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from typing import Unpack

from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from worker import endpoint_fields as check
from worker import endpoint_manner as manner
from worker import endpoint_writes as write
from worker import freeze_writes, guard, tables
from worker.database import unavailable
from worker.endpoint_fields import Fields
from worker.endpoint_routes import allowed
from worker.endpoint_rows import config_text, read_endpoint
from worker.errors import BadFieldError, NotFoundError, WrongStateError
from worker.fields import visible
from worker.models import Endpoint, EndpointState, Secret
from worker.sealing import Sealer
from worker.signers import registry

OVERLAP_MAX = timedelta(hours=72)  # beyond three days two secrets are not a rotation any more
_OVERLAP = timedelta(hours=24)
_NO_WAIT = timedelta(0)
_ENDPOINT = tables.endpoint
# What must fit together, see check_manner.
_MANNER = frozenset(("scheme", "method", "encoding", "fields", "currency", "zone", "options"))
_VERBS = {
    EndpointState.PAUSED: "endpoint.pause",
    EndpointState.ACTIVE: "endpoint.resume",
    EndpointState.DELETED: "endpoint.delete",
}


class Endpoints:
    """Registers and changes endpoints.

    Each change is one transaction: the endpoint's row, its lanes and the audit row stand or fall
    together. What a change made of an endpoint reaches the workers with their next claim.

    Args:
        engine: of the database with our tables.
        sealer: for secrets and client keys.
        timeout_s: deadline of endpoints that name none.
        timeout_min_s: shortest deadline taken; below 1 s only for demonstrations and tests.
        timeout_max_s: longest deadline taken; two of them must fit into a lease.
        in_flight_cap: for endpoints that name none.
    """

    def __init__(
        self,
        engine: Engine,
        sealer: Sealer,
        *,
        timeout_s: float = 15.0,
        timeout_min_s: float = 1.0,
        timeout_max_s: float = 60.0,
        in_flight_cap: int = 100,
    ) -> None:
        self._engine = engine
        self._sealer = sealer
        self._timeout_s = timeout_s
        self._timeout_min_s = min(timeout_min_s, timeout_s)
        self._timeout_max_s = timeout_max_s
        self._in_flight_cap = in_flight_cap

    def register(
        self,
        *,
        name: str,
        merchant: str,
        who: str,
        why: str = "registered",
        secret: str | None = None,
        **fields: Unpack[Fields],
    ) -> Endpoint:
        """Add an endpoint and its lane.

        Args:
            name: handle, unique for ever, 1 to 64 of ``a-z 0-9 . _ -``.
            merchant: the host's id of the merchant, 1 to 64 visible ASCII characters.
            who: kept in the audit log.
            why: kept in the audit log.
            secret: text the merchant already has; None makes one.
            fields: ``url`` is required; see :class:`worker.endpoint_fields.Fields`.

        Returns:
            The endpoint with its secret: the only time it is shown.

        Raises:
            BadFieldError: names the field; nothing was written.
        """
        if "url" not in fields:
            raise BadFieldError("url", "is missing; an endpoint needs an address")
        draft = Endpoint(
            id=0,
            name=check.check_name(name),
            merchant=visible(merchant, "merchant", 64),
            url="",
            timeout_s=self._timeout_s,
            in_flight_cap=self._in_flight_cap,
        )
        draft = self._with(draft, fields)
        value = registry.find(draft.scheme).new_secret() if secret is None else secret
        manner.check_signs(draft, value)
        who, why = check.check_person(who, "who"), check.check_person(why, "why")
        try:
            with self._engine.begin() as connection:
                return self._insert(connection, draft, value, who, why)
        except IntegrityError:
            raise BadFieldError(
                "name",
                f"{name!r} is taken (names of deleted endpoints stay theirs); choose another",
            ) from None

    def update(self, name: str, *, who: str, why: str, **fields: Unpack[Fields]) -> Endpoint:
        """Change fields of an endpoint; those not named stay as they are.

        Raises:
            BadFieldError: names the field; nothing was changed.
            NotFoundError: no such endpoint.
            WrongStateError: it was deleted.
        """
        if not fields:
            raise BadFieldError("fields", "are none; name what is to change")

        def changed(before: Endpoint) -> Endpoint:
            if before.state is EndpointState.DELETED:
                raise WrongStateError(f"endpoint {name}", "deleted", "register a new one")
            return self._with(before, fields)

        return self._change(name, "endpoint.update", who, why, changed, fields)

    def change_routes(
        self, name: str, change: Callable[[Endpoint], Endpoint], *, action: str, who: str, why: str
    ) -> Endpoint:
        """Change the routes of an endpoint by one of the rules in ``endpoint_routes.py``.

        Raises:
            BadFieldError, NotFoundError, WrongStateError: nothing was changed.
        """
        return self._change(name, action, who, why, lambda before: allowed(change(before)), {})

    def pause(self, name: str, *, who: str, why: str) -> Endpoint:
        """Hold all notifications of an endpoint; nothing burns. Pausing again keeps the new why."""
        return self._move(name, EndpointState.PAUSED, who, why)

    def resume(self, name: str, *, who: str, why: str) -> Endpoint:
        """Let a paused, frozen or gone endpoint be called again.

        A frozen one gets one notification first, then two, four, … while they are acknowledged.
        """
        return self._move(name, EndpointState.ACTIVE, who, why)

    def delete(self, name: str, *, who: str, why: str) -> Endpoint:
        """Delete an endpoint for good: its rows stay, held; nothing new is accepted for it."""
        return self._move(name, EndpointState.DELETED, who, why)

    def rotate_secret(
        self,
        name: str,
        *,
        who: str,
        why: str,
        overlap: timedelta = _OVERLAP,
        secret: str | None = None,
    ) -> str:
        """Give an endpoint a new secret; the present one signs along until it retires.

        Rotating again during an overlap retires the oldest at once: two are live at most.

        Args:
            name: of the endpoint.
            who: kept in the audit log.
            why: kept in the audit log.
            overlap: how long the present secret stays, 0 to 72 h; 0 after a leak.
            secret: text to use; None makes one.

        Returns:
            The new secret: the only time it is shown.
        """
        if not _NO_WAIT <= overlap <= OVERLAP_MAX:
            raise BadFieldError("overlap", f"is {overlap}, must be 0 to 72 hours")
        given: list[str] = []

        def rotated(before: Endpoint) -> Endpoint:
            if before.state is EndpointState.DELETED:
                raise WrongStateError(f"endpoint {name}", "deleted", "it signs nothing any more")
            scheme = registry.find(before.scheme)
            given.append(scheme.new_secret() if secret is None else secret)
            manner.check_signs(before, given[0])
            return before

        def turn(connection: Connection, after: Endpoint) -> None:
            write.turn_secret(connection, self._sealer, after.id, given[0], overlap)

        self._change(name, "endpoint.rotate-secret", who, why, rotated, {}, turn)
        return given[0]

    def mark_gone(self, endpoint_id: int, config_no: int | None = None) -> bool:
        """Hold an endpoint whose merchant answered 410; only a person resumes it.

        Returns:
            False when it was not active any more, so calling it twice changes nothing.

        Raises:
            UnavailableError: the database is away.
        """
        try:
            return self._mark_gone(endpoint_id, config_no)
        except DBAPIError as error:
            raise unavailable(error) from error

    def _mark_gone(self, endpoint_id: int, config_no: int | None) -> bool:
        with self._engine.begin() as connection:
            before = write.locked(connection, _ENDPOINT.c.id == endpoint_id)
            if before is None or before.state is not EndpointState.ACTIVE:
                return False
            if config_no is not None and before.config_no > config_no:
                # It was mended while the answer was on its way.
                return False
            why = "the merchant answered 410 Gone"
            after = replace(
                before,
                state=EndpointState.GONE,
                state_reason=why,
                config_no=before.config_no + 1,
            )
            write.save(connection, after)
            write.write_audit(
                connection,
                who="worker",
                why=why,
                action="endpoint.gone",
                endpoint=after,
                facts=write.changes(before, after, ()),
            )
        return True

    def find(self, name: str) -> Endpoint:
        """Return an endpoint by name, deleted or not, without its secrets.

        Raises:
            NotFoundError: with the nearest name there is.
        """
        with self._engine.connect() as connection:
            row = connection.execute(select(_ENDPOINT).where(_ENDPOINT.c.name == name)).first()
            if row is None:
                raise _unknown(connection, name)
        return read_endpoint(row)

    def get(self, endpoint_id: int) -> Endpoint:
        """Return an endpoint by id, deleted or not, without its secrets."""
        with self._engine.connect() as connection:
            row = connection.execute(select(_ENDPOINT).where(_ENDPOINT.c.id == endpoint_id)).first()
        if row is None:
            raise NotFoundError("endpoint", str(endpoint_id))
        return read_endpoint(row)

    def of_merchant(self, merchant: str) -> tuple[Endpoint, ...]:
        """Return a merchant's endpoints that are not deleted, oldest first, without secrets."""
        wanted = (_ENDPOINT.c.merchant == merchant) & (_ENDPOINT.c.state != EndpointState.DELETED)
        with self._engine.connect() as connection:
            rows = connection.execute(select(_ENDPOINT).where(wanted).order_by(_ENDPOINT.c.id))
            return tuple(map(read_endpoint, rows))

    def list(self, *, with_deleted: bool = False) -> tuple[Endpoint, ...]:
        """Return all endpoints by name, without secrets."""
        query = select(_ENDPOINT).order_by(_ENDPOINT.c.name)
        if not with_deleted:
            query = query.where(_ENDPOINT.c.state != EndpointState.DELETED)
        with self._engine.connect() as connection:
            return tuple(map(read_endpoint, connection.execute(query)))

    def _with(self, endpoint: Endpoint, given: Fields) -> Endpoint:
        fields = check.checked(
            given, timeout_min_s=self._timeout_min_s, timeout_max_s=self._timeout_max_s
        )
        changed = replace(endpoint, **fields)
        if given.keys() & _MANNER:
            manner.check_manner(changed)
        if given.keys() & {"url", "allowed"}:
            guard.check_url(changed.url, changed.allowed, field="url")
            allowed(changed)
        return changed

    def _insert(
        self, connection: Connection, draft: Endpoint, secret: str, who: str, why: str
    ) -> Endpoint:
        made = connection.execute(
            insert(_ENDPOINT)
            .values(
                name=draft.name,
                merchant=draft.merchant,
                url=draft.url,
                config=config_text(draft),
            )
            .returning(_ENDPOINT.c.id)
        )
        endpoint = replace(draft, id=made.scalar_one(), secrets=(Secret(version=1, value=secret),))
        write.seal_client(connection, self._sealer, endpoint)
        write.add_secret(connection, self._sealer, endpoint.id, 1, secret)
        connection.execute(insert(tables.lane).values(endpoint_id=endpoint.id))
        write.save(connection, endpoint)
        blank = Endpoint(id=0, name="", merchant="", url="", config_no=0)
        write.write_audit(
            connection,
            who=who,
            why=why,
            action="endpoint.register",
            endpoint=endpoint,
            facts=write.changes(
                blank, endpoint, ("url", "merchant", *check.Fields.__annotations__)
            ),
        )
        return endpoint

    def _move(self, name: str, state: EndpointState, who: str, why: str) -> Endpoint:
        def moved(before: Endpoint) -> Endpoint:
            if before.state is EndpointState.DELETED and state is not before.state:
                raise WrongStateError(
                    f"endpoint {name}", "deleted", f"it cannot become {state}; register a new one"
                )
            reason = "" if state is EndpointState.ACTIVE else check.check_person(why, "why")
            frozen.append(before.state is EndpointState.FROZEN)
            return replace(before, state=state, state_reason=reason)

        def thaw(connection: Connection, after: Endpoint) -> None:
            if frozen[-1]:
                freeze_writes.let_go(connection, after.id, who=who)

        frozen: list[bool] = []
        return self._change(name, _VERBS[state], who, why, moved, {}, thaw)

    def _change(
        self,
        name: str,
        action: str,
        who: str,
        why: str,
        change: Callable[[Endpoint], Endpoint],
        given: Fields,
        also: Callable[[Connection, Endpoint], None] | None = None,
    ) -> Endpoint:
        who, why = check.check_person(who, "who"), check.check_person(why, "why")
        with self._engine.begin() as connection:
            before = write.locked(connection, _ENDPOINT.c.name == name)
            if before is None:
                raise _unknown(connection, name)
            after = replace(change(before), config_no=before.config_no + 1)
            if _signing(after) != _signing(before):
                self._check_secrets(connection, after)
            write.save(connection, after)
            write.forget_routes(connection, before, after)
            if "client_pem" in given:
                write.seal_client(connection, self._sealer, after)
            if also is not None:
                also(connection, after)
            write.write_audit(
                connection,
                who=who,
                why=why,
                action=action,
                endpoint=after,
                facts=write.changes(before, after, given),
            )
        return replace(after, client_pem=None)

    def _check_secrets(self, connection: Connection, endpoint: Endpoint) -> None:
        for secret in write.live_secrets(connection, self._sealer, endpoint.id):
            try:
                manner.check_signs(endpoint, secret.value)
            except BadFieldError as error:
                if error.field != "secret":
                    raise
                raise BadFieldError(
                    "scheme",
                    f"{endpoint.scheme} cannot sign with secret {secret.version} of endpoint "
                    f"{endpoint.name} ({error.problem}); register a new endpoint for it",
                ) from None


def _signing(endpoint: Endpoint) -> tuple[object, ...]:
    return endpoint.scheme, endpoint.options, endpoint.fields


def _unknown(connection: Connection, name: str) -> NotFoundError:
    names = connection.execute(select(_ENDPOINT.c.name).limit(5000)).scalars()
    near = get_close_matches(name, names, n=1)
    return NotFoundError("endpoint", name[:64], f"did you mean {near[0]}?" if near else "")
