"""Certificates for tests: one authority, and servers that are right or wrong in one way each.

Must never be trusted by anything but a test.
"""

import datetime as dt
import ipaddress
import ssl
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Mode = Literal[
    "good", "expired", "self-signed", "wrong-host", "unknown-ca", "tls1.0", "client-cert"
]
MODES: tuple[Mode, ...] = (
    "good", "expired", "self-signed", "wrong-host", "unknown-ca", "tls1.0", "client-cert",
)  # fmt: skip
HOSTS = ("merchant.test", "localhost")

_Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate with its key.

    Attributes:
        pem: certificate and key, one text.
        certificate_pem: the certificate alone.
    """

    certificate: x509.Certificate
    key: _Key

    @property
    def certificate_pem(self) -> str:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def pem(self) -> str:
        """Certificate and unencrypted key, one PEM text."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return self.certificate_pem + key.decode()


def authority(name: str = "Paynotify test authority") -> Issued:
    """Make a new authority."""
    return _issue(name, issuer=None, is_authority=True)


def leaf(
    issuer: Issued | None, *, hosts: tuple[str, ...] = HOSTS, days: tuple[int, int] = (-1, 30)
) -> Issued:
    """Make a certificate for ``hosts``, valid ``days`` from now; no issuer: it signs itself."""
    return _issue(hosts[0], issuer=issuer, hosts=hosts, days=days)


def authority_in(folder: Path) -> Issued:
    """Return the authority kept in a folder, made on first use."""
    file = folder / "authority.pem"
    if not file.exists():
        made = authority()
        file.write_text(made.pem, encoding="ascii")
        (folder / "ca.pem").write_text(made.certificate_pem, encoding="ascii")
        return made
    text = file.read_bytes()
    key = serialization.load_pem_private_key(text, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Issued(certificate=x509.load_pem_x509_certificate(text), key=key)


def server_context(mode: str, folder: Path) -> ssl.SSLContext:
    """Build a server's TLS settings for a mode; the authority of ``folder`` is the trusted one."""
    trusted = authority_in(folder)
    made = {
        "expired": lambda: leaf(trusted, days=(-30, -1)),
        "self-signed": lambda: leaf(None),
        "wrong-host": lambda: leaf(trusted, hosts=("other.test",)),
        "unknown-ca": lambda: leaf(authority("Somebody else")),
    }.get(mode, lambda: leaf(trusted))()
    if mode not in MODES:
        raise ValueError(f"no TLS mode {mode!r}; there are {', '.join(MODES)}")
    file = folder / f"server-{mode}.pem"
    file.write_text(made.pem, encoding="ascii")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if mode == "tls1.0":
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1
    if mode == "client-cert":
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "ca.pem")
    return context


def _issue(
    name: str,
    *,
    issuer: Issued | None,
    hosts: tuple[str, ...] = (),
    days: tuple[int, int] = (-1, 30),
    is_authority: bool = False,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    signer = issuer.key if issuer else key
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    if hosts and "other" not in hosts[0]:
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return Issued(certificate=builder.sign(signer, hashes.SHA256()), key=key)
