"""A bad entry is refused with its line and the reason; the rest of the file works."""

from decimal import Decimal
from pathlib import Path

import pytest

from schedules import alert_rules
from schedules.measures import MEASURES
from tests.alarms import CHOSEN, SHIPPED, written
from worker.errors import SettingsError

LOG = '[[sink]]\nname = "log"\nkind = "log"\n'
GOOD = '[[rule]]\nname = "good"\nmeasure = "backlog"\nthreshold = 5\n'


def test_the_shipped_file_is_right_and_tells_the_log() -> None:
    book = alert_rules.load(CHOSEN, SHIPPED)
    assert book.refused == ()
    assert set(book.sinks) == {"log"}
    assert {rule.measure.name for rule in book.rules} == set(MEASURES)
    assert book.names == frozenset(rule.name for rule in book.rules)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('measure = "backlgo"', "line 9: measure: no measure 'backlgo'; did you mean backlog?"),
        ("treshold = 5", "line 11: treshold: no such field; did you mean threshold?"),
        ('threshold = "many"', "line 11: threshold: must be a number"),
        ("threshold = true", "line 11: threshold: must be a number"),
        ("threshold = [90, 50]", "line 11: threshold: several must rise"),
        ("threshold = 0", "line 11: threshold: must be above 0"),
        ("threshold = 5\nwindow_s = 5", "line 12: window_s: must be"),
        ('threshold = 5\nseverity = "bad"', "line 12: severity: must be one of 'info', 'warning'"),
        ('threshold = 5\nsinks = ["lug"]', "line 12: sinks: no sink 'lug'; did you mean log?"),
        ('name = "x"\nthreshold = 5', "line 11: not valid TOML: Cannot overwrite a value"),
        ("threshold = ", "line 11: not valid TOML: Invalid value"),
        ("", "line 8: threshold: is missing"),
    ],
)
def test_a_bad_rule_is_refused_with_its_line_and_the_others_work(
    lines: str, said: str, tmp_path: Path
) -> None:
    measure = "" if "measure" in lines else 'measure = "backlog"'
    head = f'[[rule]]\nname = "bad"\n{measure}'
    if "measure" in lines:
        head, lines = f'[[rule]]\n{lines}\nname = "bad"', "threshold = 5"
    book = written(tmp_path, f"{LOG}{GOOD}{head}\n{lines}\n")
    assert [rule.name for rule in book.rules] == ["good"]
    assert any(said in problem for problem in book.refused), book.refused
    # What is no TOML may hide the head of another rule.
    hides = "not valid TOML" in said
    assert book.names == (None if hides else frozenset({"good", "bad"}))


def test_money_is_compared_as_whole_minor_units(tmp_path: Path) -> None:
    rule = '[[rule]]\nname = "m"\nmeasure = "amount_waiting"\nthreshold = 100.50\n'
    assert "whole minor units" in written(tmp_path, LOG + rule).refused[0]
    share = GOOD.replace("backlog", "failing_share").replace("= 5", "= 0.1")
    [rule_read] = written(tmp_path, LOG + share).rules
    assert rule_read.thresholds == (Decimal("0.1"),)


def test_two_of_one_name_and_unknown_kinds_are_refused(tmp_path: Path) -> None:
    book = written(tmp_path, f"{LOG}{LOG}{GOOD}{GOOD}[[rul]]\nname = 'x'\n")
    assert len(book.rules) == 1
    assert [problem.partition(":")[0] for problem in book.refused] == [
        "alerts.toml line 4",
        "alerts.toml line 15",
        "alerts.toml rule good, line 12",
    ]


def test_a_rule_whose_name_cannot_be_read_keeps_alerts_from_being_retired(tmp_path: Path) -> None:
    assert written(tmp_path, f'{LOG}[[rule]]\nmeasure = "backlog"\n').names is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('kind = "mail"', "does not match any of the expected tags"),
        ('kind = "apprise"', "give exactly one of url_env and url_file"),
        ('kind = "apprise"\nurl_env = "PAYNOTIFY_MAIL"', "begins like our own settings"),
        ('kind = "apprise"\nurl = "mailto://a:b@c.de"', "line 4: url: no such field"),
        ('kind = "webhook"\nurl = "http://a.com"\nsecret_env = "S"', "starts with http://"),
        ('kind = "webhook"\nurl = "https://10.0.0.1"\nsecret_env = "S"', "is an IP address"),
    ],
)
def test_a_bad_sink_is_refused_without_showing_its_address(
    entry: str, said: str, tmp_path: Path
) -> None:
    book = written(tmp_path, f'[[sink]]\nname = "x"\n{entry}\n')
    assert not book.sinks
    assert any(said in problem for problem in book.refused), book.refused
    assert "a:b@c.de" not in "".join(book.refused)


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        alert_rules.load(CHOSEN, tmp_path / "none.toml")
