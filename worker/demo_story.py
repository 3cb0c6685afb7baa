"""The demo's story, step by step, and the comparison at its end.

Must never report success from one book alone.
"""

import base64
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import requests
from rich.console import Console

from worker import clock, deadletters, demo_books, demo_clockwork, demo_merchants, runtime
from worker.crew import Signals
from worker.deadletters import Filters
from worker.demo_bank import Bank
from worker.demo_books import Account
from worker.demo_merchants import Merchant
from worker.demo_screen import Row, Screen
from worker.demo_shop import PAID, Event, Shop
from worker.masking import mask
from worker.models import Allowed, State
from worker.runtime import Desk
from worker.settings import Settings
from worker.station import Station, at_home

_SCHEDULE = "2,4,6"
_BEAT_S = 0.25
# By then even a busy machine has sent four tries over twelve seconds.
_LIMIT_S = 45.0
_LOOK_S = 2.0
_FLOWER_UP_S = 20.0
_HEALTHY, _FLAKY, _DEAD = "sunny-tea", "rainy-books", "night-market"
_MANNERS = {
    _HEALTHY: "acks at once",
    _FLAKY: "fails twice, then acks",
    _DEAD: "down until told",
}
# Who is paid in each beat of the first seconds; R: the last paid order is refunded,
# X: a transaction that rolls back.
_SCRIPT = "HDHFDHXHFRDHFHRD"


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


class Story:
    """Tells it once.

    Args:
        settings: of the demo's own.
        folder: for the merchants' books and the children's output.
        signals: what ends it early.
    """

    def __init__(self, settings: Settings, folder: Path, signals: Signals) -> None:
        self._settings = settings
        self._folder = folder
        self._signals = signals
        self._bank = Bank()
        self._station = Station(
            settings,
            log=folder / "processes.log",
            config=demo_clockwork.write_files(folder, self._bank),
        )
        self._merchants = {
            name: Merchant(name, manners, folder)
            for name, manners in (
                (_HEALTHY, demo_merchants.healthy),
                (_FLAKY, demo_merchants.flaky),
                (_DEAD, demo_merchants.dead),
            )
        }

    def run(self, *, keep: bool) -> int:
        """Tell it; returns 0 when all books agree and Flower answered, else 1.

        Raises:
            StoppedError: somebody asked us to stop.
        """
        with ExitStack() as stack:
            stack.callback(self._station.close, self._signals)
            for merchant in self._merchants.values():
                stack.callback(merchant.close)
            stack.callback(self._bank.close)
            self._open(stack)
            with self._screen as screen:
                self._tell_story()
                flower = self._flower()
                accounts = self._compare()
                screen.step("done")
                self._draw()
            code = self._report(accounts, flower)
            if keep:
                self._stay()
            return code

    # Before the story

    def _open(self, stack: ExitStack) -> None:
        self._screen = Screen(Console())
        self._screen.say("paynotify demo: a shop, three merchants, real workers; about 30 s")
        self._station.open(migrate=True)
        self._station.start_workers(1)
        self._station.start_beat()
        flower_url = self._station.start_flower()
        self._desk: Desk = runtime.open_desk(self._settings)
        stack.callback(self._desk.engine.dispose)
        self._shop = Shop(self._desk.engine, self._desk.notifier)
        self._shop.open()
        self._bank.open()
        for merchant in self._merchants.values():
            merchant.open(self._register(merchant))
        self._screen.say(f"  Flower     {flower_url}/tasks")
        for merchant in self._merchants.values():
            self._screen.say(f"  merchant   {merchant.url}  {merchant.name}")
        self._screen.say(f"  database   {mask(self._settings.database_dsn)}")

    def _register(self, merchant: Merchant) -> str:
        endpoint = self._desk.endpoints.register(
            name=merchant.name,
            merchant=merchant.name,
            who="demo",
            url=merchant.url,
            ack="2xx exact:success",
            schedules=_SCHEDULE,
            # What a merchant on the internet would never be allowed.
            allowed=Allowed(http=True, ports=(merchant.port,), networks=("127.0.0.0/8",)),
        )
        return endpoint.secrets[0].value

    # The story

    def _tell_story(self) -> None:
        screen = self._screen
        screen.step("the worker process comes up")
        self._shop.pay(_HEALTHY)
        self._until(lambda: self._waiting() == 0)
        screen.step("orders are paid; each is written together with its notification")
        self._take_orders()
        screen.step("a forged callback knocks at a merchant's door")
        self._forge()
        screen.step("a bank is paid and tells nobody; the next sweep asks it")
        self._silent = demo_clockwork.pay_in_silence(self._desk.engine, self._bank, _HEALTHY)
        self._until(lambda: demo_clockwork.is_paid(self._desk.engine, self._silent))
        screen.step(f"{_FLAKY} gets its retries; {_DEAD} uses up its tries after 2, 4 and 6 s")
        self._until(lambda: self._waiting() == 0)
        given_up = deadletters.count(self._desk.engine, Filters(endpoint=_DEAD))
        screen.step(f"{_DEAD} is given up: its {given_up} notifications are dead letters")
        self._until(lambda: bool(demo_clockwork.alert_told(self._desk.engine)))
        self._alert = demo_clockwork.alert_told(self._desk.engine)
        screen.step(f"an alert trips: {self._alert}")
        self._pause()
        screen.step(f"{_DEAD} lives again, and an operator redrives its dead letters")
        self._merchants[_DEAD].manners = demo_merchants.healthy
        deadletters.redrive(
            self._desk.store,
            self._desk.engine,
            filters=Filters(endpoint=_DEAD),
            who="demo",
            why=f"{_DEAD} says it is up again",
        )
        self._until(lambda: self._waiting() == 0)
        # Long enough for a double to arrive, if there were one.
        self._pause()

    def _take_orders(self) -> None:
        names = {"H": _HEALTHY, "F": _FLAKY, "D": _DEAD}
        self._shop.pay_together([_HEALTHY] * 6 + [_FLAKY] * 3)
        last = ""
        for letter in _SCRIPT:
            if letter == "X":
                self._rolled_back = self._shop.pay_and_roll_back(_HEALTHY)
            elif letter == "R":
                self._shop.refund(last)
            else:
                last = self._shop.pay(names[letter])
            self._beat()

    def _forge(self) -> None:
        # Whatever the merchant answers, his book and ours will be compared.
        with at_home() as session:
            session.post(
                self._merchants[_HEALTHY].url,
                json={"type": "payment.succeeded", "order_no": "1"},
                timeout=5,
                headers={
                    "webhook-id": "msg_forged",
                    "webhook-timestamp": str(clock.unix_s()),
                    "webhook-signature": "v1," + base64.b64encode(bytes(32)).decode(),
                },
            )

    # What every step needs

    def _beat(self) -> None:
        if self._signals.asked.wait(_BEAT_S):
            raise StoppedError
        for line in self._station.check():
            self._screen.say(line)
        self._draw()

    def _until(self, done: Callable[[], bool], limit_s: float = _LIMIT_S) -> bool:
        """Go on until it is done, or the time is up: the comparison then says what is missing."""
        end_s = clock.monotonic_s() + limit_s
        while not done() and clock.monotonic_s() < end_s:
            self._beat()
        return done()

    def _pause(self) -> None:
        self._until(lambda: False, _LOOK_S)

    def _waiting(self) -> int:
        left = (State.WAITING, State.PENDING, State.SENDING)
        return sum(
            states[state]
            for states in demo_books.counts(self._desk.engine).values()
            for state in left
        )

    def _draw(self) -> None:
        counts = demo_books.counts(self._desk.engine)
        rows = []
        for name, merchant in self._merchants.items():
            genuine = [entry for entry in merchant.entries() if entry.genuine]
            rows.append(
                Row(
                    merchant=name,
                    manner=_MANNERS[name],
                    received=len(genuine),
                    acked=sum(entry.acked for entry in genuine),
                    states=counts.get(name, {}),
                )
            )
        self._screen.draw(rows, demo_books.recent(self._desk.engine, 8))

    # After the story

    def _flower(self) -> str:
        """Return what Flower's page of tasks says of itself; empty when it does not answer 200."""
        self._until(self._station.flower_answers, _FLOWER_UP_S)
        # Newest first: the page's own query for its table.
        query = "draw=1&start=0&length=200&order[0][column]=5&columns[5][data]=received"
        page = f"{self._station.flower_url}/tasks/datatable?{query}&order[0][dir]=desc"
        try:
            with at_home() as session:
                reply = session.get(page, timeout=5)
                reply.raise_for_status()
                tasks = reply.json()
        except requests.RequestException:
            return ""
        results = [task["result"] for task in tasks["data"] if " +" in str(task["result"])]
        example = f'; one of them: "{results[0]}"' if results else ""
        return f"Flower answered 200 and shows {tasks['recordsTotal']} tasks{example}"

    def _compare(self) -> list[Account]:
        engine = self._desk.engine
        return [
            demo_books.compare(
                name,
                promised=self._promised(name),
                states=demo_books.states(engine, name),
                attempts=demo_books.attempts(engine, name),
                book=merchant.book(),
            )
            for name, merchant in self._merchants.items()
        ]

    def _promised(self, merchant: str) -> set[Event]:
        # What the bank was paid the merchant must hear of, whatever our own table says.
        paid = {(order_no, PAID) for order_no in self._bank.paid if merchant == _HEALTHY}
        return self._shop.promised(merchant) | paid

    def _report(self, accounts: list[Account], flower: str) -> int:
        screen = self._screen
        screen.accounts(accounts)
        sums = {
            name: sum(getattr(account, name) for account in accounts)
            for name in ("lost", "phantom", "unexpected", "duplicates", "unfinished")
        }
        screen.say(", ".join(f"{name} {count}" for name, count in sums.items()))
        screen.say(f"Order {self._rolled_back} was rolled back: nobody heard of it.")
        put_right = demo_clockwork.is_paid(self._desk.engine, self._silent)
        screen.say(
            f"Order {self._silent} was paid in silence: the bank was asked, {_HEALTHY} was told."
            if put_right
            else f"Order {self._silent} was NOT put right."
        )
        screen.say(f"Alert: {self._alert}." if self._alert else "No alert tripped.")
        screen.say(flower or "Flower did not answer.")
        agree = all(account.agrees for account in accounts) and put_right and bool(self._alert)
        screen.say("The books agree." if agree else "The books do NOT agree.")
        return 0 if agree and flower else 1

    def _stay(self) -> None:
        self._screen.say(f"Everything stays up: {self._station.flower_url}/tasks; Ctrl-C ends it.")
        while not self._signals.asked.wait(_BEAT_S):
            for line in self._station.check():
                self._screen.say(line)
