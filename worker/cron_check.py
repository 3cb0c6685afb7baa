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
    'minutes or "30 2 * * *" for half past two'
)


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
    """Tell whether this is a cron expression of five fields, or ``@daily``, that can come true.

    croniter's ``R`` and ``H`` (a random or hashed place) are none: every process would read them
    otherwise.

    Examples:
        >>> is_expression("*/5 * * * *"), is_expression("61 * * * *"), is_expression("0 0 30 2 *")
        (True, False, False)
    """
    if not isinstance(text, str):
        return False
    fields = text.split()
    known = text.startswith("@") if len(fields) == 1 else len(fields) == 5
    moving = any(field[0] in "RrHh" for field in fields)
    return known and not moving and bool(croniter.is_valid(text, strict=True))


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
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        yield f"{file}: entry {name}: zone {zone!r} is unknown; write one like Asia/Shanghai or UTC"
