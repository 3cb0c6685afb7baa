"""Order within a key while merchants are fitful and workers are killed."""

from tests.faults import ordering
from tests.faults.site import Site


def test_first_successes_of_a_key_are_in_order_whoever_is_killed(place: Site) -> None:
    ran = ordering.run(place, keys=30, events=3, kills=2)
    ran.books.check()
    assert (ran.wrong, ran.missing) == ([], 0)
    assert ran.books.states == {"delivered": 90}
    # Or nothing was put to the test.
    assert ran.blocked_most
    assert ran.books.outcomes["not_acked"]
