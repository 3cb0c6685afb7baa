"""What fault tests share: a site on fresh, real servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.site import Site, site
from tests.services import RedisServer


@pytest.fixture
def broker_url(redis_server: RedisServer) -> str:
    """URL of an empty Redis."""
    redis_server.flushall()
    return redis_server.url()


@pytest.fixture
def place(postgres_dsn: str, broker_url: str, tmp_path: Path) -> Iterator[Site]:
    """A site on PostgreSQL."""
    with site(postgres_dsn, broker_url, tmp_path) as opened:
        yield opened


@pytest.fixture
def small_place(sqlite_dsn: str, broker_url: str, tmp_path: Path) -> Iterator[Site]:
    """A site on SQLite."""
    with site(sqlite_dsn, broker_url, tmp_path) as opened:
        yield opened
