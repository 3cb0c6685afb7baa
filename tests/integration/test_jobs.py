"""Jobs as a worker keeps them: made once, and anew when the files they are made of were edited."""

from pathlib import Path

import pytest

from schedules.deadline import Deadline
from schedules.jobs import Jobs
from tests.office import office
from worker.errors import BadFieldError, SettingsError


def test_an_edit_of_the_channels_is_picked_up_and_a_bad_one_is_named(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paynotify.toml").write_text("")
    channels = tmp_path / "channels.toml"
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(tmp_path / "paynotify.toml"))
    with office(dsn, start=False) as working:
        jobs = Jobs(working.desk, "w")
        first = jobs._sweep("status-reconciliation", {})
        assert jobs._sweep("status-reconciliation", {}) is first
        channels.write_text("[channels.bank]\n")
        with pytest.raises(SettingsError, match=r"bank.*adapter"):
            jobs.run("status-reconciliation", {}, Deadline(5))
        channels.write_text("")
        assert jobs._sweep("status-reconciliation", {}) is not first


def test_arguments_that_a_job_does_not_take_are_named(dsn: str) -> None:
    with office(dsn, start=False) as working:
        jobs = Jobs(working.desk, "w")
        with pytest.raises(BadFieldError, match=r"'days'; retention takes none"):
            jobs.run("retention", {"days": 3}, Deadline(5))
