"""What may stand in each field of an endpoint; every refusal names the field.

Pure but for parsing certificates. Must never let a value through that a later send would choke
on: what is refused here costs an operator a minute, there it costs a merchant a notification.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from ipaddress import ip_network
from typing import Any, TypedDict

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from worker import ack, guard, retry
from worker import endpoint_manner as manner
from worker.errors import BadFieldError
from worker.fields import check_content_type, check_wait, parse_schedule
from worker.models import AckRule, Allowed, Encoding, Schedule
from worker.signers import registry

METHODS = ("POST", "PUT", "GET")
TIMEOUT_MAX_S = 60.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PEM_MAX = 65_536
_EVENTS_MAX = 50

SchedulesInput = str | Schedule | Mapping[str, str | Schedule]


class Fields(TypedDict, total=False):
    """What ``register`` and ``update`` take beside name, merchant and secret.

    See :class:`worker.models.Endpoint` for meaning and units; ``ack`` may be one line of text
    (``2xx exact:success``), a schedule too (``60,300,600``), for all events or per pattern.
    """

    url: str
    events: Sequence[str]
    scheme: str
    ack: str | AckRule
    method: str
    content_type: str
    profile: str
    encoding: str | Encoding
    fields: Mapping[str, str]
    currency: str
    zone: str
    options: Mapping[str, str]
    timeout_s: float
    schedules: SchedulesInput
    terminal_statuses: Sequence[int]
    rate_per_s: float | None
    in_flight_cap: int
    allowed: Allowed
    ca_pem: str | None
    client_pem: str | None
    revive: bool
    freeze: bool
    ordering_wait_s: int | None


def check_name(name: str) -> str:
    """Return the name when it is a handle of 1 to 64 of ``a-z 0-9 . _ -``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadFieldError(
            "name",
            f"{str(name)[:70]!r} is no name; use 1 to 64 of a-z, 0-9, dot, _ and -, beginning "
            "with a letter or digit",
        )
    return name


def check_person(value: str, field: str) -> str:
    """Return ``who`` or ``why`` of a change: 1 to 500 characters that are no mere spaces."""
    if not isinstance(value, str) or not value.strip() or len(value) > 500:
        raise BadFieldError(field, "is kept in the audit log and must be 1 to 500 characters")
    return value.strip()


def check_events(events: Sequence[str]) -> tuple[str, ...]:
    """Return the patterns; 1 to 50 of them."""
    patterns = (events,) if isinstance(events, str) else tuple(events)
    if not 1 <= len(patterns) <= _EVENTS_MAX:
        raise BadFieldError("events", f"needs 1 to {_EVENTS_MAX} patterns, has {len(patterns)}")
    for index, pattern in enumerate(patterns):
        retry.check_pattern(pattern, f"events[{index}]")
    return patterns


def check_ack(rule: str | AckRule) -> AckRule:
    """Return the rule, read from its line when it is text."""
    if isinstance(rule, str):
        return ack.parse(rule)
    ack.check(rule)
    return rule


def check_method(method: str) -> str:
    """Return the method in capitals."""
    if method.upper() not in METHODS:
        raise BadFieldError("method", f"{method[:20]!r} is not one of {', '.join(METHODS)}")
    return method.upper()


def check_profile(name: str) -> str:
    """Return the name of a profile; empty is none."""
    return check_name(name) if name else ""


def check_number(value: float, field: str, low: float, high: float) -> float:
    """Return a number within a range; NaN and booleans are refused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadFieldError(field, f"is {value!r}, must be a number from {low:g} to {high:g}")
    return float(value)


def check_count(value: int, field: str, low: int, high: int) -> int:
    """Return a whole number within a range."""
    if type(value) is not int or not low <= value <= high:
        raise BadFieldError(field, f"is {value!r}, must be a whole number from {low} to {high}")
    return value


def check_rate(value: float | None) -> float | None:
    """Return the most sends a second, 0.1 to 10 000; None is no limit."""
    return None if value is None else check_number(value, "rate_per_s", 0.1, 10_000)


def check_terminal(statuses: Sequence[int]) -> tuple[int, ...]:
    """Return HTTP statuses after which nothing is tried again; never a 2xx."""
    return tuple(
        sorted({check_count(status, "terminal_statuses", 300, 999) for status in statuses})
    )


def check_schedules(value: SchedulesInput) -> tuple[tuple[str, Schedule], ...]:
    """Return schedules per event pattern, ``*`` last; empty means the default for all."""
    by_pattern = value if isinstance(value, Mapping) else {"*": value}
    if len(by_pattern) > _EVENTS_MAX:
        raise BadFieldError("schedules", f"has {len(by_pattern)} patterns, at most {_EVENTS_MAX}")
    read: list[tuple[str, Schedule]] = []
    for pattern, plan in by_pattern.items():
        field = f"schedules[{pattern}]"
        retry.check_pattern(pattern, field)
        schedule = parse_schedule(plan, field) if isinstance(plan, str) else plan
        if not isinstance(schedule, Schedule):
            raise BadFieldError(field, f"is {plan!r:.60}; give delays in seconds like 60,300,600")
        retry.check_schedule(schedule, field)
        read.append((pattern, schedule))
    return tuple(sorted(read, key=lambda item: item[0] == "*"))


def check_exceptions(allowed: Allowed) -> Allowed:
    """Return the exceptions from the guard; a network as wide as the internet is none."""
    guard.check_allowed(allowed)
    for index, text in enumerate(allowed.networks):
        network = ip_network(text)
        if network.prefixlen < (8 if network.version == 4 else 16):
            raise BadFieldError(
                f"allowed.networks[{index}]", f"{text} is too wide for an exception; name less"
            )
    return allowed


def check_ca(pem: str | None) -> str | None:
    """Return a CA bundle in PEM; None is the system's."""
    if pem is not None:
        _certificates(pem, "ca_pem")
    return pem


def check_client(pem: str | None) -> str | None:
    """Return a client certificate with its unencrypted key, one PEM text; None is none."""
    if pem is None:
        return None
    first = _certificates(pem, "client_pem")[0]
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise BadFieldError(
            "client_pem", "holds no private key, or an encrypted one; append the key as plain PEM"
        ) from None
    if key.public_key() != first.public_key():
        raise BadFieldError(
            "client_pem", "its private key does not belong to its first certificate"
        )
    return pem


def check_switch(value: bool, field: str) -> bool:  # noqa: FBT001 - a field's value
    """Return whether something is on; nothing but true or false."""
    if not isinstance(value, bool):
        raise BadFieldError(field, f"is {value!r:.40}, must be true or false")
    return value


def checked(
    given: Fields, *, timeout_min_s: float, timeout_max_s: float = TIMEOUT_MAX_S
) -> dict[str, Any]:
    """Check all given fields but ``url``, which needs the exceptions beside it.

    Returns:
        Keyword arguments for ``dataclasses.replace`` of an endpoint, ``url`` among them.

    Raises:
        BadFieldError: for the first field that is wrong, and for one that does not exist.
    """
    checks: dict[str, Callable[[Any], object]] = {
        "url": lambda value: value,
        "events": check_events,
        "scheme": lambda value: registry.find(value).name,
        "ack": check_ack,
        "method": check_method,
        "content_type": check_content_type,
        "profile": check_profile,
        "encoding": manner.check_encoding,
        "fields": manner.check_fields,
        "currency": lambda value: value,
        "zone": lambda value: value,
        "options": manner.check_options,
        "timeout_s": lambda value: check_number(value, "timeout_s", timeout_min_s, timeout_max_s),
        "schedules": check_schedules,
        "terminal_statuses": check_terminal,
        "rate_per_s": check_rate,
        "in_flight_cap": lambda value: check_count(value, "in_flight_cap", 1, 10_000),
        "allowed": check_exceptions,
        "ca_pem": check_ca,
        "client_pem": check_client,
        "revive": lambda value: check_switch(value, "revive"),
        "freeze": lambda value: check_switch(value, "freeze"),
        "ordering_wait_s": lambda value: None if value is None else check_wait(value),
    }
    unknown = sorted(given.keys() - checks.keys())
    if unknown:
        near = get_close_matches(unknown[0], checks, n=1, cutoff=0)
        raise BadFieldError(unknown[0], f"is no field of an endpoint; did you mean {near[0]}?")
    return {name: checks[name](value) for name, value in given.items()}


def _certificates(pem: str, field: str) -> list[x509.Certificate]:
    if not isinstance(pem, str) or len(pem) > _PEM_MAX:
        raise BadFieldError(field, f"must be PEM text of at most {_PEM_MAX} characters")
    if not pem.isascii():
        raise BadFieldError(
            field, "must be ASCII; take other letters out of the comments between the certificates"
        )
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise BadFieldError(
            field, "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        ) from None
    return found
