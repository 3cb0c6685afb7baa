"""The kept connections of one identity, and the handles that rest between two requests.

Must never hold a handle of another identity: a connection made with one endpoint's permissions
or certificates is of no use to any other.
"""

from typing import Any

import pycurl

from worker.identity import Identity, Limits
from worker.wire import Wire

# Whose certificates are remembered; forgotten, they are known again with the next connection.
_HOSTS_MAX = 10_000


class Connections:
    """One libcurl multi with its handles; everything runs on the transport's thread.

    Args:
        identity: of every handle in it.
        limits: of every request.
        connections_max: connections kept, busy or idle; beyond it the oldest idle one is closed.

    Attributes:
        multi: the transport drives it by sockets and timers.
        quiet_since_s: monotonic time at which the last request ended.
    """

    __slots__ = ("active", "certificates", "free", "identity", "limits", "multi", "quiet_since_s")

    def __init__(self, identity: Identity, limits: Limits, connections_max: int) -> None:
        self.identity = identity
        self.limits = limits
        self.free: dict[str, list[Wire]] = {}
        self.active: set[Wire] = set()
        self.certificates: dict[str, str] = {}
        self.quiet_since_s = 0.0
        self.multi: Any = pycurl.CurlMulti()
        self.multi.setopt(pycurl.M_MAXCONNECTS, connections_max)

    def take(self, method: str) -> Wire:
        """Return a rested handle, or a new one."""
        resting = self.free.get(method)
        return resting.pop() if resting else Wire(self.identity, method, self.limits)

    def add(self, wire: Wire) -> None:
        """Start the request a handle was set up for."""
        self.multi.add_handle(wire.curl)
        self.active.add(wire)

    def remove(self, wire: Wire) -> None:
        """Take a handle out, done or not, and let it rest; its connection is kept if it can be."""
        self.multi.remove_handle(wire.curl)
        self.active.discard(wire)
        self.free.setdefault(wire.method, []).append(wire)

    def certified(self, url: str, shown: str) -> str:
        """Return the certificate under which a reply came; empty when that is not known.

        Args:
            url: of the request, with https.
            shown: what the merchant showed, if the request opened a connection; else empty.
        """
        host = url[8:].partition("/")[0]
        if not shown:
            return self.certificates.get(host, "")
        if len(self.certificates) >= _HOSTS_MAX:
            self.certificates.clear()
        self.certificates[host] = shown
        return shown

    def close(self) -> None:
        """Break off what is under way and close everything."""
        for wire in tuple(self.active):
            self.remove(wire)
        self.multi.close()
        for wires in self.free.values():
            for wire in wires:
                wire.close()
