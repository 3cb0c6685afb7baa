"""Probes of frozen endpoints: taken one at a time over all processes, and what they order.

Must never let two processes probe one endpoint at once, nor let a late probe undo what a person
did meanwhile.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, or_, select, update

from worker import endpoint_writes as write
from worker import freeze_rules
from worker.freeze_rules import Manner, Move, Seen
from worker.freeze_writes import FROZEN, WHO, let_go, move, note, now_of, print_of
from worker.models import Endpoint, EndpointState, Failure
from worker.tables import endpoint as _endpoint
from worker.tables_freeze import freeze as _freeze

# How a probe that was not to go out is written down.
NOT_SENT = "not_sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A frozen endpoint whose probe is ours to send.

    Attributes:
        claim_no: what settling the probe must show.
        config_no: of the endpoint, to probe it as it is now.
        same_url: its address is the one that was frozen; otherwise it is not to be called.
    """

    endpoint_id: int
    claim_no: int
    config_no: int
    same_url: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How a probe went.

    Attributes:
        code: ``acked``, ``not_acked``, ``timeout``, …; ``not_sent`` when it must not go out.
        config_no: what it was sent with.
    """

    due: Due
    code: str
    status: int = 0
    certificate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thawed:
    """What settling a probe did.

    Attributes:
        frozen_s: how long the endpoint was frozen, seconds; None while it still is.
        answered_s: since the last probe it did not answer (or its freeze): it has answered for
            less than that.
    """

    endpoint: str
    move: Move
    frozen_s: float | None = None
    answered_s: float | None = None


def take(engine: Engine, *, limit: int, lease_s: float) -> list[Due]:
    """Take frozen endpoints whose probe is due; they are ours until the lease is over.

    Whoever dies with them has them probed by somebody else after it.
    """
    with engine.begin() as tx:
        now = now_of(tx)
        rows = tx.execute(
            select(_freeze, _endpoint.c.url, _endpoint.c.config_no)
            .join(_endpoint, _endpoint.c.id == _freeze.c.endpoint_id)
            .where(
                FROZEN,
                _freeze.c.person == "",
                _freeze.c.probe_at <= now,
                or_(_freeze.c.lease_until.is_(None), _freeze.c.lease_until < now),
            )
            .order_by(_freeze.c.probe_at)
            .limit(limit)
            .with_for_update(of=_freeze, skip_locked=True)
        ).all()
        if rows:
            tx.execute(
                update(_freeze)
                .where(_freeze.c.endpoint_id.in_([row.endpoint_id for row in rows]))
                .values(
                    lease_until=now + timedelta(seconds=lease_s), claim_no=_freeze.c.claim_no + 1
                )
            )
    return [
        Due(
            endpoint_id=row.endpoint_id,
            claim_no=row.claim_no + 1,
            config_no=row.config_no,
            same_url=print_of(row.url) == row.url_sha256,
        )
        for row in rows
    ]


def settle(engine: Engine, probe: Probe, *, manner: Manner) -> Thawed | None:
    """Write down how a probe went and do what it orders.

    Returns:
        None when it came too late: somebody else has the endpoint, or a person moved it.
    """
    with engine.begin() as tx:
        before = write.locked(tx, _endpoint.c.id == probe.due.endpoint_id)
        row = tx.execute(
            select(_freeze).where(
                _freeze.c.endpoint_id == probe.due.endpoint_id,
                _freeze.c.claim_no == probe.due.claim_no,
                FROZEN,
            )
        ).first()
        if before is None or row is None:
            return None
        return _settle(tx, before, row, probe, manner)


def _settle(
    tx: Connection, endpoint: Endpoint, row: Row[Any], probe: Probe, manner: Manner
) -> Thawed | None:
    if endpoint.state is not EndpointState.FROZEN:
        # Somebody moved it in a way that knows nothing of freezes.
        let_go(tx, endpoint.id, who="unknown")
        return None
    now = now_of(tx)
    frozen_s = (now - row.frozen_at).total_seconds()
    ordered, why = freeze_rules.after_probe(
        Seen(
            acked=probe.code == "acked",
            status=probe.status,
            same_url=print_of(endpoint.url) == row.url_sha256,
            sendable=probe.code != Failure.UNSENDABLE,
            certificate=probe.certificate,
            frozen_certificate=row.certificate,
            frozen_for_s=frozen_s,
        ),
        manner,
    )
    sent = int(probe.code != NOT_SENT)
    tx.execute(
        update(_freeze)
        .where(_freeze.c.endpoint_id == endpoint.id)
        .values(
            lease_until=None,
            probe_at=now + timedelta(seconds=manner.probe_s),
            probes=row.probes + sent,
            probed_at=now if sent else row.probed_at,
            code=probe.code,
            status=probe.status,
            person=why if ordered is Move.PERSON else "",
            # The first one seen while frozen, where none was known before.
            certificate=row.certificate or probe.certificate,
        )
    )
    facts: dict[str, object] = {
        "probe": probe.code,
        "status": probe.status,
        "probes": row.probes + sent,
        "frozen_s": round(frozen_s, 1),
    }
    if ordered is Move.WAIT and (probe.code, probe.status) != (row.code, row.status):
        # A row per change: one that is down for a week is probed twenty thousand times.
        note(tx, endpoint, "endpoint.probe", f"it is still frozen: {probe.code}", **facts)
    still = ordered in (Move.WAIT, Move.PERSON)
    _carry_out(tx, endpoint, ordered, why, facts)
    return Thawed(
        endpoint=endpoint.name,
        move=ordered,
        frozen_s=None if still else frozen_s,
        answered_s=None if still else (now - (row.probed_at or row.frozen_at)).total_seconds(),
    )


def _carry_out(
    tx: Connection, endpoint: Endpoint, ordered: Move, why: str, facts: dict[str, object]
) -> None:
    if ordered is Move.WAIT:
        return
    if ordered is Move.PERSON:
        move(tx, endpoint, EndpointState.FROZEN, "endpoint.freeze-kept", why, **facts)
        return
    let_go(tx, endpoint.id, who=WHO)
    if ordered is Move.GONE:
        move(tx, endpoint, EndpointState.GONE, "endpoint.gone", why, **facts)
    else:
        move(tx, endpoint, EndpointState.ACTIVE, "endpoint.unfreeze", why, **facts)
