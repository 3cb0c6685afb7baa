"""What the command line prints: nothing that somebody else wrote steers a terminal."""

import json

import pytest

from worker.cli_print import say_json


def test_json_says_everything_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    said = {"subject": "\x9b2J\u202e\x7f\x1b\U000e0001 成功"}
    say_json(said)
    out = capsys.readouterr().out
    assert out.removesuffix("\n").isprintable()
    assert "成功" in out
    assert json.loads(out) == said
