"""The process that hands one notice to apprise: a letter on standard input, an exit code out.

0: taken; 1: not taken; 2: the address is none. What it prints may quote the address and is for
its parent only. Must never outlive its deadline.
"""

import json
import logging
import math
import signal
import sys
import warnings
from typing import TextIO


class _Last(logging.Handler):
    """Keeps the last complaint."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.line = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, on one line."""
        self.line = " ".join(record.getMessage().split())[:300]


def send(source: TextIO, answer: TextIO) -> int:
    """Send the letter that ``source`` holds; returns the exit code."""
    letter = json.load(source)
    # Whole seconds, and one more than the parent waits: it knows better what to say.
    signal.alarm(math.ceil(letter["timeout_s"]) + 1)
    with warnings.catch_warnings():
        # Some of its hundred plugins ask for modules that Python will drop.
        warnings.simplefilter("ignore")
        import apprise  # noqa: PLC0415 - the deadline must run before this half a second

        last = _Last()
        logging.getLogger("apprise").addHandler(last)
        box = apprise.Apprise()
        if not box.add(letter["url"]):
            print("apprise does not know this kind of address", file=answer)
            return 2
        taken = box.notify(
            body=letter["body"],
            title=letter["title"],
            notify_type=apprise.NotifyType(letter["kind"]),
            body_format=apprise.NotifyFormat.TEXT,
        )
    if not taken:
        print(last.line, file=answer)
    return 0 if taken else 1


if __name__ == "__main__":
    sys.exit(send(sys.stdin, sys.stdout))
