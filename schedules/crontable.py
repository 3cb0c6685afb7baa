"""Reads the cron table, ``config/schedules.toml``, and notices when it was edited.

Each ``[[schedule]]`` is a line of the table and is read by itself. Must never let one bad line
stop the others: it is refused with its number and the reason.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schedules import jobs
from schedules.catch_up import LIMIT_MAX, CatchUp, Policy
from schedules.cron import Cron
from worker.errors import BadFieldError

TIME_LIMIT_MAX_S = 86_400
_HEADER = re.compile(r"\s*\[\[\s*schedule\s*\]\]\s*(#.*)?").fullmatch
_AT_LINE = re.compile(r" ?\(at (?:line (\d+), column \d+|end of document)\)")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}").fullmatch
_FIELDS = {
    "name": str,
    "cron": str,
    "zone": str,
    "job": str,
    "arguments": dict,
    "catch_up": str,
    "catch_up_limit": int,
    "time_limit_s": int,
    "enabled": bool,
}
_WORDS = {str: "text", dict: "a table", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the cron table.

    Attributes:
        line_no: where it begins in the file, from 1.
        arguments: JSON object, as text.
        time_limit_s: after this the job is asked to stop.
    """

    line_no: int
    name: str
    cron: Cron
    job: str
    arguments: str = "{}"
    policy: Policy = field(default_factory=Policy)
    time_limit_s: int = 300
    enabled: bool = True

    @property
    def fingerprint(self) -> str:
        """What its ticks depend on."""
        return f"{self.cron.expression} {self.cron.zone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What is in a file: the lines that can be run, and what is wrong with the others."""

    lines: tuple[Line, ...] = ()
    problems: tuple[str, ...] = ()

    def find(self, name: str) -> Line | None:
        """Return the line with this name; None when there is none."""
        return next((line for line in self.lines if line.name == name), None)


def read(text: str, *, check_job: Callable[[str], object]) -> Table:
    r"""Read a cron table.

    Args:
        text: TOML.
        check_job: raises :class:`BadFieldError` when there is no such job.

    Examples:
        >>> text = '[[schedule]]\nname = "a"\njob = "retention"\ncron = "61 * * * *"'
        >>> read(text, check_job=len).problems[0].split(";")[0]
        "line 4: cron: '61 * * * *' is no cron expression"
    """
    lines: dict[str, Line] = {}
    problems: list[str] = []
    for first, block in _blocks(text):
        try:
            line = _line(first, _parse(block), check_job)
            _check_new(line, lines)
            lines[line.name] = line
        except BadFieldError as error:
            problems.append(f"line {first + _place(block, error)}: {_why(error)}")
    return Table(lines=tuple(lines.values()), problems=tuple(problems))


def load(path: Path) -> Table:
    """Read the file at ``path`` as beat does; one that cannot be read is a problem."""
    return CronTable(path, check_job=jobs.check).look()[0]


class CronTable:
    """The cron table in force; read again when the file was changed.

    Args:
        path: of the file.
        check_job: as in :func:`read`.
    """

    def __init__(self, path: Path, *, check_job: Callable[[str], object]) -> None:
        self.path = path
        self._check_job = check_job
        self._stamp: tuple[int, ...] | None = None
        self._table = Table()

    def look(self) -> tuple[Table, bool]:
        """Return the table, and whether it is another one than the last time.

        A file that cannot be read leaves the lines that were in force as they are.
        """
        stamp = self._look_at_file()
        if stamp == self._stamp:
            return self._table, False
        self._stamp = stamp
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            problem = f"cannot be read ({why}); the lines in force stay"
            self._table = Table(lines=self._table.lines, problems=(problem,))
        else:
            self._table = read(text, check_job=self._check_job)
        return self._table, True

    def _look_at_file(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Cut a file at its headers: the number of the first line, and the lines."""
    first, block = 1, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if _HEADER(line):
            if any(map(_counts, block)):
                yield first, block
            first, block = number, []
        block.append(line)
    if any(map(_counts, block)):
        yield first, block


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _parse(block: list[str]) -> dict[str, Any]:
    try:
        found = tomllib.loads("\n".join(block))
    except tomllib.TOMLDecodeError as error:
        raise BadFieldError("", f"not valid TOML: {error}") from None
    entry = found.pop("schedule", None)
    if found or not isinstance(entry, list):
        name = next(iter(found), "schedule")
        raise BadFieldError(name, "stands outside of a [[schedule]]")
    return dict(entry[0])


def _line(line_no: int, entry: Mapping[str, Any], check_job: Callable[[str], object]) -> Line:
    for name, value in entry.items():
        _check_kind(name, value)
    for name in ("name", "cron", "job"):
        if name not in entry:
            raise BadFieldError(name, "is missing")
    if _NAME(entry["name"]) is None:
        raise BadFieldError("name", "must be 1 to 63 of a-z, 0-9, '.', '_' and '-'")
    cron = Cron(expression=entry["cron"], zone=entry.get("zone", "UTC"))
    check_job(entry["job"])
    return Line(
        line_no=line_no,
        name=entry["name"],
        cron=cron,
        job=entry["job"],
        arguments=_json(entry.get("arguments", {})),
        policy=Policy(
            catch_up=_catch_up(entry.get("catch_up", CatchUp.ONCE.value)),
            limit=_within("catch_up_limit", entry.get("catch_up_limit", 10), LIMIT_MAX),
        ),
        time_limit_s=_within("time_limit_s", entry.get("time_limit_s", 300), TIME_LIMIT_MAX_S),
        enabled=entry.get("enabled", True),
    )


def _check_new(line: Line, others: Mapping[str, Line]) -> None:
    if line.name in others:
        there = others[line.name].line_no
        raise BadFieldError("name", f"{line.name!r} is taken by line {there}")


def _check_kind(name: str, value: object) -> None:
    kind = _FIELDS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0)[0]
        raise BadFieldError(name, f"no such field; did you mean {near}?")
    # True is an int to Python, and not to us.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadFieldError(name, f"must be {_WORDS[kind]}")


def _within(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise BadFieldError(name, f"is {value}, must be 1 to {most}")
    return value


def _catch_up(text: str) -> CatchUp:
    try:
        return CatchUp(text)
    except ValueError:
        raise BadFieldError("catch_up", f"{text[:40]!r} must be skip, once or all") from None


def _json(arguments: Mapping[str, Any]) -> str:
    try:
        return json.dumps(arguments, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise BadFieldError(
            "arguments", "may hold text, numbers, true, false, lists and tables only"
        ) from None


def _place(block: list[str], error: BadFieldError) -> int:
    """How many lines below the block's first one the mistake is."""
    if not error.field:
        found = _AT_LINE.search(error.problem)
        return int(found[1]) - 1 if found and found[1] else len(block) - 1
    key = re.compile(rf"\s*['\"]?{re.escape(error.field)}['\"]?\s*[=.]|.*\b{error.field}\s*\]")
    return next((number for number, line in enumerate(block) if key.match(line)), 0)


def _why(error: BadFieldError) -> str:
    return _AT_LINE.sub("", str(error)).removeprefix(": ")
