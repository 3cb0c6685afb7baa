"""Delivery profiles: ready ones, own tables, and what is said about a table that is wrong."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker import endpoint_fields as check
from worker import endpoint_manner as manner
from worker import profiles, settings
from worker.bootstrap import ROOT
from worker.endpoint_rows import config_text, read_config
from worker.errors import BadFieldError, NotFoundError, SettingsError
from worker.models import Encoding, Endpoint
from worker.signers import registry


def endpoint(name: str, shelf: profiles.Shelf | None = None) -> Endpoint:
    profile = (shelf or profiles.read({})).find(name)
    blank = Endpoint(id=1, name="a", merchant="m", url="https://a.example.com/")
    return replace(blank, **check.checked(profile.implied, timeout_min_s=1.0))


@pytest.mark.parametrize("name", sorted(profiles.ready()))
def test_a_ready_profile_implies_a_sound_endpoint_that_its_row_keeps(name: str) -> None:
    made = endpoint(name)
    manner.check_manner(made)
    assert made.profile == name
    assert profiles.ready()[name].about
    # At the default lease a longer deadline would be refused.
    assert made.timeout_s <= settings.alone().timeout_max_s
    assert replace(made, **read_config(config_text(made))) == made


def test_every_scheme_is_in_a_ready_profile() -> None:
    assert {one.implied["scheme"] for one in profiles.ready().values()} >= set(registry.names())


def test_an_own_table_stands_on_a_ready_one() -> None:
    shelf = profiles.read({
        "my-shop": {
            "extends": "epay",
            "about": "ours",
            "timeout_s": 5,
            "fields": {"money": "payload.amount | trimmed", "param": False, "site": "=7"},
            "options": {"charset": "gbk"},
        }
    })  # fmt: skip
    assert not shelf.problems
    made = endpoint("my-shop", shelf)
    fields = dict(made.fields)
    assert (made.scheme, made.method, made.timeout_s) == ("epay", "GET", 5)
    assert fields["money"] == "payload.amount | trimmed"
    assert "param" not in fields
    assert list(fields)[-1] == "site"
    assert made.options == {"charset": "gbk"}
    assert (
        dict(endpoint("epay").fields)["money"]
        == "payload.amount_minor | else payload.amount | major 2"
    )


def test_an_own_table_may_stand_in_for_a_ready_one_and_on_it() -> None:
    tables = {
        "epay": {"extends": "epay", "timeout_s": 3},
        "child": {"extends": "epay", "ack": "2xx"},
    }
    shelf = profiles.read(tables)
    assert not shelf.problems
    assert endpoint("epay", shelf).timeout_s == 3
    assert endpoint("child", shelf).timeout_s == 3


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (7, "scheme: is missing"),
        ({}, "scheme: is missing; name a signing scheme"),
        ({"scheme": "epai"}, "scheme: no scheme 'epai'; did you mean epay"),
        ({"scheme": "epay"}, "encoding: epay cannot sign raw; it takes form, query"),
        ({"extends": "nobody"}, "extends: 'nobody' is no other profile"),
        ({"extends": "x"}, "extends: 'x' is no other profile"),
        ({"extends": "y"}, "extends: "),
        (
            {"extends": "epay", "time_s": 3},
            "time_s: is no key of a profile; did you mean timeout_s",
        ),
        ({"extends": "epay", "timeout_s": 99}, "timeout_s: is 99"),
        ({"extends": "epay", "ack": "3xx"}, "ack: status 3xx"),
        ({"extends": "epay", "schedule": "soon"}, "schedules[*]: 'soon' is no schedule"),
        ({"extends": "epay", "method": "POST"}, "method: POST cannot carry query"),
        ({"extends": "epay", "encoding": "yaml"}, "encoding: 'yaml' is none"),
        ({"extends": "epay", "fields": {"money": "amount"}}, "fields.money: 'amount' is no source"),
        ({"extends": "epay", "fields": {"money": 1.5}}, "fields.money: must be text"),
        ({"extends": "epay", "fields": ["money"]}, "fields: must be a table"),
        ({"extends": "epay", "zone": "Shanghai"}, "zone: 'Shanghai' is no offset"),
        ({"extends": "epay", "currency": "CNY"}, "currency: 'CNY' is no source"),
        ({"extends": "epay", "options": {"charset": "big5"}}, "options.charset: is 'big5'"),
        ({"extends": "stripe-style", "fields": {"a": "=1"}}, "fields: are of no use to raw"),
        ({"extends": "stripe-style", "encoding": "form"}, "fields: are none"),
        ({"extends": "epay", "scheme": "standard-webhooks"}, "encoding: standard-webhooks cannot"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_by_its_key(table: Any, says: str) -> None:
    shelf = profiles.read({"x": table, "y": {"extends": "x"}}, where="pay.toml: ")
    assert shelf.problems[0].startswith(f"pay.toml: profiles.x.{says}")
    assert "x" not in shelf.profiles
    with pytest.raises(SettingsError, match=r"profiles\.x\."):
        shelf.find("x")


VECTOR = {
    "payload": '{"amount":100,"currency":"CNY","trade_no":"7"}',
    "order_no": "A1",
    "secret": "a-key-of-the-shop",
    "expect": "money=1.00&",
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"expect": "money=1&"}, "vector.expect: stands neither in the URL"),
        ({"secret": ""}, "vector.secret: must be text"),
        ({"at": "now"}, "vector.at: must be a whole number"),
        ({"key": "x"}, "vector.key: there are payload"),
        ({"payload": "{}"}, "fields.money: payload.amount_minor is missing"),
    ],
)
def test_a_table_is_checked_against_its_vector(change: dict[str, object], says: str) -> None:
    shelf = profiles.read({"x": {"extends": "epay", "vector": VECTOR | change}})
    assert bool(shelf.problems) is bool(says)
    assert says in "".join(shelf.problems)
    assert "a-key-of-the-shop" not in "".join(shelf.problems)


def test_a_name_that_is_none_and_tables_that_are_none_are_said() -> None:
    assert profiles.read({"My Shop": {"scheme": "epay"}}).problems[0].startswith("profiles.My Shop")
    assert "must be tables" in profiles.read([1]).problems[0]
    with pytest.raises(NotFoundError, match="did you mean epay"):
        profiles.read({}).find("epaj")


def test_what_is_given_beside_a_profile_goes_first() -> None:
    given = profiles.laid_over(
        profiles.ready()["epay"], {"ack": "2xx", "fields": {"pid": "=1001"}, "events": ["a.b"]}
    )
    assert (given["ack"], given["events"], given["scheme"]) == ("2xx", ["a.b"], "epay")
    assert given["fields"]["pid"] == "=1001"
    assert given["fields"]["out_trade_no"] == "$order_no"


def test_nothing_stays_of_a_profile_when_another_is_chosen() -> None:
    before = endpoint("epay")
    given = profiles.ready()["stripe-style"].implied
    after = replace(before, **check.checked(given, timeout_min_s=1.0))
    manner.check_manner(after)
    assert (after.encoding, after.fields, after.method) == (Encoding.RAW, (), "POST")


def test_own_tables_are_read_from_the_file_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pay.toml"
    file.write_text('batch_size = 7\n[profiles.mine]\nextends = "roncoo"\nack = "2xx"\n')
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(file))
    assert settings.load().batch_size == 7
    assert profiles.load().find("mine").implied["ack"] == "2xx"


def test_fields_that_do_not_fit_an_endpoint_are_refused_by_name() -> None:
    for given, says in (
        ({"encoding": "yaml"}, "encoding"),
        ({"fields": ["a"]}, "fields"),
        ({"options": "a=b"}, "options"),
        ({"profile": "My Shop"}, "name"),
    ):
        with pytest.raises(BadFieldError, match=rf"^{says}: "):
            check.checked(given, timeout_min_s=1.0)  # type: ignore[arg-type]


def test_the_profile_in_the_readme_keeps_its_vector() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```toml\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    shelf = profiles.read(tomllib.loads(block)["profiles"])
    assert shelf.problems == ()
    assert not shelf.find("tea-shops").ready


def test_the_example_in_the_settings_file_is_a_profile() -> None:
    text = (ROOT / "config" / "paynotify.toml").read_text(encoding="utf-8")
    table = re.sub(r"(?m)^# *", "", text[text.index("#   [profiles.my-shop]") :])
    shelf = profiles.read(tomllib.loads(table)["profiles"])
    assert shelf.problems == ()
    assert "param" not in shelf.find("my-shop").implied["fields"]
