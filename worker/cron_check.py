"""Reads a cron table and says what is wrong in it, entry by entry.

Must never run anything. A table it finds nothing wrong with can be loaded.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter

_FIX = (
    'write five fields: minute hour day month weekday, for example "*/5 * * * *" for every five '
    'minutes or "30 2 * * *" for half past two; a sixth field is seconds'
)
# Longer than any that a person would write.
_LENGTH_MAX = 200


def problems(file: Path) -> list[str]:
    """List what is wrong with the schedules in a file, one sentence each.

    Every table of the file that has a ``cron`` (or ``expression``) is an entry; it may have a
    ``name`` and a ``zone``.

    Args:
        file: TOML; one that does not exist has nothing wrong.
    """
    if not file.exists():
        return []
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return [f"{file}: cannot be read ({error.strerror})"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return [f"{file}: not valid TOML: {error}"]
    return [problem for name, entry in _entries(table, "") for problem in _wrong(file, name, entry)]


def is_expression(text: object) -> bool:
    """Tell whether this is a cron expression of five or six fields, or ``@daily``, and can be.

    The sixth field is seconds, as croniter has it. One that never comes true is none.
    croniter's ``R`` and ``H`` (a random or hashed place) are none: every process would read them
    otherwise.

    Examples:
        >>> is_expression("*/5 * * * *"), is_expression("61 * * * *"), is_expression("0 0 30 2 *")
        (True, False, False)
    """
    if not isinstance(text, str):
        return False
    fields = text.split()
    known = text.startswith("@") if len(fields) == 1 else len(fields) in (5, 6)
    moving = any(field[0] in "RrHh" for field in fields)
    sane = known and not moving and len(text) <= _LENGTH_MAX
    return sane and bool(croniter.is_valid(text, strict=True))


def is_zone(name: object) -> bool:
    """Tell whether this is the name of an IANA time zone.

    Examples:
        >>> is_zone("Asia/Shanghai"), is_zone("Asia/Shanghia"), is_zone("/etc/passwd")
        (True, False, False)
    """
    try:
        return isinstance(name, str) and bool(ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False


def _entries(node: object, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "cron" in node or "expression" in node:
            yield str(node.get("name", path)), node
        for key, value in node.items():
            yield from _entries(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for index, value in enumerate(node, start=1):
            yield from _entries(value, f"{path}[{index}]")


def _wrong(file: Path, name: str, entry: dict[str, Any]) -> Iterator[str]:
    expression = entry.get("cron", entry.get("expression"))
    if not is_expression(expression):
        yield f"{file}: entry {name}: {expression!r} is no cron expression; {_FIX}"
    zone = entry.get("zone", "UTC")
    if not is_zone(zone):
        yield f"{file}: entry {name}: zone {zone!r} is unknown; write one like Asia/Shanghai or UTC"
