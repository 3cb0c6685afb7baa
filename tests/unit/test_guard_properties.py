"""The guard against any text and any address, and against the libraries that will read it."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from urllib3.util import parse_url

from worker.errors import UrlRefusedError
from worker.guard import Target, check_url, may_dial, origin
from worker.models import Allowed

GENEROUS = Allowed(http=True, ports=(8080,), networks=("127.0.0.0/8", "fd00::/8"))
NONE = Allowed()
exceptions = st.sampled_from([NONE, GENEROUS, Allowed(http=True), Allowed(networks=("::1",))])

# Text that looks like URLs often enough to reach every rule.
_pieces = st.sampled_from(
    [
        "https://", "http://", "HTTPS://", "//", ":", "/", "?", "#", "@", "\\", "[", "]", ".", "%",
        "%00", "%2e", ";", "&", "=", " ", "\n", "\0", "merchant.com", "localhost", "127.0.0.1",
        "0x7f", "[::1]", "::ffff:1.2.3.4", "fd00::1", "8.8.8.8", "xn--fiqs8s", "443", ":8443",
        ":80", ":8080", "-", "_", "a", "A", "1", "中", "①", "\u00ad", "\udc80", ".nip.io", ".lan",
    ]
)  # fmt: skip
noise = st.lists(_pieces, max_size=9).map("".join)
texts = st.one_of(
    st.text(),
    noise,
    st.builds("{}{}".format, st.sampled_from(["https://", "http://"]), noise),
    st.builds("https://merchant.com{}".format, noise),
)
_label = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
_last = st.from_regex(r"[a-z][a-z0-9]{1,5}", fullmatch=True)
_tail = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\#%"))
good_urls = st.builds(
    "{}://{}.{}{}{}".format,
    st.sampled_from(["https", "HTTPS"]),
    _label,
    _last,
    st.sampled_from(["", ":443", ":8443"]),
    st.one_of(st.just(""), st.builds("{}{}".format, st.sampled_from("/?"), _tail)),
)


def judged(url: str, allowed: Allowed = NONE) -> Target | UrlRefusedError:
    try:
        return check_url(url, allowed)
    except UrlRefusedError as error:
        return error


@settings(max_examples=150, deadline=None)
@given(url=st.one_of(texts, good_urls), allowed=exceptions)
def test_libraries_agree_with_the_guard_about_every_url_it_lets_through(
    url: str, allowed: Allowed
) -> None:
    target = judged(url, allowed)
    if isinstance(target, UrlRefusedError):
        return
    default = {"https": 443, "http": 80}[target.scheme]
    standard = urlsplit(url)
    other = parse_url(url)
    assert standard.scheme == other.scheme == target.scheme
    assert (standard.port or default) == (other.port or default) == target.port
    assert standard.username is None
    assert other.auth is None
    for host in (standard.hostname, (other.host or "").strip("[]")):
        assert host is not None
        if ":" in target.host:
            assert ip_address(host) == ip_address(target.host)
        else:
            assert host == target.host


@settings(max_examples=100, deadline=None)
@given(url=good_urls)
def test_ordinary_urls_pass_unless_their_name_is_special(url: str) -> None:
    answer = judged(url)
    if isinstance(answer, UrlRefusedError):
        assert answer.code in ("reserved", "rebind_svc", "idna")


@settings(max_examples=100, deadline=None)
@given(url=st.one_of(texts, good_urls), allowed=exceptions)
def test_the_guard_says_the_same_again_and_of_what_it_returned(url: str, allowed: Allowed) -> None:
    answer, again = judged(url, allowed), judged(url, allowed)
    if isinstance(answer, Target):
        assert again == answer
        assert check_url(origin(answer), allowed) == answer
    else:
        assert isinstance(again, UrlRefusedError)
        assert again.code == answer.code


@settings(max_examples=150, deadline=None)
@given(url=texts, allowed=exceptions)
def test_any_text_gets_an_answer_or_the_one_error(url: str, allowed: Allowed) -> None:
    answer = judged(url, allowed)
    if isinstance(answer, UrlRefusedError):
        assert answer.code
        assert answer.problem
    else:
        assert 1 <= answer.port <= 65_535


@settings(max_examples=100, deadline=None)
@given(
    url=good_urls,
    poison=st.one_of(
        st.just("\\"),
        st.characters(max_codepoint=0x20),
        st.characters(min_codepoint=0x7F),
    ),
    data=st.data(),
)
def test_a_control_non_ascii_or_backslash_anywhere_is_refused(
    url: str, poison: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(url)))
    with pytest.raises(UrlRefusedError):
        check_url(url[:at] + poison + url[at:])


@settings(max_examples=100, deadline=None)
@given(url=good_urls, user=_tail)
def test_userinfo_before_any_host_is_refused(url: str, user: str) -> None:
    scheme, rest = url.split("://", 1)
    for name in (user, "user", "user:pass", "127.0.0.1", "merchant.com:443"):
        # What holds '/' or '?' is no user but another host; then that one is judged instead.
        if "/" not in name and "?" not in name:
            with pytest.raises(UrlRefusedError) as caught:
                check_url(f"{scheme}://{name}@{rest}")
            assert caught.value.code == "userinfo"


def embeddings(value: int, net: int) -> dict[str, int]:
    """Give every IPv6 form that carries an IPv4 address; ``net`` is 64 bits of a public prefix."""
    return {
        "mapped": 0xFFFF << 32 | value,
        "compatible": value,
        "siit": 0xFFFF << 48 | value,
        "nat64": 0x0064_FF9B << 96 | value,
        "local nat64": 0x0064_FF9B_0001 << 80 | value,
        "6to4": 0x2002 << 112 | value << 80 | 1,
        "teredo server": 0x2001_0000 << 96 | value << 64,
        "teredo client": 0x2001_0000 << 96 | (value ^ 0xFFFF_FFFF),
        "isatap": net << 64 | 0x0000_5EFE << 32 | value,
        "isatap, global bit": net << 64 | 0x0200_5EFE << 32 | value,
    }


@settings(max_examples=100, deadline=None)
@given(
    value=st.integers(0, 2**32 - 1),
    net=st.integers(0x2400 << 48, 0x2C0F_FFFF_FFFF_FFFF),
)
def test_no_ipv4_address_gets_through_inside_an_ipv6_one(value: int, net: int) -> None:
    inside = str(IPv4Address(value))
    for form, number in embeddings(value, net).items():
        outside = str(IPv6Address(number))
        assert not may_dial(outside), form
        if form != "mapped" and not form.startswith("isatap"):
            assert not may_dial(outside, (f"{inside}/32",)), form
    assert may_dial(str(IPv6Address(0xFFFF << 32 | value)), (f"{inside}/32",))


_addresses = st.one_of(
    st.ip_addresses().map(str),
    st.integers(0, 2**125 - 1).map(lambda low: str(IPv6Address(1 << 125 | low))),
    st.builds(
        lambda head, low: str(IPv6Address(head << 96 | low)),
        st.sampled_from([0x2001_0000, 0x2001_01FF, 0x2001_0DB8, 0x2002_0000, 0x3FFF_0000]),
        st.integers(0, 2**96 - 1),
    ),
)


@settings(max_examples=100, deadline=None)
@given(ip=_addresses)
def test_what_may_be_dialled_is_global_and_no_multicast(ip: str) -> None:
    if may_dial(ip):
        address = ip_address(ip)
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@settings(max_examples=100, deadline=None)
@given(ip=st.text(max_size=50))
def test_any_text_in_place_of_an_address_gets_an_answer(ip: str) -> None:
    assert may_dial(ip) in (True, False)
    assert may_dial(ip, (ip,)) in (True, False)
