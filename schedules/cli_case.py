"""``paynotify case …``: disagreements that a person has to settle.

Must never resolve a case without a person and a reason.
"""

import json
from typing import Annotated

import typer

from schedules import cases, money
from schedules.cases import Case, Evidence, Filters
from worker.cli_input import ID_MAX, Json, Who, Why, desk, example, need, person
from worker.cli_print import console, facts, note, say, say_json, table

app = typer.Typer(no_args_is_help=True)

_Id = Annotated[int, typer.Argument(min=1, max=ID_MAX, help="Id of the case.", show_default=False)]


@app.command("list", epilog=example("paynotify case list --channel alipay"))
def list_(
    reason: Annotated[str | None, typer.Option(help="Of this reason: late_payment, …")] = None,
    channel: Annotated[str | None, typer.Option(help="Of one channel.")] = None,
    merchant: Annotated[str | None, typer.Option(help="Of one merchant.")] = None,
    order: Annotated[str | None, typer.Option(help="Of one order or refund.")] = None,
    resolved: Annotated[bool, typer.Option("--all", help="Also those resolved already.")] = False,
    limit: Annotated[int, typer.Option(help=f"At most, 1 to {cases.PAGE_MAX}.")] = 50,
    after: Annotated[
        int, typer.Option(min=0, max=ID_MAX, help="Go on after a page: the last id it showed.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """List cases, oldest first."""
    filters = Filters(
        reason=reason,
        channel=channel,
        merchant=merchant,
        subject_no=order,
        open_only=not resolved,
    )
    with desk() as at:
        found = cases.find(at.engine, filters, after_id=after, limit=limit)
    if as_json:
        for case in found:
            say_json(_document(case))
        return
    console().print(
        table(
            ("ID", "OPENED", "REASON", "SUBJECT", "CHANNEL", "MERCHANT", "AMOUNT", "SEEN", "THEN"),
            (
                (
                    case.id,
                    case.opened_at,
                    case.reason,
                    f"{case.kind} {case.subject_no}",
                    case.channel,
                    case.merchant,
                    _amount(case),
                    case.times_seen,
                    case.resolved_by and f"resolved by {case.resolved_by}",
                )
                for case in found
            ),
        )
    )
    if len(found) == limit:
        note(f"There may be more: add --after {found[-1].id}")


@app.command(epilog=example("paynotify case show 17"))
def show(case_id: _Id, as_json: Json = False) -> None:
    """Show a case, what we had, what the channel said, and the last answers about it."""
    with desk() as at, at.engine.connect() as connection:
        case = cases.get(connection, case_id)
        evidence = cases.evidence_of(connection, case.kind, case.subject_no)
    if as_json:
        say_json(_document(case) | {"evidence": [_shown(one) for one in evidence]})
        return
    both = json.loads(case.facts)
    console().print(
        facts(
            (
                ("case", case.id),
                ("reason", case.reason),
                (case.kind, case.subject_no),
                ("channel", case.channel),
                ("merchant", case.merchant),
                ("amount", _amount(case)),
                *((name, _pairs(value)) for name, value in both.items()),
                ("opened", case.opened_at),
                ("last seen", f"{case.seen_at:%Y-%m-%d %H:%M:%SZ}, {case.times_seen} times"),
                ("suggestion", case.suggestion),
                ("resolved", case.resolved_at),
                ("by", case.resolved_by),
                ("because", case.resolution),
            )
        )
    )
    if evidence:
        say("")
        console().print(
            table(
                ("EVIDENCE", "AT", "ROUTE", "CHANNEL SAID", "DECISION", "DONE"),
                (
                    (
                        one.id,
                        one.at,
                        one.route,
                        _pairs(json.loads(one.theirs)),
                        one.decision,
                        one.done,
                    )
                    for one in evidence
                ),
            )
        )


@app.command(
    epilog=example('paynotify case resolve 17 --who li --why "refunded at the channel by hand"')
)
def resolve(case_id: _Id, why: Why = "", who: Who = "", as_json: Json = False) -> None:
    """Resolve a case; it stays resolved for as long as the facts are the same."""
    need(why, "--why", '"refunded at the channel by hand"')
    with desk() as at, at.engine.begin() as tx:
        case = cases.resolve(tx, case_id, who=person(who), why=why)
    if as_json:
        say_json(_document(case))
    else:
        say(f"case {case_id} is resolved")


def _document(case: Case) -> dict[str, object]:
    names = case.__dataclass_fields__
    return {name: getattr(case, name) for name in names} | {"facts": json.loads(case.facts)}


def _shown(evidence: Evidence) -> dict[str, object]:
    names = evidence.__dataclass_fields__
    return {name: getattr(evidence, name) for name in names} | {
        "ours": json.loads(evidence.ours),
        "theirs": json.loads(evidence.theirs),
    }


def _amount(case: Case) -> str:
    if case.amount_minor is None or case.currency is None:
        return ""
    return f"{money.to_major(case.amount_minor, case.currency)} {case.currency}"


def _pairs(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {part}" for name, part in value.items() if part not in (None, ""))
