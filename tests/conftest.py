"""What every test may ask for: real servers, a fresh migrated database, a clean environment.

A missing server fails the tests that need it; nothing is ever skipped for it.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import freezegun
import hypothesis
import pytest
from sqlalchemy import Engine

from tests import bytecode, turns
from tests.services import PostgresServer, RedisServer
from worker import database, schema

_HERE = Path(__file__).resolve().parent
_SLOW_ROOMS = ("acceptance", "faults")

# Tests on a shared machine: an example's time says nothing about the code.
hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "deep", hypothesis.settings.get_profile("ci"), max_examples=5000
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# These read clocks for their own timeouts; a frozen one would hang them.
freezegun.configure(extend_ignore_list=["kombu", "redis", "celery", "psycopg", "sqlalchemy.pool"])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help=f"leave out {' and '.join(_SLOW_ROOMS)}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    slow = any(collection_path.is_relative_to(_HERE / room) for room in _SLOW_ROOMS)
    return True if slow and config.getoption("--fast") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        turns.in_turn(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> turns.FromBothEnds:
    return turns.FromBothEnds(config, log)


def pytest_configure() -> None:
    # A developer's own settings must not reach a test, nor the programs it starts.
    for name in [*os.environ]:
        if name.startswith(("PAYNOTIFY_", "PG")):
            del os.environ[name]
    bytecode.keep()


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Give each test the signal handlers and working folder that the one before it had."""
    folder = Path.cwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    os.chdir(folder)
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole run; who restarts or kills it starts it again."""
    # Servers are killed here, machines are not. With fsync on, a start after a kill looks through
    # every file of the hundreds of databases that tests have left, which can take minutes.
    with PostgresServer(fsync="off") as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server for the whole run; who kills or pauses it brings it back."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres: PostgresServer) -> str:
    """Name of a migrated PostgreSQL database that is copied for each test."""
    postgres.execute("CREATE DATABASE {}", "migrated")
    engine = database.connect(postgres.dsn("migrated"))
    schema.migrate(engine)
    engine.dispose()
    with postgres.connect("migrated") as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
    return "migrated"


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that is copied for each test."""
    path = tmp_path_factory.mktemp("migrated") / "paynotify.db"
    engine = database.connect(f"sqlite:///{path}")
    schema.migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def postgres_dsn(postgres: PostgresServer, migrated_template: str) -> Iterator[str]:
    """URL of a fresh migrated PostgreSQL database."""
    name = postgres.create_database(migrated_template)
    yield postgres.dsn(name)
    postgres.forget_database(name)


@pytest.fixture
def sqlite_dsn(migrated_file: Path, tmp_path: Path) -> str:
    """URL of a fresh migrated SQLite database."""
    shutil.copy(migrated_file, tmp_path / "paynotify.db")
    return f"sqlite:///{tmp_path / 'paynotify.db'}"


@pytest.fixture
def postgres_engine(postgres_dsn: str) -> Iterator[Engine]:
    """Engine on a fresh migrated PostgreSQL database."""
    with _opened(postgres_dsn) as engine:
        yield engine


@pytest.fixture
def sqlite_engine(sqlite_dsn: str) -> Iterator[Engine]:
    """Engine on a fresh migrated SQLite database."""
    with _opened(sqlite_dsn) as engine:
        yield engine


@pytest.fixture(params=["sqlite", "postgresql"])
def dsn(request: pytest.FixtureRequest) -> str:
    """URL of a fresh migrated database; the test runs on both kinds."""
    name = {"sqlite": "sqlite_dsn", "postgresql": "postgres_dsn"}[request.param]
    return str(request.getfixturevalue(name))


@pytest.fixture
def engine(dsn: str) -> Iterator[Engine]:
    """Engine on a fresh migrated database; the test runs on both kinds."""
    with _opened(dsn) as engine:
        yield engine


@contextmanager
def _opened(dsn: str) -> Iterator[Engine]:
    engine = database.connect(dsn)
    yield engine
    engine.dispose()
