"""The options that describe an endpoint, and the fields the registry takes.

Must never name a field that was not given: what is not named stays as it is.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from worker import ack as acks
from worker import profiles
from worker.cli_input import read_text
from worker.endpoint_fields import Fields
from worker.errors import BadFieldError
from worker.masking import mask
from worker.models import Allowed, Endpoint

Event = Annotated[
    list[str] | None,
    typer.Option("--event", help="Event type it wants: payment.paid, payment.* or *; repeatable."),
]
Ack = Annotated[
    str | None,
    typer.Option(help='What acknowledges: "2xx", "2xx exact:success", "200 json:code=0".'),
]
Plan = Annotated[
    list[str] | None,
    typer.Option(
        "--schedule",
        help='Seconds after each failed try: "60,300,600" or "none"; for some event types '
        '"refund.*=60,300"; repeatable.',
    ),
]
Rate = Annotated[float | None, typer.Option(help="Most sends a second.")]
Cap = Annotated[int | None, typer.Option(help="Most requests on the wire at once.")]
Timeout = Annotated[float | None, typer.Option(help="Deadline of one request, seconds.")]
Method = Annotated[str | None, typer.Option(help="POST, PUT or GET.")]
ContentType = Annotated[str | None, typer.Option(help="Media type of the payload.")]
Scheme = Annotated[str | None, typer.Option(help="Signing scheme.")]
Profile = Annotated[
    str | None,
    typer.Option(
        help="Delivery profile it is made from, `paynotify profile list`; options given beside it "
        "go first."
    ),
]
Field = Annotated[
    list[str] | None,
    typer.Option("--field", help='Field of a profile, how it is made: "pid==1001"; repeatable.'),
]
Option = Annotated[
    list[str] | None,
    typer.Option("--option", help='Option of the scheme or encoding: "charset=gbk"; repeatable.'),
]
Terminal = Annotated[
    list[int] | None,
    typer.Option("--terminal-status", help="Status after which nothing is tried; repeatable."),
]
AllowHttp = Annotated[
    bool | None,
    typer.Option("--allow-http/--no-allow-http", help="Plain http and IP addresses may be used."),
]
AllowPort = Annotated[list[int] | None, typer.Option(help="Port beyond 443 and 8443; repeatable.")]
AllowNetwork = Annotated[
    list[str] | None,
    typer.Option(help="Network that may be dialled though it is not public; repeatable."),
]
Ca = Annotated[Path | None, typer.Option("--ca", help="PEM file of CAs, instead of the system's.")]
Client = Annotated[
    Path | None, typer.Option("--client-cert", help="PEM file of a certificate with its key.")
]
Revive = Annotated[
    bool | None,
    typer.Option(
        "--revive/--no-revive",
        help="Dead letters are sent again by themselves, slowly, once it answers again.",
    ),
]
Freeze = Annotated[
    bool | None,
    typer.Option(
        "--freeze/--no-freeze",
        help="It is held when it keeps failing, and let go when it answers a ping again.",
    ),
]

OrderingWait = Annotated[
    int | None,
    typer.Option(help="Longest an event holds up later ones of its ordering key, seconds."),
]


def fields(params: Mapping[str, Any]) -> Fields:
    """Collect the fields that were given.

    Args:
        params: of the command, by the names of its parameters.

    Raises:
        BadFieldError: a file that cannot be read, a schedule given twice.
        NotFoundError, SettingsError: there is no such profile, or its table is wrong.
    """
    given = {
        "url": params["url"],
        "events": params["event"] or None,
        "ack": params["ack"],
        "schedules": _schedules(params["schedule"]),
        "rate_per_s": params["rate"],
        "in_flight_cap": params["cap"],
        "timeout_s": params["timeout"],
        "method": params["method"],
        "content_type": params["content_type"],
        "scheme": params["scheme"],
        "fields": _pairs(params["field"], "--field", "NAME=payload.amount | major"),
        "options": _pairs(params["option"], "--option", "charset=gbk"),
        "terminal_statuses": params["terminal_status"] or None,
        "ca_pem": read_text(params["ca"], "--ca"),
        "client_pem": read_text(params["client_cert"], "--client-cert"),
        "revive": params["revive"],
        "freeze": params["freeze"],
        "ordering_wait_s": params["ordering_wait"],
    }
    chosen = cast("Fields", {name: value for name, value in given.items() if value is not None})
    if params["profile"] is None:
        return chosen
    return profiles.laid_over(profiles.load().find(params["profile"]), chosen)


def exceptions(
    before: Allowed, http: bool | None, ports: list[int] | None, networks: list[str] | None
) -> Allowed | None:
    """Return what the guard shall let this endpoint do; None when nothing was said about it."""
    after = before
    if http is not None:
        after = replace(after, http=http)
    if ports:
        after = replace(after, ports=tuple(ports))
    if networks:
        after = replace(after, networks=tuple(networks))
    return None if http is None and not ports and not networks else after


def _schedules(given: list[str] | None) -> dict[str, str] | None:
    if not given:
        return None
    plans: dict[str, str] = {}
    for text in given:
        pattern, sign, plan = text.rpartition("=")
        key = pattern if sign else "*"
        if key in plans:
            raise BadFieldError("--schedule", f"is given twice for {key}")
        plans[key] = plan
    return plans


def over(before: Endpoint, given: Fields) -> Fields:
    """Add single fields and options to those an endpoint has, unless a profile brought them."""
    if "profile" not in given:
        if "fields" in given:
            given["fields"] = {**dict(before.fields), **given["fields"]}
        if "options" in given:
            given["options"] = {**before.options, **given["options"]}
    return given


def _pairs(given: list[str] | None, field: str, like: str) -> dict[str, str] | None:
    if not given:
        return None
    pairs = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise BadFieldError(field, f"{text[:64]!r} has no '='; write {like}")
        pairs[name.strip()] = value
    return pairs


def describe(endpoint: Endpoint) -> dict[str, object]:
    """Tell what an endpoint is, without secrets, keys and the query of its URL."""
    return {
        "name": endpoint.name,
        "merchant": endpoint.merchant,
        "url": mask(endpoint.url),
        "state": endpoint.state.value,
        "state_reason": endpoint.state_reason,
        "events": endpoint.events,
        "profile": endpoint.profile,
        "scheme": endpoint.scheme,
        "encoding": endpoint.encoding.value,
        "fields": dict(endpoint.fields),
        "options": dict(endpoint.options),
        "ack": acks.text(endpoint.ack),
        "method": endpoint.method,
        "content_type": endpoint.content_type,
        "timeout_s": endpoint.timeout_s,
        "schedules": {pattern: plan.delays_s for pattern, plan in endpoint.schedules},
        "terminal_statuses": endpoint.terminal_statuses,
        "rate_per_s": endpoint.rate_per_s,
        "in_flight_cap": endpoint.in_flight_cap,
        "allowed": asdict(endpoint.allowed),
        "own_ca": endpoint.ca_pem is not None,
        "revive": endpoint.revive,
        "freeze": endpoint.freeze,
        "ordering_wait_s": endpoint.ordering_wait_s,
        "pinned": endpoint.pinned,
        "config_no": endpoint.config_no,
    }
