"""RSA keys of channels: read from what channels hand out, signing and checking SHA-256.

Must never put a key into an error.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

_LEAST_BITS = 2048
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """Our own private key."""

    key: RSAPrivateKey = field(repr=False)

    def sign(self, data: bytes) -> str:
        """Sign with PKCS #1 v1.5 and SHA-256; base64."""
        return base64.b64encode(self.key.sign(data, PKCS1v15(), hashes.SHA256())).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckingKey:
    """A channel's public key."""

    key: RSAPublicKey = field(repr=False)

    def checks(self, signature: str, data: bytes) -> bool:
        """Tell whether this base64 signature over ``data`` is the channel's; never raises."""
        try:
            raw = base64.b64decode(signature, validate=True)
            self.key.verify(raw, data, PKCS1v15(), hashes.SHA256())
        except (binascii.Error, ValueError, InvalidSignature):
            return False
        return True


def signing_key(text: str) -> SigningKey:
    """Read a private RSA key: PEM, or the bare base64 (PKCS #8 or #1) that Alipay's tools write.

    Raises:
        ValueError: it is none; says what would be right, never what it was.
    """
    try:
        if "-----BEGIN" in text:
            key = serialization.load_pem_private_key(text.encode(), None)
        else:
            key = serialization.load_der_private_key(_bare(text), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("is no private key; give an unencrypted PEM file") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < _LEAST_BITS:
        raise ValueError(f"is no RSA key of {_LEAST_BITS} bits or more")
    return SigningKey(key=key)


def checking_key(text: str) -> CheckingKey:
    """Read a channel's public RSA key: PEM key or certificate, or bare base64.

    Raises:
        ValueError: it is none; says what would be right.
    """
    try:
        if "-----BEGIN CERTIFICATE" in text:
            key = x509.load_pem_x509_certificate(text.encode()).public_key()
        elif "-----BEGIN" in text:
            key = serialization.load_pem_public_key(text.encode())  # type: ignore[assignment]
        else:
            key = serialization.load_der_public_key(_bare(text))  # type: ignore[assignment]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("is no public key; give a PEM key or certificate") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < _LEAST_BITS:
        raise ValueError(f"is no RSA key of {_LEAST_BITS} bits or more")
    return CheckingKey(key=key)


def _bare(text: str) -> bytes:
    return base64.b64decode(_SPACE.sub("", text), validate=True)
