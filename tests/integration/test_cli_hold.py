"""``paynotify hold``, and the endpoint's word on revival, on the embedded default."""

from pathlib import Path

import pytest

from tests.terminal import Terminal

WHO = ("--who", "li", "--why", "claim 17")


@pytest.fixture
def terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(tmp_path))
    made = Terminal(capsys)
    made.ok("endpoint", "add", "acme", "--merchant", "m", "--url", "https://acme.com/cb")
    return made


def test_holds_are_placed_listed_and_lifted(terminal: Terminal) -> None:
    assert "nothing is on hold" in terminal.ok("hold", "list").out
    assert terminal.ok("hold", "add", "--order", "A7", *WHO).out == "order A7 is on hold\n"
    again = terminal.ok("hold", "add", "--order", "A7", *WHO, "--json")
    assert again.json == {"held": "order A7", "placed": False}
    terminal.ok("hold", "add", "--endpoint", "acme", *WHO)
    shown = terminal.ok("hold", "list", "--json").lines
    assert [(hold["order_no"], hold["endpoint"]) for hold in shown] == [
        ("A7", None),
        (None, "acme"),
    ]
    assert "claim 17" in terminal.ok("hold", "list").out
    terminal.ok("hold", "remove", "--order", "A7", *WHO)
    assert terminal.ok("hold", "remove", "--endpoint", "acme", *WHO, "--json").json == {
        "lifted": "endpoint acme"
    }
    assert terminal.ok("hold", "list", "--json").lines == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("add", *WHO), "give an order or an endpoint"),
        (("add", "--order", "A7", "--endpoint", "acme", *WHO), "give an order or an endpoint"),
        (("add", "--order", "A 7", *WHO), "order: must be 1 to 128 visible"),
        (("add", "--endpoint", "acne", *WHO), "endpoint 'acne'"),
        (("add", "--order", "A7"), "--why: is missing"),
        (("remove", "--order", "A9", *WHO), "legal hold 'A9'"),
    ],
)
def test_a_hold_that_makes_no_sense_is_one_sentence(
    terminal: Terminal, words: tuple[str, ...], part: str
) -> None:
    said = terminal("hold", *words)
    assert said.code == 1
    assert part in said.err
    assert len(said.err.splitlines()) == 1


def test_an_endpoint_opts_out_of_revival_and_in_again(terminal: Terminal) -> None:
    def revive() -> object:
        return terminal.ok("endpoint", "show", "acme", "--json").json["revive"]

    assert revive() is True
    terminal.ok("endpoint", "update", "acme", "--no-revive", "--why", "they asked")
    assert revive() is False
    terminal.ok("endpoint", "update", "acme", "--revive", "--why", "they asked")
    assert revive() is True
    terminal.ok(
        *("endpoint", "add", "umbrella", "--merchant", "m", "--url", "https://acme.com/cb"),
        "--no-revive",
    )
    assert terminal.ok("endpoint", "show", "umbrella", "--json").json["revive"] is False
