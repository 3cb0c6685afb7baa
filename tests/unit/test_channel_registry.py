"""What ``config/channels.toml`` may say, and what is said about it when it is wrong."""

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from schedules.channels import registry
from worker.bootstrap import ROOT
from worker.errors import NotFoundError, SettingsError

_SHIPPED = ROOT / "config" / "channels.toml"
_EPAY = """
[channels.shop]
adapter = "epay"
currency = "CNY"
url = "https://pay.merchant.com"
pid = "1001"
key_env = "SHOP_KEY"
"""
_BANK = """
[channels.bank]
adapter = "generic_json"
currency = "EUR"
url = "https://api.merchant.com/{order_no}"
order_path = "o"
state_path = "s"
states = { P = "paid" }
amount_path = "a"
amount_unit = "minor"
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key of every name the shipped examples use."""
    folder = tmp_path_factory.mktemp("keys")
    key = rsa.generate_private_key(65_537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for name in ("alipay_app.pem", "wechat_merchant.pem", "unionpay_merchant.pem"):
        (folder / name).write_bytes(private)
    for name in ("alipay_platform.pub", "wechat_platform.pub", "unionpay_platform.pub"):
        (folder / name).write_bytes(public)
    for name in ("epay.key", "generic.key"):
        (folder / name).write_text("secret-of-a-file\n")
    return folder


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "secret-of-the-environment")
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_1")


def _problems(folder: Path, text: str) -> tuple[str, ...]:
    file = folder / "channels.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        registry.load(file)
    shown = str(refused.value)
    assert "secret-of" not in shown
    return refused.value.problems


def test_the_shipped_file_has_no_live_channel() -> None:
    assert registry.load(_SHIPPED) == {}


def test_a_missing_file_has_no_channels(tmp_path: Path) -> None:
    assert registry.load(tmp_path / "channels.toml") == {}


def test_every_shipped_example_works_once_it_is_uncommented(keys: Path) -> None:
    text = _SHIPPED.read_text(encoding="utf-8")
    examples = text[text.index("# [channels.") :]
    live = re.sub(r"(?m)^# ?(?!#)", "", examples)
    (keys / "shipped.toml").write_text(live, encoding="utf-8")
    channels = registry.load(keys / "shipped.toml")
    assert {channel.adapter for channel in channels.values()} == set(registry.adapters())
    assert [route.name for route in channels["wechat"].routes] == ["main", "backup"]
    assert channels["alipay"].breaker.failures == 5


def test_a_route_takes_what_its_channel_says_and_may_say_otherwise(keys: Path) -> None:
    text = _EPAY.replace('url = "https://pay.merchant.com"\n', "")
    text += """
timeout_s = 0.5
breaker_failures = 3
[[channels.shop.routes]]
name = "one"
url = "https://one.merchant.com"
[[channels.shop.routes]]
name = "two"
url = "https://two.merchant.com"
pid = "1002"
"""
    (keys / "routes.toml").write_text(text)
    shop = registry.load(keys / "routes.toml")["shop"]
    assert [route.name for route in shop.routes] == ["one", "two"]
    assert (shop.timeout_s, shop.breaker.failures, shop.currency) == (0.5, 3, "CNY")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"epay"', '"epey"'), "adapter: no adapter 'epey'; did you mean epay?"),
        (("adapter", "adaptor"), "adapter: missing"),
        (('"CNY"', '"cny"'), "currency: String should match"),
        (('currency = "CNY"\n', ""), "currency: missing"),
        (("pid =", "pidd ="), "route main: pidd: no such field; did you mean pid?"),
        (("pid =", "pidd ="), "route main: pid: missing"),
        (("SHOP_KEY", "NO_SUCH"), "key_env: the environment variable NO_SUCH is not set"),
        (("SHOP_KEY", "PAYNOTIFY_KEY"), "key_env: PAYNOTIFY_KEY looks like one of our own"),
        (('key_env = "SHOP_KEY"', 'key_file = "gone"'), "cannot be read (No such file"),
        (('key_env = "SHOP_KEY"', 'key = "secret-of-mine"'), "key: must not stand in this file"),
        (('key_env = "SHOP_KEY"', ""), "key: missing; give key_env (an environment variable)"),
        (('key_env = "SHOP_KEY"', "key_env = 5"), "key_env: must be text"),
        (("key_env", 'key_file = "k"\nkey_env'), "given as key_env and key_file; give one"),
        (("https://", "http://"), "url: starts with http://; use https, or allow http"),
        (("pay.merchant.com", "127.0.0.1"), "url: the host is an IP address"),
        (("pay.merchant.com", "pay.merchant.com:22"), "url: port 22 is not allowed"),
        (("pid", "timeout_s = 0\npid"), "timeout_s: must be"),
        (("pid", 'timeout_s = "5"\npid'), "timeout_s: is no number"),
        (("pid", "rate_per_s = 0\npid"), "rate_per_s: must be"),
        (("pid", "breaker_failures = 1.5\npid"), "breaker_failures: is no whole number"),
        (("pid", 'allowed = { networks = ["10.0.0.5/8"] }\npid'), "has bits behind its prefix"),
        (("pid", "allowed = { htp = true }\npid"), "allowed.htp: no such field"),
        (("pid", 'ca_env = "SHOP_KEY"\npid'), "ca: holds no certificates"),
        (("[channels.shop]", "[channels.'Shop 1']"), "must be a table whose name is lower-case"),
        (("[channels.shop]", "[chanels.shop]"), "chanels: no such field; channels are written"),
        (("pid", "routes = [5]\npid"), "routes.0: Input should be a valid dictionary"),
    ],
)
def test_each_problem_is_named_with_channel_field_and_fix(
    change: tuple[str, str], said: str, tmp_path: Path
) -> None:
    problems = _problems(tmp_path, _EPAY.replace(*change))
    assert any(said in problem for problem in problems), problems
    assert all(problem.startswith("channels.toml: ") for problem in problems)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"paid"', '"payed"'), "states: 'P' is mapped to 'payed'; there are paid,"),
        (("{order_no}", "{order}"), "url: {order} cannot be filled in; there are {order_no}"),
        (("{order_no}", "x"), "neither url nor body has {order_no}"),
        (('"minor"', '"cents"'), "amount_unit: must be one of 'minor' or 'major'"),
        (('"s"', '"s..t"'), "state_path: String should match"),
        (("order_path", 'headers = { A = "{key}" }\norder_path'), "{key} is used but missing"),
        (("order_path", 'headers = { "A:" = "x" }\norder_path'), "is no header of visible"),
        (("order_path", 'refund_url = "https://a.com/"\norder_path'), "refund_url needs"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(
    change: tuple[str, str], said: str, tmp_path: Path
) -> None:
    problems = _problems(tmp_path, _BANK.replace(*change))
    assert any(said in problem for problem in problems), problems


def test_all_problems_of_all_channels_come_at_once(tmp_path: Path) -> None:
    text = _EPAY.replace("pid", "pidd") + _BANK.replace('"paid"', '"payed"').replace("EUR", "€")
    problems = _problems(tmp_path, text)
    assert len([one for one in problems if "channel shop" in one]) == 2
    assert len([one for one in problems if "channel bank" in one]) >= 1


def test_two_routes_of_one_name_are_refused(tmp_path: Path) -> None:
    routes = '[[channels.shop.routes]]\nname = "one"\n' * 2
    assert any("'one' stands twice" in one for one in _problems(tmp_path, _EPAY + routes))


@pytest.mark.parametrize("text", ["channels = 5", "[channels", "\x00"])
def test_a_file_that_is_no_table_is_explained(text: str, tmp_path: Path) -> None:
    assert _problems(tmp_path, text)


def test_a_key_of_another_kind_is_refused_without_being_quoted(keys: Path) -> None:
    text = """
[channels.ali]
adapter = "alipay"
currency = "CNY"
app_id = "2014"
private_key_file = "epay.key"
public_key_file = "alipay_app.pem"
"""
    problems = _problems(keys, text)
    assert any("private_key: is no private key; give an unencrypted PEM" in one for one in problems)
    assert any("public_key: is no public key; give a PEM key" in one for one in problems)


def test_looking_up_a_channel_that_is_not_there_names_the_nearest(keys: Path) -> None:
    (keys / "one.toml").write_text(_EPAY)
    channels = registry.load(keys / "one.toml")
    assert registry.find(channels, "shop").name == "shop"
    with pytest.raises(NotFoundError, match="did you mean shop"):
        registry.find(channels, "shp")
    with pytest.raises(NotFoundError, match="names none yet"):
        registry.find({}, "shop")
