"""Which URLs and IP addresses may be called, and which headers a caller may add.

Pure text and numbers. Must never resolve a name, open a socket or ask a URL library: libraries
disagree about where a host ends, and that disagreement is the attack. A host name that passes
here proves nothing about its addresses: :func:`may_dial` judges each one when its socket opens.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NoReturn

import idna

from worker.errors import BadFieldError, UrlRefusedError
from worker.models import Allowed

URL_MAX_BYTES = 2048
HEADERS_MAX = 10
HEADER_VALUE_MAX_BYTES = 1024
_NOTHING = Allowed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a URL leads.

    Attributes:
        scheme: ``https`` or ``http``.
        host: in lower case; an IPv6 address stands without brackets, in its shortest form.
        port: 1 to 65535, also when the URL names none.
    """

    scheme: str
    host: str
    port: int


def check_url(url: str, allowed: Allowed = _NOTHING, *, field: str = "url") -> Target:
    """Refuse a URL that may not be called.

    Args:
        url: absolute, at most 2048 bytes of visible ASCII (a Chinese name as punycode).
        allowed: what this endpoint may do beyond the rules for all. ``networks`` also lets in
            one-label and reserved names (``localhost``, ``erp.internal``), because the socket
            vets their addresses.
        field: name of the caller's field, for the message.

    Returns:
        Where it leads. Calling again with the same arguments costs one look into a cache.

    Raises:
        UrlRefusedError: with one of the codes ``type length charset syntax scheme fragment
            userinfo escape host_syntax ip_literal address reserved rebind_svc idna port``.

    Examples:
        >>> check_url("https://MERCHANT.com:8443/cb?order=1")
        Target(scheme='https', host='merchant.com', port=8443)
        >>> check_url("https://0x7f.1/")
        Traceback (most recent call last):
        worker.errors.UrlRefusedError: url: the host is an IP address; use a host name
    """
    try:
        if not isinstance(url, str):
            _refuse("type", f"is {type(url).__name__}; give the URL as text")
        if len(url) > URL_MAX_BYTES:
            _refuse("length", f"has {len(url)} characters; the most is {URL_MAX_BYTES}")
        return _examine(url, allowed)
    except UrlRefusedError as error:
        raise UrlRefusedError(field, error.problem, error.code) from None


def origin(target: Target) -> str:
    """Name the host a target shares with others: the key of its lane.

    Examples:
        >>> origin(Target(scheme="https", host="merchant.com", port=443))
        'https://merchant.com:443'
    """
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{target.scheme}://{host}:{target.port}"


@lru_cache(maxsize=16_384)
def may_dial(ip: str, networks: tuple[str, ...] = ()) -> bool:
    """Decide whether a socket may be opened to an address.

    Args:
        ip: one IPv4 or IPv6 address as text; anything else may not be dialled.
        networks: CIDR networks that may be dialled though they are not public; one that cannot
            be read grants nothing.

    Returns:
        True for a public address or one inside ``networks``. IPv6 forms that carry an IPv4
        address (mapped, NAT64, 6to4, Teredo, ISATAP, …) are never public, because what answers
        is the address inside; only the mapped form is unwrapped, and only for ``networks``.

    Examples:
        >>> may_dial("8.8.8.8"), may_dial("::ffff:8.8.8.8"), may_dial("10.0.0.5")
        (True, False, False)
        >>> may_dial("10.0.0.5", ("10.0.0.0/8",))
        True
    """
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return not _inside(address, _IPV4_SPECIAL) or _inside(address, _parse(networks))
    if address.scope_id is not None:
        return False
    if _is_public_ipv6(address) or not networks:
        return _is_public_ipv6(address)
    granted = _parse(networks)
    mapped = address.ipv4_mapped
    return _inside(address, granted) or (mapped is not None and _inside(mapped, granted))


def check_allowed(allowed: Allowed) -> None:
    """Refuse exceptions that cannot be meant.

    Raises:
        BadFieldError: a port outside 1 to 65535, or a network that is no CIDR block or wider
            than /8, which would as good as switch the guard off.

    Examples:
        >>> check_allowed(Allowed(networks=("10.0.0.5/8",)))
        Traceback (most recent call last):
        worker.errors.BadFieldError: allowed.networks[0]: '10.0.0.5/8' has bits behind its \
prefix; write 10.0.0.0/8
    """
    for i, port in enumerate(allowed.ports):
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65_535:
            raise BadFieldError(
                f"allowed.ports[{i}]", f"{port!r} is no TCP port; give a whole number 1 to 65535"
            )
    for i, network in enumerate(allowed.networks):
        _check_network(f"allowed.networks[{i}]", network)


def check_header(name: str, value: str, field: str) -> None:
    """Refuse a header that a caller may not add to a request.

    Args:
        name: 1 to 64 letters, digits and hyphens; not one that frames the request, carries a
            signature or is set by us.
        value: 1 to 1024 bytes of printable ASCII, not only spaces.
        field: name of the caller's field, for the message.

    Raises:
        BadFieldError: says which rule is broken; never shows the value.
    """
    if not isinstance(name, str) or not _HEADER_NAME(name):
        # Only text is quoted: a number of thousands of digits cannot be.
        shown = repr(name[:64]) if isinstance(name, str) else f"a {type(name).__name__}"
        raise BadFieldError(
            field, f"{shown} is no header name; use 1 to 64 letters, digits and hyphens"
        )
    lower = name.lower()
    if lower in _OUR_HEADERS or lower.startswith(_OUR_PREFIXES) or lower.endswith(_SIGNATURES):
        raise BadFieldError(
            field, f"{name} is set by us or by the signing scheme; leave it out or rename it"
        )
    if not isinstance(value, str) or not _HEADER_VALUE(value):
        raise BadFieldError(
            field,
            f"the value of {name} must be 1 to {HEADER_VALUE_MAX_BYTES} bytes of printable ASCII "
            "(0x20 to 0x7E), not only spaces",
        )


def check_headers(
    headers: Mapping[str, str], field: str = "headers"
) -> tuple[tuple[str, str], ...]:
    """Refuse headers that a caller may not add; return them as a request carries them.

    Raises:
        BadFieldError: more than 10, a name given twice in other case, or one that
            :func:`check_header` refuses.

    Examples:
        >>> check_headers({"X-Shop": "7"})
        (('X-Shop', '7'),)
    """
    if len(headers) > HEADERS_MAX:
        raise BadFieldError(field, f"has {len(headers)} headers; the most is {HEADERS_MAX}")
    seen: set[str] = set()
    for name, value in headers.items():
        check_header(name, value, field)
        if name.lower() in seen:
            raise BadFieldError(field, f"{name} is given twice; headers know no upper case")
        seen.add(name.lower())
    return tuple(headers.items())


def _refuse(code: str, problem: str) -> NoReturn:
    raise UrlRefusedError("url", problem, code)


@lru_cache(maxsize=8192)
def _examine(url: str, allowed: Allowed) -> Target:
    # Four plain questions are four times as fast as one regular expression over the URL.
    if not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
        _refuse("charset", "may hold only visible ASCII and no '\\'; write names as punycode")
    parts = _PARTS(url)
    if parts is None:
        _refuse_shape(url)
    scheme, authority, rest = parts.groups()
    scheme = scheme.lower()
    if scheme == "http" and not allowed.http:
        _refuse("scheme", "starts with http://; use https, or allow http here (--allow-http)")
    if "#" in rest:
        _refuse("fragment", "has a '#'; a fragment is never sent, leave it out (%23 in a query)")
    if "@" in authority:
        _refuse("userinfo", "names a user before '@'; leave it out")
    if "%" in rest and _CONTROL_ESCAPE(rest):
        _refuse("escape", "has an escaped control character (%00 to %1F, %7F); leave it out")
    return _check_authority(scheme, authority, allowed)


def _check_authority(scheme: str, authority: str, allowed: Allowed) -> Target:
    where = _AUTHORITY(authority)
    if where is None:
        _refuse("host_syntax", "must have a host name, then at most ':' and a port number")
    name, digits = where.groups()
    host = _check_host(name.lower(), allowed)
    port = int(digits) if digits else _DEFAULT_PORTS[scheme]
    if port not in _PORTS and port not in allowed.ports and (scheme, port) != ("http", 80):
        _refuse("port", f"port {port} is not allowed; use 443 or 8443, or allow it explicitly")
    if not 1 <= port <= 65_535:
        _refuse("port", f"port {port} does not exist; the range is 1 to 65535")
    return Target(scheme=scheme, host=host, port=port)


def _refuse_shape(url: str) -> NoReturn:
    if url[:6].lower() == "https:" or url[:5].lower() == "http:":
        _refuse("syntax", "must have '//' after the scheme: https://host/path")
    _refuse("scheme", "must start with https://")


def _check_host(host: str, allowed: Allowed) -> str:
    if host[0] == "[" or _NUMERIC(host):
        return _check_literal(host, allowed)
    if len(host) > 253:
        _refuse("length", f"the host has {len(host)} characters; the most is 253")
    if not _NAME(host):
        _refuse(
            "host_syntax",
            "the host must be labels of letters, digits and hyphens, each at most 63 long, "
            "the last one starting with a letter, no dot at the end",
        )
    last = host[host.rfind(".") + 1 :]
    if not allowed.networks and (last == host or last in _RESERVED):
        code = "host_syntax" if last == host else "reserved"
        _refuse(code, f"the host {host} is not public; use a public name or allow its network")
    if ("." + host).endswith(_REBINDING):
        _refuse("rebind_svc", f"the host {host} turns names into any address; use a real name")
    if "xn--" in host:
        _check_idna(host)
    return host


def _check_literal(host: str, allowed: Allowed) -> str:
    if not allowed.http:
        _refuse("ip_literal", "the host is an IP address; use a host name")
    try:
        # Only the canonical form: libcurl reads 0x7f.1 and 2130706433 as addresses too.
        address = IPv6Address(host[1:-1]) if host[0] == "[" else IPv4Address(host)
    except ValueError:
        _refuse(
            "ip_literal", "the host looks like an IP address; write it as 192.0.2.1 or [2001::1]"
        )
    if not may_dial(str(address), allowed.networks):
        _refuse("address", "the host is an address that is not public; allow its network")
    return str(address)


def _check_idna(host: str) -> None:
    for label in host.split("."):
        if not label.startswith("xn--"):
            continue
        try:
            same = idna.alabel(idna.ulabel(label)) == label.encode()
        except UnicodeError:
            same = False
        if not same:
            _refuse("idna", f"{label} in the host is not valid punycode (IDNA 2008)")


def _check_network(field: str, network: str) -> None:
    wanted = "give a CIDR block such as 10.0.0.0/8 or fd00::/8"
    if not isinstance(network, str) or "%" in network:
        raise BadFieldError(field, f"{network!r} is no network; {wanted}")
    try:
        loose = ip_network(network, strict=False)
    except ValueError:
        raise BadFieldError(field, f"{network!r} is no network; {wanted}") from None
    if str(ip_address(network.partition("/")[0])) != str(loose.network_address):
        raise BadFieldError(field, f"{network!r} has bits behind its prefix; write {loose}")
    if loose.prefixlen < 8:
        raise BadFieldError(field, f"{network} is too wide for an exception; name the networks")


_Network = IPv4Network | IPv6Network


@lru_cache(maxsize=1024)
def _parse(networks: tuple[str, ...]) -> tuple[_Network, ...]:
    parsed: list[_Network] = []
    for network in networks:
        try:
            parsed.append(ip_network(network))
        except ValueError:
            continue
    return tuple(parsed)


def _inside(address: IPv4Address | IPv6Address, networks: tuple[_Network, ...]) -> bool:
    return any(address in network for network in networks)


def _is_public_ipv6(address: IPv6Address) -> bool:
    # ISATAP (RFC 5214 §6.1) hides an IPv4 address behind an interface id of [u,g bits]00:5efe.
    isatap = (int(address) >> 32) & 0xFCFF_FFFF == 0x0000_5EFE
    return address in _IPV6_GLOBAL and not isatap and not _inside(address, _IPV6_SPECIAL)


# IANA IPv4 Special-Purpose Address Registry, whole: also the blocks it calls globally reachable
# (AS112, AMT, 6to4 relays), where no merchant lives. Then multicast, then Azure's host, which
# sits on a public address, and Alibaba Cloud's metadata, named only so that a reader finds it.
_IPV4_SPECIAL = _parse((
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
    "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "240.0.0.0/4", "224.0.0.0/4", "168.63.129.16/32", "100.100.100.200/32",
))  # fmt: skip
_IPV6_GLOBAL = IPv6Network("2000::/3")
# Protocol assignments (Teredo, ORCHID, …), documentation twice, 6to4, AS112.
_IPV6_SPECIAL = _parse(
    ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48")
)

_PARTS = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE).fullmatch
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::(0|[1-9][0-9]*))?").fullmatch
_CONTROL_ESCAPE = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])").search
# One to four numbers, each decimal, octal or hexadecimal: whatever inet_aton() takes.
_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}").fullmatch
# Not possessive: with a look behind, early Pythons 3.11 refuse "x.a0" then and take "-a0.b0".
_NAME = re.compile(r"(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.)*[a-z][a-z0-9-]{0,62}(?<!-)").fullmatch
_DEFAULT_PORTS = {"https": 443, "http": 80}
_PORTS = frozenset((443, 8443))
_RESERVED = frozenset((
    "localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "private",
    "test", "example", "invalid", "onion", "arpa", "alt",
))  # fmt: skip
# Public names that answer with whatever address is asked for. Only an early hint to the operator:
# the socket vets addresses whatever they are called.
_REBINDING = (
    ".nip.io", ".sslip.io", ".xip.io", ".localtest.me", ".lvh.me", ".vcap.me", ".lacolhost.com",
    ".localho.st", ".local.gd", ".fuf.me", ".traefik.me", ".backname.io", ".localhost.direct",
    ".localdomain.pw", ".smackaho.st", ".rbndr.us", ".1u.ms", ".rebind.network",
    ".lock.cmpxchg8b.com", ".bugbounty.dod.network",
)  # fmt: skip

_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch
_HEADER_VALUE = re.compile(rf"(?=.*[^ ])[ -~]{{1,{HEADER_VALUE_MAX_BYTES}}}").fullmatch
# Framing, connection handling and cookies; identity is the only encoding the reply cap covers.
_OUR_HEADERS = frozenset((
    "host", "transfer-encoding", "connection", "keep-alive", "cookie", "cookie2", "expect", "te",
    "trailer", "upgrade", "accept-encoding", "signature", "sign", "x-sign",
))  # fmt: skip
_OUR_PREFIXES = ("content-", "proxy-", "webhook-")
_SIGNATURES = ("-signature",)
