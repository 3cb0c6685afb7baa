"""``paynotify channel``: what an operator sees of the channels."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from schedules.cli_channel import app
from tests.channel_sim import ChannelSim
from worker.errors import NotFoundError, SettingsError


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChannelSim]:
    with ChannelSim(tmp_path_factory.mktemp("channels")) as started:
        started.config(routes=("main", "backup"))
        yield started


@pytest.fixture(autouse=True)
def _configured(sim: ChannelSim, monkeypatch: pytest.MonkeyPatch) -> None:
    sim.forget()
    (sim.folder / "paynotify.toml").touch()
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(sim.folder / "paynotify.toml"))


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def test_the_list_names_every_channel_with_its_routes() -> None:
    said = _run("list")
    assert said.exit_code == 0, said.output
    line = next(line for line in said.output.splitlines() if line.startswith("wechat_v3"))
    assert line.split() == ["wechat_v3", "wechat_v3", "CNY", "main,", "backup", "10/s", "1", "s"]
    listed = json.loads(_run("list", "--json").output)
    assert listed[0]["name"] == "alipay"


def test_a_query_shows_what_the_channel_says(sim: ChannelSim) -> None:
    sim.set_order("alipay", "A7", "paid", 1234, txn_no="T1")
    said = _run("query", "alipay", "A7")
    assert said.exit_code == 0, said.output
    for part in ("alipay, route main", "paid", "12.34 CNY", "T1", "TRADE_SUCCESS"):
        assert part in said.output


def test_a_query_for_scripts_is_json_over_the_chosen_route(sim: ChannelSim) -> None:
    sim.set_order("epay", "A7", "paid", 1234)
    said = json.loads(_run("query", "epay", "A7", "--route", "backup", "--json").output)
    assert (said["route"], said["said"]["state"], said["said"]["amount_minor"]) == (
        "backup",
        "paid",
        1234,
    )
    assert [asked.route for asked in sim.asked()] == ["backup"]


def test_a_query_of_unionpay_says_when_the_order_was_placed(sim: ChannelSim) -> None:
    sim.set_order("unionpay", "A7", "paid", 1234)
    said = _run("query", "unionpay", "A7", "--placed-at", "2026-01-31T08:00:00Z", "--json")
    assert json.loads(said.output)["said"]["state"] == "paid"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("query", "alipai", "A7"), "no channel 'alipai'; did you mean alipay?"),
        (("query", "alipay", "A7", "--route", "third"), "channel alipay has: main, backup"),
    ],
)
def test_a_wrong_name_is_one_sentence(words: tuple[str, ...], said: str) -> None:
    error = _run(*words).exception
    assert isinstance(error, NotFoundError)
    assert said in str(error)


def test_without_channels_the_list_says_where_examples_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paynotify.toml").touch()
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(tmp_path / "paynotify.toml"))
    assert "No channels" in _run("list").output
    (tmp_path / "channels.toml").write_text('[channels.x]\nadapter = "nonsense"\n')
    assert isinstance(_run("list").exception, SettingsError)
