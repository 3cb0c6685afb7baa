"""The rest of the command line: help, check-config, migrate, beat, long work, its own mistakes."""

import signal
import sqlite3
from pathlib import Path

import pytest
import typer.main

from tests.office import MASTER_KEY
from tests.services import RedisServer, free_port
from tests.terminal import Terminal
from worker import cli, database
from worker.cli_pages import Gate
from worker.errors import PaynotifyError


@pytest.fixture
def terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    """On the embedded default, in an empty folder, with a config folder of its own."""
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "paynotify.toml").write_text("")
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(tmp_path / "config" / "paynotify.toml"))
    return Terminal(capsys)


def _commands() -> list[tuple[str, ...]]:
    return _leaves((), typer.main.get_command(cli.commands(cli.SCHEDULES)))


def _leaves(words: tuple[str, ...], command: object) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", None)
    if not inner:
        return [words]
    return [leaf for name, sub in inner.items() for leaf in _leaves((*words, name), sub)]


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(terminal: Terminal, words: tuple[str, ...]) -> None:
    said = terminal.ok(*words, "--help")
    text = " ".join(said.out.split())
    assert "Example" in text
    assert f"paynotify {' '.join(words)}" in text.split("Example", 1)[1]
    assert said.err == ""


def test_the_commands_of_the_product_are_all_there() -> None:
    names = {" ".join(words) for words in _commands()}
    assert names >= {
        *("up", "worker", "beat", "flower", "demo", "migrate", "check-config", "enqueue", "show"),
        *("list", "cancel", "status", "dead list", "dead explain", "dead redrive", "dead discard"),
        *("endpoint add", "endpoint list", "endpoint show", "endpoint pause", "endpoint resume"),
        *("schedule list", "schedule next", "schedule run", "schedule pause", "schedule resume"),
        *("profile list", "profile show", "receiver-kit"),
        *(
            "schedule history",
            "endpoint rotate-secret",
            "endpoint test",
            "endpoint update",
            "endpoint delete",
        ),
    }


def test_beat_without_a_cron_table_is_one_sentence(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYNOTIFY_SCHEDULES_FILE", "/nowhere/schedules.toml")
    said = terminal("beat")
    assert said.code == 1
    assert "/nowhere/schedules.toml is missing" in said.err
    assert "PAYNOTIFY_SCHEDULES_FILE" in said.err


def test_migrate_makes_the_tables_and_again_is_harmless(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", f"sqlite:///{tmp_path / 'own.db'}")
    monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", MASTER_KEY)
    assert "run: paynotify migrate" in terminal("status").err
    assert "are now up to date" in terminal.ok("migrate").out
    assert "were up to date" in terminal.ok("migrate").out
    terminal.ok("status")


def test_check_config_finds_nothing_wrong_with_the_embedded_default(terminal: Terminal) -> None:
    said = terminal.ok("check-config")
    assert said.err == ""
    assert "our own can be started" in said.out
    terminal.ok("status")
    checks = terminal.ok("check-config", "--json").json
    assert checks["ok"] is True
    assert [check["name"] for check in checks["checks"]] == [
        *("settings", "database", "tables", "secrets", "urls", "broker", "cron"),
        *("profiles", "channels", "orders", "alerts"),
    ]


def test_check_config_lists_every_wrong_setting_and_the_cron_table(
    terminal: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "config" / "paynotify.toml").write_text("slots = 0\nlease_s = 1\nbach_size = 3\n")
    (tmp_path / "config" / "schedules.toml").write_text(
        '[[schedule]]\nname = "nightly"\ncron = "61 2 * * *"\njob = "json:dumps"\n'
    )
    said = terminal("check-config")
    assert said.code == 1
    for part in ("slots", "lease_s", "did you mean batch_size", "line 3", "61 2 * * *"):
        assert part in said.err


def test_check_config_reads_how_orders_are_treated(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "config" / "orders.toml"
    file.write_text('[policy]\nlate_payment = "maybe"\n')
    said = terminal("check-config")
    assert said.code == 1
    assert "BAD  orders: orders.toml: policy.late_payment" in said.err


def test_a_folder_for_the_file_of_settings_is_one_sentence(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(tmp_path / "config"))
    said = terminal("status")
    assert said.code == 1
    assert "is a folder; set PAYNOTIFY_CONFIG to a file in it" in said.err


def test_check_config_notices_a_wrong_master_key_and_a_url_that_is_forbidden_now(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("acme", "umbrella"):
        words = ("endpoint", "add", name, "--merchant", "m", "--url", f"https://{name}.com/")
        terminal.ok(*words)
    with sqlite3.connect(tmp_path / "data" / "paynotify.db") as raw:
        raw.execute("UPDATE paynotify_endpoint SET url = 'http://10.0.0.1/' WHERE name = 'acme'")
    raw.close()
    assert "the guard refuses the URLs of 1 endpoints (acme)" in terminal("check-config").err
    monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", "A" * 42 + "E=")
    said = terminal("check-config")
    assert said.code == 1
    assert "does not open the secrets of 2 endpoints (acme, umbrella)" in said.err


def test_check_config_asks_the_broker(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    monkeypatch.setenv("PAYNOTIFY_BROKER_URL", redis_server.url())
    assert "ok   broker" in terminal.ok("check-config").out
    monkeypatch.setenv("PAYNOTIFY_BROKER_URL", redis_server.url(port=free_port()))
    said = terminal("check-config")
    assert said.code == 1
    assert "BAD  broker" in said.err


def test_check_config_refuses_a_redis_that_evicts(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"maxmemory": "50mb", "maxmemory_policy": "allkeys-lru"}
    with RedisServer() as server:
        client = server.connect()
        for name, value in limits.items():
            client.config_set(name.replace("_", "-"), value)
        client.close()
        monkeypatch.setenv("PAYNOTIFY_BROKER_URL", server.url())
        said = terminal("check-config")
    assert said.code == 1
    assert "maxmemory-policy" in said.err


def test_ctrl_c_waits_for_the_page_and_the_second_one_does_not() -> None:
    with Gate() as gate:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            gate.check()
        with pytest.raises(KeyboardInterrupt):
            gate.wait(60)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_without_ctrl_c_the_gate_lets_everything_through() -> None:
    with Gate() as gate:
        gate.check()
        gate.wait(0)


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("worker.cli_input.settings.load", fail)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PaynotifyError("no secret whsec_abcdef here"), "paynotify: no secret whsec_*** here"),
        (PermissionError(13, "Permission denied", "/srv/x"), "/srv/x: Permission denied"),
    ],
)
def test_what_is_not_our_mistake_becomes_one_masked_sentence(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    _fail_with(monkeypatch, error)
    said = terminal("status")
    assert said.code == 1
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1


def test_our_own_mistakes_are_not_hidden(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_with(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        terminal("status")


@pytest.mark.parametrize(
    "dsn",
    [
        *("postgresql://u:s3cret@h:port/db", "sqlite:", "mysql://h/d", "nonsense", ""),
        *("postgresql+nodriver://h/d", "sqlite+nodriver:///x"),
    ],
)
def test_a_database_url_nobody_can_use_is_a_sentence_without_its_password(dsn: str) -> None:
    with pytest.raises(PaynotifyError, match="database_url") as caught:
        database.connect(dsn)
    assert "s3cret" not in str(caught.value)


def test_an_error_of_the_driver_becomes_a_sentence(tmp_path: Path, terminal: Terminal) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "paynotify.db").write_bytes(b"this is no database" * 100)
    said = terminal("status")
    assert said.code == 1
    assert "file is not a database" in said.err
