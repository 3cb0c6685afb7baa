"""What merchants of each platform really answer, judged by the rule its profile brings.

The rules are those the platforms document: Chinese ones a word, western ones a status class.
"""

import pytest

from worker import profiles
from worker.ack import met, parse

BOM = b"\xef\xbb\xbf"
WARNING = b"<br />\n<b>Warning</b>: mysqli_connect() in /a/notify.php\n"
PAGE = b"<!DOCTYPE html><html><body>Payment was a success</body></html>"

# By platform: status and body a merchant answers, and whether it is an acknowledgement.
ANSWERS: dict[str, list[tuple[int, bytes, bool]]] = {
    # "Contains" is what gateways of this kind have always done, pages and warnings included.
    "epay": [
        (200, b"success", True),
        (200, b"success\r\n", True),
        (200, BOM + b"success", True),
        (200, WARNING + b"success", True),
        (200, PAGE, True),
        (200, b"SUCCESS", False),
        (200, b"fail", False),
        (200, b"", False),
        (200, "success".encode("utf-16"), False),
        (302, b"success", False),
        (500, b"success", False),
    ],
    "jeepay": [
        (200, b"SUCCESS", True),
        (200, b"success", True),
        (200, b" Success\n", True),
        (200, BOM + b"SUCCESS", False),
        (200, b'"SUCCESS"', False),
        (200, PAGE, False),
        (200, b"FAIL", False),
        (200, "SUCCESS".encode("utf-16-le"), False),
        (301, b"SUCCESS", False),
    ],
    "roncoo": [
        (200, b"success", True),
        (200, b"\n success \t", True),
        (200, b"SUCCESS", False),
        (200, PAGE, False),
        (200, WARNING + b"success", False),
        (200, BOM + b"success", False),
        # Its platform reads a body of 200 only.
        (201, b"success", False),
        (302, b"success", False),
    ],
    "standard-webhooks": [
        (200, b"", True),
        (204, b"", True),
        (202, b"fail", True),
        (299, PAGE, True),
        (302, b"", False),
        (400, b"success", False),
        (410, b"", False),
    ],
    "stripe-style": [
        (200, b'{"received": true}', True),
        (200, b'{"received": false}', True),
        (304, b"", False),
        (503, b"success", False),
    ],
    "plain-hmac": [(204, b"", True), (404, b"success", False)],
}

# Rules of further platforms, as their documents word them.
WORDED: list[tuple[str, int, bytes, bool]] = [
    # Alipay: exactly the seven letters, no HTML, no BOM, no redirect.
    ("200 exact:success", 200, b"success", True),
    ("200 exact:success", 200, b"Success", False),
    ("200 exact:success", 200, BOM + b"success", False),
    ("200 exact:success", 200, PAGE, False),
    ("200 exact:success", 302, b"success", False),
    # Alipay abroad, newer: JSON.
    ('200 json:result.resultStatus="S"', 200, b'{"result":{"resultStatus":"S"}}', True),
    ('200 json:result.resultStatus="S"', 200, b'{"result":{"resultStatus":"F"}}', False),
    ('200 json:result.resultStatus="S"', 200, BOM + b'{"result":{"resultStatus":"S"}}', False),
    # WeChat v3: the status goes before the body.
    ("200,204", 204, b"", True),
    ("200,204", 200, b'{"code":"FAIL","message":"x"}', True),
    ("200,204", 201, b'{"code":"SUCCESS"}', False),
    ("200,204", 500, b'{"code":"SUCCESS"}', False),
    # UnionPay: the status only.
    ("200", 200, b"failed", True),
    ("200", 302, b"", False),
    # Adyen, as it was.
    ("2xx contains:[accepted]", 200, b"[accepted]", True),
    ("2xx contains:[accepted]", 200, b"accepted", False),
    ("2xx contains:[accepted]", 200, "[accepted]".encode("utf-16"), False),
    # PayerMax and its like.
    ('2xx json:code="0000"', 200, b'{"code": "0000"}', True),
    ('2xx json:code="0000"', 200, b'{"code": 0}', False),
    ("2xx iexact:ok", 200, b"OK", True),
]

TABLE = [
    *((name, *answer) for name, answers in ANSWERS.items() for answer in answers),
    *WORDED,
]


@pytest.mark.parametrize(("rule", "status", "body", "acknowledged"), TABLE)
def test_what_a_merchant_answers_is_judged_as_its_platform_would(
    rule: str, status: int, body: bytes, acknowledged: bool
) -> None:
    ready = profiles.ready()
    line = ready[rule].implied["ack"] if rule in ready else rule
    assert isinstance(line, str)
    assert met(parse(line), status, body) is acknowledged


def test_the_table_is_long_enough_to_mean_something() -> None:
    assert len(TABLE) >= 40
    assert {name for name, *_ in TABLE} >= set(ANSWERS)
