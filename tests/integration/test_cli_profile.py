"""``paynotify profile …``, ``endpoint --profile``, ``show --request``: from choice to request."""

import json
from pathlib import Path

import pytest

from tests.office import MASTER_KEY, office, until
from tests.platform_merchant import PlatformMerchant
from tests.terminal import Terminal

ORDER = "A20260131-7"
KEY = "a-key-of-the-shop"
OWN = """
[profiles.card-shop]
about = "our card shops"
extends = "epay"
timeout_s = 5

[profiles.card-shop.fields]
money = "payload.amount | trimmed"
"""


@pytest.fixture
def terminal(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    file = tmp_path / "paynotify.toml"
    file.write_text(OWN)
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(file))
    monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", dsn)
    monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", MASTER_KEY)
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(tmp_path / "data"))
    return Terminal(capsys)


def test_profiles_are_listed_and_shown(terminal: Terminal) -> None:
    listed = terminal.ok("profile", "list").out
    assert "card-shop" in listed
    assert "jeepay" in listed
    shown = terminal.ok("profile", "show", "card-shop", "--json").json
    assert shown["ready"] is False
    assert (shown["scheme"], shown["method"], shown["encoding"]) == ("epay", "GET", "query")
    assert shown["fields"]["money"] == "payload.amount | trimmed"
    epay = terminal.ok("profile", "show", "epay").out
    assert "TRADE_SUCCESS" in epay
    assert "*: 60, 120, 960, 2160" in epay
    said = terminal("profile", "show", "epaj")
    assert said.code == 1
    assert "did you mean epay?" in said.err


def test_a_wrong_table_is_said_by_its_key_and_the_others_go_on(
    terminal: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "paynotify.toml").write_text(OWN.replace("trimmed", "trimed"))
    said = terminal("profile", "list")
    assert "profiles.card-shop.fields.money: no step 'trimed'" in said.err
    assert "jeepay" in said.out
    said = terminal("check-config")
    assert said.code == 1
    assert "profiles.card-shop.fields.money" in said.err
    said = terminal(
        *("endpoint", "add", "x", "--merchant", "m", "--url", "https://a.com/"),
        *("--profile", "card-shop"),
    )
    assert "profiles.card-shop.fields.money" in said.err


def test_an_endpoint_made_from_a_profile_keeps_all_of_it_and_its_request_can_be_shown(
    terminal: Terminal, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", _Said(KEY))
    shop = {"platform": "epay", "key": KEY, "order_no": ORDER, "amount": "12.9"}
    with PlatformMerchant({"shop": shop}) as merchant:
        terminal.ok(
            *("endpoint", "add", "shop", "--merchant", "m-1", "--url", merchant.url("shop")),
            *("--allow-http", "--allow-port", merchant.port, "--allow-network", "127.0.0.0/8"),
            *("--profile", "card-shop", "--field", "pid==1001", "--secret", "-"),
        )
        # From here on nobody needs the table.
        (tmp_path / "paynotify.toml").write_text("")
        payload = {"amount": 1290, "currency": "CNY", "subject": "card 4111 1111 1111 1111"}
        said = terminal.ok(
            *("enqueue", "--merchant", "m-1", "--type", "payment.succeeded", "--key", "k"),
            *("--order", ORDER, "--payload", json.dumps(payload), "--json"),
        )
        [number] = said.json["ids"]
        with office(dsn):
            line = merchant.next()
            assert line["refused"] == ""
            until(lambda: "delivered" in terminal.ok("show", str(number)).out)

    # A later change does not touch what was sent.
    terminal.ok("endpoint", "update", "shop", "--why", "x", "--field", "pid==2002")
    shown = terminal.ok("endpoint", "show", "shop", "--json").json
    assert (shown["profile"], shown["fields"]["pid"]) == ("card-shop", "=2002")
    assert shown["fields"]["money"] == "payload.amount | trimmed"
    said = terminal.ok("show", str(number), "--request", "1")
    assert said.out.startswith(f"GET http://127.0.0.1:{merchant.port}/shop?***&pid=1001&")
    assert "money=12.9&" in said.out
    assert "sign=***&sign_type=MD5" in said.out
    assert "secret 1, endpoint at version 1" in said.err
    sign = line["target"].partition("&sign=")[2][:32]
    assert len(sign) == 32
    for words in ((), ("--json",), ("--payload",)):
        again = terminal.ok("show", str(number), "--request", "0", *words)
        assert sign not in again.out
        assert KEY not in again.out
        assert ("4111+1111" in again.out) is (words == ("--payload",))
    said = terminal("show", str(number), "--request", "9")
    assert said.code == 1
    assert "no attempt" in said.err


def test_an_endpoint_changes_from_one_profile_to_another(terminal: Terminal) -> None:
    add = ("endpoint", "add", "shop", "--merchant", "m", "--url", "https://a.com/")
    terminal.ok(*add, "--profile", "jeepay", "--option", "charset=gbk")
    shown = terminal.ok("endpoint", "show", "shop", "--json").json
    assert (shown["scheme"], shown["options"]) == ("jeepay", {"charset": "gbk"})
    update = ("endpoint", "update", "shop", "--why", "moved")
    terminal.ok(*update, "--profile", "plain-hmac", "--ack", "204")
    shown = terminal.ok("endpoint", "show", "shop", "--json").json
    assert (shown["scheme"], shown["encoding"], shown["fields"]) == ("plain-hmac", "raw", {})
    assert (shown["options"], shown["ack"]) == ({}, "204")
    for words, says in (
        (("--option", "charset=gbk"), "options.charset: is no option of plain-hmac"),
        (("--field", "a==1"), "fields: are of no use to raw payloads"),
        (("--option", "charset"), "--option: 'charset' has no '='"),
        (("--profile", "nobody"), "no profile 'nobody'"),
        # The key that was made for JeePay has letters beyond f.
        (("--option", "key=hex"), "is not hex, as options.key says it is"),
    ):
        said = terminal(*update, *words)
        assert said.code == 1
        assert says in said.err


class _Said:
    """Standard input that says one thing."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self, _most: int = -1) -> str:
        return self._text

    def isatty(self) -> bool:
        return False
