"""A real worker process that dies or freezes at one chosen point; production knows nothing of it.

    python -m tests.faults.worker SEAM TOKENS celery-arguments…

Each time it reaches the point it takes a file out of the folder TOKENS and acts; where none is
left it works like any other worker, so a test says exactly how often the fault strikes.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from celery.__main__ import main

from worker import alone, deliver, quarantine
from worker.store_postgresql import PostgresqlStore
from worker.store_sqlite import SqliteStore

# Marks a payload that kills whoever shapes it, whatever tokens are left.
POISON = b"POISON"
_ALONE = "alone"
_STORES: tuple[Any, ...] = (PostgresqlStore, SqliteStore)


def seams() -> dict[str, Callable[[Path], None]]:
    """The points by name."""
    return {
        "die-in-claim": lambda tokens: _in_claim(tokens, signal.SIGKILL),
        "die-after-claim": lambda tokens: _around("claim", tokens, signal.SIGKILL, after=True),
        "die-before-settle": lambda tokens: _around("settle", tokens, signal.SIGKILL),
        "die-after-settle": lambda tokens: _around("settle", tokens, signal.SIGKILL, after=True),
        "freeze-before-settle": lambda tokens: _around("settle", tokens, signal.SIGSTOP),
        "die-of-poison": _die_of_poison,
    }


def _around(name: str, tokens: Path, number: int, *, after: bool = False) -> None:
    """Act before or after a store's method; after a claim only when it got something."""
    for store in _STORES:
        original = getattr(store, name)

        def wrapped(self: Any, *given: Any, _original: Any = original, **named: Any) -> Any:
            if not after:
                _act(tokens, number)
            answer = _original(self, *given, **named)
            if after and getattr(answer, "rows", True):
                _act(tokens, number)
            return answer

        setattr(store, name, wrapped)


def _in_claim(tokens: Path, number: int) -> None:
    """Act when the claim's statements have run and nothing is committed."""
    original = PostgresqlStore._run

    def run(self: Any, work: Any) -> Any:
        # Only a claim is more than one statement.
        return original(self, lambda connection: work(_Doomed(connection, tokens, number)))

    PostgresqlStore._run = run  # type: ignore[method-assign]
    take = SqliteStore._take

    def taking(self: Any, *given: Any) -> Any:
        taken = take(self, *given)
        _act(tokens, number)
        return taken

    SqliteStore._take = taking  # type: ignore[method-assign, assignment]


class _Doomed:
    """A connection whose transactions act before they commit, if anything was taken in them."""

    def __init__(self, connection: Any, tokens: Path, number: int) -> None:
        self._connection = connection
        self._tokens = tokens
        self._number = number
        self._cursor: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self, **named: Any) -> Any:
        self._cursor = self._connection.cursor(**named)
        return self._cursor

    @contextmanager
    def pipeline(self) -> Iterator[None]:
        with self._connection.pipeline() as pipe:
            self._connection.execute("BEGIN")
            yield
            # When this returns, everything has run and nothing is committed.
            pipe.sync()
            # One row says where the claim got to, if nothing else.
            if self._cursor.rowcount > 1:
                _act(self._tokens, self._number)
            self._connection.execute("COMMIT")


def _die_of_poison(tokens: Path) -> None:
    original = deliver.shaped  # type: ignore[attr-defined]

    def shaped(claimed: Any, *given: Any, **named: Any) -> Any:
        if POISON in claimed.payload:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(claimed, *given, **named)

    deliver.shaped = shaped  # type: ignore[attr-defined]
    # What it sends alone is sent by a program like this one.
    quarantine.COMMAND = (sys.executable, "-m", __spec__.name, "die-of-poison", str(tokens), _ALONE)


def _act(tokens: Path, number: int) -> None:
    for token in tokens.iterdir():
        with suppress(FileNotFoundError):
            # Whoever removes it has it: two processes never act on the same one.
            token.unlink()
            # To this thread: a process told to stop lets it run on until another thread is awake,
            # on a busy machine long enough to pass the point.
            signal.pthread_kill(threading.get_ident(), number)
            return


if __name__ == "__main__":
    seams()[sys.argv[1]](Path(sys.argv[2]))
    if sys.argv[3] == _ALONE:
        sys.exit(alone.main())
    sys.argv[1:] = sys.argv[3:]
    main()
