"""What was wrong with a value, in words an operator can act on.

Pure. Must never repeat the value: it may be a secret.
"""

from collections.abc import Callable, Mapping
from typing import Any

_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int_parsing": lambda _: "is no whole number; write digits, like 60",
    "int_type": lambda _: "is no whole number; write digits, like 60",
    "int_from_float": lambda _: "must be a whole number, without a point",
    "float_parsing": lambda _: "is no number; write it like 0.5 or 60",
    "float_type": lambda _: "is no number; write it like 0.5 or 60",
    "bool_parsing": lambda _: "must be true or false",
    "bool_type": lambda _: "must be true or false",
    "string_type": lambda _: 'must be text; write it in quotes, like "a"',
    "finite_number": lambda _: "must be a number that ends",
    "greater_than": lambda limits: f"must be more than {limits['gt']}",
    "greater_than_equal": lambda limits: f"must be {limits['ge']} or more",
    "less_than": lambda limits: f"must be less than {limits['lt']}",
    "less_than_equal": lambda limits: f"must be {limits['le']} or less",
    "literal_error": lambda limits: f"must be one of {limits['expected']}",
    "enum": lambda limits: f"must be one of {limits['expected']}",
}


def words(problem: Mapping[str, Any]) -> str:
    """Say what pydantic found.

    Args:
        problem: one of a ValidationError's ``errors()``.

    Examples:
        >>> words({"type": "greater_than_equal", "ctx": {"ge": 1}, "msg": "…"})
        'must be 1 or more'
        >>> words({"type": "value_error", "msg": "Value error, has no scheme"})
        'has no scheme'
    """
    known = _WORDS.get(problem["type"])
    if known is None:
        return str(problem["msg"]).removeprefix("Value error, ")
    return known(problem.get("ctx", {}))
