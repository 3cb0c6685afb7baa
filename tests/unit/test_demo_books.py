"""The comparison at the end of the demo: each kind of lie is found by its name."""

from dataclasses import replace

import pytest

from worker.demo_books import Account, compare
from worker.demo_merchants import Entry
from worker.models import State

_PAID = ("order-1", "payment.succeeded")
_ACK = Entry(
    message_id="msg_1",
    order_no="order-1",
    event_type="payment.succeeded",
    nth=1,
    status=200,
    answer="success",
    acked=True,
    genuine=True,
)
_FAIL = replace(_ACK, status=500, answer="busy", acked=False)
_FORGED = replace(_ACK, genuine=False, acked=False, order_no="", event_type="", nth=0)


def _account(
    *book: Entry, state: State | None = State.DELIVERED, promised: bool = True, attempts: int = 1
) -> Account:
    return compare(
        "m",
        promised={_PAID} if promised else set(),
        states={} if state is None else {_PAID: state},
        attempts=attempts,
        book=book,
    )


def test_equal_books_agree_whatever_a_stranger_tried() -> None:
    assert _account(_FAIL, _ACK, _FORGED, attempts=2).agrees


@pytest.mark.parametrize(
    ("account", "kind"),
    [
        (_account(state=None, attempts=0), "lost"),
        (_account(_FAIL), "phantom"),
        (_account(attempts=0), "lost"),
        (_account(_ACK, promised=False), "unexpected"),
        (_account(_ACK, _ACK, attempts=2), "duplicates"),
        (_account(_FAIL, state=State.DEAD), "unfinished"),
    ],
)
def test_each_kind_of_difference_is_counted_and_is_no_agreement(
    account: Account, kind: str
) -> None:
    assert getattr(account, kind) == 1
    assert not account.agrees


def test_a_dead_letter_is_unfinished_but_not_lost() -> None:
    assert _account(_FAIL, state=State.DEAD).lost == 0


def test_a_send_that_one_side_does_not_know_of_is_no_agreement() -> None:
    assert not _account(_ACK, attempts=2).agrees
