"""A merchant that writes down when each callback reached it; started by ``latency.py``.

Prints its port; at the first line it reads it prints ``{webhook-id: ns since 1970}`` and ends.
Must never look at the clock later than the first byte.
"""

import asyncio
import json
import re
import sys
import time

_ID = re.compile(rb"\r\nwebhook-id: *([^\r\n]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\nsuccess"


class Merchant(asyncio.Protocol):
    """One keep-alive connection.

    Args:
        ledger: where the first arrival of each id goes.
    """

    def __init__(self, ledger: dict[str, int]) -> None:
        self._ledger = ledger
        self._heard = b""
        self._at = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        if not self._heard:
            self._at = time.time_ns()
        self._heard += data
        while (end := self._heard.find(b"\r\n\r\n")) >= 0:
            head = self._heard[:end]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._heard) < whole:
                return
            self._heard = self._heard[whole:]
            if found := _ID.search(head):
                self._ledger.setdefault(found[1].decode(), self._at)
            self._transport.write(_REPLY)


async def main() -> None:
    """Serve until a line is read."""
    ledger: dict[str, int] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Merchant(ledger), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    print(json.dumps(ledger), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
