"""Reads ``config/channels.toml``: which channels there are and how each is asked.

Must never quote a key, nor build some channels of a file in which another is wrong: an order of
the missing one would look unknown for ever.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel

from schedules.channels import alipay, epay, generic_json, stripe, unionpay, wechat_v3
from schedules.channels.contract import Channel, Route
from schedules.channels.http import Http
from schedules.channels.options import ChannelOptions, RouteOptions, checked
from schedules.channels.outside import Outside
from schedules.ports import ChannelPort
from worker import guard
from worker.errors import NotFoundError, SettingsError, UrlRefusedError

_Model = TypeVar("_Model", bound=BaseModel)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}").fullmatch


@dataclass(frozen=True, slots=True)
class _Adapter:
    options: type[RouteOptions]
    make: Callable[[Any, Http], ChannelPort]


_ADAPTERS: Mapping[str, _Adapter] = MappingProxyType(
    {
        "alipay": _Adapter(alipay.Options, alipay.make),
        "epay": _Adapter(epay.Options, epay.make),
        "generic_json": _Adapter(generic_json.Options, generic_json.make),
        "stripe": _Adapter(stripe.Options, stripe.make),
        "unionpay": _Adapter(unionpay.Options, unionpay.make),
        "wechat_v3": _Adapter(wechat_v3.Options, wechat_v3.make),
    }
)


def adapters() -> tuple[str, ...]:
    """Return the names of all adapters, sorted."""
    return tuple(sorted(_ADAPTERS))


def find(channels: Mapping[str, Channel], name: str) -> Channel:
    """Return one channel.

    Raises:
        NotFoundError: there is none of that name; names the nearest, or all there are.
    """
    if name in channels:
        return channels[name]
    near = difflib.get_close_matches(name, channels, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(channels))}"
    raise NotFoundError("channel", name[:64], hint if channels else "channels.toml names none yet")


def load(path: Path) -> dict[str, Channel]:
    """Build the channels of a file, by name; a file that does not exist has none.

    Reads the keys that the file names, and no network. Nothing is kept: call it once per process
    and keep what it returns.

    Raises:
        SettingsError: with one sentence per problem, all of them; no key is ever quoted.
    """
    problems: list[str] = []
    channels: dict[str, Channel] = {}
    for name, table in _tables(path, problems).items():
        builder = _Builder(f"{path.name}: channel {name}", path.parent, problems)
        channel = builder.channel(name, table)
        if channel is not None:
            channels[name] = channel
    if problems:
        raise SettingsError(*problems)
    return channels


class _Builder:
    """Builds one channel; what is wrong is added to ``problems``."""

    def __init__(self, where: str, folder: Path, problems: list[str]) -> None:
        self._where = where
        self._outside = Outside(folder)
        self._problems = problems

    def channel(self, name: str, table: dict[str, Any]) -> Channel | None:
        """Build it; None when something is wrong."""
        before = len(self._problems)
        own = {field: table[field] for field in ChannelOptions.model_fields if field in table}
        shared = {field: value for field, value in table.items() if field not in own}
        adapter = self._adapter(own.get("adapter"))
        options = self._valid(ChannelOptions, own, self._where)
        if options is None or adapter is None:
            return None
        routes = [
            route
            for given in options.routes or [{}]
            if (route := self._route(adapter, options, {**shared, **given})) is not None
        ]
        names = [route.name for route in routes]
        for twice in sorted({one for one in names if names.count(one) > 1}):
            self._say(self._where, f"routes: the name {twice!r} stands twice; give each its own")
        if len(self._problems) > before:
            return None
        return Channel(
            name=name,
            currency=options.currency,
            routes=tuple(routes),
            rate_per_s=options.rate_per_s,
            timeout_s=options.timeout_s,
            breaker=options.breaker(),
            adapter=options.adapter,
        )

    def _adapter(self, name: object) -> _Adapter | None:
        if isinstance(name, str) and name in _ADAPTERS:
            return _ADAPTERS[name]
        if isinstance(name, str):
            near = difflib.get_close_matches(name, _ADAPTERS, n=1)
            hint = f"did you mean {near[0]}? There are" if near else "there are"
            self._say(
                self._where, f"adapter: no adapter {name[:64]!r}; {hint}: {', '.join(adapters())}"
            )
        return None

    def _route(
        self, adapter: _Adapter, channel: ChannelOptions, table: dict[str, Any]
    ) -> Route | None:
        name = table.pop("name", "main")
        where = f"{self._where}, route {name}"
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 32:
            self._say(self._where, "routes: name must be 1 to 32 printable characters")
            return None
        given = {**table, "currency": channel.currency, "timeout_s": channel.timeout_s}
        filled = self._outside.fill(adapter.options, given)
        for problem in filled.problems:
            self._say(where, problem)
        options = self._valid(adapter.options, filled.values, where, besides=filled.fields)
        if options is None or filled.problems:
            return None
        try:
            for url in options.urls():
                guard.check_url(url, options.allowed.granted())
            return Route(name=name, port=adapter.make(options, options.http()))
        except UrlRefusedError as error:
            self._say(where, f"url: {error.problem}")
        except ValueError:
            self._say(where, "ca: holds no certificates; give a PEM file")
        return None

    def _valid(
        self,
        model: type[_Model],
        values: dict[str, Any],
        where: str,
        besides: frozenset[str] | set[str] = frozenset(),
    ) -> _Model | None:
        made, problems = checked(model, values, besides)
        for problem in problems:
            self._say(where, problem)
        return made

    def _say(self, where: str, problem: str) -> None:
        self._problems.append(f"{where}: {problem}")


def _tables(path: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Read the file; what stands in it and is no channel is a problem."""
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    channels = whole.pop("channels", {})
    problems += [
        f"{path.name}: {name}: no such field; channels are written as [channels.NAME]"
        for name in whole
    ]
    if not isinstance(channels, dict):
        raise SettingsError(f"{path.name}: channels: must be tables, written as [channels.NAME]")
    found: dict[str, dict[str, Any]] = {}
    for name, table in channels.items():
        if not isinstance(table, dict) or not _NAME(name):
            problems.append(
                f"{path.name}: channels.{name[:64]}: must be a table whose name is lower-case "
                "letters, digits, '.', '_' and '-', at most 64"
            )
        else:
            found[name] = table
    return found
