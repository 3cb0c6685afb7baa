"""A TOML file of entries, read entry by entry, so that a bad one spoils only itself.

Must never guess what a bad entry meant.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from worker.errors import SettingsError
from worker.refusals import words

_HEAD = re.compile(r"\s*\[\[\s*([A-Za-z0-9_-]+)\s*\]\]\s*(?:#.*)?").fullmatch
_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)|\s*\(at end of document\)").search


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One ``[[kind]]`` of a file.

    Attributes:
        line: of its head, from 1.
        text: from its head to the next one's.
        values: what it says; None when it is no TOML.
        problem: why it is none, with its line; empty otherwise.
    """

    kind: str
    line: int
    text: str
    values: dict[str, Any] | None
    problem: str = ""

    @property
    def name(self) -> str | None:
        """What it calls itself, if that can be read."""
        found = (self.values or {}).get("name")
        if isinstance(found, str):
            return found
        written = re.search(r"(?m)^\s*name\s*=\s*[\"']([^\"'\n]+)[\"']", self.text)
        return written[1] if written else None

    def line_of(self, field: str) -> int:
        """Return the line of a field; the head's when it has none."""
        written = re.compile(rf"\s*[\"']?{re.escape(field)}[\"']?\s*=")
        for number, line in enumerate(self.text.splitlines()):
            if written.match(line):
                return self.line + number
        return self.line


def entries(file: Path) -> list[Entry]:
    """Read a file's entries; what stands before the first one is a problem of its own.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(f"{file}: cannot be read ({why})") from None
    return [_entry(kind, line, block) for kind, line, block in _blocks(text)]


def problems_of(entry: Entry, error: ValidationError, known: Iterable[str]) -> Iterator[str]:
    """Write what a model found wrong with an entry, one sentence each, with its line."""
    for found in error.errors():
        path = [str(part) for part in found["loc"]]
        # The model of a sink is chosen by its kind, which stands in front then.
        field = next(iter(path[entry.kind == "sink" :]), "")
        where = f"line {entry.line_of(field)}"
        if found["type"] == "extra_forbidden":
            yield f"{where}: {field}: no such field{nearest(field, known)}"
        elif found["type"] == "missing":
            yield f"{where}: {field}: is missing"
        else:
            message = words(found)
            yield f"{where}: {field}: {message}" if field else f"{where}: {message}"


def fields(model: type[BaseModel]) -> list[str]:
    """Return the names of a model's fields."""
    return list(model.model_fields)


def nearest(word: str, known: Iterable[str]) -> str:
    """Ask whether another word was meant.

    Examples:
        >>> nearest("treshold", ["threshold", "window_s"])
        '; did you mean threshold?'
    """
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(names)}"


def _blocks(text: str) -> Iterator[tuple[str, int, str]]:
    kind, start, lines = "", 1, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        head = _HEAD(line)
        if head:
            if kind or any(each.strip() and each.strip()[0] != "#" for each in lines):
                yield kind, start, "\n".join(lines)
            kind, start, lines = head[1], number, []
        lines.append(line)
    if kind or any(each.strip() and each.strip()[0] != "#" for each in lines):
        yield kind, start, "\n".join(lines)


def _entry(kind: str, line: int, text: str) -> Entry:
    if not kind:
        problem = f"line {line}: something stands before the first [[rule]] or [[sink]]"
        return Entry(kind=kind, line=line, text=text, values=None, problem=problem)
    try:
        # Decimal: a threshold is compared with money.
        table = tomllib.loads(text, parse_float=Decimal)
        others = [name for name in table if name != kind] or [kind] * (len(table[kind]) - 1)
        if others:
            problem = f"line {line}: {others[0]!r} begins in the middle; write [[rule]] or [[sink]]"
            return Entry(kind=kind, line=line, text=text, values=None, problem=problem)
        return Entry(kind=kind, line=line, text=text, values=dict(table[kind][0]))
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        place = _AT_LINE(said)
        row = line + int(place[1]) - 1 if place and place[1] else line + text.count("\n")
        what = said[: place.start()] if place else said
        problem = f"line {row}: not valid TOML: {what}"
        return Entry(kind=kind, line=line, text=text, values=None, problem=problem)
