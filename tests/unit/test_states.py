"""The table of states: nothing comes back from the end except by an operator's order."""

from itertools import product

import pytest

from worker.models import State
from worker.states import EDGES, FINAL, may_move

DRAWN = {
    ("blocked", "pending"),
    ("blocked", "waiting"),
    ("blocked", "cancelled"),
    ("waiting", "pending"),
    ("waiting", "cancelled"),
    ("waiting", "dead"),
    ("pending", "sending"),
    ("pending", "cancelled"),
    ("pending", "dead"),
    ("sending", "delivered"),
    ("sending", "waiting"),
    ("sending", "pending"),
    ("sending", "dead"),
    ("dead", "pending"),
    ("dead", "waiting"),
    ("dead", "blocked"),
    ("dead", "cancelled"),
}


@pytest.mark.parametrize(("frm", "to"), list(product(State, State)))
def test_only_the_drawn_edges_may_be_taken(frm: State, to: State) -> None:
    assert may_move(frm, to) is ((frm.value, to.value) in DRAWN)


def test_every_state_has_its_row() -> None:
    assert set(EDGES) == set(State)


def test_delivered_and_cancelled_are_final_and_dead_is_not() -> None:
    assert frozenset({State.DELIVERED, State.CANCELLED}) == FINAL


def test_every_life_can_reach_an_end_from_everywhere() -> None:
    ending = set(FINAL)
    while grown := {state for state in State if EDGES[state] & ending} - ending:
        ending |= grown
    assert ending == set(State)


def test_only_a_claimed_notification_can_become_delivered() -> None:
    assert {state for state in State if may_move(state, State.DELIVERED)} == {State.SENDING}


def test_the_table_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        EDGES[State.DELIVERED] = frozenset({State.PENDING})  # type: ignore[index]
