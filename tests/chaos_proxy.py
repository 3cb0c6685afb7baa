"""A TCP proxy that breaks the network between two real programs, on command.

A partition keeps what was sent and passes it on when it heals, as TCP does; only ``cut`` and
``drop`` lose bytes.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tests.services import free_port


class ChaosProxy:
    """Listens on ``port`` of 127.0.0.1 and passes everything on to ``target_port``.

    Every method returns when its effect is in place. Use as a context manager.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests_pass = asyncio.Event()
        self._replies_pass = asyncio.Event()
        self._delay_s = 0.0
        self._trigger: bytes | None = None
        self.accepted = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def restore(self) -> None:
        """Heal: listen, pass both ways without delay, deliver what was held back."""
        self._call(self._restore())

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._call(self._cut())

    def drop(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._call(self._drop())

    def drop_after(self, request: bytes) -> None:
        """Pass on the next request that contains ``request``, then reset its connection.

        The server acts on it and the client never learns: ``drop_after(b"COMMIT")``.
        """
        self._trigger = request

    def blackhole(self) -> None:
        """Pass nothing either way; connections stay open and new ones are accepted."""
        self._call(self._gate(requests=False, replies=False))

    def half_open(self) -> None:
        """Pass requests, hold back replies."""
        self._call(self._gate(requests=True, replies=False))

    def delay(self, seconds: float) -> None:
        """Hold every piece of data back for ``seconds`` in each direction."""
        self._delay_s = seconds

    @property
    def open_connections(self) -> int:
        """How many connections go through now."""
        return len(self._pairs)

    def close(self) -> None:
        """End it. Again is harmless."""
        if self._loop.is_closed():
            return
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _restore(self) -> None:
        self._delay_s = 0.0
        self._trigger = None
        await self._gate(requests=True, replies=True)
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _gate(self, *, requests: bool, replies: bool) -> None:
        for gate, passes in ((self._requests_pass, requests), (self._replies_pass, replies)):
            gate.set() if passes else gate.clear()

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._drop()

    async def _drop(self) -> None:
        for pair in [*self._pairs]:
            for writer in pair:
                _reset(writer)

    async def _close(self) -> None:
        await self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            await self._requests_pass.wait()
            back, out = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset(writer)
            self._tasks.discard(task)
            return
        pair = (writer, out)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pump(reader, out, self._requests_pass, writer),
                self._pump(back, writer, self._replies_pass, None),
            )
        finally:
            self._pairs.discard(pair)
            self._tasks.discard(task)
            for end in pair:
                end.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
        client: asyncio.StreamWriter | None,
    ) -> None:
        with suppress(ConnectionError):
            while True:
                await gate.wait()
                data = await reader.read(1 << 16)
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                # The gate may have closed while we waited for data: hold it, do not lose it.
                await gate.wait()
                if not data:
                    break
                writer.write(data)
                await writer.drain()
                if client is not None and self._trigger is not None and self._trigger in data:
                    self._trigger = None
                    _reset(client)
                    # Only our client is cut: a reset could reach the server before the request.
                    break
        with suppress(OSError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
