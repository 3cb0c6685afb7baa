"""``paynotify show``, ``list``, ``enqueue`` and ``cancel``: notifications, one or many.

Must never cancel what is on the wire.
"""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection, insert

from worker import as_sent, cli_story, lookup
from worker.cli_input import ID_MAX, Json, Who, Why, desk, example, moment, need, person, read_bytes
from worker.cli_print import console, note, say, say_json, table
from worker.errors import BadFieldError, NotFoundError, WrongStateError
from worker.models import State
from worker.payload import PAYLOAD_MAX_BYTES
from worker.tables import audit
from worker.views import Notification

# Larger is no id of ours: both databases count to 2^63.
_ID = re.compile(r"[0-9]{1,18}").fullmatch
_LIMIT_MAX = 1000

Wanted = Annotated[
    str, typer.Argument(help="Notification id, msg_… id, or order number.", show_default=False)
]


One = Annotated[str, typer.Argument(help="Notification id or msg_… id.", show_default=False)]


def show(
    what: Wanted,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show the whole payload, unmasked.")
    ] = False,
    request: Annotated[
        int | None,
        typer.Option(
            "--request",
            metavar="ATTEMPT_NO",
            min=0,
            max=ID_MAX,
            help="Show the request of this attempt as it was sent, 0 the last; secrets and "
            "signatures are hidden.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what happened to a notification, or to every notification of an order."""
    if request is not None:
        _show_request(what, request or None, payload, as_json)
        return
    with desk() as at:
        with at.engine.connect() as connection:
            found = _found(connection, what)
        stories = [
            cli_story.read(at.engine, notification, whole_payload=payload) for notification in found
        ]
    for place, story in enumerate(stories):
        if as_json:
            say_json(cli_story.document(story))
            continue
        if place:
            say("")
        cli_story.show(story)


def _show_request(what: str, attempt_no: int | None, whole: bool, as_json: bool) -> None:
    with desk() as at, at.engine.connect() as connection:
        found = _found(connection, what)
        if len(found) > 1:
            ids = ", ".join(str(one.id) for one in found)
            raise BadFieldError("--request", f"{what[:64]} has {len(found)}; name one: {ids}")
        sight = as_sent.masked(connection, found[0].id, attempt_no, whole=whole)
    if as_json:
        say_json(sight)
        return
    note(
        f"attempt {sight.attempt_no}, signed at {sight.signed_at} with secret "
        f"{sight.secret_version}, endpoint at version {sight.config_no}"
    )
    say(f"{sight.method} {sight.url}")
    for name, value in sight.headers:
        say(f"{name}: {value}")
    say("")
    say(sight.body)


def list_(
    state: Annotated[State | None, typer.Option(help="Only these.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Of one endpoint.")] = None,
    merchant: Annotated[str | None, typer.Option(help="Of one merchant.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Created since: 15m, 2h, 3d, 2026-01-31T08:00:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option(help=f"At most, 1 to {_LIMIT_MAX}.")] = 50,
    before: Annotated[
        int | None,
        typer.Option(min=1, max=ID_MAX, help="Go on after a page: the last id it showed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List notifications, newest first."""
    if not 1 <= limit <= _LIMIT_MAX:
        raise BadFieldError("--limit", f"is {limit}, must be 1 to {_LIMIT_MAX}")
    with desk() as at:
        if endpoint is not None:
            at.endpoints.find(endpoint)
        after = moment(since, "--since", now=at.store.now())
        with at.engine.connect() as connection:
            found = lookup.find(
                connection,
                state=state,
                endpoint=endpoint,
                merchant=merchant,
                since=after,
                before_id=before,
                limit=limit,
            )
    if as_json:
        for what in found:
            say_json(cli_story.brief(what))
        return
    console().print(
        table(
            ("ID", "CREATED", "STATE", "ENDPOINT", "EVENT", "ORDER", "TRIES", "NEXT"),
            (_row(what) for what in found),
        )
    )
    if len(found) == limit:
        note(f"There may be more: add --before {found[-1].id}")


def enqueue(  # noqa: PLR0913, PLR0917 - one option per field
    event_type: Annotated[str, typer.Option("--type", help="Event type: payment.succeeded.")],
    key: Annotated[str, typer.Option(help="The event's identity, unique for ever.")],
    merchant: Annotated[
        str | None, typer.Option(help="All of its endpoints that want this type.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="The one endpoint that gets it.")] = None,
    payload: Annotated[str | None, typer.Option(help="Text that is sent.")] = None,
    payload_file: Annotated[
        Path | None, typer.Option(help="File that is sent; - is standard input.")
    ] = None,
    order: Annotated[str | None, typer.Option(help="Order number, to find it by.")] = None,
    notify_url: Annotated[
        str | None, typer.Option(help="Where this one goes, not the endpoint's URL.")
    ] = None,
    content_type: Annotated[str | None, typer.Option(help="Of the payload.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help='One more header: "X-Shop: 7"; repeatable.')
    ] = None,
    deliver_at: Annotated[str | None, typer.Option(help="Not before; ISO 8601.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="Given up after; ISO 8601.")] = None,
    priority: Annotated[int, typer.Option(help="0 first to 9 last.")] = 5,
    schedule: Annotated[
        str | None, typer.Option(help="Seconds after each failed try: 60,300,600.")
    ] = None,
    trace_id: Annotated[str | None, typer.Option(help="Kept with it.")] = None,
    ordering_key: Annotated[
        str | None, typer.Option(help="Sent after the earlier ones of this key: A7.")
    ] = None,
    ordering_wait: Annotated[
        int | None, typer.Option(help="Seconds each earlier one holds it up at most.")
    ] = None,
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Cancel the undelivered ones of its key.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Enqueue one event; the same key with the same payload again changes nothing."""
    body = _payload(payload, payload_file)
    if content_type is None and isinstance(body, str):
        _check_json(body)
    headers = dict(_header(text) for text in header or ())
    with desk() as at, at.engine.begin() as tx:
        ids = at.notifier.enqueue(
            tx,
            event_type=event_type,
            event_key=key,
            payload=body,
            merchant=merchant,
            endpoint=endpoint,
            order_no=order,
            notify_url=notify_url,
            content_type=content_type,
            headers=headers or None,
            deliver_at=deliver_at,
            expires_at=expires_at,
            priority=priority,
            schedule=schedule,
            trace_id=trace_id,
            ordering_key=ordering_key,
            ordering_wait_s=ordering_wait,
            supersede=supersede,
        )
    if as_json:
        say_json({"ids": ids})
    elif ids:
        say("enqueued as " + ", ".join(map(str, ids)))
    else:
        note(f"No endpoint of merchant {merchant} wants {event_type}; nothing was enqueued.")


def cancel(what: One, why: Why = "", who: Who = "", as_json: Json = False) -> None:
    """Cancel one notification that is not on the wire; final."""
    need(why, "--why", '"the order was a test"')
    with desk() as at, at.engine.begin() as tx:
        found = at.notifier.get(tx, int(what) if _ID(what) else what)
        if not at.notifier.cancel(tx, found.id):
            raise WrongStateError(
                f"notification {found.id}",
                found.state.value,
                "only blocked, waiting and pending ones can be cancelled",
            )
        tx.execute(
            insert(audit).values(
                actor=person(who),
                action="notification.cancel",
                subject=f"notification/{found.id}",
                why=why.strip(),
                facts=json.dumps({"state": [found.state.value, State.CANCELLED.value]}),
            )
        )
    if as_json:
        say_json({"id": found.id, "state": State.CANCELLED.value})
    else:
        say(f"notification {found.id} is cancelled")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(
        epilog=example(
            "paynotify show A20260131-7",
            "paynotify show 4711 --json",
            "paynotify show 4711 --request 1",
        )
    )(show)
    app.command("list", epilog=example("paynotify list --state waiting --endpoint acme"))(list_)
    app.command(
        epilog=example(
            "paynotify enqueue --merchant shop-77 --type payment.succeeded --key A7:paid "
            """--order A7 --payload '{"order_no": "A7", "amount_minor": 1200}'"""
        )
    )(enqueue)
    app.command(epilog=example('paynotify cancel 4711 --why "the order was a test"'))(cancel)


def _found(connection: Connection, what: str) -> list[Notification]:
    """Look up by whatever it is; an id goes before an order number of the same digits."""
    orders = [] if what.startswith("msg_") else lookup.list_by_order(connection, what)
    if not what.startswith("msg_") and not _ID(what):
        if not orders:
            raise NotFoundError("notification or order", what[:64])
        return orders
    try:
        by_id = [lookup.get(connection, int(what) if _ID(what) else what)]
    except NotFoundError:
        if orders:
            return orders
        raise
    if orders:
        note(f"{what} is the number of an order too; `paynotify show msg_…` shows its own.")
    return by_id


def _payload(text: str | None, file: Path | None) -> str | bytes:
    if text is not None and file is None:
        return text
    if file is None or text is not None:
        raise BadFieldError("--payload", "give either --payload or --payload-file, one of the two")
    if str(file) == "-":
        # One byte more than may be sent, so that too much is noticed.
        return sys.stdin.buffer.read(PAYLOAD_MAX_BYTES + 1)
    return read_bytes(file, "--payload-file")


def _check_json(text: str) -> None:
    """Refuse what begins like JSON and is none: a quote that the shell took, most often."""
    if text.lstrip().startswith(("{", "[")):
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadFieldError(
                "--payload",
                f"is not valid JSON ({error}); write it whole, or name its --content-type",
            ) from None


def _header(text: str) -> tuple[str, str]:
    name, sign, value = text.partition(":")
    if not sign:
        raise BadFieldError("--header", f'{name[:64]!r} is no header; write "Name: value"')
    return name.strip(), value.strip()


def _row(what: Notification) -> tuple[object, ...]:
    return (
        what.id,
        what.created_at,
        f"{what.state.value} (held)" if what.held else what.state.value,
        what.endpoint,
        what.event_type,
        what.order_no,
        what.attempts,
        what.due_at,
    )
