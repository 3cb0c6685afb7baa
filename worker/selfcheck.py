"""Looks whether paynotify could work with these settings: one finding per thing it needs.

Must never change anything, but start and end again a broker of our own that was not running.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from worker import broker, database, guard, profiles, resealing, schema, settings
from worker.embedded import Broker
from worker.endpoint_book import EndpointBook
from worker.endpoints import Endpoints
from worker.errors import PaynotifyError, SettingsError, UrlRefusedError
from worker.models import Endpoint, EndpointState
from worker.sealing import Sealer, sealer_of
from worker.settings import Settings

_POSTGRESQL_LEAST = 130_000  # 13.0; older ones lack what the migrations use
_CHUNK = 500
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one thing.

    Attributes:
        name: ``settings``, ``database``, ``tables``, ``broker``, ``secrets``, ``urls``, ``cron``,
            ``profiles``, …
        problems: one sentence each; empty when all is well.
        fact: what was found when all is well.
    """

    name: str
    fact: str = ""
    problems: tuple[str, ...] = ()


def look() -> list[Finding]:
    """Check settings, database, tables, broker, secrets, URLs and cron table, as far as one can.

    What needs the thing before it (tables a database, everything the settings) is left out when
    that is missing.
    """
    try:
        chosen = settings.load()
    except PaynotifyError as error:
        cron = _cron(settings.beside_or_ours("schedules.toml"))
        return [Finding(name="settings", problems=_sentences(error)), cron]
    findings = [Finding(name="settings", fact="every setting is in its range")]
    findings += _database(chosen)
    findings += [_found("broker", lambda: _broker(chosen)), _cron(chosen.cron_table)]
    findings += [_found("profiles", _profiles)]
    findings += [_found("channels", _channels), _found("orders", _orders)]
    findings += [_found("alerts", lambda: _alerts(chosen))]
    return findings


def _found(name: str, check: Callable[[], str]) -> Finding:
    """Run one check: what it returns is a fact, what it raises are problems."""
    try:
        return Finding(name=name, fact=check())
    except PaynotifyError as error:
        return Finding(name=name, problems=_sentences(error))
    except DBAPIError as error:
        return Finding(name=name, problems=(str(database.unavailable(error)),))


def _sentences(error: PaynotifyError) -> tuple[str, ...]:
    return tuple(str(error).splitlines())


def _profiles() -> str:
    shelf = profiles.load()
    if shelf.problems:
        raise SettingsError(*shelf.problems)
    return f"{len(shelf.profiles)} of them: {', '.join(shelf.profiles)}"


def _cron(file: Path) -> Finding:
    if not file.exists():
        return Finding(name="cron", fact=f"no {file}")
    # By its name: nothing here imports the schedules, and one reader decides what is right.
    table = import_module("schedules.crontable").load(file)
    if table.problems:
        return Finding(name="cron", problems=tuple(f"{file}: {why}" for why in table.problems))
    return Finding(name="cron", fact=f"{file} has {len(table.lines)} lines, all sound")


def _channels() -> str:
    found = import_module("schedules.channels.registry").load(settings.folder() / "channels.toml")
    return f"{', '.join(found) or 'none'} configured in channels.toml"


def _orders() -> str:
    values = import_module("schedules.order_desk").read_options(settings.folder())
    if values.table is None:
        return "orders stand in our own table"
    return f"orders.toml is sound; compare the table {values.table.name}: paynotify order check"


def _alerts(chosen: Settings) -> str:
    book = import_module("schedules.alert_rules").load(chosen)
    if book.refused:
        raise SettingsError("\n".join(f"alerts.toml: {why}" for why in book.refused))
    return f"{len(book.rules)} rules and {len(book.sinks)} sinks in alerts.toml, all sound"


def _database(chosen: Settings) -> list[Finding]:
    file = chosen.data_dir / "paynotify.db"
    if chosen.database_url is None and not file.exists():
        return [Finding(name="database", fact=f"none yet; the first start makes {file}")]
    try:
        engine = database.connect(chosen.database_dsn)
    except PaynotifyError as error:
        return [Finding(name="database", problems=_sentences(error))]
    try:
        findings = [_found("database", lambda: _reached(engine))]
        if not findings[0].problems:
            findings.append(_found("tables", lambda: _tables(engine)))
            if not findings[1].problems:
                findings += _contents(engine, chosen)
        return findings
    finally:
        engine.dispose()


def _reached(engine: Engine) -> str:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            return f"SQLite {connection.scalar(text('SELECT sqlite_version()'))}"
        version = int(str(connection.scalar(text("SHOW server_version_num"))))
    if version < _POSTGRESQL_LEAST:
        raise SettingsError(f"PostgreSQL {version // 10_000} is too old; use 13 or newer")
    return f"PostgreSQL {version // 10_000}"


def _tables(engine: Engine) -> str:
    schema.require_current(engine)
    return f"version {schema.HEAD}"


def _broker(chosen: Settings) -> str:
    if chosen.broker_url is not None:
        broker.check_broker(chosen.broker_url.get_secret_value())
        return "answers, and keeps what it is given"
    ours = Broker.start(chosen.data_dir)
    started = ours.owned
    ours.stop()
    return "our own can be started" if started else "our own runs"


def _contents(engine: Engine, chosen: Settings) -> list[Finding]:
    try:
        sealer = sealer_of(chosen)
    except PaynotifyError as error:
        return [Finding(name="secrets", problems=_sentences(error))]
    known = Endpoints(engine, sealer).list()
    return [
        _found("secrets", lambda: _secrets(engine, sealer, known)),
        _found("urls", lambda: _urls(known)),
    ]


def _secrets(engine: Engine, sealer: Sealer, known: tuple[Endpoint, ...]) -> str:
    book = EndpointBook(engine, sealer)
    shut: list[str] = []
    for start in range(0, len(known), _CHUNK):
        chunk = known[start : start + _CHUNK]
        opened = book.many((endpoint.id, endpoint.config_no) for endpoint in chunk)
        shut += [endpoint.name for endpoint in chunk if endpoint.id not in opened]
    if not shut:
        fact = f"the master key opens those of all {len(known)} endpoints"
        old = resealing.look(engine, sealer).old
        if not old:
            return fact
        return f"{fact}; {old} rows are still under an old key: run `paynotify reseal`"
    raise SettingsError(
        f"master_key (PAYNOTIFY_MASTER_KEY): does not open the secrets of {len(shut)} endpoints "
        f"({_some(shut)}); set the key they were sealed with"
    )


def _urls(known: tuple[Endpoint, ...]) -> str:
    refused = []
    for endpoint in known:
        if endpoint.state is EndpointState.ACTIVE:
            with suppress(UrlRefusedError):
                guard.check_url(endpoint.url, endpoint.allowed)
                continue
            refused.append(endpoint.name)
    if not refused:
        return "the guard lets every active endpoint be called"
    raise SettingsError(
        f"the guard refuses the URLs of {len(refused)} endpoints ({_some(refused)}); their "
        "notifications fail until `paynotify endpoint update` gives them others"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
