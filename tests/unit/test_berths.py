"""Places on the wire: who gets how many, and who waits."""

from threading import Thread

from worker.berths import Berths
from worker.models import Pool


def test_a_claim_gets_what_is_free_and_a_full_wire_is_remembered() -> None:
    berths = Berths(10)
    assert berths.take(Pool.FAST, 8) == 8
    assert berths.take(Pool.FAST, 8) == 2
    assert berths.take(Pool.FAST, 8) == 0
    assert berths.was_starved(Pool.FAST)
    assert not berths.was_starved(Pool.FAST)


def test_slow_lanes_get_half_of_the_wire_at_most() -> None:
    berths = Berths(10)
    assert berths.take(Pool.SLOW, 8) == 5
    assert berths.take(Pool.FAST, 8) == 5


def test_who_waits_for_a_place_gets_it() -> None:
    berths = Berths(10)
    berths.take(Pool.FAST, 10)
    got: list[int] = []
    waiter = Thread(target=lambda: got.append(berths.take(Pool.FAST, 8, wait_s=30)))
    waiter.start()
    berths.free(Pool.FAST, 5)
    waiter.join(30)
    assert got == [5]


def test_places_held_by_others_for_ever_keep_nobody_waiting() -> None:
    berths = Berths(10)
    berths.take(Pool.FAST, 8)
    # Two are free and no more will be: one look is enough, whatever the patience.
    assert berths.take(Pool.FAST, 8, wait_s=1e6) == 2


def test_who_waits_in_vain_takes_what_there_is() -> None:
    berths = Berths(10)
    berths.take(Pool.FAST, 9)
    assert berths.take(Pool.FAST, 8, wait_s=0.01) == 1
    assert berths.take(Pool.FAST, 8, wait_s=0.01) == 0
    assert berths.was_starved(Pool.FAST)


def test_a_wire_smaller_than_a_batch_makes_nobody_wait_for_ever() -> None:
    berths = Berths(2)
    assert berths.take(Pool.FAST, 400, wait_s=30) == 2
    berths.free(Pool.FAST, 1)
    assert berths.take(Pool.FAST, 400, wait_s=30) == 1
