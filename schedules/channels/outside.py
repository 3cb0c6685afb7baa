"""Fills in what ``config/channels.toml`` only names: keys in the environment or in files.

Must never quote what it read.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from schedules.channels.options import FromOutside, RouteOptions
from worker import settings

_FILE_MAX_BYTES = 1_048_576


class _MissingError(Exception):
    """What was named is not there; the message says what and how to mend it."""


@dataclass(slots=True, kw_only=True)
class Filled:
    """A route's table with its keys.

    Attributes:
        values: what an adapter's options are made from.
        problems: one sentence each, beginning with the field.
        fields: which fields have a problem, so that nobody complains about them twice.
    """

    values: dict[str, Any] = field(repr=False)
    problems: list[str] = field(default_factory=list)
    fields: set[str] = field(default_factory=set)


class Outside:
    """Reads the environment and files.

    Args:
        folder: relative file names are looked up here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fill(self, model: type[RouteOptions], table: dict[str, Any]) -> Filled:
        """Replace ``<field>_env`` and ``<field>_file`` by what they name; every problem at once."""
        filled = Filled(values=dict(table))
        for name, info in model.model_fields.items():
            mark = next((mark for mark in info.metadata if isinstance(mark, FromOutside)), None)
            if mark is None:
                continue
            try:
                self._one(name, info, mark, filled.values)
            except _MissingError as error:
                filled.problems.append(str(error))
                filled.fields.add(name)
        return filled

    def _one(self, name: str, info: FieldInfo, mark: FromOutside, values: dict[str, Any]) -> None:
        ways = {
            way: values.pop(way) for way in (f"{name}_env", f"{name}_file", name) if way in values
        }
        fix = f"give {name}_env (an environment variable) or {name}_file"
        if mark.secret and name in ways:
            raise _MissingError(f"{name}: must not stand in this file; {fix}")
        if len(ways) > 1:
            raise _MissingError(f"{name}: given as {' and '.join(sorted(ways))}; give one of them")
        if not ways:
            if info.is_required():
                raise _MissingError(f"{name}: missing; {fix}")
            return
        way, value = next(iter(ways.items()))
        if not isinstance(value, str) or not value:
            raise _MissingError(f"{way}: must be text")
        if way == f"{name}_env":
            value = _variable(way, value)
        elif way == f"{name}_file":
            value = self._file(way, value)
        values[name] = value

    def _file(self, way: str, name: str) -> str:
        path = self._folder / Path(name).expanduser()
        try:
            with path.open("rb") as source:
                data = source.read(_FILE_MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "no file name"
            raise _MissingError(f"{way}: {path} cannot be read ({why})") from None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise _MissingError(f"{way}: {path} is no text file") from None
        if len(data) > _FILE_MAX_BYTES or not text.strip():
            raise _MissingError(f"{way}: {path} is empty, or larger than any key")
        return text.strip()


def _variable(way: str, variable: str) -> str:
    if variable.startswith(settings.PREFIX):
        raise _MissingError(
            f"{way}: {variable[:64]} looks like one of our own settings; choose a name without "
            f"{settings.PREFIX}"
        )
    value = settings.secret(variable)
    if not value or not value.strip():
        raise _MissingError(f"{way}: the environment variable {variable[:64]} is not set")
    return value.strip()
