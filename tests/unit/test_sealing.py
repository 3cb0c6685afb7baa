"""Secrets at rest: sealed for one row with one key; the embedded default's key file."""

import base64
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import SecretError, SettingsError
from worker.sealing import Sealer, master_key, read_master_key
from worker.settings import Settings

KEY = bytes(range(32))
ROW = "endpoint/12/secret/3"
SEALER = Sealer(KEY)


@given(st.text(st.characters(codec="utf-8")))
def test_what_is_sealed_opens_again(plain: str) -> None:
    sealed = SEALER.seal(plain, row=ROW)
    assert SEALER.open(sealed, row=ROW) == plain
    if len(plain) > 3:
        assert plain.encode() not in sealed


@given(st.integers(min_value=0), st.integers(0, 7))
def test_any_changed_bit_is_noticed(position: int, bit: int) -> None:
    sealed = bytearray(SEALER.seal("whsec_secret", row=ROW))
    sealed[position % len(sealed)] ^= 1 << bit
    with pytest.raises(SecretError):
        SEALER.open(bytes(sealed), row=ROW)


@pytest.mark.parametrize("row", ["endpoint/12/secret/4", "endpoint/13/secret/3", ""])
def test_another_row_does_not_open(row: str) -> None:
    with pytest.raises(SecretError, match="PAYNOTIFY_MASTER_KEY"):
        SEALER.open(SEALER.seal("x", row=ROW), row=row)


def test_another_key_does_not_open() -> None:
    with pytest.raises(SecretError):
        Sealer(bytes(32)).open(SEALER.seal("x", row=ROW), row=ROW)


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + bytes(12), b"\x02" + bytes(40)])
def test_what_was_never_sealed_is_no_crash(sealed: bytes) -> None:
    with pytest.raises(SecretError):
        SEALER.open(sealed, row=ROW)


def test_no_nonce_comes_twice() -> None:
    assert len({SEALER.seal("x", row=ROW)[1:13] for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(SettingsError, match="PAYNOTIFY_MASTER_KEY"):
        Sealer(bytes(size))


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_read_in_either_alphabet(key: bytes) -> None:
    assert read_master_key(base64.b64encode(key).decode() + "\n") == key
    assert read_master_key(base64.urlsafe_b64encode(key).decode()) == key


@pytest.mark.parametrize("text", ["", "hunter2hunter2", "ä", "AAAA", "!" * 44, "A" * 43 + "=="])
def test_what_is_no_key_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(SettingsError, match="32 bytes in base64") as caught:
        read_master_key(text)
    assert not text or text not in str(caught.value)


def _settings(folder: Path, **more: str) -> Settings:
    return Settings(data_dir=folder, **more)  # type: ignore[arg-type]


def test_a_configured_key_goes_first(tmp_path: Path) -> None:
    text = base64.b64encode(KEY).decode()
    assert master_key(_settings(tmp_path, master_key=text)) == KEY
    assert not list(tmp_path.iterdir())


def test_a_configured_database_needs_a_configured_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PAYNOTIFY_MASTER_KEY"):
        master_key(_settings(tmp_path, database_url="postgresql://h/d"))
    assert not list(tmp_path.iterdir())


def test_the_embedded_default_makes_its_key_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    made = master_key(_settings(folder))
    assert len(made) == 32
    assert master_key(_settings(folder)) == made
    file = folder / "master.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(folder.iterdir()) == [file]


def test_a_wide_umask_opens_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        master_key(_settings(tmp_path / "d"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "d" / "master.key").stat().st_mode) == 0o600


def test_many_that_make_it_at_once_get_the_same_key(tmp_path: Path) -> None:
    start = Barrier(8)

    def make(_: int) -> bytes:
        start.wait()
        return master_key(_settings(tmp_path))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["master.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    master_key(_settings(tmp_path))
    (tmp_path / "master.key").chmod(mode)
    with pytest.raises(SettingsError, match="chmod 600"):
        master_key(_settings(tmp_path))


@pytest.mark.parametrize("content", [b"", b"half a key", b"\xff" * 44])
def test_a_key_file_that_holds_no_key_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "master.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="does not hold a master key"):
        master_key(_settings(tmp_path))
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match="PAYNOTIFY_DATA_DIR"):
        master_key(_settings(tmp_path / "file"))
