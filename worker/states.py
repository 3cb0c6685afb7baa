"""The life of a notification: which state may follow which.

Nothing may move a notification along an edge that is not drawn here, and every move is guarded
in SQL by the state (and, out of ``sending``, by the claim number) it starts from.

::

          enqueue, due later                        enqueue, due now
                  │                                        │
             ┌────▼────┐  its time came: stage       ┌─────▼─────┐
        ┌───►│ waiting ├────────────────────────────►│  pending  │◄──────────┐
        │    └──┬───┬──┘                             └─┬──┬────┬─┘           │
        │       │   │ cancel                    cancel │  │    │ claim       │
        │       │   └───────────────┐     ┌────────────┘  │    │             │
        │       │ expired           │     │       expired │    │             │
        │       │                 ┌─▼─────▼───┐           │    │             │
        │       │                 │ cancelled │           │    │             │
        │       │                 └─────▲─────┘           │    │             │
        │       │      discard, audited │                 │    │             │
        │    ┌──▼───────────────────────┴─────────────────▼─┐  │             │
        │    │                     dead                     ├──┼────────────►│
        │    └───────────────────────▲──────────────────────┘  │   redrive,  │
        │                            │ exhausted, expired,     │   audited   │
        │                            │ terminal, poison        │             │
        │  not acked, tries left   ┌─┴───────────────────────┐ │             │
        └──────────────────────────┤         sending         │◄┘             │
                                   └─┬──────────────────────┬┘               │
                         ack rule met│                      │ lease ran out, │
                               ┌─────▼─────┐                │ given back,    │
                               │ delivered │                │ or on hold     │
                               └───────────┘                └────────────────┘

A redrive that is spread over time leads from dead to waiting.

An ordered notification (``ordering.py``) that stands behind an unfinished one of its line begins
as *blocked*, and so does one that is redriven. From there it becomes pending (or waiting, when its
own time has not come) once nothing holds it up, or cancelled. A newer one that supersedes it
cancels it anywhere but on the wire.

*Held* is no state: it is what a waiting or pending notification is called while its endpoint
is paused, gone or deleted.
"""

from collections.abc import Mapping
from types import MappingProxyType

from worker.models import State

EDGES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.BLOCKED: frozenset({State.PENDING, State.WAITING, State.CANCELLED}),
        State.WAITING: frozenset({State.PENDING, State.CANCELLED, State.DEAD}),
        State.PENDING: frozenset({State.SENDING, State.CANCELLED, State.DEAD}),
        State.SENDING: frozenset({State.DELIVERED, State.WAITING, State.PENDING, State.DEAD}),
        # A redrive of many is spread over time: most of them wait. An ordered one lines up again.
        State.DEAD: frozenset({State.PENDING, State.WAITING, State.BLOCKED, State.CANCELLED}),
        State.DELIVERED: frozenset(),
        State.CANCELLED: frozenset(),
    }
)

FINAL: frozenset[State] = frozenset(state for state, following in EDGES.items() if not following)


def may_move(frm: State, to: State) -> bool:
    """Tell whether a notification in ``frm`` may ever be moved to ``to`` in one step.

    Staying where one is counts as no move.

    Examples:
        >>> may_move(State.PENDING, State.SENDING)
        True
        >>> may_move(State.DELIVERED, State.PENDING)
        False
    """
    return to in EDGES[frm]
