"""The export of missed notifications: lines, a file that can be gone on with, a signed manifest.

The manifest names the file's SHA-256 and is signed as a callback to the merchant is, with the
endpoint's own scheme and secret, so the merchant checks it with the code it has. Must never leave
half a file under the final name, and never write one that others on the machine can read.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Engine

from worker import csv_text
from worker.endpoint_fields import check_person
from worker.errors import BadFieldError
from worker.missed import Missed, Page, page
from worker.missed_proof import Proof, keep, plain, prove_export
from worker.sealing import Sealer

_COLUMNS = tuple(field.name for field in fields(Missed))


class Form(StrEnum):
    """How rows are written."""

    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is exported; see :func:`worker.missed.page` for the times."""

    endpoint: str
    form: Form
    since: datetime | None = None
    until: datetime | None = None
    cursor: str = ""


def head(form: Form) -> str:
    """Write what stands before the rows."""
    return csv_text.BOM + csv_text.line(_COLUMNS) if form is Form.CSV else ""


def line(row: Missed, form: Form) -> str:
    """Write one row."""
    values = {name: plain(getattr(row, name)) for name in _COLUMNS}
    if form is Form.CSV:
        return csv_text.line(values.values())
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"


def export(
    engine: Engine,
    sealer: Sealer,
    wanted: Wanted,
    *,
    who: str,
    why: str,
    sink: "Sink",
    on_page: Callable[[Page], None] = lambda _: None,
) -> Proof:
    """Write everything that is wanted into a sink, page by page.

    Stopped anywhere, the sink says where to go on. Kept in the audit log at its beginning, with
    what was asked for, and at its end, with what was handed out.

    Args:
        engine: of the database with our tables.
        sealer: opens the endpoint's secret, and signs cursors.
        wanted: of which endpoint, since when, in which form.
        who: kept in the audit log.
        why: kept in the audit log.
        sink: takes the text.
        on_page: called after each page.

    Raises:
        BadFieldError: names the field; nothing was written.
        NotFoundError: no such endpoint.
    """
    who, why = check_person(who, "who"), check_person(why, "why")
    cursor = sink.cursor or wanted.cursor
    # Read before anything is written: who asks wrongly leaves neither a file nor an audit row.
    found = _next(engine, sealer, wanted, cursor)
    facts: dict[str, object] = {
        "since": found.since.isoformat(),
        "until": found.until.isoformat(),
        "form": wanted.form.value,
    }
    keep(engine, "export.missed", found.endpoint, who, why, facts | {"goes_on": bool(cursor)})
    sink.begin(head(wanted.form) if not cursor else "")
    while True:
        sink.write("".join(line(row, wanted.form) for row in found.rows), len(found.rows))
        sink.keep(found.cursor)
        on_page(found)
        if not found.cursor:
            break
        found = _next(engine, sealer, wanted, found.cursor)
    handed = facts | {"rows": sink.rows, "sha256": sink.sha256}
    manifest = prove_export(engine, sealer, found.endpoint, handed, rows=sink.rows)
    keep(engine, "export.missed-done", found.endpoint, who, why, handed)
    sink.end(manifest)
    return manifest


class Sink:
    """Takes an export as text; this one hands it on as it comes.

    Args:
        put: takes text.

    Attributes:
        cursor: where it goes on; empty at the beginning.
        rows: written so far.
    """

    def __init__(self, put: Callable[[str], object]) -> None:
        self._put = put
        self._hash = hashlib.sha256()
        self.cursor = ""
        self.rows = 0

    @property
    def sha256(self) -> str:
        """Of all text so far in UTF-8, hex."""
        return self._hash.hexdigest()

    def begin(self, text: str) -> None:
        """Take what stands before the rows."""
        self.write(text, 0)

    def write(self, text: str, rows: int) -> None:
        """Take some rows."""
        self._hash.update(text.encode())
        self._put(text)
        self.rows += rows

    def keep(self, cursor: str) -> None:
        """Remember where to go on."""
        self.cursor = cursor

    def end(self, manifest: Proof) -> None:
        """Take the proof."""


class FileSink(Sink):
    """Writes ``FILE.part`` and beside it where to go on; renamed when it is whole.

    After a kill the same call goes on behind the last whole page.

    Args:
        file: where the export shall be; ``FILE.manifest.json`` is the proof.
        wanted: what is exported; a part of another export is refused.

    Raises:
        BadFieldError: the file is there, or a part of something else is.
    """

    def __init__(self, file: Path, wanted: Wanted) -> None:
        super().__init__(lambda _: None)
        if not file.name:
            raise BadFieldError("--out", f"{str(file)!r} is no name of a file; add one")
        self._file = file
        self._part = file.with_name(f"{file.name}.part")
        self._state = file.with_name(f"{file.name}.cursor")
        self._proof = file.with_name(f"{file.name}.manifest.json")
        self._of = [wanted.endpoint, wanted.form.value]
        # A proof without its file is of a call that was killed at its very end.
        if file.exists():
            raise BadFieldError("--out", f"{file} is there already; name another file")
        self._size = self._resume() if self._state.exists() else 0
        self._open: int | None = None

    def begin(self, text: str) -> None:
        """Open the part and cut off what was written after the last whole page."""
        new = 0 if self._size else os.O_CREAT | os.O_EXCL
        try:
            if not self._size:
                # Whose it was nobody knows: what is in it may be read by others, or be a link.
                self._part.unlink(missing_ok=True)
            self._open = os.open(self._part, os.O_RDWR | os.O_NOFOLLOW | new, 0o600)
        except OSError as error:
            raise BadFieldError(
                "--out", f"{self._file} cannot be written ({error.strerror})"
            ) from None
        os.ftruncate(self._open, self._size)
        os.lseek(self._open, self._size, os.SEEK_SET)
        super().begin(text)

    def write(self, text: str, rows: int) -> None:
        """Append."""
        assert self._open is not None  # noqa: S101 - for the type checker
        data = memoryview(text.encode())
        self._size += len(data)
        while data:
            data = data[os.write(self._open, data) :]
        super().write(text, rows)

    def keep(self, cursor: str) -> None:
        """Write down where to go on, once the rows are safe."""
        super().keep(cursor)
        assert self._open is not None  # noqa: S101 - for the type checker
        os.fsync(self._open)
        if cursor:
            state = {"of": self._of, "cursor": cursor, "bytes": self._size, "rows": self.rows}
            _replace(self._state, json.dumps(state))

    def end(self, manifest: Proof) -> None:
        """Write the proof, then give the file its name."""
        proof = {"headers": manifest.headers, "body": manifest.body}
        if manifest.url:
            proof["url"] = manifest.url
        _replace(self._proof, json.dumps(proof, ensure_ascii=False, indent=2) + "\n")
        self._part.replace(self._file)
        self._state.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file; the part stays."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _resume(self) -> int:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            size, self.rows, self.cursor = state["bytes"], state["rows"], state["cursor"]
            same = state["of"] == self._of
            with self._part.open("rb") as part:
                done = part.read(size)
            self._hash.update(done)
            same = same and size == len(done)
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise BadFieldError(
                "--out",
                f"{self._state} belongs to another export or is damaged; remove it and "
                f"{self._part}, or name another file",
            )
        return int(size)


def _next(engine: Engine, sealer: Sealer, wanted: Wanted, cursor: str) -> Page:
    # Times like "2h" mean something else at each call; a cursor knows what they were.
    since, until = (None, None) if cursor else (wanted.since, wanted.until)
    return page(engine, sealer, endpoint=wanted.endpoint, since=since, until=until, cursor=cursor)


def _replace(file: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    draft = file.with_name(f".{file.name}.new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
