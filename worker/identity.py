"""What keeps connections apart, what holds for all of them, and whom the machine trusts."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

import certifi

_SYSTEM_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


class Identity(NamedTuple):
    """Who a connection speaks as and whom it may reach; connections never cross identities.

    Attributes:
        networks: CIDR networks that may be dialled though they are not public.
        suspect: the host's name could not be resolved lately, so its look-ups must not queue
            before those of others.
    """

    networks: tuple[str, ...]
    ca_pem: str | None
    client_pem: str | None
    suspect: bool


class Manner(Enum):
    """How a host's connections are treated, by what it did before."""

    PLAIN = auto()
    ALONE = auto()  # a connection per request: it closes kept ones without a word
    SHARED = auto()  # HTTP/2: it may hand requests back untouched when a connection retires


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for every request of a transport.

    Attributes:
        connect_timeout_s: resolve, TCP and TLS together, above 0.
        connection_max_age_s: idle and total age after which a connection is not reused.
        reply_max_bytes: bytes of a body that are read; the connection is closed after them.
        ca_file: PEM bundle that merchants are verified against.
        resolve: gives libcurl's ``host:port:address`` entries for the next request instead of
            asking DNS; None asks DNS.
    """

    connect_timeout_s: float
    connection_max_age_s: int
    reply_max_bytes: int
    ca_file: Path
    resolve: Callable[[], tuple[str, ...]] | None = None


def system_ca_file() -> Path:
    """Find the machine's bundle of trusted authorities; the ``certifi`` package's if none."""
    for name in _SYSTEM_CA_FILES:
        if os.access(name, os.R_OK):
            return Path(name)
    return Path(certifi.where())
