"""The full-size runs: ``python3 -m tests.faults kills --kills 30 --count 10000``."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults import kills
from tests.faults.site import Site, site
from tests.services import PostgresServer, RedisServer
from worker import database, schema


@contextmanager
def _servers(**changes: Any) -> Iterator[tuple[Site, PostgresServer, RedisServer]]:
    with (
        PostgresServer() as postgres,
        RedisServer() as redis,
        tempfile.TemporaryDirectory(prefix="pn-faults-") as folder,
    ):
        engine = database.connect(postgres.dsn())
        schema.migrate(engine)
        engine.dispose()
        with site(postgres.dsn(), redis.url(), Path(folder), fast=True, **changes) as place:
            yield place, postgres, redis


def _kills(given: argparse.Namespace) -> None:
    with _servers() as (place, postgres, redis):
        ran = kills.run(place, postgres, redis, kills=given.kills, count=given.count)
    print(ran.text())
    ran.books.check()


def main() -> None:
    """Run what was asked for."""
    reader = argparse.ArgumentParser(prog="python3 -m tests.faults", description=__doc__)
    reader.add_argument("--kills", type=int, default=30)
    reader.add_argument("--count", type=int, default=10_000)
    _kills(reader.parse_args())


if __name__ == "__main__":
    main()
