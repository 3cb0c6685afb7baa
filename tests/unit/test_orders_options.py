"""What may stand in orders.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from schedules import orders_options
from schedules.decisions import LatePayment
from schedules.orders_options import OrdersOptions
from tests.order_tables import GATEWAY, SHOP
from worker.errors import SettingsError

FILE = Path(__file__).resolve().parent.parent.parent / "config" / "orders.toml"


def check(**values: Any) -> OrdersOptions:
    return orders_options.check(values, "orders.toml")


def _shown() -> dict[str, Any]:
    """Read the delivered file with the "# " taken away from everything that is a value."""
    value = re.compile(r"# (\w+ = .*|\[[\w.-]+\].*)").fullmatch
    shown = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        found = value(line)
        if found or not line.startswith("#"):
            shown.append(found[1] if found else line)
    return tomllib.loads("\n".join(shown))


def test_the_delivered_file_says_nothing_and_shows_the_defaults() -> None:
    assert check(**tomllib.loads(FILE.read_text(encoding="utf-8"))) == check()
    shown = _shown()
    defaults = check()
    assert check(policy=shown["policy"], compensation=shown["compensation"]) == defaults
    fields = defaults.policy.model_fields_set | set(type(defaults.policy).model_fields)
    assert set(shown["policy"]) == fields
    assert set(shown["compensation"]) == set(type(defaults.compensation).model_fields)
    assert check(table=shown["table"]).table is not None
    assert check(merchants=shown["merchants"]).merchants["shop-77"].late_payment == "promote"


def test_a_merchant_may_have_a_policy_of_its_own() -> None:
    options = check(policy={"unanswered_after": 3}, merchants={"m": {"late_payment": "promote"}})
    special = options.policy.policy(options.merchants["m"].late_payment)
    assert (special.late_payment, special.unanswered_after) == (LatePayment.PROMOTE, 3)
    assert options.policy.policy().late_payment is LatePayment.HUMAN


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({**SHOP, "fixed": {}}, "currency: give its column"),
        ({**GATEWAY, "fixed": {"currency": "CNY"}}, "currency: give its column"),
        ({**SHOP, "fixed": {"currency": "rmb"}}, "'rmb' is no currency"),
        ({**SHOP, "zone": "Beijing"}, "'Beijing' is no time zone"),
        ({**SHOP, "amount_unit": "yuan"}, "table.amount_unit: must be one of"),
        ({**SHOP, "states": {"pending": ["a"], "paid": ["b"]}}, "closed: is missing"),
        (
            {**SHOP, "states": {"pending": ["a"], "paid": ["a"], "closed": ["c"]}},
            "'a' stands under pending and paid",
        ),
        ({**SHOP, "states": {"payed": ["a"]}}, "table.states.payed"),
        ({k: v for k, v in SHOP.items() if k != "columns"}, "table.columns: is missing"),
        ({**SHOP, "tabel": 1}, "table.tabel: no such option"),
    ],
)
def test_a_wrong_table_is_told_by_its_option(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check(table=table)
    assert sentence in str(caught.value)


def test_an_event_nobody_knows_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"payment\.paid' is none of payment\.succeeded"):
        check(policy={"events": ["payment.paid"]})
