"""The scripted merchant: a server in a process of its own that is told what to do by path.

It keeps its own ledger, one JSON line per request, and the ledger is what tests believe. Must
never import anything of ``worker``: a merchant does not share our code.

    python -m tests.receiver --port 0 --ledger FILE [--tls MODE --certificates DIR] [--fast]
"""

import argparse
import asyncio
import hashlib
import json
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast
from urllib.parse import urlencode

from tests.answers import CLOSE, HANG, RST, Answer, State, answer
from tests.certificates import server_context

_ROOT = Path(__file__).resolve().parent.parent
_BODY_KEPT = 4096
_KEPT_HEADERS = (b"webhook-", b"content-type", b"host", b"user-agent", b"accept", b"x-", b"expect")


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request as the merchant saw it.

    Attributes:
        at_s: wall clock, seconds since 1970.
        monotonic_s: the machine's monotonic clock.
        connection_no: which connection of this receiver it came over.
        local_ip: address the sender dialled.
        headers: those of interest, names in lower case.
        body: text of a small body; None when it was large or bodies are not kept.
        status: what was answered; 0 when no full head was sent.
    """

    at_s: float
    monotonic_s: float
    connection_no: int
    local_ip: str
    method: str
    target: str
    headers: dict[str, str]
    body_sha256: str
    body: str | None
    status: int

    @property
    def message_id(self) -> str:
        """The ``webhook-id`` header; empty when there was none."""
        return self.headers.get("webhook-id", "")

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


class Receiver:
    """Runs the merchant as a child process for the length of a ``with`` block.

    Args:
        folder: where the ledger is written, and the certificates with ``tls``.
        tls: a mode of :mod:`tests.certificates`; None is plain HTTP.
        fast: keeps no bodies and writes the ledger in blocks; for load.
        bodies: whether small bodies are kept in the ledger.
        host: address to listen on.
        port: 0 is any free one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: str | None = None,
        fast: bool = False,
        bodies: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "ledger.jsonl"
        self._scheme = "https" if tls else "http"
        self.host, self.port = host, port
        self._command = [sys.executable, "-m", "tests.receiver", "--ledger", str(self._file)]
        self._command += ["--host", host]
        if tls:
            self._command += ["--tls", tls, "--certificates", str(folder)]
        self._command += [*(["--fast"] if fast else []), *([] if bodies else ["--no-bodies"])]
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it listens; after ``stop`` it gets its old port again."""
        command = [*self._command, "--port", str(self.port)]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_ROOT, text=True)
        line = cast("IO[str]", self._child.stdout).readline()
        if not line:
            raise RuntimeError(f"the receiver did not start: {' '.join(command)}")
        self.port = int(line)

    def stop(self) -> None:
        """End it; the ledger stays."""
        if self._child is None:
            return
        self._child.terminate()
        self._child.wait(10)
        cast("IO[str]", self._child.stdout).close()
        self._child = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._child is not None
        return self._child.pid

    def url(self, path: str, *, host: str | None = None, **query: object) -> str:
        """Return the address of a path; ``query`` is added to it."""
        tail = f"?{urlencode(query)}" if query else ""
        return f"{self._scheme}://{host or self.host}:{self.port}{path}{tail}"

    def control(self, name: str, status: int | str) -> None:
        """Set what ``/toggle/NAME`` answers from now on: a status or ``hang``; plain HTTP only."""
        urllib.request.urlopen(self.url(f"/_control/{name}", status=status), timeout=5).close()

    def ledger(self) -> list[Received]:
        """Read everything received so far, oldest first, control requests left out."""
        if self._child is not None and "--fast" in self._command:
            self.control("flush", 0)
        if not self._file.exists():
            return []
        return [record for record in _records(self._file) if "/_control/" not in record.target]


def _records(file: Path) -> Iterator[Received]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):  # the last one may be half written
                yield Received(**json.loads(line))


class _Ledger:
    def __init__(self, file: Path, *, fast: bool, bodies: bool) -> None:
        self._file = file.open("ab", buffering=1 << 20)
        self._fast = fast
        self._bodies = bodies

    def write(self, request: "_Request", status: int) -> None:
        body = request.body
        small = self._bodies and not self._fast and len(body) <= _BODY_KEPT
        record = {
            "at_s": time.time(),
            "monotonic_s": time.monotonic(),
            "connection_no": request.connection_no,
            "local_ip": request.local_ip,
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "body_sha256": "" if self._fast else hashlib.sha256(body).hexdigest(),
            "body": body.decode("utf-8", "replace") if small else None,
            "status": status,
        }
        self._file.write(json.dumps(record).encode() + b"\n")
        if not self._fast or "/_control/" in request.target:
            self._file.flush()

    def close(self) -> None:
        self._file.close()


@dataclass(kw_only=True)
class _Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection_no: int
    local_ip: str


class _Connection(asyncio.Protocol):
    count = 0

    def __init__(self, ledger: _Ledger, state: State) -> None:
        self._ledger = ledger
        self._state = state
        self._got = b""
        self._open = True
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._task: asyncio.Task[None] | None = None
        _Connection.count += 1
        self._no = _Connection.count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._pipe = cast("asyncio.Transport", transport)
        self._local_ip = str(transport.get_extra_info("sockname")[0])

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        self._may_write.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._got = self._got + data if self._got else data
        while self._got and self._open:
            request = self._read()
            if request is None:
                return
            reply = answer(request.target, request.headers.get("webhook-id", ""), self._state)
            self._ledger.write(request, reply.status)
            self._carry_out(reply)

    def _read(self) -> _Request | None:
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._got[:end].split(b"\r\n")
        headers: dict[str, str] = {}
        length = 0
        for line in lines:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                length = int(value)
            elif name.startswith(_KEPT_HEADERS):
                headers[name.decode()] = value.strip().decode("latin-1")
        if len(self._got) < end + 4 + length:
            return None
        body, self._got = self._got[end + 4 : end + 4 + length], self._got[end + 4 + length :]
        method, target, _ = first.decode("latin-1").split(" ")
        return _Request(
            method=method,
            target=target,
            headers=headers,
            body=body,
            connection_no=self._no,
            local_ip=self._local_ip,
        )

    def _carry_out(self, reply: Answer) -> None:
        if reply.delay_s or reply.pieces:
            self._task = asyncio.get_running_loop().create_task(self._slowly(reply))
            return
        if reply.raw:
            self._pipe.write(reply.raw)
        self._finish(reply)

    async def _slowly(self, reply: Answer) -> None:
        await asyncio.sleep(reply.delay_s)
        self._pipe.write(reply.raw)
        for piece in reply.pieces() if reply.pieces else ():
            await self._may_write.wait()
            if not self._open:
                return
            self._pipe.write(piece)
            await asyncio.sleep(reply.interval_s)
        self._finish(reply)

    def _finish(self, reply: Answer) -> None:
        if reply.end == RST:
            opened = cast("socket.socket", self._pipe.get_extra_info("socket"))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._pipe.abort()
        elif reply.end == CLOSE:
            self._pipe.close()
        elif reply.end == HANG:
            self._got = b""


async def _serve(given: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    ledger = _Ledger(given.ledger, fast=given.fast, bodies=not given.no_bodies)
    state = State()
    context: ssl.SSLContext | None = None
    if given.tls:
        context = server_context(given.tls, given.certificates)
    server = await loop.create_server(
        lambda: _Connection(ledger, state),
        given.host,
        given.port,
        ssl=context,
        backlog=4096,
        reuse_address=True,
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()
    ledger.close()


def main() -> None:
    """Run the merchant until it is told to stop; prints its port first."""
    reader = argparse.ArgumentParser(prog="python -m tests.receiver", description=__doc__)
    reader.add_argument("--host", default="127.0.0.1")
    reader.add_argument("--port", type=int, default=0)
    reader.add_argument("--ledger", type=Path, required=True)
    reader.add_argument("--tls", help="a mode of tests/certificates.py")
    reader.add_argument("--certificates", type=Path, help="folder of the authority's files")
    reader.add_argument("--fast", action="store_true")
    reader.add_argument("--no-bodies", action="store_true")
    asyncio.run(_serve(reader.parse_args()))


if __name__ == "__main__":
    main()
