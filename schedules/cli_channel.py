"""``paynotify channel …``: which payment channels there are, and what one says of an order.

Reads and asks only; must never change an order, at the channel or here.
"""

from typing import Annotated

import typer

from schedules import money
from schedules.channels import registry
from schedules.channels.contract import Channel, Route
from schedules.ports import Finding, Order, OrderState
from worker import clock, settings
from worker.cli_input import Json, example, moment
from worker.cli_print import console, facts, say, say_json, table
from worker.errors import NotFoundError

app = typer.Typer(no_args_is_help=True)


@app.command("list", epilog=example("paynotify channel list", "paynotify channel list --json"))
def list_channels(as_json: Json = False) -> None:
    """List the channels of config/channels.toml with their routes; a wrong file is explained."""
    channels = _channels()
    if as_json:
        say_json([_as_facts(channel) for channel in channels.values()])
    elif not channels:
        say(f"No channels; {settings.folder() / 'channels.toml'} has examples.")
    else:
        rows = [
            (
                channel.name,
                channel.adapter,
                channel.currency,
                ", ".join(route.name for route in channel.routes),
                f"{channel.rate_per_s:g}/s",
                f"{channel.timeout_s:g} s",
            )
            for channel in channels.values()
        ]
        columns = ("channel", "adapter", "currency", "routes", "pace", "timeout")
        console().print(table(columns, rows))


@app.command(
    "query",
    epilog=example(
        "paynotify channel query alipay A20260131-7",
        "paynotify channel query unionpay A7 --placed-at 2026-01-31T08:00:00Z --json",
    ),
)
def query(
    channel: Annotated[str, typer.Argument(help="Name of the channel.", show_default=False)],
    order_no: Annotated[str, typer.Argument(help="The order's number.", show_default=False)],
    route: Annotated[
        str | None, typer.Option("--route", help="Ask this route. [default: the first]")
    ] = None,
    placed_at: Annotated[
        str | None,
        typer.Option(
            "--placed-at", help="When the order was placed; UnionPay needs it. [default: now]"
        ),
    ] = None,
    txn_no: Annotated[
        str, typer.Option("--txn-no", help="The channel's own number, where it is known.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Ask a channel what became of an order; changes nothing, there or here."""
    known = registry.find(_channels(), channel)
    chosen = _route(known, route)
    now = clock.now()
    found = chosen.port.query(
        Order(
            order_no=order_no,
            merchant="",
            channel=known.name,
            amount_minor=0,
            currency=known.currency,
            state=OrderState.PENDING,
            placed_at=moment(placed_at, "--placed-at", now=now) or now,
            channel_txn_no=txn_no,
        )
    )
    if as_json:
        say_json({"channel": known.name, "route": chosen.name, "order_no": order_no, "said": found})
    else:
        console().print(facts((("channel", f"{known.name}, route {chosen.name}"), *_said(found))))


def _channels() -> dict[str, Channel]:
    return registry.load(settings.folder() / "channels.toml")


def _route(channel: Channel, name: str | None) -> Route:
    if name is None:
        return channel.routes[0]
    for route in channel.routes:
        if route.name == name:
            return route
    there_are = ", ".join(route.name for route in channel.routes)
    raise NotFoundError("route", name[:64], f"channel {channel.name} has: {there_are}")


def _as_facts(channel: Channel) -> dict[str, object]:
    return {
        "name": channel.name,
        "adapter": channel.adapter,
        "currency": channel.currency,
        "routes": [route.name for route in channel.routes],
        "rate_per_s": channel.rate_per_s,
        "timeout_s": channel.timeout_s,
    }


def _said(found: Finding) -> tuple[tuple[str, object], ...]:
    amount = None
    if found.amount_minor is not None:
        amount = f"{money.to_major(found.amount_minor, found.currency or '')} {found.currency}"
    return (
        ("state", found.state.value),
        ("amount", amount),
        ("refunded", found.refunded_minor),
        ("paid at", found.paid_at),
        ("its number", found.channel_txn_no),
        ("detail", found.detail),
        ("reply sha256", found.reply_sha256),
    )
