"""Values that no command can use are refused by name; in this process, on the embedded default."""

from pathlib import Path

import pytest

from tests.terminal import Terminal

URL = ("--url", "https://acme.com/cb")
ADD = ("endpoint", "add", "new", "--merchant", "m")
WHO = ("--who", "li", "--why", "x")
ENQUEUE = ("enqueue", "--type", "payment.paid", "--key", "k", "--endpoint", "acme")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that the tests of this file share; none of them changes anything in it."""
    return tmp_path_factory.mktemp("refusals")


@pytest.fixture
def terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(folder))
    made = Terminal(capsys)
    made("endpoint", "add", "acme", "--merchant", "m", *URL)
    return made


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((*ADD, "--url", "https://127.0.0.1/"), ("url", "IP address")),
        ((*ADD, "--url", "nonsense"), ("url", "https://")),
        ((*ADD, *URL, "--rate", "nan"), ("rate_per_s", "nan")),
        ((*ADD, *URL, "--cap", "0"), ("in_flight_cap",)),
        ((*ADD, *URL, "--ack", "maybe"), ("ack",)),
        ((*ADD, *URL, "--schedule", "soon"), ("schedule", "60,300,600")),
        ((*ADD, *URL, "--event", "pay ment"), ("events",)),
        ((*ADD, *URL, "--ca", "/etc/passwd"), ("ca_pem", "certificate")),
        ((*ADD, *URL, "--allow-network", "0.0.0.0/0"), ("allowed.networks[0]",)),
        ((*ADD, *URL, "--allow-port", "99999"), ("allowed.ports[0]",)),
        ((*ADD, *URL, "--timeout", "1e9"), ("timeout_s",)),
        ((*ADD, *URL, "--secret", "hunter2"), ("process list",)),
        (("endpoint", "add", "Bad Name", "--merchant", "m", *URL), ("name",)),
        (("endpoint", "add", "acme", "--merchant", "m", *URL), ("taken",)),
        (("show", "msg_nothing"), ("no notification 'msg_nothing'",)),
        (("list", "--since", "999999d"), ("--since",)),
        (("list", "--limit", "0"), ("--limit",)),
        (("list", "--endpoint", "acne"), ("did you mean acme",)),
        ((*ENQUEUE, "--payload", "x" * 100, "--deliver-at", "soon"), ("deliver_at",)),
        ((*ENQUEUE, "--payload", "x", "--header", "Host: evil"), ("Host",)),
        ((*ENQUEUE, "--payload", "x", "--header", "nonsense"), ("--header",)),
        ((*ENQUEUE, "--payload", "x", "--priority", "11"), ("priority",)),
        ((*ENQUEUE, "--payload-file", "/nowhere"), ("--payload-file", "cannot be read")),
        ((*ENQUEUE[:-2], "--merchant", "nobody", "--payload", "x"), ("no merchant 'nobody'",)),
        (("dead", "redrive", *WHO), ("say which",)),
    ],
)
def test_a_value_nobody_can_use_is_named(
    terminal: Terminal, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    said = terminal(*words)
    assert said.code == 1
    assert len(said.err.splitlines()) == 1
    for part in parts:
        assert part in said.err
    assert said.out == ""
    assert [line["name"] for line in terminal.ok("endpoint", "list", "--json").lines] == ["acme"]
    assert terminal.ok("list", "--json").lines == []
