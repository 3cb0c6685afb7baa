"""A merchant of a platform, as a process: checks each notification and answers as it must.

Its first line on standard input is JSON: by name the kind, the key and the price of each order. It
prints its port, then one JSON line per request: what came, and whether it was believed.
"""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from types import TracebackType
from typing import Any, ClassVar, Self, cast
from urllib.parse import urlsplit

from tests.platform_checks import Asked, RefusedError
from tests.platform_checks_signed import EVERY


class PlatformMerchant:
    """Runs the process for a ``with`` block; shops are added before.

    Args:
        shops: by name: platform, key, and the order it expects with its amount.
    """

    def __init__(self, shops: dict[str, dict[str, str]]) -> None:
        self._shops = shops
        self.port = 0

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.platform_merchant"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(self._shops) + "\n")
        self._child.stdin.flush()
        self.port = int(self._child.stdout.readline())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.terminate()
        self._child.communicate(timeout=10)

    def url(self, name: str) -> str:
        """Where a shop is told; it has a query of its own."""
        return f"http://127.0.0.1:{self.port}/{name}?shop=7"

    def next(self) -> dict[str, Any]:
        """Wait for the next request's line."""
        assert self._child.stdout is not None
        return cast("dict[str, Any]", json.loads(self._child.stdout.readline()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shops: ClassVar[dict[str, dict[str, str]]] = {}
    lock = Lock()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        asked = Asked(
            method=self.command,
            target=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
        )
        shop = self.shops[urlsplit(self.path).path.strip("/")]
        platform = EVERY[shop["platform"]]
        why = ""
        try:
            believed = platform.check(asked, shop["key"])
            if (believed.order_no, believed.amount) != (shop["order_no"], shop["amount"]):
                why = f"order {believed.order_no} costs {shop['amount']}, not {believed.amount}"
        except (RefusedError, KeyError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
        status, word = platform.no if why else platform.yes
        line = {
            "method": asked.method,
            "target": asked.target,
            "headers": list(self.headers.items()),
            "body": body.decode("latin-1"),
            "refused": why,
        }
        with self.lock:
            print(json.dumps(line), flush=True)
        self.send_response(status)
        self.send_header("content-length", str(len(word)))
        self.end_headers()
        self.wfile.write(word.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until the end of standard input."""
    _Handler.shops = json.loads(sys.stdin.readline())
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
