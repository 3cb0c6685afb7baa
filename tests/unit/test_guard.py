"""The guard against the list of published tricks, and the rules for added headers."""

import pytest

from worker.errors import BadFieldError, UrlRefusedError
from worker.guard import (
    Target,
    check_allowed,
    check_header,
    check_headers,
    check_url,
    may_dial,
    origin,
)
from worker.models import Allowed

ON_PREM = Allowed(http=True, ports=(8080,), networks=("127.0.0.0/8", "10.0.0.0/8", "::1/128"))

REFUSED = {
    "ip_literal": [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0/",
        "https://0.0.0.0/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://169.254.169.254/latest/meta-data/",
        "https://2852039166/",
        "https://0xA9FEA9FE/",
        "https://169.254.170.2/v2/credentials",
        "https://100.100.100.200/",
        "https://168.63.129.16/",
        "https://10.0.0.5/",
        "https://172.31.255.255/",
        "https://192.168.0.1/",
        "https://8.8.8.8/",
        "https://[2606:4700:4700::1111]/",
        "https://127.0.0.1?@merchant.com/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::ffff:a9fe:a9fe]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:0:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1%25eth0]/",
        "https://[ff02::1]/",
        "https://[merchant.com]/",
        "https://[v1.a]/",
    ],
    "host_syntax": [
        "https://localhost/",
        "https://LOCALHOST:443/",
        "https://localhost./",
        "https://redis/",
        "https://metadata.google.internal./",
        "https://%31%32%37.0.0.1/",
        "https://127.0.0.1%00.merchant.com/",
        "https://merchant.com%0d%0aHost:evil/",
        "https:///127.0.0.1/",
        "https://-a.com/",
        "https://a..com/",
        "https://_x.merchant.com/",
        "https://1.2.3.4.5/",
        f"https://{'a' * 64}.com/",
        "https://merchant.com:+443/",
        "https://merchant.com:443:22/",
        "https://merchant.com:/",
        "https://merchant.com:0443/",
        "https://merchant.com./",
        "https://127.0.0.1./",
        "https://[::1/",
        "https://[::1]x/",
        "https://xn--.com/",
        "https://",
    ],
    "reserved": [
        "https://db.localhost/",
        "https://metadata.google.internal/",
        "https://postgres.svc.cluster.local/",
        "https://1.0.0.127.in-addr.arpa/",
        "https://shop.EXAMPLE/",
    ],
    "rebind_svc": [
        "https://127.0.0.1.nip.io/",
        "https://localtest.me/",
        "https://7f000001.c0a80001.rbndr.us/",
    ],
    "idna": ["https://xn--0000h.com/", "https://www.xn--a.com/"],
    "userinfo": [
        "https://user:pass@merchant.com/",
        "https://merchant.com@127.0.0.1/",
        "https://merchant.com:443@127.0.0.1:22/",
        "https://127.0.0.1;@merchant.com/",
    ],
    "charset": [
        "https://127.0.0.1\\@merchant.com/",
        "https://merchant.com\\@127.0.0.1/",
        " https://merchant.com/",
        "https://merchant.com/\n",
        "ht\ntps://127.0.0.1/",
        "https://127.0.0.1\t/",
        "https://127.0.0.1\0.merchant.com/",
        "https://①②⑦.⓪.⓪.①/",
        "https://loc\u00adalhost/",
        "https://ⓛocalhost/",
        "https://merchant.com\u202e/",
        "https://商户.中国/cb",
        "https://merchant.com/\x7f",
        "https://merchant.com/\udc80",
    ],
    "fragment": ["https://127.0.0.1#@merchant.com/", "https://merchant.com/cb#part"],
    "syntax": ["https:127.0.0.1", "https:/127.0.0.1/", "http:/127.0.0.1/"],
    "escape": [
        "https://merchant.com/cb%0d%0aX-A:1",
        "https://merchant.com/cb?x=%00",
        "https://merchant.com/%7F",
    ],
    "length": [
        f"https://{'a.' * 125}abcd/",
        "https://merchant.com/" + "a" * (2049 - len("https://merchant.com/")),
    ],
    "scheme": [
        "",
        "//merchant.com/cb",
        "merchant.com/cb",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "dict://127.0.0.1:11211/stat",
        "ftp://merchant.com/",
        "unix:///var/run/docker.sock",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
        "javascript:alert(1)",
        "data:text/html,x",
        "http://merchant.com/cb",
    ],
    "port": [
        "https://merchant.com:22/",
        "https://merchant.com:6379/",
        "https://merchant.com:0/",
        "https://merchant.com:65536/",
        "https://merchant.com:80/",
        f"https://merchant.com:{'9' * 1900}/",
    ],
}


@pytest.mark.parametrize(
    ("code", "url"), [(code, url) for code, urls in REFUSED.items() for url in urls]
)
def test_a_url_trick_is_refused_with_its_code(code: str, url: str) -> None:
    with pytest.raises(UrlRefusedError) as caught:
        check_url(url, field="notify_url")
    assert caught.value.code == code
    assert caught.value.field == "notify_url"
    assert str(caught.value).startswith("notify_url: ")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://merchant.com/cb", ("https", "merchant.com", 443)),
        ("https://MERCHANT.com:8443/cb?order=1&sig=a%20b", ("https", "merchant.com", 8443)),
        ("https://xn--fiqs8s.xn--fiqs8s/cb", ("https", "xn--fiqs8s.xn--fiqs8s", 443)),
        ("HTTPS://merchant.com", ("https", "merchant.com", 443)),
        ("https://merchant.com?x=http://a@b:1/", ("https", "merchant.com", 443)),
        ("https://3com.r2---sn-a.merchant.com/", ("https", "3com.r2---sn-a.merchant.com", 443)),
        (f"https://{'a' * 63}.com/", ("https", f"{'a' * 63}.com", 443)),
        ("https://merchant.com/" + "a" * 2027, ("https", "merchant.com", 443)),
    ],
)
def test_an_ordinary_url_passes(url: str, target: tuple[str, str, int]) -> None:
    scheme, host, port = target
    assert check_url(url) == Target(scheme=scheme, host=host, port=port)


@pytest.mark.parametrize("url", [None, b"https://merchant.com/", 7, ["https://merchant.com/"]])
def test_a_url_that_is_no_text_is_refused(url: object) -> None:
    with pytest.raises(UrlRefusedError, match="give the URL as text") as caught:
        check_url(url)  # type: ignore[arg-type]
    assert caught.value.code == "type"


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://localhost:8080/cb", "http://localhost:8080"),
        ("http://127.0.0.1:8080/cb", "http://127.0.0.1:8080"),
        ("http://erp", "http://erp:80"),
        ("https://erp.internal/cb", "https://erp.internal:443"),
        ("http://10.1.2.3/", "http://10.1.2.3:80"),
        ("https://[::1]/", "https://[::1]:443"),
        ("https://[2606:4700:0::1111]/", "https://[2606:4700::1111]:443"),
        ("https://8.8.8.8/", "https://8.8.8.8:443"),
    ],
)
def test_allowed_networks_open_the_door_to_on_premises_hosts(url: str, key: str) -> None:
    assert origin(check_url(url, ON_PREM)) == key


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://192.168.0.1/", "address"),
        ("http://169.254.169.254/", "address"),
        ("https://[::ffff:169.254.169.254]/", "address"),
        ("https://[fe80::1%25eth0]/", "address"),
        ("https://[merchant.com]/", "ip_literal"),
        ("http://0x7f.1/", "ip_literal"),
        ("http://127.1/", "ip_literal"),
        ("http://0177.0.0.1/", "ip_literal"),
        ("http://2130706433/", "ip_literal"),
        ("http://localhost:9090/", "port"),
        ("http://localhost.:8080/", "host_syntax"),
        ("http://127.0.0.1.nip.io/", "rebind_svc"),
        ("https://erp:80/", "port"),
    ],
)
def test_exceptions_open_nothing_else(url: str, code: str) -> None:
    with pytest.raises(UrlRefusedError) as caught:
        check_url(url, ON_PREM)
    assert caught.value.code == code


def test_plain_http_alone_opens_neither_local_names_nor_private_addresses() -> None:
    allowed = Allowed(http=True)
    assert check_url("http://merchant.com/cb", allowed).port == 80
    assert check_url("http://8.8.8.8/", allowed).host == "8.8.8.8"
    for url, code in [
        ("http://localhost/", "host_syntax"),
        ("http://db.internal/", "reserved"),
        ("http://127.0.0.1/", "address"),
    ]:
        with pytest.raises(UrlRefusedError) as caught:
            check_url(url, allowed)
        assert caught.value.code == code


def test_an_ip_address_over_https_still_needs_its_exception() -> None:
    with pytest.raises(UrlRefusedError) as caught:
        check_url("https://10.0.0.1/", Allowed(networks=("10.0.0.0/8",)))
    assert caught.value.code == "ip_literal"


def test_a_port_that_does_not_exist_stays_refused_though_allowed() -> None:
    with pytest.raises(UrlRefusedError) as caught:
        check_url("https://merchant.com:70000/", Allowed(ports=(70_000,)))
    assert caught.value.code == "port"


@pytest.mark.parametrize(
    "answers",
    [
        ["8.8.8.8", "127.0.0.1"],
        ["8.8.8.8", "fe80::1"],
        ["::ffff:8.8.8.8"],
        ["64:ff9b::808:808"],
        ["100.64.1.1"],
        ["168.63.129.16"],
        ["224.0.0.1"],
        ["2002:808:808::1"],
        ["3fff::1"],
    ],
)
def test_an_answer_with_a_forbidden_address_is_not_clean(answers: list[str]) -> None:
    assert not all(may_dial(ip) for ip in answers)


@pytest.mark.parametrize("ip", ["203.0.114.7", "2606:4700::1111", "8.8.8.8", "2001:4860:4860::8"])
def test_a_public_address_may_be_dialled(ip: str) -> None:
    assert may_dial(ip)


@pytest.mark.parametrize(
    "ip",
    [
        "0.0.0.0", "10.0.0.5", "100.100.100.200", "127.0.0.1", "169.254.169.254", "172.16.0.1",
        "172.31.255.255", "192.0.0.9", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1",
        "192.168.0.1", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
        "203.0.113.7", "240.0.0.1", "255.255.255.255", "224.0.0.1", "239.255.255.250",
        "::", "::1", "::127.0.0.1", "::ffff:0:7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1",
        "2001::1", "2001:db8::1", "2002:7f00:1::", "2620:4f:8000::1", "2606:4700::5efe:808:808",
        "2606:4700::200:5efe:7f00:1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
        "fec0::1", "ff02::1", "2606:4700::1%eth0",
        "", "merchant.com", "127.1", "0x7f000001", "8.8.8.8 ", "８.8.8.8",  # noqa: RUF001
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_may_not_be_dialled(ip: str) -> None:
    assert not may_dial(ip)


def test_an_allowed_network_opens_its_addresses_and_their_mapped_form_only() -> None:
    networks = ("127.0.0.0/8", "fd00::/8")
    assert may_dial("127.0.0.1", networks)
    assert may_dial("::ffff:127.0.0.1", networks)
    assert may_dial("fd00::5", networks)
    for ip in ("::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "10.0.0.1", "::1", "fe80::1"):
        assert not may_dial(ip, networks)
    assert may_dial("64:ff9b::7f00:1", ("64:ff9b::/96",))


def test_a_network_that_cannot_be_read_grants_nothing() -> None:
    assert not may_dial("10.0.0.1", ("10.0.0.1/8", "everything"))


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (Allowed(ports=(443, 0)), r"allowed\.ports\[1\]: 0 is no TCP port"),
        (Allowed(ports=(65_536,)), r"allowed\.ports\[0\]: 65536"),
        (Allowed(ports=("80",)), r"'80' is no TCP port"),  # type: ignore[arg-type]
        (Allowed(ports=(True,)), r"True is no TCP port"),
        (Allowed(networks=("10.0.0.0/8", "10.1.1.1/16")), r"networks\[1\].*write 10\.1\.0\.0/16"),
        (Allowed(networks=("localhost",)), r"'localhost' is no network; give a CIDR"),
        (Allowed(networks=("fe80::1%eth0",)), r"is no network"),
        (Allowed(networks=("0.0.0.0/0",)), r"too wide"),
        (Allowed(networks=("::/0",)), r"too wide"),
    ],
)
def test_an_exception_that_cannot_be_meant_is_refused(allowed: Allowed, message: str) -> None:
    with pytest.raises(BadFieldError, match=message):
        check_allowed(allowed)


def test_sensible_exceptions_pass() -> None:
    check_allowed(ON_PREM)
    check_allowed(Allowed(ports=(1, 65_535), networks=("192.168.7.9", "fd00::/8", "10.0.0.1/32")))


@pytest.mark.parametrize(
    "name",
    [
        "", "X T", "X_T", "X\r\nHost", "é", "中", "X:", "a" * 65, "Ｘ",  # noqa: RUF001
        "Host", "content-length", "Content-Type", "Transfer-Encoding", "CONNECTION", "Cookie",
        "Proxy-Authorization", "Expect", "TE", "Upgrade", "Trailer", "Accept-Encoding",
        "webhook-id", "Webhook-Signature", "X-Shop-Signature", "Signature", "X-Sign",
    ],
)  # fmt: skip
def test_a_header_name_that_breaks_or_forges_the_request_is_refused(name: str) -> None:
    with pytest.raises(BadFieldError) as caught:
        check_header(name, "1", "headers")
    assert caught.value.field == "headers"


@pytest.mark.parametrize(
    "value", ["", "  ", "a\rb", "a\nb", "a\r\n b", "a\0b", "é", "中", "a\tb", "\x7f", "a" * 1025]
)
def test_a_header_value_that_is_not_plain_text_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(BadFieldError) as caught:
        check_header("X-Shop", value, "headers")
    assert "X-Shop" in str(caught.value)
    assert "é" not in str(caught.value)
    assert "中" not in str(caught.value)


def test_a_header_of_another_type_is_refused() -> None:
    with pytest.raises(BadFieldError):
        check_header("X-Shop", 7, "headers")  # type: ignore[arg-type]
    with pytest.raises(BadFieldError):
        check_header(7, "x", "headers")  # type: ignore[arg-type]


def test_ordinary_headers_come_back_in_order() -> None:
    headers = {"X-Shop": "7 of 9", "Authorization": "Bearer " + "a" * 1017, "Accept": "*/*"}
    assert check_headers(headers) == tuple(headers.items())
    assert check_headers({}) == ()


def test_too_many_headers_or_one_twice_are_refused() -> None:
    assert len(check_headers({f"X-{i}": "1" for i in range(10)})) == 10
    with pytest.raises(BadFieldError, match="has 11 headers; the most is 10"):
        check_headers({f"X-{i}": "1" for i in range(11)})
    with pytest.raises(BadFieldError, match="x-a is given twice"):
        check_headers({"X-A": "1", "x-a": "2"}, "defaults.headers")


@pytest.mark.parametrize("host", ["x.a0", "0.b1", "shop.com1", "a0.b-c.d2"])
def test_a_host_may_end_in_a_digit(host: str) -> None:
    assert check_url(f"https://{host}/").host == host


@pytest.mark.parametrize("host", ["-a0.b0", "a0-.b0", "x.a0-", "x.-a0"])
def test_no_label_begins_or_ends_with_a_hyphen(host: str) -> None:
    with pytest.raises(UrlRefusedError):
        check_url(f"https://{host}/")
