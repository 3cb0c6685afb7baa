r"""What must not be shown in a log line, a page, an export or a kept reply: hidden in any text.

Pure text in, text out. Must never raise, and must never hide so much that an operator cannot
find the order again: order numbers and timestamps stay.
"""

import re


def mask(text: str) -> str:
    """Hide secrets, signatures, passwords, URL queries and card numbers.

    A card number is 13 to 19 digits, with up to two separators between any two, of a length that
    its issuer's prefix (22 to 69) uses and with a valid check digit. It keeps its first six and
    last four digits (PCI DSS 3.4.1). UnionPay's 19 digits count without the check digit, which
    old ones lack. Dates (``2026…``) and timestamps (``17…``) have no issuer's prefix.

    Returns:
        The text with the hidden parts as ``*``. Masking it again changes nothing.

    Examples:
        >>> mask("card 4111 1111 1111 1111, order 20260101120000123456")
        'card 4111 11** **** 1111, order 20260101120000123456'
        >>> mask("postgresql://app:s3cret@db/pay password=x https://m.com/cb?sign=ab&order=1")
        'postgresql://app:***@db/pay password=*** https://m.com/cb?***'
    """
    if _SUSPICIOUS(text) is None:
        return text
    if "whs" in text:
        text = _WHSEC.sub(r"\1***", text)
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(r"\1***", text)
    if "v1" in text:
        text = _SIGNATURE.sub(r"\1***", text)
    if "://" in text:
        text = _DSN_PASSWORD.sub(r"\1***@", text)
        text = _QUERY.sub(r"\1***", text)
    lower = text.lower()
    if any(part in lower for part in _NAME_PARTS):
        text = _KEYED.sub(_hide_value, text)
    # Until nothing changes: what stands beside a hidden number may be another one.
    while (hidden := _DIGITS.sub(_hide_cards, text)) != text:
        text = hidden
    return text


def is_secret_name(name: str) -> bool:
    """Tell whether a field of this name holds what must not be shown.

    Examples:
        >>> is_secret_name("old_password"), is_secret_name("event_key")
        (True, False)
    """
    return _SECRET_NAME(name) is not None


def _hide_value(match: re.Match[str]) -> str:
    quote = match["quote"]
    return f"{match['name']}{quote}***{quote}" if quote else f"{match['name']}***"


def _hide_cards(match: re.Match[str]) -> str:
    """Hide every card number in a run of digits; one may begin and end only where a group does."""
    run = match[0]
    if len(run) > 19 and run.isdecimal():
        return run
    places = [found.span(1) for found in _STEP.finditer(run) if found[1]]
    digits = [int(run[end - 1]) for _, end in places]
    starts = [i for i in range(len(places)) if i == 0 or places[i - 1][1] != places[i][0]]
    ends = {*starts[1:], len(places)}
    shown = list(run)
    next_free = 0
    for start in starts:
        count = _card_length(digits, start, ends) if start >= next_free else 0
        if count:
            next_free = start + count
            for begin, end in places[start + 6 : next_free - 4]:
                shown[begin:end] = ["*", *[""] * (end - begin - 1)]
    return "".join(shown)


def _card_length(digits: list[int], start: int, ends: set[int]) -> int:
    """Return how many digits the longest card number that begins here has; 0: none begins."""
    if start + 13 > len(digits):
        return 0
    prefix = digits[start] * 10 + digits[start + 1]
    if (
        prefix < 30
        and not 2221 <= prefix * 100 + digits[start + 2] * 10 + digits[start + 3] <= 2720
    ):
        return 0
    for count in _LENGTHS.get(prefix, ()):
        end = start + count
        if end in ends and ((prefix == 62 and count == 19) or _checks(digits[start:end])):
            return count
    return 0


def _checks(digits: list[int]) -> bool:
    """Tell whether the last digit is the check digit of the others (Luhn, ISO/IEC 7812-1)."""
    doubled = sum(_DOUBLED[digit] for digit in digits[-2::-2])
    return (doubled + sum(digits[-1::-2])) % 10 == 0


# Luhn: what a digit counts when it is doubled.
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
# Which lengths cards with these first two digits have (issuers in use), longest first. Any
# length for any prefix would hide one in ten of the 18-digit numbers that id generators make.
_LENGTHS: dict[int, tuple[int, ...]] = {
    **dict.fromkeys(range(22, 28), (16,)),  # Mastercard 2221 to 2720
    **dict.fromkeys((30, 36, 38, 39), (19, 18, 17, 16, 15, 14)),  # Diners Club
    **dict.fromkeys((34, 37), (15,)),  # American Express
    35: (19, 18, 17, 16),  # JCB
    **dict.fromkeys(range(40, 50), (19, 16, 13)),  # Visa
    **dict.fromkeys((50, 56, 57, 58), (19, 18, 17, 16, 15, 14, 13)),  # Maestro
    **dict.fromkeys(range(51, 56), (16,)),  # Mastercard
    **dict.fromkeys(range(60, 70), (19, 18, 17, 16, 15, 14, 13)),  # UnionPay, Discover, RuPay, …
}
# A digit may be written in full width, URL-encoded or as a JSON escape.
_ONE_DIGIT = r"(?:\d|%3[0-9]|\\u003[0-9])"
_SEPARATOR = (
    r"(?:[ .\-_+/\u00a0\u00ad\u2000-\u2015\u202f\u2060\u3000\ufeff]|%2[0bdef]|%C2%A0"
    r"|\\u(?!003[0-9])[0-9a-f]{4}|\\x[0-9a-f]{2}|\\[nrt])"
)
_STEP = re.compile(rf"{_SEPARATOR}|({_ONE_DIGIT})", re.IGNORECASE)
# The first digit is spelled out so that the pattern begins with a set, which re skips to fast.
_DIGITS = re.compile(
    r"[\d%\\](?:(?<=\d)(?<!\d\d)|(?<=%)3[0-9]|(?<=\\)u003[0-9])"
    rf"(?:{_SEPARATOR}{{0,2}}{_ONE_DIGIT}){{12,}}",
    re.IGNORECASE,
)

# Every rule needs one of these signs; most replies have none.
_SUSPICIOUS = re.compile(r"[=:,_%\d]").search
_WHSEC = re.compile(r"(whsec_|whsk_)[A-Za-z0-9+/=_%-]+")
# Its lines, or what is left of them when the text was cut; line breaks perhaps escaped.
_PRIVATE_KEY = re.compile(r"(BEGIN (?:[A-Z]+ )?PRIVATE KEY-----)(?:[A-Za-z0-9+/=\s]|\\[nr])+")
_SIGNATURE = re.compile(r"\b(v1a?,)[A-Za-z0-9+/=_-]{16,}")
# Lengths are bounded so that no hostile reply makes these two take quadratic time.
# In http(s) an '@' behind the host is part of the path; elsewhere a password may hold anything.
_DSN_PASSWORD = re.compile(
    r"(?i)\b((?:https?|(?P<other>(?!https?:)[a-z][a-z0-9+.-]{0,30}))://[^\s:/?#\"'@]*:)"
    r"(?(other)[^\s\"'<>]{1,512}|[^\s/?#\"'<>]{1,512})@"
)
_QUERY = re.compile(r"(?i)(https?://[^\s?\"'<>\\]{1,2048}\?)(?:[^\s\"'<>\\]|\\u[0-9a-f]{4})+")

_NAME_PARTS = ("sig", "secret", "pass", "pwd", "token", "authoriz", "cvv", "cvc", "key")
# The first are secrets behind any prefix (PGPASSWORD). The others are parts of harmless words
# (design=), so they must begin a word (also behind an escape that ends in a letter: %3D, \n) or
# end one in camelCase.
_KEYS = r"(?:api|app|access|private|master|merchant|mch|secret)[_-]?key"
_NAME = (
    r"(?:(?i:secret|passw(?:or)?d|passphrase|signature|authorization)"
    rf"|(?:(?<![A-Za-z])|(?<=%3[Dd])|(?<=\\[nrt]))(?i:sign|sig|pwd|token|cvv2?|cvc2?|{_KEYS})"
    r"|(?<=[a-z])(?:Sign|Token|(?:Secret|Api|App|Access|Private|Master)Key))"
)
_SECRET_NAME = re.compile(rf".*(?:{_NAME})", re.DOTALL).fullmatch
_KEYED = re.compile(
    rf"(?P<name>{_NAME}"
    # name=value, "name": "value", ('name', 'value'), name%3Dvalue; quotes perhaps escaped.
    r"(?:\\*[\"']?\s*(?:[=:]|%3[ADad])\s*|\\*[\"']\s*,\s*(?=\\*[\"'])))"
    r"(?:(?P<quote>\\*[\"'])(?:\\.|[^\\\n])*?(?P=quote)"
    r"|(?:(?i:bearer|basic|digest)\s+)?(?:[^\s\"'&,;)}\]\\<>]|\\[/u])+)"
)
