"""Both sides of a question, as they are kept: evidence rows and the facts of cases.

Must never keep a reply itself, only its hash, nor put into a case's facts what changes while the
disagreement stays the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert

from schedules.asking import Answered
from schedules.cases import Disagreement
from schedules.checks import Check
from schedules.decisions import CaseReason
from schedules.ports import Finding, Order, Refund, RefundFinding
from worker.tables_orders import evidence

Facts = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One answer beside what we had when it was judged."""

    seen: Check
    order: Order
    route: str
    ours: Facts
    theirs: Facts
    remarks: Facts
    reply_sha256: str

    def row(self, *, decision: str, done: str) -> dict[str, object]:
        """Make the evidence row."""
        return {
            "kind": self.seen.kind.value,
            "subject_no": self.seen.subject_no,
            "order_no": self.seen.order_no,
            "channel": self.seen.channel,
            "route": self.route,
            "ours": _json(self.ours),
            "theirs": _json(self.theirs | self.remarks),
            "reply_sha256": self.reply_sha256,
            "decision": decision,
            "done": done,
        }

    def case(
        self, reason: CaseReason, suggestion: str, row_id: int, facts: Facts | None = None
    ) -> Disagreement:
        """Make a case of it.

        Args:
            reason: why a person must look.
            suggestion: one sentence.
            row_id: of the evidence.
            facts: None: both sides.
        """
        return Disagreement(
            reason=reason,
            kind=self.seen.kind,
            subject_no=self.seen.subject_no,
            order_no=self.seen.order_no,
            channel=self.seen.channel,
            merchant=self.order.merchant,
            amount_minor=self.order.amount_minor,
            currency=self.order.currency,
            suggestion=suggestion,
            facts=facts or {"ours": self.ours, "theirs": self.theirs},
            evidence_id=row_id,
        )


def keep(tx: Connection, rows: Sequence[dict[str, object]]) -> dict[tuple[str, str], int]:
    """Write evidence rows, no two about one subject; returns their ids by kind and subject."""
    if not rows:
        return {}
    back = (evidence.c.id, evidence.c.kind, evidence.c.subject_no)
    written = tx.execute(insert(evidence).returning(*back), rows)
    return {(row.kind, row.subject_no): row.id for row in written}


def of_order(answered: Answered, finding: Finding, order: Order) -> Proof:
    """Put an order beside what the channel said of it."""
    remarks: Facts = {"detail": finding.detail}
    for name, said in (
        ("before_close", answered.before_close),
        ("on_close", answered.on_close),
    ):
        if said is not None:
            remarks[name] = {"state": said.state.value, "detail": said.detail}
    return Proof(
        seen=answered.question.check,
        order=order,
        route=answered.route,
        ours={
            "state": order.state.value,
            "amount_minor": order.amount_minor,
            "currency": order.currency,
            "refunded_minor": order.refunded_minor,
        },
        theirs={
            "state": finding.state.value,
            "amount_minor": finding.amount_minor,
            "currency": finding.currency,
            "refunded_minor": finding.refunded_minor,
            "channel_txn_no": finding.channel_txn_no,
        },
        remarks=remarks,
        reply_sha256=finding.reply_sha256,
    )


def of_refund(answered: Answered, finding: RefundFinding, order: Order, refund: Refund) -> Proof:
    """Put a refund beside what the channel said of it."""
    state = None if finding.state is None else finding.state.value
    return Proof(
        seen=answered.question.check,
        order=order,
        route=answered.route,
        ours={
            "state": refund.state.value,
            "amount_minor": refund.amount_minor,
            "currency": order.currency,
        },
        theirs={
            "state": state,
            "amount_minor": finding.amount_minor,
            "currency": finding.currency,
        },
        remarks={"detail": finding.detail},
        reply_sha256=finding.reply_sha256,
    )


def unreadable(seen: Check, merchant: str, problem: str) -> Disagreement:
    """Make the case of an order or refund that cannot be read or judged."""
    return Disagreement(
        reason=CaseReason.UNREADABLE,
        kind=seen.kind,
        subject_no=seen.subject_no,
        order_no=seen.order_no,
        channel=seen.channel,
        merchant=merchant,
        suggestion="It cannot be judged as it stands: correct the row, or orders.toml.",
        facts={"problem": problem[:500]},
    )


def _json(facts: Facts) -> str:
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
