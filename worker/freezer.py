"""The story of a freeze: freeze what keeps failing, ping what is frozen, let go what answers.

Run by the sweep ``freeze``, and by a worker when that does not come. Must never call an endpoint
whose address is not the one that was frozen.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from worker import freeze_probes, freezes, telemetry
from worker.breaker import Policy
from worker.database import unavailable
from worker.endpoint_book import EndpointBook
from worker.endpoint_routes import through
from worker.freeze_probes import NOT_SENT, Due, Probe, Thawed
from worker.freeze_rules import Manner, Move
from worker.models import Endpoint
from worker.ping import Pong, ping_all
from worker.route_facts import OWN
from worker.sealing import Sealer
from worker.settings import Settings

# Endpoints one step freezes, and those it pings at once: merchants that hang are waited for
# together, so a thousand of them are through in a minute and a half.
_FREEZE_MAX = 200
PROBES_MAX = 200
# On top of a ping's deadline, to write down how it went.
_SETTLE_S = 10.0


class Freezer:
    """Looks after frozen endpoints; safe to run in several processes at once.

    Args:
        engine: of the database with our tables.
        sealer: opens the secrets that pings are signed with.
        chosen: settings in force.
        breaker: when breakers open; what they do says when to freeze.
    """

    def __init__(self, engine: Engine, sealer: Sealer, chosen: Settings, breaker: Policy) -> None:
        self._engine = engine
        self._book = EndpointBook(engine, sealer)
        self._settings = chosen
        self._breaker = breaker
        self._manner = Manner(
            trips=chosen.freeze_after_trips,
            open_s=chosen.freeze_after_minutes * 60.0,
            probe_s=float(chosen.freeze_probe_s),
            trial_s=chosen.freeze_trial_minutes * 60.0,
        )

    def freeze(self) -> int:
        """Freeze what keeps failing; returns how many endpoints that were.

        Raises:
            UnavailableError: the database is away.
        """
        try:
            frozen = freezes.freeze_failing(
                self._engine, manner=self._manner, breaker=self._breaker, limit=_FREEZE_MAX
            )
        except DBAPIError as error:
            raise unavailable(error) from error
        for name, why in frozen:
            telemetry.count_freeze()
            telemetry.log(telemetry.Event.FROZEN, level="warning", endpoint=name, why=why)
        return len(frozen)

    def probe(self) -> Counter[str]:
        """Ping the frozen endpoints whose time has come and do what that orders.

        Killed anywhere, it leaves leases that run out; a ping may then be sent once more.

        Returns:
            How many were pinged (``probed``) and what was ordered, by name.

        Raises:
            UnavailableError: the database is away.
        """
        lease_s = self._settings.timeout_max_s + _SETTLE_S
        counts: Counter[str] = Counter()
        try:
            due = freeze_probes.take(self._engine, limit=PROBES_MAX, lease_s=lease_s)
            for probe in self._sent(due):
                counts["probed"] += 1
                done = freeze_probes.settle(self._engine, probe, manner=self._manner)
                if done is not None:
                    if done.move is not Move.WAIT:
                        counts[done.move.value] += 1
                    _tell(done, probe)
        except DBAPIError as error:
            raise unavailable(error) from error
        return counts

    def _sent(self, due: Sequence[Due]) -> list[Probe]:
        wanted = [(each.endpoint_id, each.config_no) for each in due if each.same_url]
        pongs = self._pongs([*self._book.many(wanted).values()])
        probes = []
        for each in due:
            pong = pongs.get(each.endpoint_id) if each.same_url else None
            if pong is None:
                # Another address, or secrets this process cannot open: nothing went out.
                probes.append(Probe(due=each, code=NOT_SENT))
            else:
                probes.append(
                    Probe(
                        due=each,
                        code=pong.code,
                        status=pong.status,
                        certificate=pong.certificate,
                    )
                )
        return probes

    def _pongs(self, opened: Sequence[Endpoint]) -> dict[int, Pong]:
        """Ping endpoints through every route they may use; by endpoint id."""
        calls = [(one, no) for one in opened for no in _routes(one)]
        answers = ping_all([through(one, no) for one, no in calls], self._settings)
        pongs: dict[int, Pong] = {}
        for (one, no), pong in zip(calls, answers, strict=True):
            # The certificate that counts is the one of its own address.
            seen = pong if no == OWN else replace(pong, certificate="")
            # One route that answers is enough: what goes out will find it.
            if one.id not in pongs or (seen.acked and not pongs[one.id].acked):
                pongs[one.id] = seen
        return pongs


def _routes(endpoint: Endpoint) -> list[int]:
    if endpoint.pinned is not None:
        return [endpoint.pinned]
    return [OWN, *(route.no for route in endpoint.routes)]


def _tell(done: Thawed, probe: Probe) -> None:
    telemetry.count_probe(probe.code)
    if done.move is Move.WAIT:
        return
    if done.frozen_s is not None and done.answered_s is not None:
        telemetry.count_unfreeze(done.move.value, done.frozen_s, done.answered_s)
    telemetry.log(
        telemetry.Event.FREEZE_MOVED,
        level="warning",
        endpoint=done.endpoint,
        move=done.move.value,
        frozen_s=None if done.frozen_s is None else round(done.frozen_s, 1),
    )
