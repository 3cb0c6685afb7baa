"""Settings: one list of them, every mistake named at once, and the file says what the code does."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
from pydantic.fields import FieldInfo

from worker import settings
from worker.bootstrap import ROOT
from worker.errors import SettingsError
from worker.settings import Settings

_FILE = ROOT / "config" / "paynotify.toml"
# Checked by a validator, so the field itself knows no bounds.
_OWN_RANGES = {
    "schedule_s": "at most 50 waits of 1 to 2592000 seconds",
    "terminal_statuses": "100 to 999 each",
}
_UNITS = {"_s": "seconds", "_ms": "milliseconds", "_bytes": "bytes"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One setting as the file shows it: the comment above it, and its value."""

    comment: str
    value: Any


def _entries() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    comment: list[str] = []
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        shown = re.fullmatch(r"# ([a-z_]+) = (.*)", line)
        if shown:
            value = tomllib.loads(f"value = {shown[2]}")["value"]
            assert shown[1] not in found, f"{shown[1]} stands twice in {_FILE}"
            found[shown[1]] = Entry(comment=" ".join(comment), value=value)
            comment = []
        elif line.startswith("# "):
            comment.append(line.removeprefix("# "))
        else:
            comment = []
    return found


def _range(name: str, field: FieldInfo) -> str | None:
    if name in _OWN_RANGES:
        return f"Range: {_OWN_RANGES[name]}"
    if get_origin(field.annotation) is Literal:
        return f"One of: {', '.join(get_args(field.annotation))}."
    least = most = None
    more = ""
    for bound in field.metadata:
        if isinstance(bound, annotated_types.Ge):
            least = bound.ge
        elif isinstance(bound, annotated_types.Gt):
            more = f"Range: more than {bound.gt}, at most "
        elif isinstance(bound, annotated_types.Le):
            most = bound.le
    if most is None:
        return None
    return f"{more}{most}" if more else f"Range: {least} to {most}"


def test_the_file_lists_every_setting_and_no_other() -> None:
    assert sorted(_entries()) == sorted(Settings.model_fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_file_shows_default_range_and_unit(name: str) -> None:
    field, entry = Settings.model_fields[name], _entries()[name]
    if field.default is None:
        assert "Default: none, " in entry.comment
    else:
        shown = tuple(entry.value) if isinstance(entry.value, list) else entry.value
        default = str(field.default) if isinstance(field.default, Path) else field.default
        assert shown == default
        assert type(shown) is type(default)
    bounds = _range(name, field)
    if bounds:
        assert re.search(re.escape(bounds) + r"\b|" + re.escape(bounds) + "$", entry.comment)
    unit = next((word for end, word in _UNITS.items() if name.endswith(end)), None)
    if unit:
        assert re.search(rf"Range: .*{unit}\.$", entry.comment)
    assert len(entry.comment) > 30, "says what the setting does"


@pytest.mark.parametrize(
    ("name", "most"),
    [
        (name, bound.le)
        for name, field in Settings.model_fields.items()
        for bound in field.metadata
        if isinstance(bound, annotated_types.Le)
    ],
)
def test_a_number_above_its_range_is_refused(
    name: str, most: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"PAYNOTIFY_{name.upper()}", str(most + 1))
    with pytest.raises(SettingsError) as caught:
        settings.load(_empty(tmp_path))
    assert f"{name} (PAYNOTIFY_{name.upper()}): " in str(caught.value)


def test_the_file_with_every_line_taken_in_is_a_valid_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", _FILE.read_text(encoding="utf-8"))
    changed = tmp_path / "all.toml"
    changed.write_text(text, encoding="utf-8")
    assert settings.load(changed).broker_url is not None


def test_nothing_configured_gives_the_defaults_and_the_embedded_pair() -> None:
    chosen = settings.load()
    assert chosen.sqlite
    assert chosen.embedded_broker
    assert chosen.batch_size == 400


def test_the_environment_goes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.toml"
    file.write_text("batch_size = 10\nslots = 2\nschedule_s = [5, 6]\n")
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(file))
    monkeypatch.setenv("PAYNOTIFY_BATCH_SIZE", "20")
    monkeypatch.setenv("PAYNOTIFY_TERMINAL_STATUSES", "400, 404")
    chosen = settings.load()
    assert (chosen.batch_size, chosen.slots) == (20, 2)
    assert (chosen.schedule_s, chosen.terminal_statuses) == ((5, 6), (400, 404))


def test_all_problems_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.toml"
    file.write_text('batch_size = 0\nlog_level = "loud"\nbatchsize = 3\n')
    monkeypatch.setenv("PAYNOTIFY_LEASE_S", "soon")
    monkeypatch.setenv("PAYNOTIFY_TIMEOUTS", "3")
    with pytest.raises(SettingsError) as caught:
        settings.load(file)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for part in (
        "batch_size (PAYNOTIFY_BATCH_SIZE): ",
        "log_level (PAYNOTIFY_LOG_LEVEL): ",
        "lease_s (PAYNOTIFY_LEASE_S): ",
        f"{file}: batchsize: no such setting; did you mean batch_size?",
        "PAYNOTIFY_TIMEOUTS: no such setting; did you mean PAYNOTIFY_TIMEOUT_S?",
    ):
        assert part in told


@pytest.mark.parametrize("half", ["batch_size = ", "[", 'broker_url = "redis://', "slots 4"])
def test_a_half_written_file_is_one_clear_sentence(half: str, tmp_path: Path) -> None:
    file = tmp_path / "half.toml"
    file.write_text(half)
    with pytest.raises(SettingsError, match=r"half\.toml: not valid TOML: ") as caught:
        settings.load(file)
    assert len(caught.value.problems) == 1


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYNOTIFY_CONFIG", "/nowhere/paynotify.toml")
    with pytest.raises(SettingsError, match=r"/nowhere/paynotify\.toml: cannot be read"):
        settings.load()


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"binary\.toml: not valid TOML"):
        settings.load(tmp_path / "binary.toml")


def test_a_configured_database_needs_a_master_key_except_for_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", "postgres://me:s3cret@db/pay")
    with pytest.raises(SettingsError, match="PAYNOTIFY_MASTER_KEY") as caught:
        settings.load(_empty(tmp_path))
    assert "s3cret" not in str(caught.value)
    host = settings.load(_empty(tmp_path), host=True)
    assert host.database_dsn == "postgresql+psycopg://me:s3cret@db/pay"
    assert "s3cret" not in repr(host)


def test_a_lease_shorter_than_two_timeouts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYNOTIFY_LEASE_S", "30")
    with pytest.raises(SettingsError, match="lease_s is 30 but must be at least twice timeout_s"):
        settings.load()


def test_flower_refuses_to_be_reachable_without_a_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAYNOTIFY_FLOWER_ADDRESS", "0.0.0.0")
    with pytest.raises(SettingsError, match="set flower_basic_auth"):
        settings.load()
    monkeypatch.setenv("PAYNOTIFY_FLOWER_BASIC_AUTH", "ops:s3cret")
    assert "s3cret" not in repr(settings.load())


@pytest.mark.parametrize("text", ["0", "60,-1", ",".join(["60"] * 51), "60,soon"])
def test_a_schedule_that_makes_no_sense_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYNOTIFY_SCHEDULE_S", text)
    with pytest.raises(SettingsError, match="PAYNOTIFY_SCHEDULE_S"):
        settings.load()


@pytest.mark.parametrize("text", ["99", "1000", "404,teapot"])
def test_a_terminal_status_that_is_none_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYNOTIFY_TERMINAL_STATUSES", text)
    with pytest.raises(SettingsError, match="PAYNOTIFY_TERMINAL_STATUSES"):
        settings.load()


def test_a_home_folder_is_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.load().data_dir == tmp_path / ".local" / "share" / "paynotify"


def _empty(folder: Path) -> Path:
    file = folder / "empty.toml"
    file.write_text("")
    return file
