"""Many requests to merchants at once, replies as they finish: one thread, libcurl on epoll.

Must never let one request wait for another, dial an address the guard forbids, or lend a
connection to an endpoint that could not have opened it.
"""

import os
import select
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pycurl

from worker import clock, guard, telemetry
from worker.connections import Connections
from worker.errors import UrlRefusedError, WrongStateError
from worker.identity import Identity, Limits, Manner, system_ca_file
from worker.models import Failure, Reply, Request
from worker.wire import Wire

Finished = tuple[Request, Reply]

_POLL = {
    pycurl.POLL_NONE: 0,
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}
_ALL = select.EPOLLIN | select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
# What epoll saw, in libcurl's words; an error or hang-up is found out by reading.
_SELECT = tuple(
    (pycurl.CSELECT_OUT if seen & select.EPOLLOUT else 0)
    | (pycurl.CSELECT_IN if seen & ~select.EPOLLOUT else 0)
    for seen in range(_ALL + 1)
)
_EVENTS_MAX = 512  # taken from epoll at once: enough to share its cost, few enough to stay fair
# Put on the wire between two looks at it. A merchant next door then has answered the first by the
# time the next go out, and few handles stay hot; a slow one has as many on the wire all the same.
_ADMITTED_MAX = 32
_IDLE_CHECK_S = 30.0
_FORGET_S = 600.0
_HOSTS_MAX = 10_000  # remembered as troublesome; more are treated like any other


class Transport:
    """Sends requests and hands back replies; one per process, made after the fork.

    Args:
        on_replies: called on the transport's thread with all requests that finished in one
            turn of its loop; must be quick. What it raises is logged and goes no further.
        in_flight_max: requests on the wire at once, 1 or more; later ones wait for a place, at
            most their own ``timeout_s``.
        connect_timeout_s: resolve, TCP and TLS together.
        connection_max_age_s: idle and total age after which a connection is not used again.
        reply_max_bytes: bytes of a reply's body that are read.
        ca_file: PEM bundle to verify merchants against; None is the machine's.
        resolve: replaces DNS in tests, see :class:`worker.wire.Limits`.
    """

    def __init__(
        self,
        on_replies: Callable[[Sequence[Finished]], None],
        *,
        in_flight_max: int,
        connect_timeout_s: float,
        connection_max_age_s: int,
        reply_max_bytes: int,
        ca_file: Path | None = None,
        resolve: Callable[[], tuple[str, ...]] | None = None,
    ) -> None:
        self._on_replies = on_replies
        self._in_flight_max = in_flight_max
        self._limits = Limits(
            connect_timeout_s=connect_timeout_s,
            connection_max_age_s=connection_max_age_s,
            reply_max_bytes=reply_max_bytes,
            ca_file=ca_file or system_ca_file(),
            resolve=resolve,
        )
        self._lock = threading.Lock()
        self._submitted = self._reported = self._on_wire = 0
        self._waiting: deque[tuple[Request, float]] = deque()
        self._done: list[Finished] = []
        self._pools: dict[tuple[object, ...], Connections] = {}
        self._owners: dict[int, Connections] = {}
        self._timers: dict[Connections, float] = {}
        self._idle_check_at_s = 0.0
        self._suspects: set[str] = set()
        self._manners: dict[str, Manner] = {}
        self._forget_at_s = 0.0
        self._stop_at_s: float | None = None
        self._dismantled = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="transport", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the loop runs; False before ``start``, after ``close`` and after a crash."""
        return self._thread.is_alive()

    @property
    def in_flight(self) -> int:
        """Requests submitted and not yet reported."""
        return self._submitted - self._reported

    def start(self) -> None:
        """Start the thread; once in a transport's life."""
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand over requests; returns at once, from any thread.

        Raises:
            WrongStateError: the transport is closing or its thread has died.
        """
        now_s = clock.monotonic_s()
        with self._lock:
            if self._stop_at_s is not None or self._dismantled:
                raise WrongStateError("transport", "closed", "nothing can be sent any more")
            self._submitted += len(requests)
            self._waiting.extend((request, now_s) for request in requests)
            os.eventfd_write(self._wake, 1)

    def close(self, *, timeout_s: float) -> None:
        """Finish what is in flight, drop without a report what takes longer, end the thread.

        What is dropped was perhaps received; its lease runs out and it is sent again.

        Args:
            timeout_s: 0 or more; a name look-up that hangs can keep the thread 2 s longer before
                it is left to itself. Calling it twice is harmless.
        """
        with self._lock:
            if self._stop_at_s is None:
                self._stop_at_s = clock.monotonic_s() + timeout_s
            if not self._dismantled:
                os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join(timeout_s + 2.0)

    def _run(self) -> None:
        try:
            while not self._finished():
                self._turn()
        except Exception:  # noqa: BLE001 - a thread's last words; `alive` tells the rest
            telemetry.log(
                telemetry.Event.THREAD_LOST,
                level="error",
                thread="transport",
                traceback=traceback.format_exc(),
            )
        finally:
            self._dismantle()

    def _finished(self) -> bool:
        if self._stop_at_s is None:
            return False
        return self.in_flight == 0 or clock.monotonic_s() >= self._stop_at_s

    def _turn(self) -> None:
        touched: set[Connections] = set()
        for fd, events in self._epoll.poll(self._patience_s(), _EVENTS_MAX):
            pool = self._owners.get(fd)
            if pool is not None:
                pool.multi.socket_action(fd, _SELECT[events & _ALL])
                touched.add(pool)
            elif fd == self._wake:
                os.eventfd_read(fd)
            else:
                self._strayed(fd)
        now_s = clock.monotonic_s()
        self._admit(now_s)
        if self._timers:
            for pool in [pool for pool, due_s in self._timers.items() if due_s <= now_s]:
                del self._timers[pool]
                pool.multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
                touched.add(pool)
        for pool in touched:
            self._collect(pool)
        self._report()
        if now_s >= self._idle_check_at_s:
            self._close_idle(now_s)

    def _patience_s(self) -> float:
        """How long epoll may sleep: until the first timer, and not long while requests wait."""
        if self._waiting and self._on_wire < self._in_flight_max:
            return 0.0
        longest_s = 0.1 if self._waiting or self._stop_at_s is not None else _IDLE_CHECK_S
        if not self._timers:
            return longest_s
        return min(longest_s, max(0.0, min(self._timers.values()) - clock.monotonic_s()))

    def _admit(self, now_s: float) -> None:
        waiting = self._waiting
        most = min(self._in_flight_max, self._on_wire + _ADMITTED_MAX)
        while waiting and self._on_wire < most:
            request, since_s = waiting.popleft()
            if now_s - since_s < request.timeout_s:
                self._send(request, now_s)
            else:
                self._give_up(request, now_s - since_s)
        # The oldest are looked at though no place is free: waiting has the same end as sending.
        while waiting and now_s - waiting[0][1] >= waiting[0][0].timeout_s:
            request, since_s = waiting.popleft()
            self._give_up(request, now_s - since_s)

    def _give_up(self, request: Request, waited_s: float) -> None:
        detail = f"not sent: {self._in_flight_max} requests were on the wire for {waited_s:.1f} s"
        self._done.append(
            (
                request,
                Reply(failure=Failure.TIMEOUT, detail=detail, elapsed_ms=int(waited_s * 1000)),
            )
        )

    def _send(self, request: Request, now_s: float) -> None:
        try:
            target = guard.check_url(request.url, request.allowed)
        except UrlRefusedError as error:
            self._done.append((request, Reply(failure=Failure.REFUSED, detail=str(error))))
            return
        key = (
            request.allowed.networks,
            request.ca_pem,
            request.client_pem,
            target.host in self._suspects,
        )
        wire = None
        try:
            pool = self._pools.get(key) or self._open_pool(Identity(*key))
            wire = pool.take(request.method)
            wire.begin(request, target.host, now_s, self._manners.get(target.host, Manner.PLAIN))
        except Exception as error:  # noqa: BLE001 - one request must not end the loop of all
            if wire is not None:
                wire.close()
            self._done.append((request, Reply(failure=Failure.UNSENDABLE, detail=str(error))))
            return
        pool.add(wire)
        self._on_wire += 1

    def _open_pool(self, identity: Identity) -> Connections:
        pool = self._pools[identity] = Connections(identity, self._limits, self._in_flight_max)
        pool.multi.setopt(pycurl.M_SOCKETFUNCTION, partial(self._on_socket, pool))
        pool.multi.setopt(pycurl.M_TIMERFUNCTION, partial(self._on_timer, pool))
        return pool

    def _on_socket(self, pool: Connections, wanted: int, fd: int, _multi: Any, _data: Any) -> None:
        if wanted == pycurl.POLL_REMOVE:
            # Left in epoll: a kept connection is wanted again soon, and a closed one is forgotten
            # there by itself. What it says meanwhile is looked at once, in `_strayed`.
            self._owners.pop(fd, None)
            return
        self._owners[fd] = pool
        try:
            self._epoll.modify(fd, _POLL[wanted])
        except FileNotFoundError:
            self._epoll.register(fd, _POLL[wanted])

    def _strayed(self, fd: int) -> None:
        """Hear no more of a resting connection: its merchant closed it, or talks unasked."""
        with suppress(OSError):
            self._epoll.unregister(fd)

    def _on_timer(self, pool: Connections, timeout_ms: int) -> None:
        if timeout_ms < 0:
            self._timers.pop(pool, None)
        else:
            self._timers[pool] = clock.monotonic_s() + timeout_ms / 1000 if timeout_ms else 0.0

    def _collect(self, pool: Connections) -> None:
        _, answered, failed = pool.multi.info_read()
        if not answered and not failed:
            return
        now_s = clock.monotonic_s()
        for curl in answered:
            self._finish(pool, curl.wire, 0, "", now_s)
        for curl, code, message in failed:
            self._finish(pool, curl.wire, code, message, now_s)
        if not pool.active:
            pool.quiet_since_s = now_s

    def _finish(self, pool: Connections, wire: Wire, code: int, message: str, now_s: float) -> None:
        request, host = wire.request, wire.host
        reply = wire.end(code, message, now_s)
        pool.remove(wire)
        self._on_wire -= 1
        if request is not None:
            if reply.status and request.url.startswith("https"):
                reply.certificate = pool.certified(request.url, wire.certificate())
            self._done.append((request, reply))
        if wire.stale or wire.shared or reply.failure is not Failure.NONE:
            self._remember(host, wire, reply)
        elif self._suspects:
            self._suspects.discard(host)

    def _remember(self, host: str, wire: Wire, reply: Reply) -> None:
        """Keep in mind how to treat a host; the memory is dropped whole every ten minutes."""
        if reply.remote_ip:
            self._suspects.discard(host)
        elif len(self._suspects) < _HOSTS_MAX:
            self._suspects.add(host)
        if (wire.stale or wire.shared) and len(self._manners) < _HOSTS_MAX:
            self._manners[host] = Manner.ALONE if wire.stale else Manner.SHARED

    def _report(self) -> None:
        if not self._done:
            return
        done, self._done = self._done, []
        try:
            self._on_replies(done)
        except Exception:  # noqa: BLE001 - one batch is lost to its lease, not the whole process
            telemetry.log(
                telemetry.Event.UNSETTLED,
                level="error",
                replies=len(done),
                traceback=traceback.format_exc(),
            )
        self._reported += len(done)

    def _close_idle(self, now_s: float) -> None:
        """Close pools nobody used for a connection's life, so that old identities cost nothing."""
        self._idle_check_at_s = now_s + _IDLE_CHECK_S
        if now_s >= self._forget_at_s:
            self._forget_at_s = now_s + _FORGET_S
            self._manners.clear()
        oldest_s = now_s - self._limits.connection_max_age_s
        for key, pool in tuple(self._pools.items()):
            if not pool.active and pool.quiet_since_s < oldest_s:
                del self._pools[key]
                pool.close()
                self._timers.pop(pool, None)

    def _dismantle(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        with self._lock:  # nobody may write to a descriptor that is somebody else's by now
            self._dismantled = True
            self._epoll.close()
            os.close(self._wake)
