"""Delivery profiles: how a platform wants to be told, as data.

A ready one is a file in ``signers/profiles/``; an own one is a table ``[profiles.NAME]`` of
``paynotify.toml`` and may start from a ready one with ``extends``. What a profile implies is
written into the endpoint that chooses it, so a worker needs neither file and a later change of
either changes no endpoint.

Must never take a table of which it does not understand every key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, cast

from worker import endpoint_fields as check
from worker import endpoint_manner as manner
from worker import profile_vectors, settings
from worker.endpoint_fields import Fields
from worker.errors import BadFieldError, NotFoundError, PaynotifyError, SettingsError
from worker.models import Encoding, Endpoint

_READY = Path(__file__).parent / "signers" / "profiles"
_EXTENDS_MAX = 8
# What every endpoint is set to when a profile says nothing: nothing stays of a profile before.
_BLANK = Endpoint(id=0, name="a", merchant="m", url="")
_ALWAYS = ("scheme", "method", "content_type", "encoding", "fields", "currency", "zone", "options")
_SOMETIMES = ("ack", "timeout_s", "schedule", "terminal_statuses")
_KEYS = ("about", "extends", "vector", *_ALWAYS, *_SOMETIMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A delivery profile, checked.

    Attributes:
        about: one line for people.
        ready: whether it came with paynotify.
        implied: fields of an endpoint that chooses it, its name among them.
    """

    name: str
    about: str
    ready: bool
    implied: Fields


@dataclass(frozen=True, slots=True)
class Shelf:
    """All profiles, and what is wrong with the rest: one sentence per table.

    Attributes:
        profiles: by name; an own table goes before a ready one of its name.
    """

    profiles: Mapping[str, Profile]
    problems: tuple[str, ...] = ()

    def find(self, name: str) -> Profile:
        """Return one.

        Raises:
            SettingsError: its table is wrong.
            NotFoundError: there is none; names the nearest.
        """
        found = self.profiles.get(name)
        if found is not None:
            return found
        for problem in self.problems:
            if f"profiles.{name}." in problem or f"profiles.{name}:" in problem:
                raise SettingsError(problem)
        near = get_close_matches(name, self.profiles, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.profiles)}"
        raise NotFoundError("profile", name[:64], hint)


def load() -> Shelf:
    """Read ready and own profiles.

    Raises:
        SettingsError: the file of settings cannot be read at all.
    """
    file, tables = settings.profile_tables()
    return read(tables, where=f"{file}: " if file else "")


def read(tables: object, *, where: str = "") -> Shelf:
    """Read own tables on top of the ready ones.

    Args:
        tables: what stands under ``profiles`` in the file.
        where: of the file, for problems.
    """
    profiles = dict(ready())
    if not isinstance(tables, Mapping):
        return Shelf(profiles, (f"{where}profiles: must be tables like [profiles.my-shop]",))
    raw = {**_ready_tables(), **tables}
    problems = []
    for name, table in tables.items():
        try:
            profiles[name] = _profile(name, table, raw, ready=False)
        except PaynotifyError as error:
            profiles.pop(name, None)
            problems.append(where + str(error))
    return Shelf(dict(sorted(profiles.items())), tuple(problems))


@cache
def ready() -> Mapping[str, Profile]:
    """Return the profiles that came with paynotify, by name."""
    tables = _ready_tables()
    return {name: _profile(name, table, tables, ready=True) for name, table in tables.items()}


def laid_over(profile: Profile, given: Fields) -> Fields:
    """Return what a profile implies with what was given beside it, which goes first.

    Single ``fields`` and ``options`` are added or replaced; everything else is taken whole.

    Examples:
        >>> found = laid_over(ready()["epay"], {"timeout_s": 5.0, "fields": {"pid": "=1001"}})
        >>> found["timeout_s"], found["method"], found["fields"]["pid"], found["profile"]
        (5.0, 'GET', '=1001', 'epay')
    """
    merged: dict[str, Any] = {**profile.implied, **given}
    for name in ("fields", "options"):
        if name in given:
            merged[name] = {**profile.implied[name], **given[name]}
    return cast("Fields", merged)


@cache
def _ready_tables() -> dict[str, dict[str, Any]]:
    return {file.stem: settings.read_toml(file) for file in sorted(_READY.glob("*.toml"))}


def _profile(name: str, table: object, raw: Mapping[str, Any], *, ready: bool) -> Profile:
    try:
        check.check_name(name)
        values = _whole(name, table, raw)
        implied = _implied(name, values)
        _check(implied, values.get("vector"))
    except BadFieldError as error:
        raise BadFieldError(f"profiles.{name}.{error.field}", error.problem) from None
    about = values.get("about", "")
    return Profile(name=name, about=str(about), ready=ready, implied=implied)


def _whole(name: str, table: object, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a table over those it extends."""
    chain = [_plain(table)]
    current, seen = name, {name}
    while (parent := chain[-1].get("extends")) is not None:
        # A table may extend the ready one of its own name; any other circle is a mistake.
        above = _ready_tables().get(current) if parent == current else None
        if above is None and isinstance(parent, str) and parent not in seen:
            above = raw.get(parent)
        if above is None or len(chain) > _EXTENDS_MAX:
            raise BadFieldError(
                "extends", f"{str(parent)[:64]!r} is no other profile; there are {', '.join(raw)}"
            )
        current = parent
        seen.add(parent)
        chain.append(_plain(above))
    values: dict[str, Any] = {}
    for part in reversed(chain):
        merged = {
            key: {**values.get(key, {}), **part[key]}
            for key in ("fields", "options")
            if key in part
        }
        values = {**values, **part, **merged}
    # A vector is true of its own table only.
    values["vector"] = chain[0].get("vector")
    # `false` takes a field of the profile below away.
    for key in ("fields", "options"):
        values[key] = {name: how for name, how in values.get(key, {}).items() if how is not False}
    return values


def _plain(table: object) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise BadFieldError("scheme", "is missing; a profile is a table with a scheme")
    for key in table:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1, cutoff=0)
            raise BadFieldError(str(key)[:64], f"is no key of a profile; did you mean {near[0]}?")
    for key in ("fields", "options"):
        if not isinstance(table.get(key, {}), Mapping):
            raise BadFieldError(key, "must be a table")
    return dict(table)


def _implied(name: str, values: Mapping[str, Any]) -> Fields:
    if "scheme" not in values:
        raise BadFieldError("scheme", "is missing; name a signing scheme, or extend a profile")
    implied: dict[str, Any] = {key: getattr(_BLANK, key) for key in _ALWAYS} | {"profile": name}
    if values.get("encoding", "raw") == Encoding.QUERY:
        implied["method"] = "GET"
    for key in (*_ALWAYS, *_SOMETIMES):
        if key in values:
            implied["schedules" if key == "schedule" else key] = values[key]
    implied["fields"] = {key: _written("fields", key, how) for key, how in values["fields"].items()}
    implied["options"] = {
        key: _written("options", key, how) for key, how in values["options"].items()
    }
    return cast("Fields", implied)


def _written(table: str, key: str, value: object) -> str:
    """Return a value of a table as the text endpoints keep: 5 is "5", true is "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return str(value)
    raise BadFieldError(f"{table}.{key}", "must be text, a whole number, true or false")


def _check(implied: Fields, vector: object) -> None:
    made = replace(_BLANK, **check.checked(implied, timeout_min_s=1.0))
    manner.check_manner(made)
    if vector is not None:
        profile_vectors.check(vector, made)
