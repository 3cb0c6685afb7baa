"""The full-size runs, each on private servers of its own.

    python3 -m tests.faults                       all of them, one after the other
    python3 -m tests.faults kills --kills 30 --count 10000
    python3 -m tests.faults outage --seconds 60 --per-s 1000
    python3 -m tests.faults hanging --endpoints 2000 --rounds 3 --seconds 20 --per-s 300
    python3 -m tests.faults beats --minutes 10
    python3 -m tests.faults orders --count 10000
    python3 -m tests.faults freeze --count 10000 --rate 200
    python3 -m tests.faults ordering --keys 1000 --events 10
    python3 -m tests.faults routes --per-s 300

Each prints what it measured and the comparison of the three books, and fails when a promise is
broken.
"""

if __name__ == "__main__":  # before the first import that needs a package
    from worker import bootstrap

    bootstrap.ensure(groups=("test",))

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults import beats, freeze, hanging, kills, ordering, orders, outage, routes
from tests.faults.site import Site, site
from tests.services import PostgresServer, RedisServer
from worker import database, schema

_RATE_KEPT = 0.8
_P99_GROWTH = 1.2
_SWITCH_MS = 500


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


def _kills(given: argparse.Namespace) -> str:
    with _servers() as (place, postgres, redis):
        ran = kills.run(place, postgres, redis, kills=given.kills, count=given.count)
    print(ran.text())
    ran.books.check()
    on_wire = ran.books.on_wire_of(ran.killed)
    return "" if ran.books.duplicates <= on_wire else f"more than {on_wire} duplicates"


def _outage(given: argparse.Namespace) -> str:
    # As delivered: a tick a second, a lease of a minute.
    with _servers(tick_s=1.0, timeout_s=15.0, lease_s=60) as (place, _, redis):
        ran = outage.run(place, redis, seconds=given.seconds, per_s=given.per_s, workers=2)
    print(ran.text())
    ran.books.check()
    if ran.books.duplicates:
        return "something was sent twice"
    return "" if ran.ratio >= _RATE_KEPT else f"the rate fell to {ran.ratio:.2f}"


def _hanging(given: argparse.Namespace) -> str:
    defaults = {"breaker_failures": 20, "breaker_minimum": 40}
    with _servers(tick_s=1.0, timeout_s=15.0, lease_s=60, **defaults) as (place, _, _):
        ran = hanging.run(
            place,
            endpoints=given.endpoints,
            rounds=given.rounds,
            seconds=given.seconds,
            per_s=given.per_s,
            workers=2,
        )
    print(ran.text())
    return "" if ran.ratio <= _P99_GROWTH else f"healthy p99 grew to {ran.ratio:.2f} times"


def _beats(given: argparse.Namespace) -> str:
    with _servers() as (place, _, _):
        ran = beats.run(place, seconds=given.minutes * 60, pause_s=5)
    print(ran.text())
    return "; ".join(ran.broken)


def _orders(given: argparse.Namespace) -> str:
    with PostgresServer() as postgres, tempfile.TemporaryDirectory(prefix="pn-faults-") as folder:
        engine = database.connect(postgres.dsn())
        schema.migrate(engine)
        ran = orders.run(engine, Path(folder), count=given.count)
        engine.dispose()
    print(ran.text())
    return "a promise was broken" if ran.problems else ""


def _freeze(given: argparse.Namespace) -> str:
    # Breakers in a hurry, so that it is frozen soon; probed as delivered.
    hurry = {"breaker_failures": 20, "breaker_minimum": 40, "breaker_open_s": 2}
    with _servers(tick_s=1.0, freeze_probe_s=30, **hurry) as (place, _, _):
        ran = freeze.run(
            place, count=given.count, rate=given.rate, per_s=given.per_s, down_s=45, workers=2
        )
    print(ran.text())
    ran.books.check()
    return "; ".join(ran.broken(p99_growth=_P99_GROWTH))


def _ordering(given: argparse.Namespace) -> str:
    with _servers() as (place, _, _):
        ran = ordering.run(place, keys=given.keys, events=given.events, kills=given.kills)
    print(ran.text())
    ran.books.check()
    if ran.missing:
        return f"{ran.missing} events never succeeded"
    return f"out of order: {ran.wrong[:5]}" if ran.wrong else ""


def _routes(given: argparse.Namespace) -> str:
    changes = {"breaker_open_s": 3, "breaker_minimum": 40, "route_step_s": 5.0}
    with _servers(**changes) as (place, _, _):
        ran = routes.run(place, per_s=given.per_s, workers=2)
    print(ran.text())
    ran.books.check()
    on_wire = ran.books.on_wire_of(ran.killed)
    if ran.books.duplicates > on_wire:
        return f"more than {on_wire} duplicates"
    return "" if ran.switch_ms <= _SWITCH_MS else f"the switch took {ran.switch_ms:.0f} ms"


_RUNS: dict[str, Callable[[argparse.Namespace], str]] = {
    "kills": _kills,
    "outage": _outage,
    "hanging": _hanging,
    "beats": _beats,
    "orders": _orders,
    "freeze": _freeze,
    "ordering": _ordering,
    "routes": _routes,
}


def main() -> int:
    """Run what was asked for; 0 when every promise held."""
    reader = argparse.ArgumentParser(
        prog="python3 -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reader.add_argument("run", nargs="?", choices=[*_RUNS], help="only this one")
    reader.add_argument("--kills", type=int, default=30)
    reader.add_argument("--count", type=int, default=10_000, help="callbacks of kills, or orders")
    reader.add_argument("--seconds", type=float, default=60, help="without Redis, or of a round")
    reader.add_argument("--per-s", type=float, default=300, help="callbacks a second")
    reader.add_argument("--rate", type=float, default=200, help="a second, of the frozen endpoint")
    reader.add_argument("--endpoints", type=int, default=2000)
    reader.add_argument("--keys", type=int, default=1000, help="ordering keys")
    reader.add_argument("--events", type=int, default=10, help="of each ordering key")
    reader.add_argument("--rounds", type=int, default=3)
    reader.add_argument("--minutes", type=float, default=10, help="of beats and workers killed")
    given = reader.parse_args()
    failed = False
    for name in [given.run] if given.run else _RUNS:
        print(f"== {name}", flush=True)
        problem = _RUNS[name](given)
        print(f"FAILED: {problem}" if problem else "held", flush=True)
        failed = failed or bool(problem)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
