"""A mail server for tests: real SMTP on a free port; keeps what it was sent, or refuses it.

Must never know anything of ``worker``.
"""

import socketserver
import threading
from email import message_from_bytes
from email.message import Message
from types import TracebackType
from typing import Self, cast


class PostOffice:
    """Runs in threads of this process for the length of a ``with`` block.

    Attributes:
        letters: what was delivered, oldest first.
        closed: while True every letter is refused.
    """

    def __init__(self) -> None:
        self.letters: list[Message] = []
        self.closed = False
        self._server = _Server(("127.0.0.1", 0), _Counter)
        self._server.office = self
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self._server.server_address[1])


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    office: PostOffice


class _Counter(socketserver.StreamRequestHandler):
    """Serves one sender; the least that RFC 5321 asks for."""

    def handle(self) -> None:
        office = cast("_Server", self.server).office
        self._say("220 tests")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self._say("354 go on")
                letter = self._letter()
                if office.closed:
                    self._say("451 closed today")
                else:
                    office.letters.append(message_from_bytes(letter))
                    self._say("250 taken")
            elif verb == b"QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 tests")

    def _letter(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return b"".join(lines)

    def _say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")
