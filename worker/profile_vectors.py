"""A vector of a profile: one notification, one key, and what a request of it must hold.

A profile is only as good as its last check against something somebody else has computed; with a
vector in its table, ``paynotify check-config`` does that each time.

Must never show the key, nor what came out instead: that would be signed with it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from worker.errors import BadFieldError
from worker.models import Claimed, Endpoint, Secret
from worker.shape import signed

# What a vector says, and what it need not say.
KEYS: Mapping[str, Any] = {
    "payload": None,
    "secret": None,
    "expect": None,
    "id": "msg_1",
    "event_type": "payment.succeeded",
    "event_key": "vector",
    "order_no": "",
    "merchant": "merchant",
    "url": "https://merchant.example.com/notify",
    "at": 0,
}


def check(vector: object, endpoint: Endpoint) -> None:
    """Refuse a profile whose request is not what its vector expects.

    Args:
        vector: of the table; ``expect`` stands in the URL, a header (``name: value``) or the body
            as they are sent.
        endpoint: made from the profile.

    Raises:
        BadFieldError: field ``vector`` or ``vector.NAME``, or as the scheme refuses it.
    """
    values = _values(vector)
    claimed = Claimed(
        id=0, lane_id=0, endpoint_id=0, config_no=0, attempt_no=1, tries=1, claim_no=0,
        troubled=False, message_id=values["id"], event_type=values["event_type"],
        event_key=values["event_key"], order_no=values["order_no"] or None,
        payload=values["payload"].encode(), content_type=None, headers=(), notify_url=None,
        schedule=None, trace_id=None, expires_in_s=None,
    )  # fmt: skip
    secret = Secret(version=1, value=values["secret"])
    of = replace(endpoint, merchant=values["merchant"], secrets=(secret,))
    made = signed(claimed, of, values["url"], values["at"])
    lines = [f"{name}: {value}" for name, value in made.headers]
    places = [made.url, *lines, made.body.decode("utf-8", "replace")]
    if not any(values["expect"] in place for place in places):
        raise BadFieldError(
            "vector.expect",
            "stands neither in the URL nor in a header or the body of the request that is made; "
            "compare fields, their order and the key with the platform's example",
        )


def _values(vector: object) -> dict[str, Any]:
    if not isinstance(vector, Mapping):
        raise BadFieldError("vector", f"must be a table of {', '.join(KEYS)}")
    for name in vector:
        if name not in KEYS:
            raise BadFieldError(f"vector.{str(name)[:64]}", f"there are {', '.join(KEYS)}")
    values = {**KEYS, **vector}
    for name, value in values.items():
        kind = int if name == "at" else str
        if type(value) is not kind or (value == "" and KEYS[name] is None):
            what = "a whole number of seconds since 1970" if kind is int else "text"
            raise BadFieldError(f"vector.{name}", f"must be {what}")
    return values
