"""What a signing scheme is given and what it makes of it.

Must never show a secret, a signature or a payload in a ``repr``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from worker.models import Encoding, Secret


@dataclass(slots=True, kw_only=True)  # not frozen: made for every callback
class Message:
    """One attempt at a notification, before it is signed.

    Attributes:
        message_id: the same for every attempt; what the merchant tells doubles by.
        attempt_no: 1, 2, …
        url: where it goes, query included; a scheme may add to it.
        content_type: of the body.
        headers: the notification's own, already vetted.
        body: the bytes frozen at enqueue.
        signed_at: time of this attempt, whole seconds since 1970.
        secrets: live secrets, newest first; two while one is being replaced.
        encoding: how ``fields`` travel; ``RAW`` sends ``body`` as it is.
        fields: what the merchant is told, names and unencoded values in order; empty for
            ``RAW``. A scheme signs these and adds its own. A value may be a ``Bare`` of
            ``encoding.py``: JSON writes it without quotes.
        options: what the endpoint chose about the scheme (header name, prefix, key id …).
    """

    message_id: str
    event_type: str
    event_key: str
    order_no: str | None
    attempt_no: int
    url: str = field(repr=False)
    method: str
    content_type: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    signed_at: int
    secrets: tuple[Secret, ...] = field(repr=False)
    encoding: Encoding = Encoding.RAW
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)  # not frozen: made for every callback
class Shaped:
    """What is put on the wire.

    Attributes:
        url: may carry a signature in its query.
        headers: name and value, without ``Host`` and ``Content-Length``.
    """

    method: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)


class Scheme(Protocol):
    """One way of signing; holds no state and may be shared by threads."""

    @property
    def name(self) -> str:
        """The name endpoints choose it by, ``[a-z0-9-]``."""

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt; the same message always gives the same bytes.

        Raises:
            BadFieldError: the message cannot be signed (no live secret, a secret or an id the
                scheme cannot use); it never will be, so it is unsendable.
        """

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Refuse an encoding or options this scheme cannot sign with; ``options.py`` helps.

        Raises:
            BadFieldError: field ``encoding`` or ``options.NAME``.
        """

    def new_secret(self) -> str:
        """Make a secret from the system's randomness, as text for the merchant."""

    def check_secret(self, value: str) -> None:
        """Refuse a secret this scheme cannot sign with.

        Raises:
            BadFieldError: field ``secret``; never quotes the value.
        """


@runtime_checkable
class KeyPair(Scheme, Protocol):
    """A scheme whose secret must stay with us: merchants are given what only verifies."""

    def for_merchant(self, value: str) -> str:
        """Return what the merchant of this secret is given.

        Raises:
            BadFieldError: field ``secret``; it is none.
        """
