"""What freezing and letting go write: the endpoint's row and lanes, its freeze, the audit row.

Always inside the caller's transaction, which holds the endpoint's row.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256

from sqlalchemy import Connection, func, select, update

from worker import endpoint_writes as write
from worker.columns import database_now
from worker.models import Endpoint, EndpointState
from worker.seen import Health
from worker.tables import lane
from worker.tables_freeze import freeze

# Who does it, as the audit log says.
WHO = "freeze"
# Longer than a worker takes to find that something is due.
_NO_SAVING = timedelta(seconds=5)
FROZEN = freeze.c.unfrozen_at.is_(None)


def move(
    tx: Connection, before: Endpoint, state: EndpointState, action: str, why: str, **facts: object
) -> None:
    """Give an endpoint another state and keep why."""
    reason = "" if state is EndpointState.ACTIVE else why
    after = replace(before, state=state, state_reason=reason, config_no=before.config_no + 1)
    write.save(tx, after)
    note(tx, after, action, why, **write.changes(before, after, ()), **facts)


def note(tx: Connection, endpoint: Endpoint, action: str, why: str, **facts: object) -> None:
    """Keep in the audit log what was done."""
    write.write_audit(tx, who=WHO, why=why, action=action, endpoint=endpoint, facts=facts)


def let_go(tx: Connection, endpoint_id: int, *, who: str) -> None:
    """End a freeze; the endpoint's breaker lets one notification through.

    Exactly one: acknowledged, the breaker's ramp goes on with two, four, ...; not acknowledged, it
    opens again. An endpoint that is not frozen is left as it is.
    """
    now = now_of(tx)
    own = (lane.c.endpoint_id == endpoint_id, lane.c.host == "")
    opened = select(lane.c.opened_times).where(*own).scalar_subquery()
    ended = tx.execute(
        update(freeze)
        .where(freeze.c.endpoint_id == endpoint_id, FROZEN)
        .values(
            unfrozen_at=now,
            unfrozen_by=who,
            lease_until=None,
            trips=func.coalesce(opened, 0),
        )
    )
    if ended.rowcount:
        tx.execute(
            update(lane)
            .where(*own, lane.c.open_until.is_not(None))
            # Nothing saved up, and nothing saved until the first one goes: what waited for so long
            # must not come all at once.
            .values(open_until=now, tokens=1.0, tokens_at=now + _NO_SAVING)
        )


def health_of(open_until: datetime | None, opened_times: int, now: datetime) -> Health:
    """Read the breaker of a lane, as far as freezing looks at it."""
    return Health(
        open_for_s=max(0.0, (open_until - now).total_seconds()) if open_until else None,
        opened_times=opened_times,
    )


def print_of(url: str) -> str:
    """Tell addresses apart without keeping them."""
    return sha256(url.encode()).hexdigest()


def now_of(tx: Connection) -> datetime:
    """Read the database's clock."""
    moment: datetime = tx.execute(select(database_now())).scalar_one()
    return moment
