"""RSA keys that sign: read from what platforms hand out, used with PKCS #1 v1.5 and SHA-256.

Must never put a key into an error.
"""

import base64
import re
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from worker.errors import BadFieldError

# 2048 is what the platforms use; beyond 4096 a signature takes longer than a merchant's reply.
_BITS_NEW, _BITS_MIN, _BITS_MAX = 2048, 2048, 4096
_SPACE = re.compile(r"\s+")


def sign(secret: str, data: bytes) -> str:
    """Sign with the private key in ``secret``; base64. The same bytes give the same signature.

    Raises:
        BadFieldError: field ``secret``; it is no key.
    """
    return base64.b64encode(_private(secret).sign(data, PKCS1v15(), hashes.SHA256())).decode()


def check(secret: str) -> None:
    """Refuse what is no private RSA key of 2048 to 4096 bits: PEM, or bare base64 of its DER.

    Raises:
        BadFieldError: field ``secret``; never quotes the value.
    """
    _private(secret)


def new_private() -> str:
    """Make a key of 2048 bits, as PEM (PKCS #8)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=_BITS_NEW)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def public_pem(secret: str) -> str:
    """Return the public key that belongs to ``secret``, as PEM: what the merchant is given."""
    return (
        _private(secret)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


@lru_cache(maxsize=4096)
def _private(secret: str) -> rsa.RSAPrivateKey:
    """Read a key; kept because reading and checking one takes as long as 100 signatures."""
    try:
        if "-----BEGIN" in secret:
            key = serialization.load_pem_private_key(secret.strip().encode(), None)
        else:
            der = base64.b64decode(_SPACE.sub("", secret), validate=True)
            key = serialization.load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadFieldError(
            "secret",
            "must be a private RSA key: unencrypted PEM (-----BEGIN PRIVATE KEY-----), or the "
            "bare base64 between its lines",
        ) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BadFieldError("secret", "is a private key, but not of RSA")
    if not _BITS_MIN <= key.key_size <= _BITS_MAX:
        raise BadFieldError(
            "secret",
            f"is an RSA key of {key.key_size} bits, must have {_BITS_MIN} to {_BITS_MAX}",
        )
    return key
