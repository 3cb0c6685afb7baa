"""The story of a delivery: claim, shape, send, judge, settle.

One :class:`Courier` per process. Any thread may call :meth:`Courier.deliver`; it claims a batch,
shapes the requests and hands them to the transport. Replies come back on the transport's thread
and are judged and written in batches by the settler's, so nobody waits for the slowest.

Must never call a notification delivered without its ack rule met on bytes received, and never
send what it has not claimed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import BoundedSemaphore, Event

from worker import ack as acks
from worker import clock, telemetry
from worker.berths import Berths
from worker.doorbell import Doorbell
from worker.endpoint_book import EndpointBook
from worker.errors import PaynotifyError, UnavailableError, UrlRefusedError
from worker.going_on import Going
from worker.judging import judged
from worker.models import Pool, Reply, Request, Schedule
from worker.rollup import Rollup
from worker.route_board import RouteBoard
from worker.settler import Answer, Batch, Sent, Settler, newest, summary
from worker.shape import UNREADABLE, check_sendable, not_sent, shaped
from worker.store import Claim, Store
from worker.transport import Transport
from worker.unheard import Unheard
from worker.witness import Witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How this process delivers; see ``settings.py`` for ranges.

    Attributes:
        worker: this process's name in attempts.
        timeout_max_s: deadlines beyond are cut, or a reply could outlast its lease.
        linger_s: how long a task waits for its stragglers before it ends.
        slots: threads that may call :meth:`Courier.deliver` at once.
        schedule: of endpoints that name none.
    """

    worker: str
    batch_size: int
    in_flight_max: int
    lease_s: float
    timeout_max_s: float
    linger_s: float
    settle_s: float
    slow_after_ms: float
    slots: int
    schedule: Schedule
    terminal_statuses: tuple[int, ...]
    retry_after_max_s: int


class Courier:
    """Delivers for one process.

    Args:
        store: the only door to delivery state.
        book: endpoints by id and version.
        mark_gone: told the id of an endpoint that answered 410, and its config_no.
        witness: told what an endpoint's own address showed when it acknowledged.
        doorbell: rung when there is more.
        rollup: counts what was settled.
        routes: chooses among those of endpoints with several.
        manner: limits and defaults.
        make_transport: makes the transport, given where replies go.
    """

    def __init__(
        self,
        *,
        store: Store,
        book: EndpointBook,
        mark_gone: Callable[[int, int], object],
        witness: Witness,
        doorbell: Doorbell,
        rollup: Rollup,
        routes: RouteBoard,
        manner: Manner,
        make_transport: "Callable[[Callable[[Sequence[tuple[Request, Reply]]], None]], Transport]",
    ) -> None:
        self._store = store
        self._book = book
        self._doorbell = doorbell
        self._routes = routes
        self._manner = manner
        self._witness = witness
        self._settler = Settler(
            store=store,
            judge=partial(
                judged,
                schedule=manner.schedule,
                terminal_statuses=manner.terminal_statuses,
                retry_after_max_s=manner.retry_after_max_s,
            ),
            on_gone=mark_gone,
            on_settled=self._after_settle,
            rollup=rollup,
            routes=routes,
            batch_size=manner.batch_size,
            wait_s=manner.settle_s,
            slow_after_ms=manner.slow_after_ms,
        )
        self._transport = make_transport(self._on_replies)
        self._berths = Berths(manner.in_flight_max)
        self._slow_slots = BoundedSemaphore(max(1, manner.slots // 3))
        self._lingering = BoundedSemaphore(max(1, manner.slots // 2))
        self._meter = BoundedSemaphore(1)
        # Tasks that go on claiming here. One sends what another claimed; more only cost tasks.
        self._going_on: set[Going] = set()
        self._enough = max(1, manner.slots // 2)
        self._closing = False
        self.unheard = Unheard()
        self.last_delivery_s = clock.monotonic_s()

    def start(self) -> None:
        """Start the transport's and the settler's threads."""
        self._settler.start()
        self._transport.start()

    def deliver(self, pool: Pool, *, linger: bool = True) -> str:
        """Claim and send ``pool``'s batches for a moment; say in one line what became of them.

        Safe to call at any time and any number of times: what is claimed is claimed once. A
        process that dies anywhere in here leaves leases that run out by themselves.

        Args:
            pool: whose lanes are claimed.
            linger: whether to wait a moment for the replies, to be able to report them.

        Raises:
            UnavailableError: the database is away; nothing is lost.
        """
        if pool is Pool.SLOW:
            if not self._slow_slots.acquire(blocking=False):
                return "slow slots are busy"
            try:
                return self._deliver(pool, linger=False)
            finally:
                self._slow_slots.release()
        return self._deliver(pool, linger=linger)

    def _deliver(self, pool: Pool, *, linger: bool) -> str:
        going = Going(linger=linger, meter=self._meter)
        if linger:
            self._going_on.add(going)
        try:
            while going.may_claim():
                claim = self._claim(pool, until_s=going.until_s)
                going.claimed(claim)
                if not claim.rows:
                    continue
                going.sent(self._send(claim, pool, news=going.news))
                if going.spreads and len(self._going_on) <= self._enough:
                    # Wakes one more slot, which wakes the next: load spreads by itself.
                    self.ring(pool)
                    going.rung = True
                if linger:
                    self._linger(going)
                    going.look(starved=self._berths.was_starved(pool))
        finally:
            self._going_on.discard(going)
            going.end()
        if going.leaves_more:
            self.ring(pool)
        return summary(going.batches)

    def deliver_suspect(self) -> Batch | None:
        """Send one row that may have ended its workers; None when there is none.

        Raises:
            UnavailableError: the database is away.
        """
        if self._closing:
            return None
        claim = self._store.claim_suspect(worker=self._manner.worker)
        if not claim.rows:
            return None
        self._berths.board(Pool.SLOW, len(claim.rows))
        return self._send(claim, Pool.SLOW)

    def ring(self, pool: Pool) -> None:
        """Ask for another claim: by the doorbell, or within this process when nobody hears it."""
        heard = self._doorbell.ring(pool)
        telemetry.show_broker_away(away=not heard)
        if not heard:
            telemetry.count_bell("failed")
            self.unheard.add(pool)

    def close(self, *, timeout_s: float) -> bool:
        """Claim nothing new, finish what is on the wire, write it all down.

        Returns:
            Whether everything was written. What was not, its lease brings back.
        """
        self.stop_claiming()
        end_s = clock.monotonic_s() + timeout_s
        self._transport.close(timeout_s=timeout_s)
        return self._settler.close(timeout_s=max(1.0, end_s - clock.monotonic_s()))

    def stop_claiming(self) -> None:
        """Claim nothing from now on."""
        self._closing = True

    @property
    def in_flight(self) -> int:
        """Requests on the wire now."""
        return self._transport.in_flight

    @property
    def alive(self) -> bool:
        """Whether both threads run; a process that lost one must not claim."""
        return self._transport.alive and self._settler.alive

    # Claim

    def _claim(self, pool: Pool, *, until_s: float) -> Claim:
        """Claim for what places there are; wait for some until ``until_s`` (monotonic)."""
        if self._closing or not self.alive:
            return Claim()
        room = self._room(pool, until_s - clock.monotonic_s())
        if not room:
            return Claim()
        claim = Claim()
        try:
            claim = self._store.claim(pool, limit=room, worker=self._manner.worker)
        finally:
            self._berths.free(pool, room - len(claim.rows))
        self.last_delivery_s = clock.monotonic_s()
        telemetry.count_claim(len(claim.rows))
        return claim

    def _room(self, pool: Pool, wait_s: float) -> int:
        """Take places; waits like :meth:`_linger`, because a new task would cost more."""
        wanted = self._manner.batch_size
        if wait_s <= 0 or not self._lingering.acquire(blocking=False):
            return self._berths.take(pool, wanted)
        try:
            room = self._berths.take(pool, wanted, wait_s=wait_s)
        finally:
            self._lingering.release()
        if self._closing:
            self._berths.free(pool, room)
            return 0
        return room

    # Shape and send

    def _send(self, claim: Claim, pool: Pool, *, news: Event | None = None) -> Batch:
        batch = Batch(len(claim.rows), pool, capped=claim.capped, news=news)
        keep_until_s = clock.monotonic_s() + self._manner.lease_s
        try:
            endpoints = self._book.many({(row.endpoint_id, row.config_no) for row in claim.rows})
        except Exception as error:  # noqa: BLE001 - nothing was sent: give the tries back
            away = UnavailableError("endpoints", f"{type(error).__name__}: {error}")
            telemetry.log(telemetry.Event.UNSENDABLE, level="warning", why=str(away))
            self._answered(
                [
                    (Sent(row, UNREADABLE, 0, batch, keep_until_s), not_sent(away))
                    for row in claim.rows
                ]
            )
            return batch
        batch.names = tuple(endpoint.name for endpoint in endpoints.values())
        self._routes.look(endpoints.values())
        signed_at = clock.unix_s()
        requests: list[Request] = []
        unsent: list[Answer] = []
        for row in claim.rows:
            endpoint = endpoints.get(row.endpoint_id, UNREADABLE)
            version = newest(endpoint.secrets)
            sent = Sent(row, endpoint, version, batch, keep_until_s, signed_at)
            try:
                if endpoint.routes and not row.notify_url:
                    endpoint, sent.via = self._routes.choose(endpoint)
                    sent.endpoint = endpoint
                check_sendable(row, endpoint)
                requests.append(
                    shaped(
                        row,
                        endpoint,
                        signed_at=signed_at,
                        tag=sent,
                        timeout_max_s=self._manner.timeout_max_s,
                    )
                )
            except Exception as error:  # noqa: BLE001 - one row must not take its batch along
                self._say_unsendable(row.id, error)
                unsent.append((sent, not_sent(error)))
        if unsent:
            self._answered(unsent)
        self._transport.submit(requests)
        return batch

    @staticmethod
    def _say_unsendable(notification_id: int, error: Exception) -> None:
        telemetry.log(
            telemetry.Event.UNSENDABLE,
            level="warning" if isinstance(error, PaynotifyError) else "error",
            notification=notification_id,
            why=f"{type(error).__name__}: {error}",
        )
        if isinstance(error, UrlRefusedError):
            telemetry.count_refusal()

    # Settle

    def _on_replies(self, finished: Sequence[tuple[Request, Reply]]) -> None:
        answers: list[Answer] = []
        for request, reply in finished:
            assert isinstance(request.tag, Sent)  # noqa: S101 - for the type checker
            answers.append((request.tag, reply))
            if reply.certificate:
                self._saw_certificate(request.tag, reply)
        self._answered(answers)

    def _saw_certificate(self, sent: Sent, reply: Reply) -> None:
        """Say what an endpoint showed when it acknowledged; of a stranger's we take no note."""
        stranger = sent.claimed.notify_url or (sent.via and sent.via.no)
        if stranger or self._witness.knows(sent.endpoint.id, reply.certificate):
            return
        if acks.met(sent.endpoint.ack, reply.status, reply.body):
            self._witness.saw(sent.endpoint.id, reply.certificate)

    def _answered(self, answers: list[Answer]) -> None:
        for pool, count in Counter(sent.batch.pool for sent, _ in answers).items():
            self._berths.free(pool, count)
        self._settler.put(answers)

    def _after_settle(self, batches: set[Batch], promoted: int) -> None:
        """Ring again for what had to wait for these, unless their task goes on by itself."""
        pools = {
            batch.pool for batch in batches if promoted or (batch.capped and not batch.awaited)
        }
        # Those of the fast pool who go on here look after who found no place.
        alone = () if self._going_on else (Pool.FAST,)
        pools |= {pool for pool in (Pool.SLOW, *alone) if self._berths.was_starved(pool)}
        if not self._closing:
            for pool in pools:
                self.ring(pool)

    # Report

    def _linger(self, going: Going) -> None:
        """Wait a moment for the last batch: for what it leaves free, or to say how it went.

        At most half of the slots do; the others are always free to claim.
        """
        if not self._lingering.acquire(blocking=False):
            return
        try:
            going.wait(self._manner.linger_s)
        finally:
            self._lingering.release()
