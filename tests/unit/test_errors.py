"""Errors: one tree, and each of them survives the trip between two processes."""

import inspect
import pickle

import pytest

from worker import errors
from worker.errors import PaynotifyError

_ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BaseException)
]


def _example(kind: type[PaynotifyError]) -> PaynotifyError:
    """Make one of its kind with a different value for each argument."""
    if not inspect.isfunction(kind.__init__):
        return kind("a whole sentence")
    _, *parameters = inspect.signature(kind.__init__).parameters.values()
    return kind(*[7 if p.annotation is int else f"{p.name} of it" for p in parameters])


@pytest.mark.parametrize("kind", _ALL)
def test_an_error_survives_pickling_with_its_facts(kind: type[PaynotifyError]) -> None:
    error = _example(kind)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error) != ""
    assert vars(back) == vars(error)
    assert back.args == error.args


@pytest.mark.parametrize("kind", _ALL)
def test_an_error_belongs_to_the_tree_and_is_drawn_in_it(kind: type[PaynotifyError]) -> None:
    assert issubclass(kind, PaynotifyError)
    assert kind.__name__.endswith("Error")
    assert errors.__doc__
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", _ALL)
def test_an_error_says_every_fact_it_carries(kind: type[PaynotifyError]) -> None:
    error = _example(kind)
    said = str(error)
    for name, value in vars(error).items():
        if name not in ("problems", "code"):
            assert str(value) in said


def test_settings_problems_stand_on_lines_of_their_own() -> None:
    assert str(errors.SettingsError("one", "two")) == "one\ntwo"
