"""How the command line shows things: tables and lines for people, JSON for scripts.

Must never print what the mask hides, nor a control character that somebody else wrote: a reply
or a reason could otherwise steer the operator's terminal.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.masking import mask
from worker.plain_text import safe

# Tables in a pipe are not cut to a terminal that is not there.
_PIPE_WIDTH = 240


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output, or standard error, that interprets no markup."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else _PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def say(line: str) -> None:
    """Print one line for people."""
    print(safe(line))  # noqa: T201 - the command line's output


def note(line: str) -> None:
    """Print a remark beside the output: on standard error, so that pipes stay clean."""
    print(safe(mask(line)), file=sys.stderr)  # noqa: T201 - the command line's output


def say_json(value: object) -> None:
    """Print one JSON document on one line; times are ISO 8601 in UTC, what steers is escaped."""
    text = json.dumps(plain(value), ensure_ascii=False)
    if not text.isprintable():
        # Outside of its strings a document has nothing of the kind.
        text = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
    print(text)  # noqa: T201 - the command line's output


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Make a table; None shows as nothing, a time to the second."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell(value)) for value in row))
    return made


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Make a table of names and values, without those that are None or empty."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs:
        shown = cell(value)
        if shown:
            made.add_row(name, Text(shown))
    return made


def cell(value: object) -> str:
    """Write one value for people.

    Examples:
        >>> cell(None), cell(3), cell(datetime(2026, 1, 31, 8, tzinfo=UTC))
        ('', '3', '2026-01-31 08:00:00Z')
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return safe(str(value))


def plain(value: object) -> Any:
    """Turn facts into what JSON can say; the keys are the names of the fields."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
