"""What commands read: the desk they work at, times, people, files and secrets.

Must never take a secret from the command line itself: every user of the machine can read it.
"""

import os
import pwd
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker import settings
from worker.cli_print import note
from worker.errors import BadFieldError

if TYPE_CHECKING:
    from worker.runtime import Desk

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([0-9]{1,6})([smhd])").fullmatch
_FILE_MAX = 1_048_576
_SECRET_MAX = 4096
# What both databases count to.
ID_MAX = 2**63 - 1

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead, for scripts.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Who = Annotated[
    str, typer.Option("--who", help="Who does it, for the audit log. [default: your login]")
]
Why = Annotated[str, typer.Option("--why", help="Why, for the audit log.")]
Name = Annotated[str, typer.Argument(help="Name of the endpoint.", show_default=False)]


@contextmanager
def desk() -> "Iterator[Desk]":
    """Open what the settings name, for one command.

    Raises:
        SettingsError, UnavailableError: as :func:`worker.runtime.open_desk`.
    """
    chosen = settings.load()
    # Half a second of imports that --help and a bad setting need not wait for.
    from worker import runtime  # noqa: PLC0415

    opened = runtime.open_desk(chosen)
    try:
        yield opened
    finally:
        opened.engine.dispose()


def example(*lines: str) -> str:
    """Write a command's epilog: examples that can be copied."""
    shown = "\n\n".join("  " + line.replace("[", "\\[") for line in lines)
    return f"[bold]Example[/bold]\n\n{shown}"


def person(who: str) -> str:
    """Return who gives an order: what was given, else the login of this process."""
    if who:
        return who
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def moment(text: str | None, field: str, *, now: datetime) -> datetime | None:
    """Read a time: ISO 8601 (UTC unless it says otherwise), or how long ago.

    Args:
        text: ``2026-01-31T08:00:00Z``, ``2026-01-31``, ``90s``, ``15m``, ``2h``, ``3d``.
        field: option, for the message.
        now: what is counted back from (aware).

    Raises:
        BadFieldError: it is neither.

    Examples:
        >>> noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        >>> moment("2h", "--since", now=noon).isoformat()
        '2026-01-31T10:00:00+00:00'
        >>> moment("2026-01-30", "--since", now=noon).isoformat()
        '2026-01-30T00:00:00+00:00'
    """
    if text is None:
        return None
    ago = _SPAN(text)
    try:
        if ago:
            return now - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        read = datetime.fromisoformat(text)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadFieldError(
            field, f"{text[:40]!r} is no time; write 15m, 2h, 3d or 2026-01-31T08:00:00Z (UTC)"
        ) from None


def span(text: str, field: str) -> timedelta:
    """Read a length of time: ``90s``, ``15m``, ``24h``, ``3d``; ``0`` is none."""
    found = _SPAN(text if text != "0" else "0s")
    if found is None:
        raise BadFieldError(field, f"{text[:40]!r} is no length of time; write 15m, 24h or 3d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def read_text(file: str | Path | None, field: str) -> str | None:
    """Return the text of a small file; None stays None."""
    if file is None:
        return None
    try:
        return read_bytes(file, field).decode()
    except UnicodeDecodeError:
        raise BadFieldError(field, f"{file} is not UTF-8 text") from None


def read_bytes(file: str | Path, field: str) -> bytes:
    """Return what is in a small file."""
    try:
        with Path(file).open("rb") as source:
            data = source.read(_FILE_MAX + 1)
    except OSError as error:
        raise BadFieldError(field, f"{file} cannot be read ({error.strerror})") from None
    if len(data) > _FILE_MAX:
        raise BadFieldError(field, f"{file} has more than {_FILE_MAX} bytes")
    return data


def secret(given: str | None) -> str | None:
    """Return the secret on standard input when ``-`` was given; None makes a new one."""
    if given is None:
        return None
    if given != "-":
        raise BadFieldError(
            "--secret",
            "would show in the process list; give --secret - and pipe the secret in",
        )
    return sys.stdin.read(_SECRET_MAX).strip()


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; without one, or with ``yes``, go on.

    Raises:
        typer.Exit: the answer was not yes.
    """
    if not yes and sys.stdin.isatty() and not typer.confirm(question, err=True):
        note("Nothing was changed.")
        raise typer.Exit(1)


def need(value: str, field: str, example_text: str) -> str:
    """Return an option that must be given."""
    if not value.strip():
        raise BadFieldError(
            field, f"is missing; it is kept in the audit log, for example {field} {example_text}"
        )
    return value
