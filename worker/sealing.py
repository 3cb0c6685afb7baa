"""Secrets at rest: AES-256-GCM, bound to the row they belong to.

Must never write a key or a secret anywhere but into the sealed bytes it returns (and the
embedded default's own key file).
"""

import base64
import binascii
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from worker.errors import SecretError, SettingsError
from worker.settings import Settings

KEY_BYTES = 32
_NONCE_BYTES = 12  # 96 bits, what GCM is specified for; random is safe below 2^32 seals per key
_VERSION = b"\x01"  # first byte of whatever is sealed, so that a later format can live beside it
_FIX = "make one with `openssl rand -base64 32` and keep it out of the database"


class Sealer:
    """Seals texts with one master key and opens them with any; safe to share between threads.

    Args:
        master_key: exactly 32 bytes; whatever is sealed is sealed with it.
        previous: keys of before, or the next one: they only open.

    Examples:
        >>> sealer = Sealer(bytes(32))
        >>> sealed = sealer.seal("whsec_x", row="endpoint/12/secret/3")
        >>> sealer.open(sealed, row="endpoint/12/secret/3")
        'whsec_x'
    """

    def __init__(self, master_key: bytes, *previous: bytes) -> None:
        for key in (master_key, *previous):
            if len(key) != KEY_BYTES:
                raise SettingsError(_wrong_key(f"has {len(key)} bytes, not {KEY_BYTES}"))
        self._keys = tuple(AESGCM(key) for key in (master_key, *previous))

    def seal(self, plain: str, *, row: str) -> bytes:
        """Encrypt a text for one row; the same text seals to other bytes each time.

        Args:
            plain: the secret.
            row: where it will be stored, e.g. ``endpoint/12/secret/3``; needed to open it.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._keys[0].encrypt(nonce, plain.encode(), row.encode())

    def open(self, sealed: bytes, *, row: str) -> str:
        """Decrypt what was sealed for this row.

        Raises:
            SecretError: another master key, another row, or bytes that were changed.
        """
        return self._opened(sealed, row)[0]

    def is_current(self, sealed: bytes, *, row: str) -> bool:
        """Tell whether it was sealed with the master key, not with a previous one.

        Raises:
            SecretError: it cannot be opened with any.

        Examples:
            >>> old, new = bytes(32), b"n" * 32
            >>> sealed = Sealer(old).seal("whsec_x", row="r")
            >>> Sealer(new, old).is_current(sealed, row="r")
            False
        """
        return self._opened(sealed, row)[1] == 0

    def _opened(self, sealed: bytes, row: str) -> tuple[str, int]:
        """Return the text and the place of the key that opened it."""
        start = len(_VERSION) + _NONCE_BYTES
        if sealed[:1] != _VERSION or len(sealed) < start:
            raise SecretError(f"{row}: sealed in a format this version does not know")
        for place, key in enumerate(self._keys):
            try:
                plain = key.decrypt(sealed[1:start], sealed[start:], row.encode())
            except InvalidTag:
                continue
            return plain.decode(), place
        raise SecretError(
            f"{row}: cannot be opened with this PAYNOTIFY_MASTER_KEY nor with a previous one; it "
            "was sealed with another key or for another row. Set the key it was sealed with."
        )


def sealer_of(settings: Settings) -> Sealer:
    """Make the sealer of these settings: seals with the master key, opens with previous ones too.

    Raises:
        SettingsError: see :func:`master_key`; or a previous key is none.
    """
    previous = []
    for number, text in enumerate(settings.previous_master_keys, 1):
        try:
            previous.append(read_master_key(text.get_secret_value()))
        except SettingsError:
            raise SettingsError(
                f"previous_master_keys (PAYNOTIFY_PREVIOUS_MASTER_KEYS): number {number} is no "
                "key; each must be 32 bytes in base64"
            ) from None
    return Sealer(master_key(settings), *previous)


def read_master_key(text: str) -> bytes:
    """Read a master key written as base64 (standard or URL-safe alphabet) of 32 bytes.

    Raises:
        SettingsError: it is not that; the message never repeats the value.

    Examples:
        >>> read_master_key("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=") == bytes(32)
        True
    """
    try:
        key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise SettingsError(_wrong_key("is not base64")) from None
    if len(key) != KEY_BYTES:
        raise SettingsError(_wrong_key(f"decodes to {len(key)} bytes, not {KEY_BYTES}"))
    return key


def master_key(settings: Settings) -> bytes:
    """Return the master key in force.

    The configured one; else, only for the embedded database, the one in ``data_dir``, made when
    it is missing. Two processes that make it at once end up with the same one; one that dies
    in between leaves none.

    Raises:
        SettingsError: none is configured for a configured database, or the file is unusable.
    """
    if settings.master_key is not None:
        return read_master_key(settings.master_key.get_secret_value())
    if settings.database_url is not None:
        raise SettingsError(
            "master_key (PAYNOTIFY_MASTER_KEY): missing, and a configured database needs one; "
            + _FIX
        )
    file = settings.data_dir / "master.key"
    try:
        if not file.exists():
            _make(file)
        return _read(file)
    except OSError as error:
        raise SettingsError(
            f"{file}: the master key cannot be read or made there ({error.strerror}); check the "
            "folder's owner or set PAYNOTIFY_DATA_DIR"
        ) from None


def _make(file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        # A link appears whole or not at all, and never replaces a key made a moment earlier.
        file.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _read(file: Path) -> bytes:
    with file.open("rb") as source:
        mode = os.fstat(source.fileno()).st_mode
        if mode & 0o077:
            raise SettingsError(
                f"{file}: others can read this master key (mode {mode & 0o777:04o}); it must be "
                f"0600. Run `chmod 600 {file}` and rotate the endpoints' secrets."
            )
        text = source.read(200)
    try:
        return read_master_key(text.decode("ascii", "replace"))
    except SettingsError:
        raise SettingsError(
            f"{file}: does not hold a master key (32 bytes in base64); put the right one back, "
            "or the stored secrets stay unreadable"
        ) from None


def _wrong_key(problem: str) -> str:
    return f"master_key (PAYNOTIFY_MASTER_KEY): {problem}; it must be 32 bytes in base64; {_FIX}"
