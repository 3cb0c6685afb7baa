"""Any channel that answers in JSON, described in ``config/channels.toml``.

Replies carry no signature that we know; TLS says whose they are. Must never guess: a state that
the map does not name, and an answer that does not name the order, settle nothing.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BeforeValidator, Field, field_validator, model_validator

from schedules import money
from schedules.channels.http import Answer, Ask, Http
from schedules.channels.options import FromOutside, RouteOptions, key_text
from schedules.channels.reading import (
    Fields,
    UnclearError,
    currency_code,
    finding,
    iso_time,
    json_object,
    must_be,
    need_status,
    reference,
    refund_finding,
    unknown,
)
from schedules.ports import (
    ChannelState,
    Finding,
    Order,
    Refund,
    RefundFinding,
    RefundState,
)

_PLACE = re.compile(r"\{([A-Za-z_]+)\}")
_PLACES = ("order_no", "txn_no", "refund_no", "key")
_MONEY_STATES = (
    ChannelState.PAID,
    ChannelState.FINISHED,
    ChannelState.PARTIAL_REFUND,
    ChannelState.REFUNDED,
)
Path = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,15}$")]


class Options(RouteOptions):
    """How one channel is asked and its answers are read.

    ``{order_no}``, ``{txn_no}`` and ``{key}`` are filled in: into the URL percent-encoded, into
    the body as JSON text, into headers as they are. Paths are dotted: ``data.items.0.state``.
    """

    url: str
    method: Literal["GET", "POST"] = "GET"
    headers: dict[str, str] = Field(default_factory=dict)
    body: str = ""
    key: Annotated[
        str | None,
        BeforeValidator(lambda text: text if text is None else key_text(text)),
        Field(repr=False),
        FromOutside(),
    ] = None
    order_path: Path
    state_path: Path
    states: dict[str, str]
    amount_path: Path
    amount_unit: Literal["minor", "major"]
    currency_path: Path | None = None
    txn_path: Path | None = None
    paid_at_path: Path | None = None
    refunded_path: Path | None = None
    not_found_statuses: list[int] = Field(default_factory=list)
    refund_url: str | None = None
    refund_path: Path | None = None
    refund_state_path: Path | None = None
    refund_amount_path: Path | None = None
    refund_currency_path: Path | None = None
    refund_states: dict[str, str] = Field(default_factory=dict)

    @field_validator("states")
    @classmethod
    def _known_states(cls, value: dict[str, str]) -> dict[str, str]:
        return _only(value, [state.value for state in ChannelState])

    @field_validator("refund_states")
    @classmethod
    def _known_refund_states(cls, value: dict[str, str]) -> dict[str, str]:
        return _only(value, [state.value for state in RefundState])

    @field_validator("url", "refund_url", "body")
    @classmethod
    def _known_places(cls, value: str | None) -> str | None:
        for name in _PLACE.findall(value or ""):
            if name not in _PLACES:
                raise ValueError(
                    f"{{{name}}} cannot be filled in; there are "
                    + ", ".join(f"{{{place}}}" for place in _PLACES)
                )
        return value

    @field_validator("headers")
    @classmethod
    def _sound_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _HEADER(name) or not (text.isascii() and text.isprintable()):
                raise ValueError(f"{name[:64]!r} is no header of visible ASCII characters")
        return value

    @model_validator(mode="after")
    def _whole(self) -> "Options":
        texts = (self.url, self.body, self.refund_url or "", *self.headers.values())
        if any("{key}" in text for text in texts) and self.key is None:
            raise ValueError("{key} is used but missing; give key_env or key_file")
        if "{order_no}" not in self.url + self.body and "{txn_no}" not in self.url + self.body:
            raise ValueError(
                "neither url nor body has {order_no}; nothing says which order is meant"
            )
        paths = (self.refund_path, self.refund_state_path, self.refund_amount_path)
        if self.refund_url is not None and not (all(paths) and self.refund_states):
            raise ValueError(
                "refund_url needs refund_path, refund_state_path, refund_amount_path and "
                "refund_states"
            )
        return self

    def urls(self) -> tuple[str, ...]:
        """Return the addresses as they look filled in."""
        sample = dict.fromkeys(_PLACES, "x")
        found = [self.url, *([self.refund_url] if self.refund_url else [])]
        return tuple(fill(url, sample, partial(quote, safe="")) for url in found)


class GenericJson:
    """One route to a channel that the file describes."""

    def __init__(self, options: Options, http: Http) -> None:
        self._options = options
        self._http = http

    def query(self, order: Order) -> Finding:
        """Ask as the file says."""
        places = {"order_no": order.order_no, "txn_no": order.channel_txn_no}
        answer = self._http.send(request(self._options, self._options.url, places))
        return finding(answer, partial(read_query, order=order, options=self._options))

    def close(self, order: Order) -> Finding:
        """Say that this adapter cannot."""
        return unknown("this channel has no way to close orders")

    def query_refund(self, order: Order, refund: Refund) -> RefundFinding:
        """Ask as the file says, if it does."""
        if self._options.refund_url is None:
            return RefundFinding(state=None, detail="this channel has no refund_url")
        places = {
            "order_no": order.order_no,
            "txn_no": order.channel_txn_no,
            "refund_no": refund.refund_no,
        }
        answer = self._http.send(request(self._options, self._options.refund_url, places))
        return refund_finding(
            answer, partial(read_refund, order=order, refund=refund, options=self._options)
        )


def make(options: Options, http: Http) -> GenericJson:
    """Make one route."""
    return GenericJson(options, http)


def request(options: Options, url: str, places: Mapping[str, str]) -> Ask:
    """Fill the templates in."""
    known = {**places, "key": options.key or ""}
    body = fill(options.body, known, lambda text: json.dumps(text, ensure_ascii=False)[1:-1])
    headers = {name: fill(text, known, _header_text) for name, text in options.headers.items()}
    if body:
        headers = {"Content-Type": "application/json", **headers}
    return Ask(
        method=options.method,
        url=fill(url, known, partial(quote, safe="")),
        headers=tuple(headers.items()),
        body=body.encode("utf-8", "replace") if options.method == "POST" else b"",
    )


def fill(template: str, places: Mapping[str, str], write: Callable[[str], str]) -> str:
    """Put values into a template; each is written so that it stays one value.

    Examples:
        >>> fill("/orders/{order_no}", {"order_no": "A/7"}, partial(quote, safe=""))
        '/orders/A%2F7'
    """
    return _PLACE.sub(lambda found: write(places.get(found[1], "")), template)


def read_query(answer: Answer, order: Order, options: Options) -> Finding:
    """Read the answer about an order."""
    if answer.status in options.not_found_statuses:
        return Finding(state=ChannelState.NOT_FOUND, detail=f"HTTP {answer.status}")
    need_status(answer, 200)
    fields = json_object(answer.body)
    must_be(_text(fields, options.order_path), order.order_no, "order")
    said = _text(fields, options.state_path)
    if said not in options.states:
        raise UnclearError(f"{options.state_path} is {said[:64]!r}, which states does not name")
    state = ChannelState(options.states[said])
    currency = options.currency
    if options.currency_path and (state in _MONEY_STATES or fields.at(options.currency_path)):
        currency = currency_code(_text(fields, options.currency_path))
    amount = _amount(fields, options.amount_path, currency, options)
    if amount is None and state in _MONEY_STATES:
        raise UnclearError(f"{options.amount_path} is no amount in {options.amount_unit} units")
    return Finding(
        state=state,
        amount_minor=amount,
        currency=currency,
        channel_txn_no=reference(_text(fields, options.txn_path)),
        paid_at=_time(fields, options.paid_at_path),
        refunded_minor=_amount(fields, options.refunded_path, currency, options),
        detail=said,
    )


def read_refund(answer: Answer, order: Order, refund: Refund, options: Options) -> RefundFinding:
    """Read the answer about a refund."""
    need_status(answer, 200)
    fields = json_object(answer.body)
    must_be(_text(fields, options.refund_path), refund.refund_no, "refund")
    said = _text(fields, options.refund_state_path)
    if said not in options.refund_states:
        raise UnclearError(f"the refund is {said[:64]!r}, which refund_states does not name")
    state = RefundState(options.refund_states[said])
    currency = _refund_currency(fields, order, options)
    path = options.refund_amount_path
    amount = _amount(fields, path, currency, options)
    if path and amount is None and (state is RefundState.SUCCESS or fields.at(path) is not None):
        raise UnclearError(f"{path} is no amount in {options.amount_unit} units")
    return RefundFinding(state=state, amount_minor=amount, currency=currency, detail=said)


def _refund_currency(fields: Fields, order: Order, options: Options) -> str:
    if options.refund_currency_path:
        return currency_code(_text(fields, options.refund_currency_path))
    # A channel of several currencies pays back in the one that was paid.
    return order.currency if options.currency_path else options.currency


def _text(fields: Fields, path: str | None) -> str:
    value = fields.at(path) if path else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return Fields({"found": value}).maybe("found")


def _time(fields: Fields, path: str | None) -> datetime | None:
    if path is None:
        return None
    there = Fields({"found": fields.at(path)})
    return there.unix_time("found") or iso_time(there.maybe("found"))


def _amount(fields: Fields, path: str | None, currency: str, options: Options) -> int | None:
    value = fields.at(path) if path else None
    if not isinstance(value, str | int | Decimal) or isinstance(value, bool):
        return None
    if options.amount_unit == "major":
        return money.to_minor(value, currency)
    # Whole minor units are an amount of a currency without decimal places.
    return money.to_minor(value, "JPY")


def _header_text(text: str) -> str:
    # An order number must not be able to end a header.
    return quote(text, safe="!#$%&'()*+,/:;=?@[]~ ") if not _VISIBLE(text) else text


def _only(value: dict[str, str], known: list[str]) -> dict[str, str]:
    for name, state in value.items():
        if state not in known:
            raise ValueError(
                f"{name[:64]!r} is mapped to {state[:64]!r}; there are {', '.join(known)}"
            )
    return value


_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch
_VISIBLE = re.compile(r"[!-~]*").fullmatch
