"""How an endpoint lies in its row: the JSON of its configuration.

Must never need a secret or the cryptography library: hosts read endpoints through this file.
"""

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from sqlalchemy import Row

from worker.models import AckRule, Allowed, BodyRule, Encoding, Endpoint, EndpointState, Schedule
from worker.route_facts import Route

# Fields of Endpoint that live in the JSON document; the others have columns of their own.
CONFIG = (
    "events",
    "scheme",
    "ack",
    "method",
    "content_type",
    "profile",
    "encoding",
    "fields",
    "currency",
    "zone",
    "options",
    "timeout_s",
    "schedules",
    "terminal_statuses",
    "rate_per_s",
    "in_flight_cap",
    "allowed",
    "ca_pem",
    "revive",
    "freeze",
    "ordering_wait_s",
    "routes",
    "weight",
    "pinned",
    "routes_made",
)


def config_text(endpoint: Endpoint) -> str:
    """Write the configuration of an endpoint as the JSON kept in its row.

    Examples:
        >>> endpoint = Endpoint(id=1, name="a", merchant="m", url="https://a.example.com/")
        >>> read_config(config_text(endpoint)) == endpoint_config(endpoint)
        True
    """
    config: dict[str, object] = {name: getattr(endpoint, name) for name in CONFIG}
    config["ack"] = asdict(endpoint.ack)
    config["allowed"] = asdict(endpoint.allowed)
    config["options"] = dict(endpoint.options)
    config["schedules"] = [[pattern, asdict(plan)] for pattern, plan in endpoint.schedules]
    config["routes"] = [asdict(route) for route in endpoint.routes]
    return json.dumps(config, ensure_ascii=False, separators=(",", ":"))


def endpoint_config(endpoint: Endpoint) -> dict[str, Any]:
    """Return the configuration of an endpoint as keyword arguments of ``Endpoint``."""
    return {name: getattr(endpoint, name) for name in CONFIG}


@lru_cache(maxsize=4096)
def read_config(text: str) -> dict[str, Any]:
    """Read a configuration as keyword arguments of ``Endpoint``; the caller must not change it.

    Fields this version does not know are left out, missing ones keep their default, so rows of
    the next and of the last release can both be read.
    """
    raw = json.loads(text)
    config = {name: raw[name] for name in CONFIG if name in raw}
    for name in ("events", "terminal_statuses"):
        if name in config:
            config[name] = tuple(config[name])
    if "encoding" in config:
        config["encoding"] = Encoding(config["encoding"])
    if "fields" in config:
        config["fields"] = tuple((name, how) for name, how in config["fields"])
    if "ack" in config:
        ack = config["ack"]
        config["ack"] = AckRule(
            statuses=tuple((low, high) for low, high in ack["statuses"]),
            body=BodyRule(ack["body"]),
            expected=ack["expected"],
            path=ack["path"],
        )
    if "allowed" in config:
        allowed = config["allowed"]
        config["allowed"] = Allowed(
            http=allowed["http"],
            ports=tuple(allowed["ports"]),
            networks=tuple(allowed["networks"]),
        )
    if "schedules" in config:
        config["schedules"] = tuple(
            (pattern, read_schedule(plan)) for pattern, plan in config["schedules"]
        )
    config["routes"] = tuple(Route(**route) for route in raw.get("routes", ()))
    return config


def read_endpoint(row: Row[Any]) -> Endpoint:
    """Read a row of ``paynotify_endpoint``, without its secrets and its client key."""
    return Endpoint(
        id=row.id,
        name=row.name,
        merchant=row.merchant,
        url=row.url,
        state=EndpointState(row.state),
        state_reason=row.state_reason,
        config_no=row.config_no,
        **read_config(row.config),
    )


def read_schedule(plan: dict[str, Any]) -> Schedule:
    """Read a schedule from the JSON object ``schedule_text`` wrote."""
    return Schedule(delays_s=tuple(plan["delays_s"]), jitter_ratio=plan["jitter_ratio"])


def schedule_text(schedule: Schedule) -> str:
    """Write a schedule as JSON.

    Examples:
        >>> schedule_text(Schedule(delays_s=(60,), jitter_ratio=0.1))
        '{"delays_s":[60],"jitter_ratio":0.1}'
    """
    return json.dumps(asdict(schedule), separators=(",", ":"))
