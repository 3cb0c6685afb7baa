"""Keys that are plain text, as merchants of MD5 and HMAC platforms get them.

Must never quote a key.
"""

import re
import secrets

from worker.errors import BadFieldError
from worker.models import Secret
from worker.signers.contract import Message

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TEXT_KEY = re.compile(r"[\x21-\x7e]{8,512}").fullmatch


def live(message: Message) -> tuple[Secret, ...]:
    """Return the live secrets, newest first; at least one.

    Raises:
        BadFieldError: there is none.
    """
    if not message.secrets:
        raise BadFieldError("secret", "the endpoint has no live secret; rotate it to make one")
    return message.secrets


def newest_key(message: Message) -> str:
    """Return the key of platforms whose requests carry one signature only."""
    return live(message)[0].value


def new_text_key(length: int = 32) -> str:
    """Make a key of letters and digits from the system's randomness.

    Examples:
        >>> len(new_text_key())
        32
    """
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def check_text_key(value: str) -> None:
    """Refuse what is not 8 to 512 visible ASCII characters.

    Raises:
        BadFieldError: field ``secret``; never quotes the value.
    """
    if not _TEXT_KEY(value):
        raise BadFieldError("secret", "must be 8 to 512 visible ASCII characters without spaces")
