"""Checks that several kinds of fields share; every refusal names the field.

Must need nothing beyond the standard library: hosts import it.
"""

import re

from worker.errors import BadFieldError
from worker.models import Schedule
from worker.retry import check_schedule

ORDERING_WAIT_S = 3600
ORDERING_WAIT_MAX_S = 604_800
_VISIBLE = re.compile(r"[\x21-\x7e]+").fullmatch
_CONTENT_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(; ?[\x21-\x7e]+)*"
).fullmatch


def visible(value: object, field: str, most: int) -> str:
    """Return the value when it is text of 1 to ``most`` visible ASCII characters."""
    if not isinstance(value, str) or not _VISIBLE(value) or len(value) > most:
        raise BadFieldError(field, f"must be 1 to {most} visible ASCII characters without spaces")
    return value


def quoted(value: object, most: int) -> str:
    """Show a refused value: text is cut and quoted, of anything else only the type is named.

    Examples:
        >>> quoted("pay ment", 4), quoted(7, 4)
        ("'pay '", 'a value of type int')
    """
    return (
        repr(value[:most]) if isinstance(value, str) else f"a value of type {type(value).__name__}"
    )


def check_content_type(value: object) -> str:
    """Return a media type such as ``application/json; charset=utf-8``."""
    if not isinstance(value, str) or len(value) > 128 or not _CONTENT_TYPE(value):
        raise BadFieldError(
            "content_type", f"{quoted(value, 130)} is no media type; an example: application/json"
        )
    return value


def check_wait(value: object) -> int:
    """Return how long an event lets earlier ones hold it up: whole seconds, 1 to 604 800."""
    if type(value) is not int or not 1 <= value <= ORDERING_WAIT_MAX_S:
        raise BadFieldError(
            "ordering_wait_s",
            f"is {value!r:.20}, must be a whole number of seconds from 1 to {ORDERING_WAIT_MAX_S}",
        )
    return value


def parse_schedule(text: str, field: str = "schedule") -> Schedule:
    """Read a schedule from one line: seconds after each failed try, or ``none``.

    Examples:
        >>> parse_schedule("60, 300,600").delays_s
        (60, 300, 600)
        >>> parse_schedule("none").delays_s
        ()
    """
    parts = [] if text.strip() == "none" else [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 8 for part in parts):
        raise BadFieldError(
            field,
            f"{text[:80]!r} is no schedule; write whole seconds separated by commas, like "
            "60,300,600, or none for a single try",
        )
    schedule = Schedule(delays_s=tuple(int(part) for part in parts))
    check_schedule(schedule, field)
    return schedule
