"""Reading the cron table: each line by itself, the bad ones refused with number and reason."""

from pathlib import Path

import pytest

from schedules import crontable, jobs
from schedules.catch_up import CatchUp
from schedules.crontable import Table
from worker.bootstrap import ROOT
from worker.errors import BadFieldError

_GOOD = '[[schedule]]\nname = "good"\ncron = "* * * * *"\njob = "a"\n'


def _check(name: str) -> None:
    if name not in ("a", "b"):
        raise BadFieldError("job", f"{name!r} is none")


def _read(text: str) -> Table:
    return crontable.read(text, check_job=_check)


def test_a_line_is_read_with_everything_it_says() -> None:
    [line] = _read(
        '# words\n\n[[schedule]] # more\nname = "nightly"\ncron = "30 2 * * *"\n'
        'zone = "Asia/Shanghai"\njob = "b"\narguments = { days = 3, names = ["x"] }\n'
        'catch_up = "all"\ncatch_up_limit = 7\ntime_limit_s = 60\nenabled = false\n'
    ).lines
    assert line.line_no == 3
    assert (line.name, line.job, line.enabled, line.time_limit_s) == ("nightly", "b", False, 60)
    assert (line.cron.expression, line.cron.zone) == ("30 2 * * *", "Asia/Shanghai")
    assert line.arguments == '{"days": 3, "names": ["x"]}'
    assert (line.policy.catch_up, line.policy.limit) == (CatchUp.ALL, 7)


def test_what_is_left_out_has_a_default() -> None:
    [line] = _read(_GOOD).lines
    assert (line.cron.zone, line.arguments, line.enabled, line.time_limit_s) == (
        *("UTC", "{}", True, 300),
    )
    assert (line.policy.catch_up, line.policy.limit) == (CatchUp.ONCE, 10)


@pytest.mark.parametrize(
    ("bad", "number", "reason"),
    [
        ('name = "x"\ncron = "61 * * * *"\njob = "a"', 7, "cron: '61 * * * *' is no cron expr"),
        ('name = "x"\ncron = "* * * * *"\njob = "a"\nzone = "Mars"', 9, "zone: 'Mars' is unknown"),
        ('name = "x"\ncron = "* * * * *"\njob = "c"', 8, "job: 'c' is none"),
        ('name = "x"\ncron = "* * * * *"', 5, "job: is missing"),
        ('cron = "* * * * *"\njob = "a"', 5, "name: is missing"),
        ('name = "Bad Name"\ncron = "* * * * *"\njob = "a"', 6, "name: must be 1 to 63"),
        ('name = "good"\ncron = "* * * * *"\njob = "a"', 6, "name: 'good' is taken by line 1"),
        ('name = "x"\ncron = 5\njob = "a"', 7, "cron: must be text"),
        ('name = "x"\ncorn = "* * * * *"', 7, "corn: no such field; did you mean cron?"),
        ('name = "x"\ncron = "* * * * *\njob = "a"', 7, "not valid TOML"),
        ('name = "x"\ncron = "* * * * *"\njob = "a"\nenabled = 1', 9, "enabled: must be true or"),
        ('name = "x"\ncron = "* * * * *"\njob = "a"\ntime_limit_s = true', 9, "a whole number"),
        ('name = "x"\ncron = "* * * * *"\njob = "a"\ntime_limit_s = 0', 9, "is 0, must be 1 to"),
        ('name = "x"\ncron = "* * * * *"\njob = "a"\ncatch_up = "some"', 9, "skip, once or all"),
        ('name = "x"\ncron = "* * * * *"\njob = "a"\ncatch_up_limit = 999', 9, "1 to 200"),
        (
            'name = "x"\ncron = "* * * * *"\njob = "a"\narguments = { on = 2026-01-01 }',
            *(9, "arguments: may hold text"),
        ),
        ('name = "x"\n[other]\ny = 1', 7, "other: stands outside of a [[schedule]]"),
    ],
)
def test_a_bad_line_is_refused_with_number_and_reason_while_the_others_stay(
    bad: str, number: int, reason: str
) -> None:
    last = _GOOD.replace("good", "last")
    table = _read(f"{_GOOD}[[schedule]]\n{bad}\n{last}")
    assert [line.name for line in table.lines] == ["good", "last"]
    [problem] = table.problems
    assert problem.startswith(f"line {number}: ")
    assert reason in problem


def test_what_stands_before_the_first_line_is_refused_too() -> None:
    table = _read(f"cron = 1\n{_GOOD}")
    assert [line.name for line in table.lines] == ["good"]
    assert table.problems == ("line 1: cron: stands outside of a [[schedule]]",)


def test_an_empty_file_has_no_lines_and_nothing_wrong() -> None:
    assert _read("# nothing\n\n") == Table()


def test_the_cron_table_we_ship_is_sound_and_names_each_of_our_jobs() -> None:
    text = (ROOT / "config" / "schedules.toml").read_text(encoding="utf-8")
    known = {*jobs.SWEEPS, *jobs.JOBS}

    def check(name: str) -> None:
        assert name in known

    table = crontable.read(text, check_job=check)
    assert table.problems == ()
    assert {line.job for line in table.lines} == known


def test_a_job_nobody_knows_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadFieldError, match="did you mean 'retention'"):
        jobs.check("retension")
    with pytest.raises(BadFieldError, match="cannot be imported"):
        jobs.check("no.such.module:run")
    with pytest.raises(BadFieldError, match="cannot be imported"):
        jobs.check("json:no_such_function")
    with pytest.raises(BadFieldError, match="is no function"):
        jobs.check("json:__name__")
    jobs.check("json:dumps")


def test_a_job_whose_module_ends_its_process_is_the_mistake_of_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends_at_import.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = '[[schedule]]\nname = "{}"\ncron = "* * * * *"\njob = "{}"\n'
    text = entry.format("bad", "ends_at_import:run") + entry.format("good", "retention")
    table = crontable.read(text, check_job=jobs.check)
    assert [line.name for line in table.lines] == ["good"]
    assert "cannot be imported (SystemExit: 0)" in str(table.problems)
