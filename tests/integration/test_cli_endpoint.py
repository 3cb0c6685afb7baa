"""``paynotify endpoint …`` on both databases."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.office import MASTER_KEY
from tests.receiver import Receiver
from tests.terminal import Terminal

SECRET = "whsec_" + "QUFB" * 8
URL = "https://acme.com/notify?token=abc"


@pytest.fixture
def terminal(
    dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", dsn)
    monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", MASTER_KEY)
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(tmp_path / "data"))
    return Terminal(capsys)


@pytest.fixture(scope="module")
def merchant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("merchant")) as receiver:
        yield receiver


def _add(terminal: Terminal, name: str = "acme", *more: object) -> str:
    said = terminal.ok("endpoint", "add", name, "--merchant", "m-1", "--url", URL, "--json", *more)
    return str(said.json["secret"])


def _add_local(terminal: Terminal, merchant: Receiver, path: str) -> None:
    local = ("--allow-http", "--allow-port", merchant.port, "--allow-network", "127.0.0.0/8")
    terminal.ok(
        *("endpoint", "add", "local", "--merchant", "m", "--url", merchant.url(path), *local),
        *("--ack", "2xx exact:success", "--timeout", "1"),
    )


def test_a_secret_is_shown_once_and_never_again(terminal: Terminal) -> None:
    secret = _add(terminal)
    assert secret.startswith("whsec_")
    for words in (["show", "acme"], ["show", "acme", "--json"], ["list"], ["list", "--json"]):
        said = terminal.ok("endpoint", *words)
        assert secret not in said.out + said.err
        # Legacy merchants keep keys in the query.
        assert "token=abc" not in said.out
        assert "acme" in said.out


@pytest.mark.parametrize("scheme", ["standard-webhooks-v1a", "wechat-v3"])
def test_of_a_key_pair_only_what_verifies_is_shown(terminal: Terminal, scheme: str) -> None:
    merchant = ("--merchant", "m", "--url", "https://acme.com/pay", "--scheme", scheme)
    added = terminal.ok("endpoint", "add", "acme", *merchant)
    again = terminal.ok("endpoint", "rotate-secret", "acme", "--why", "yearly", "--json")
    for said in (added.out, again.json["for_merchant"]):
        assert "whpk_" in said or "BEGIN PUBLIC KEY" in said
        assert "whsk_" not in said
        assert "PRIVATE" not in said
    assert "secret" not in again.json


def test_every_option_reaches_the_endpoint(terminal: Terminal) -> None:
    _add(
        terminal,
        "acme",
        *("--event", "payment.*", "--event", "refund.done"),
        *("--ack", "200 exact:success", "--schedule", "60,300", "--schedule", "refund.*=none"),
        *("--rate", "2.5", "--cap", "7", "--timeout", "5", "--method", "put"),
        *("--content-type", "text/plain", "--terminal-status", "404"),
        *("--allow-http", "--allow-port", "8080", "--allow-network", "10.1.0.0/16"),
    )
    shown = terminal.ok("endpoint", "show", "acme", "--json").json
    assert {name: shown[name] for name in ("events", "ack", "method", "content_type")} == {
        "events": ["payment.*", "refund.done"],
        "ack": "200 exact:success",
        "method": "PUT",
        "content_type": "text/plain",
    }
    assert shown["schedules"] == {"refund.*": [], "*": [60, 300]}
    assert (shown["rate_per_s"], shown["in_flight_cap"], shown["timeout_s"]) == (2.5, 7, 5.0)
    assert shown["allowed"] == {"http": True, "ports": [8080], "networks": ["10.1.0.0/16"]}
    assert shown["terminal_statuses"] == [404]
    assert shown["lanes"][0]["pool"] == "deliver"


def test_an_update_changes_only_what_it_names(terminal: Terminal) -> None:
    _add(terminal, "acme", "--rate", "5", "--allow-http", "--allow-port", "8080")
    words = ("endpoint", "update", "acme", "--why", "asked", "--json")
    after = terminal.ok(*words, "--cap", "9", "--allow-port", "9090").json
    assert (after["rate_per_s"], after["in_flight_cap"]) == (5.0, 9)
    assert after["allowed"] == {"http": True, "ports": [9090], "networks": []}
    after = terminal.ok(*words, "--no-rate", "--allow-nothing").json
    assert after["rate_per_s"] is None
    assert after["allowed"] == {"http": False, "ports": [], "networks": []}


def test_routes_are_added_weighed_pinned_listed_and_removed(terminal: Terminal) -> None:
    _add(terminal)
    words = ("endpoint", "route")
    assert "but its own URL" in terminal.ok(*words, "list", "acme").out
    said = terminal.ok(*words, "add", "acme", "https://b.acme.com/cb?key=1", "--why", "spare")
    assert "route 1" in said.out
    said = terminal.ok(*words, "weight", "acme", "1", "50", "--why", "share", "--json")
    assert [route["weight"] for route in said.json["routes"]] == [100, 50]
    assert "key=1" not in said.out
    terminal.ok(*words, "pin", "acme", "1", "--why", "tonight")
    shown = terminal.ok("endpoint", "show", "acme", "--json").json
    assert [(route["no"], route["weight"], route["percent"]) for route in shown["routes"]] == [
        (0, 100, 0.0),
        (1, 50, 100.0),
    ]
    assert shown["pinned"] == 1
    listed = terminal.ok(*words, "list", "acme").out
    assert "sound, pinned" in listed
    assert "key=1" not in listed
    assert "unpin" in terminal(*words, "remove", "acme", "1", "--why", "closed").err
    terminal.ok(*words, "unpin", "acme", "--why", "done")
    assert "STANDING" in terminal.ok("endpoint", "show", "acme").out
    terminal.ok(*words, "remove", "acme", "1", "--why", "closed")
    refused = terminal(*words, "add", "acme", "https://127.0.0.1/", "--why", "spare")
    assert (refused.code, "IP address" in refused.err) == (1, True)


def test_pause_resume_and_delete_say_what_became_of_it(terminal: Terminal) -> None:
    _add(terminal)
    assert "paused" in terminal.ok("endpoint", "pause", "acme", "--why", "moving").out
    shown = terminal.ok("endpoint", "show", "acme", "--json").json
    assert (shown["state"], shown["state_reason"]) == ("paused", "moving")
    assert "active again" in terminal.ok("endpoint", "resume", "acme", "--why", "back").out
    terminal.ok("endpoint", "delete", "acme", "--why", "gone", "--yes")
    assert "no endpoints" in terminal.ok("endpoint", "list").out
    assert "deleted" in terminal.ok("endpoint", "list", "--deleted").out
    again = terminal("endpoint", "resume", "acme", "--why", "back")
    assert again.code == 1
    assert "endpoint acme is deleted" in again.err


def test_a_change_without_a_reason_is_refused(terminal: Terminal) -> None:
    _add(terminal)
    said = terminal("endpoint", "pause", "acme")
    assert said.code == 1
    assert "why" in said.err


def test_a_secret_comes_from_standard_input_never_from_the_arguments(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("endpoint", "add", "acme", "--merchant", "m", "--url", URL, "--json", "--secret")
    refused = terminal(*words, SECRET)
    assert refused.code == 1
    assert "process list" in refused.err
    assert SECRET not in refused.err
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{SECRET}\n"))
    assert terminal.ok(*words, "-").json["secret"] == SECRET


def test_a_rotated_secret_is_a_new_one(terminal: Terminal) -> None:
    first = _add(terminal)
    words = ("endpoint", "rotate-secret", "acme", "--why", "yearly", "--json")
    said = terminal.ok(*words, "--overlap", "2h").json
    assert said["secret"].startswith("whsec_")
    assert said["secret"] != first
    assert said["overlap_s"] == 7200
    assert "signs along for 1.5 h" in terminal.ok(*words[:-1], "--overlap", "90m").out
    assert "the old one ends now" in terminal.ok(*words[:-1], "--overlap", "0m").out
    for bad in ("73h", "soon", "-1h"):
        assert terminal(*words, "--overlap", bad).code == 1


def test_a_test_message_is_signed_sent_and_judged(terminal: Terminal, merchant: Receiver) -> None:
    _add_local(terminal, merchant, "/success")
    said = terminal.ok("endpoint", "test", "local")
    assert said.out.startswith("acked (HTTP 200) after ")
    [got] = [r for r in merchant.ledger() if r.message_id in said.out]
    assert '"type":"paynotify.ping"' in (got.body or "")
    assert got.headers["webhook-signature"].startswith("v1,")


def test_a_test_message_goes_through_the_route_that_is_named(
    terminal: Terminal, merchant: Receiver
) -> None:
    _add_local(terminal, merchant, "/503")
    words = ("endpoint", "route", "add", "local", merchant.url("/success"))
    terminal.ok(*words, "--why", "a spare")
    assert terminal("endpoint", "test", "local").code == 1
    assert terminal.ok("endpoint", "test", "local", "--route", "1").out.startswith("acked")
    assert "it has 0, 1" in terminal("endpoint", "test", "local", "--route", "2").err


@pytest.mark.parametrize(("path", "code"), [("/503", "not_acked"), ("/hang", "timeout")])
def test_a_test_message_that_is_not_acknowledged_fails(
    terminal: Terminal, merchant: Receiver, path: str, code: str
) -> None:
    _add_local(terminal, merchant, path)
    said = terminal("endpoint", "test", "local", "--json")
    assert (said.code, said.json["code"]) == (1, code)


def test_a_test_message_tells_nothing_about_addresses_inside(
    terminal: Terminal, merchant: Receiver
) -> None:
    _add_local(terminal, merchant, "/success")
    # Named, so that only its address, at the socket, betrays where it leads.
    url = merchant.url("/success", host="localhost")
    port = ("--allow-port", merchant.port, "--allow-http")
    network = ("--allow-network", "10.9.0.0/16")
    terminal.ok("endpoint", "update", "local", "--why", "x", "--url", url, *network, *port)
    said = terminal("endpoint", "test", "local")
    assert said.code == 1
    assert said.out.startswith("target_refused after ")
    assert "127.0.0.1" not in said.out + said.err
    assert "::1" not in said.out + said.err
