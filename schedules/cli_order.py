"""``paynotify order …``: our own orders, and what the channels said of any.

Must never change the state of an order: only what a channel says does.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from schedules import cases, money, order_desk
from schedules.cases import Evidence, Filters
from schedules.channels import registry
from schedules.order_layout import check_currency
from schedules.orders import NUMBER_MAX, Orders
from schedules.ports import Order, Refund
from worker import lookup, settings
from worker.cli_input import Json, desk, example, span
from worker.cli_print import console, facts, note, say, say_json, table
from worker.errors import BadFieldError, NotFoundError, SettingsError, WrongStateError

if TYPE_CHECKING:
    from schedules.order_desk import OrderDesk
    from worker.runtime import Desk

app = typer.Typer(no_args_is_help=True)

_No = Annotated[str, typer.Argument(help="Number of the order.", show_default=False)]
_Amount = Annotated[
    str, typer.Option("--amount", help="In major units: 12.30.", show_default=False)
]


@app.command(
    epilog=example(
        "paynotify order add A7 --merchant shop-77 --channel alipay --amount 12.30 --expires-in 30m"
    )
)
def add(
    order_no: _No,
    merchant: Annotated[str, typer.Option(help="As its endpoints have it.", show_default=False)],
    channel: Annotated[str, typer.Option(help="Name in channels.toml.", show_default=False)],
    amount: _Amount,
    currency: Annotated[str, typer.Option(help="ISO 4217.")] = "CNY",
    expires_in: Annotated[
        str | None, typer.Option(help="Closed when unpaid after: 30m, 2h.")
    ] = None,
    notify_url: Annotated[
        str | None, typer.Option(help="Where the merchant wants to hear of it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an order that waits for its payment, into our own table; again is harmless."""
    minor = _minor(amount, check_currency(currency, "--currency"))
    lasts = None if expires_in is None else span(expires_in, "--expires-in")
    with desk() as at:
        own = _own(_orders(at))
        now = at.store.now()
        with at.engine.begin() as tx:
            made = own.add(
                tx,
                order_no=order_no,
                merchant=merchant,
                channel=channel,
                amount_minor=minor,
                currency=currency,
                expires_at=None if lasts is None else now + lasts,
                notify_url=notify_url,
            )
        remarks = _remarks(at, made)
    for remark in remarks:
        note(remark)
    if as_json:
        say_json(_document(made))
    else:
        say(f"order {made.order_no} is {made.state}; its channel is asked a minute from now")


@app.command(epilog=example("paynotify order refund R1 --order A7 --amount 5.00"))
def refund(
    refund_no: Annotated[str, typer.Argument(help="Number of the refund.", show_default=False)],
    order: Annotated[str, typer.Option(help="Number of its order.", show_default=False)],
    amount: _Amount,
    as_json: Json = False,
) -> None:
    """Write a refund that was asked for at the channel, into our own table; again is harmless."""
    with desk() as at:
        own = _own(_orders(at))
        with at.engine.begin() as tx:
            of = own.get(tx, order)
            if of is None:
                raise NotFoundError("order", order[:NUMBER_MAX])
            made = own.add_refund(
                tx,
                refund_no=refund_no,
                order_no=order,
                amount_minor=_minor(amount, of.currency),
            )
    if as_json:
        say_json(made)
    else:
        say(f"refund {made.refund_no} is {made.state}; its channel is asked a minute from now")


@app.command(epilog=example("paynotify order show A7"))
def show(order_no: _No, as_json: Json = False) -> None:
    """Show an order, its refunds, cases, the last answers, and what the merchant was told."""
    with desk() as at:
        orders = _orders(at).orders
        with at.engine.connect() as connection:
            found = orders.get(connection, order_no)
            if found is None:
                raise NotFoundError("order", order_no[:NUMBER_MAX])
            refunds = orders.refunds_of(connection, order_no) or ()
            evidence = cases.evidence_of(connection, "order", order_no)
            told = lookup.list_by_order(connection, order_no)
        seen = cases.find(at.engine, Filters(subject_no=order_no, open_only=False))
    if as_json:
        document = _document(found)
        document["refunds"] = list(refunds)
        document["cases"] = [{"id": one.id, "reason": one.reason} for one in seen]
        document["notifications"] = [{"id": one.id, "state": one.state} for one in told]
        say_json(document)
        return
    console().print(facts((*_facts(found), *_refund_facts(refunds, found))))
    for case in seen:
        how = f"resolved by {case.resolved_by}" if case.resolved_by else "open"
        say(f"case {case.id}: {case.reason}, {how}")
    for one in told:
        say(f"notification {one.id}: {one.event_type}, {one.state}")
    if evidence:
        console().print(
            table(
                ("AT", "ROUTE", "CHANNEL SAID", "DECISION", "DONE"),
                ((one.at, one.route, _said(one), one.decision, one.done) for one in evidence),
            )
        )


@app.command(epilog=example("paynotify order check"))
def check() -> None:
    """Compare orders.toml with the table it describes; says everything that does not fit."""
    with desk() as at:
        opened = _orders(at)
    table_options = opened.options.table
    where = "our own table" if table_options is None else f"the host's table {table_options.name}"
    say(f"{order_desk.FILE} is right: orders stand in {where}")


def _orders(at: "Desk") -> "OrderDesk":
    return order_desk.open_orders(at.engine, settings.folder())


def _own(opened: "OrderDesk") -> Orders:
    if opened.own is None:
        raise WrongStateError(
            "our own table of orders", "not in use", "orders.toml names the host's; write there"
        )
    return opened.own


def _minor(amount: str, currency: str) -> int:
    minor = money.to_minor(amount, currency)
    if not minor:
        places = money.digits(currency)
        most = f"at most {places} decimal places" if places else "no decimal places"
        like = money.to_major(1230, currency)
        raise BadFieldError(
            "--amount",
            f"{amount[:40]!r} is no amount of {currency}: more than 0, digits with {most}, like "
            f"{like}",
        )
    return minor


def _remarks(at: "Desk", order: Order) -> list[str]:
    """Say what is odd about an order, though all of it may come right later."""
    remarks = []
    try:
        channel = registry.find(registry.load(settings.folder() / "channels.toml"), order.channel)
    except NotFoundError as error:
        remarks.append(f"{error}: nobody can be asked about this order until channels.toml has it")
    except SettingsError as error:
        remarks.append(f"channels.toml is wrong, so nobody is asked about this order: {error}")
    else:
        if channel.currency != order.currency:
            remarks.append(
                f"channel {channel.name} pays in {channel.currency}, this order is in "
                f"{order.currency}: a payment without a currency will be a case for a person"
            )
    if order.notify_url is None and not at.endpoints.of_merchant(order.merchant):
        remarks.append(
            f"merchant {order.merchant} has no endpoint yet, so nobody is told of this order; see "
            "`paynotify endpoint add --help`"
        )
    return remarks


def _said(evidence: Evidence) -> str:
    """Say what a channel said, with its words where they decided nothing."""
    theirs = json.loads(evidence.theirs)
    state, detail = theirs["state"] or "unknown", theirs.get("detail")
    return f"{state}: {detail}" if state == "unknown" and detail else str(state)


def _document(order: Order) -> dict[str, object]:
    return {name: getattr(order, name) for name in order.__dataclass_fields__}


def _facts(order: Order) -> tuple[tuple[str, object], ...]:
    return (
        ("order", order.order_no),
        ("state", order.state),
        ("merchant", order.merchant),
        ("channel", order.channel),
        ("amount", f"{money.to_major(order.amount_minor, order.currency)} {order.currency}"),
        ("placed", order.placed_at),
        ("expires", order.expires_at),
        ("paid", order.paid_at),
        ("channel's number", order.channel_txn_no),
        ("notify URL", order.notify_url),
    )


def _refund_facts(refunds: Sequence[Refund], order: Order) -> list[tuple[str, object]]:
    return [
        (
            f"refund {one.refund_no}",
            f"{money.to_major(one.amount_minor, order.currency)} {order.currency}, {one.state}",
        )
        for one in refunds
    ]
