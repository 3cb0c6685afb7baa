"""One thread that writes verdicts in batches, at most ``wait_s`` after the reply.

Must never forget a reply while its lease can still be kept, and never write one without the
claim number it was made under.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event, Thread

from worker import clock, telemetry
from worker.errors import UnavailableError
from worker.models import Claimed, Decision, Endpoint, Failure, Pool, Reply, Secret, Settlement
from worker.rollup import Rollup
from worker.route_board import RouteBoard
from worker.route_facts import Via
from worker.seen import Tally
from worker.store import Store

# A verdict that could not be written is given up this long before its lease ends: a write that
# is still on its way then must not meet the next owner.
_BEFORE_LEASE_END_S = 1.0
_RETRY_EVERY_S = 0.25


class Batch:
    """What became of one claim, counted as it settles.

    Attributes:
        capped: lanes were filled by it, so there is room for more when it settles.
        awaited: the task that sent it goes on, and looks after that.
        news: set when there is something for that task to look at: room in such a lane, or half
            or all of the batch is settled.
    """

    def __init__(self, size: int, pool: Pool, *, capped: bool, news: Event | None = None) -> None:
        self.size = size
        self.pool = pool
        self.capped = capped
        self.awaited = news is not None
        self.news = news or Event()
        self.counts = dict.fromkeys(Decision, 0)
        self.names: tuple[str, ...] = ()
        # Replies still to come, and verdicts still to be written.
        self.unanswered = size
        self.out = size
        self.done = Event()
        if not size:
            self.done.set()

    def settled(self, decision: Decision | None) -> None:
        """Count one; None is a verdict that was dropped. Only the settler's thread calls it."""
        if decision is not None:
            self.counts[decision] += 1
        self.out -= 1
        if self.out <= 0:
            self.done.set()
        if (self.capped or 2 * self.out <= self.size) and not self.news.is_set():
            self.news.set()


def summary(batches: Sequence[Batch]) -> str:
    """Say in one line what became of some batches, as Flower shows it.

    Examples:
        >>> batch = Batch(3, Pool.FAST, capped=False)
        >>> batch.names = ("acme", "globex")
        >>> batch.settled(Decision.DELIVERED)
        >>> batch.settled(Decision.RETRY)
        >>> summary([batch])
        'acme +1 …: 1 delivered, 1 retry, 1 on the way'
        >>> summary([])
        'nothing due'
    """
    if not batches:
        return "nothing due"
    names = list(dict.fromkeys(name for batch in batches for name in batch.names)) or ["?"]
    others = f" +{len(names) - 1} …" if len(names) > 1 else ""
    totals = {what: sum(batch.counts[what] for batch in batches) for what in Decision}
    counts = [f"{count} {what}" for what, count in totals.items() if count]
    out = sum(batch.out for batch in batches)
    if out > 0:
        counts.append(f"{out} on the way")
    return f"{names[0]}{others}: {', '.join(counts) or 'nothing sent'}"


@dataclass(slots=True)
class Sent:
    """What travels with a request and comes back with its reply.

    Attributes:
        endpoint: as it is called through the route.
        keep_until_s: monotonic time after which the lease may be somebody else's.
        signed_at: whole seconds since 1970; 0 when nothing was signed.
        via: the route; None when there is but one.
    """

    claimed: Claimed
    endpoint: Endpoint
    secret_version: int
    batch: Batch
    keep_until_s: float
    signed_at: int = 0
    via: Via | None = None


Answer = tuple[Sent, Reply]


def newest(secrets: Sequence[Secret]) -> int:
    """Return the version of the newest secret; 0 when there is none."""
    return secrets[0].version if secrets else 0


class Settler:
    """Judges and writes answers; see the module.

    Args:
        store: where verdicts go.
        judge: turns an answer into a settlement; pure.
        on_gone: told the endpoint of a 410 and its config_no, before it is written.
        on_settled: told the batches that moved, and how many rows were let go by them, after they
            are written.
        rollup: counts every verdict.
        routes: told how those of endpoints with several went.
        batch_size: verdicts written at once, at most.
        wait_s: how long a verdict waits for company.
        slow_after_ms: replies slower than this are worth telling the breaker.
    """

    def __init__(
        self,
        *,
        store: Store,
        judge: Callable[[Sent, Reply], Settlement],
        on_gone: Callable[[int, int], object],
        on_settled: Callable[[set[Batch], int], None],
        rollup: Rollup,
        routes: RouteBoard,
        batch_size: int,
        wait_s: float,
        slow_after_ms: float,
    ) -> None:
        self._store = store
        self._judge = judge
        self._on_gone = on_gone
        self._on_settled = on_settled
        self._rollup = rollup
        self._routes = routes
        self._batch_size = batch_size
        self._wait_s = wait_s
        self._slow_after_ms = slow_after_ms
        self._answers: deque[Answer] = deque()
        self._some = Event()
        self._complete = Event()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="settler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, answers: Sequence[Answer]) -> None:
        """Hand over answers; returns at once. Answers of one batch come from one thread."""
        self._answers.extend(answers)
        for sent, _ in answers:
            sent.batch.unanswered -= 1
            if not sent.batch.unanswered:
                # Nobody of its batch is still to come: company would only delay it.
                self._complete.set()
        if not self._some.is_set():
            self._some.set()

    def close(self, *, timeout_s: float) -> bool:
        """Write what is there and stop; says whether everything was written in time."""
        self._closing.set()
        self._complete.set()
        self._some.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; a process whose settler died must not claim."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            if not self._closing.is_set() and len(self._answers) < self._batch_size:
                # Company: a round trip for one verdict costs as much as for two hundred.
                self._complete.wait(self._wait_s)
            self._complete.clear()
            while self._answers:
                batch = [
                    self._answers.popleft()
                    for _ in range(min(self._batch_size, len(self._answers)))
                ]
                self._settle(batch)
            if self._closing.is_set() and not self._answers:
                return

    def _settle(self, answers: Sequence[Answer]) -> None:
        """Judge and write one batch."""
        self._write([pair for answer in answers if (pair := self._judged(answer))])

    def _write(self, pairs: list[tuple[Settlement, Sent]], *, stripped: bool = False) -> None:
        """Write verdicts, again and again while the database is away.

        What it does not take as a batch it gets one by one, then the outcome without the evidence.
        """
        while pairs:
            try:
                self._hold(pairs)
                settled = self._store.settle([settlement for settlement, _ in pairs])
            except UnavailableError as error:
                telemetry.count_settle_retry()
                telemetry.log(telemetry.Event.SETTLE_RETRY, level="warning", why=str(error))
                clock.sleep(_RETRY_EVERY_S)
                pairs = self._still_ours(pairs)
                continue
            except Exception as error:  # noqa: BLE001 - one row must not take its batch along
                if len(pairs) > 1:
                    for pair in pairs:
                        self._write([pair])
                elif stripped:
                    _unsettled(pairs[0][1], error)
                else:
                    self._write([_stripped(*pairs[0], error)], stripped=True)
            else:
                self._wrote(pairs, frozenset(settled.stale), settled.promoted)
            return

    def _hold(self, pairs: list[tuple[Settlement, Sent]]) -> None:
        # Before its rows are due again, or they would be sent at once.
        for endpoint_id, config_no in {
            (settlement.claimed.endpoint_id, settlement.claimed.config_no)
            for settlement, _ in pairs
            if settlement.verdict.decision is Decision.HOLD
            and not self._routes.outlives(settlement)
        }:
            self._on_gone(endpoint_id, config_no)

    def _judged(self, answer: Answer) -> tuple[Settlement, Sent] | None:
        sent, reply = answer
        try:
            return self._judge(sent, reply), sent
        except Exception as error:  # noqa: BLE001 - it counts as a failed try, so it ends somewhere
            why = f"the reply cannot be judged: {type(error).__name__}"
        try:
            return self._judge(sent, Reply(failure=Failure.PROTOCOL, detail=why)), sent
        except Exception as error:  # noqa: BLE001 - its lease brings the row back
            _unsettled(sent, error)
            return None

    def _still_ours(self, pairs: list[tuple[Settlement, Sent]]) -> list[tuple[Settlement, Sent]]:
        now = clock.monotonic_s() + _BEFORE_LEASE_END_S
        lost = [sent for _, sent in pairs if sent.keep_until_s <= now]
        for sent in lost:
            telemetry.count_stale()
            self._rollup.given_up(sent.claimed.endpoint_id)
            sent.batch.settled(None)
        return [(settlement, sent) for settlement, sent in pairs if sent.keep_until_s > now]

    def _wrote(
        self, pairs: list[tuple[Settlement, Sent]], stale: frozenset[int], promoted: int
    ) -> None:
        batches = set()
        for settlement, sent in pairs:
            decision = settlement.verdict.decision
            late = settlement.claimed.id in stale
            sent.batch.settled(None if late else decision)
            batches.add(sent.batch)
        telemetry.count_settled(
            (s.verdict.decision for s, _ in pairs if s.claimed.id not in stale), len(stale)
        )
        settlements = [settlement for settlement, _ in pairs]
        self._rollup.settled(settlements, stale)
        self._tell_health(settlements)
        self._on_settled(batches, promoted)

    def _tell_health(self, settlements: Sequence[Settlement]) -> None:
        """Move breakers on; spotless lanes that stay spotless cost nothing."""
        try:
            heard = self._routes.hear(settlements)
            tallies = tallied(heard, slow_after_ms=self._slow_after_ms)
            if tallies:
                self._store.tell_health(tallies)
        except Exception as error:  # noqa: BLE001 - this thread outlives it
            # Health is advice, not truth: the next failures will say it again.
            telemetry.log(telemetry.Event.HEALTH_LOST, level="warning", why=str(error))


def _stripped(settlement: Settlement, sent: Sent, error: Exception) -> tuple[Settlement, Sent]:
    why = f"evidence not stored: {error!r:.200}"
    return replace(settlement, evidence="", error=why), sent


def _unsettled(sent: Sent, error: Exception) -> None:
    telemetry.log(
        telemetry.Event.UNSETTLED,
        level="error",
        notification=sent.claimed.id,
        why=f"{type(error).__name__}: {error}",
    )
    sent.batch.settled(None)


def tallied(settlements: Sequence[Settlement], *, slow_after_ms: float) -> dict[int, Tally]:
    """Count per lane what is worth telling its breaker.

    A lane without trouble whose sends all went well and quickly is left out.
    """
    marked = {
        s.claimed.lane_id
        for s in settlements
        if s.verdict.healthy is False or s.claimed.troubled or s.elapsed_ms >= slow_after_ms
    }
    if not marked:
        return {}
    counts: defaultdict[int, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for settlement in settlements:
        if settlement.claimed.lane_id not in marked or settlement.verdict.healthy is None:
            continue
        count = counts[settlement.claimed.lane_id]
        count[0 if settlement.verdict.healthy else 1] += 1
        count[2] += settlement.elapsed_ms
    return {
        lane_id: Tally(ok=int(ok), failed=int(failed), latency_ms=total_ms / (ok + failed))
        for lane_id, (ok, failed, total_ms) in counts.items()
    }
