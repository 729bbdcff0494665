"""Scrubbing: what names a person goes from free text before the text is written anywhere.

People type e-mail addresses, phone, identity and card numbers into search boxes. Each is replaced
by a placeholder that says what stood there. Checksums (resident id, card) and the words before a
number (order, ISBN, version, 订单) keep goods and numbers of things as they are.

Flaw: names and postal addresses stay; no pattern finds them. So does a foreign phone number typed
as bare digits (``2125550123``); a product code that is shaped like a phone number is lost.
"""

import re
from collections.abc import Callable
from ipaddress import IPv6Address

import polars as pl

from rec.data.text import normalise_text

EMAIL, PHONE, RESIDENT_ID = "<email>", "<phone>", "<resident_id>"
CARD, IP_ADDRESS = "<card>", "<ip>"

_MAYBE = r"@|(?i:[\[({]\s*at\s*[\])}])|[0-9](?:[^0-9]{0,4}[0-9]){6}|[0-9]\.[0-9]+\.[0-9]|:[^:]*:"
"""What every text with something to replace contains; the others cost no Python."""
_NUMBER_OF_A_THING = re.compile(
    r"(?:\b(?:order|orders|tracking|track|parcel|waybill|invoice|serial|sku|isbn|issn|ean|upc|gtin|"
    r"asin|imei|iccid|model|part|item|product|article|ref|reference|batch|lot|patent|coupon|"
    r"sn|s/n|p/n|art)|订单|单号|运单|快递|物流|货号|型号|编号|条码|条形码|序列号|批号|商品|"
    r"发票|书号|券码|款号|料号|流水号)"
    r"(?:\s?(?:no|nr|num|number|code|id|号码|号|是|为|编码))?\s?[.:#＃-]*\s?#?\s?$",
    re.IGNORECASE,
)
_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|release|build|firmware|driver|drivers|ios|android|chrome|python|java|"
    r"section|chapter|clause|windows|office|macos|linux)|鸿蒙|安卓|系统|版本|版本号|固件|驱动|章节|第|升级到)\s?[.:]?\s?$",
    re.IGNORECASE,
)
_MAX_ROUNDS = 4
"""What stood against a replaced part can match once it is gone; nobody types that twice."""
_BEFORE = 24
"""Characters before a number in which its word may stand."""

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])(?<!<email>)[A-Za-z0-9._%+-]{1,64}+"
    r"(?:\s?@\s?|\s?[\[({]\s?(?:at|AT|@)\s?[\])}]\s?)"
    r"(?!\d+x\.)(?:[A-Za-z0-9-]{1,63}(?:\.|\s?[\[({]\s?(?:dot|DOT)\s?[\])}]\s?)){1,8}"
    r"(?:xn--[a-z0-9]{1,59}|[A-Za-z]{2,24})(?![A-Za-z0-9])"
)
_IPV4 = re.compile(
    r"(?:(?<![\w.])|(?<=[iI][pP]))(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
    r"(?![0-9A-Za-z_]|\.\d)",
    re.ASCII,
)
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}+(?:(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])", re.ASCII)
_RESIDENT_ID = re.compile(
    r"(?<!\d)\d{6}[ -]?(?:18|19|20)\d{2}[ -]?(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])[ -]?"
    r"\d{3}[\dXx](?![0-9A-Za-z])"
)
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){13,18}(?![\d]|[.-]\d)")
_CARD_PREFIX = re.compile(
    r"4\d{15}(?:\d{3})?$|5[1-5]\d{14}$|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}$|"
    r"3[47]\d{13}$|3(?:0[0-5]|[68]\d|9\d)\d{11}$|6(?:011|5\d\d|4[4-9]\d)\d{12}(?:\d{3})?$|"
    r"62\d{14,17}$|35(?:2[89]|[3-8]\d)\d{12}$|(?:50|5[6-9]|6[037])\d{14}(?:\d{3})?$"
)
_PHONE = re.compile(
    r"(?<![0-9A-Za-z.+])(?<!\d[-])(?:"
    r"(?:\+|00)[1-9]\d{0,2}(?:[ .-]{0,2}\(?\d\)?){6,13}"  # international
    r"|(?:86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}|1[3-9]\d-\d{3}-\d{5}"  # CN mobile
    r"|\(?0(?:10|2\d|[3-9]\d{2})\)?[ -]?[2-8]\d{6,7}(?:[ -]{1,2}\d{1,5})?"  # CN landline
    r"|[48]00-\d{3}-\d{4}|[48]00-\d{4}-\d{3}"  # CN service number
    r"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])[2-9]\d{2}[ .-]\d{4}"  # North America
    r"|0[1-9](?:[ .]\d{2}){4}|0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,4}"  # Europe
    r")(?![0-9]|[.,-]\d)(?![A-Za-z])",
    re.ASCII,
)


def scrub_text(text: str) -> str:
    """Return the text with personal numbers and addresses replaced; twice changes nothing.

    >>> scrub_text("jo@example.org or 13800138000")
    '<email> or <phone>'
    >>> scrub_text("身份证11010519491231002X，卡号 4111 1111 1111 1111，来自 10.0.0.7")
    '身份证<resident_id>，卡号 <card>，来自 <ip>'
    >>> scrub_text("order 4111111111111111, isbn 978-7-111-54742-5, v1.2.3.4, 2024-01-15")
    'order 4111111111111111, isbn 978-7-111-54742-5, v1.2.3.4, 2024-01-15'
    """
    for _ in range(_MAX_ROUNDS):
        before = text
        text = _one_round(text)
        if text == before:
            break
    return text


def scrub_texts(texts: pl.Series) -> pl.Series:
    """Return :func:`scrub_text` of every value; nulls stay.

    >>> scrub_texts(pl.Series(["red dress", None, "call +1 212 555 0123"])).to_list()
    ['red dress', None, 'call <phone>']
    """
    open_texts = texts.filter(texts.str.contains(_MAYBE)).unique()
    if not len(open_texts):
        return texts
    known = [scrub_text(text) for text in open_texts.to_list()]
    return texts.replace(open_texts, pl.Series(known, dtype=pl.String))


def stored_query(query: str | None) -> str | None:
    """Return the form in which a query is stored: normalised, then scrubbed; empty is ``None``.

    >>> stored_query(" ｊｏ＠example.org&nbsp;")
    '<email>'
    """
    return None if query is None else scrub_text(normalise_text(query)) or None


def _one_round(text: str) -> str:
    text = _EMAIL.sub(EMAIL, text)
    text = _replace(_IPV6, text, IP_ADDRESS, _is_ipv6)
    text = _replace(_IPV4, text, IP_ADDRESS, lambda _: True, unless=_VERSION)
    text = _replace(_RESIDENT_ID, text, RESIDENT_ID, _is_resident_id)
    text = _replace(_CARD, text, CARD, _is_card, unless=_NUMBER_OF_A_THING)
    return _replace(_PHONE, text, PHONE, lambda _: True, unless=_NUMBER_OF_A_THING)


def _replace(
    pattern: re.Pattern[str],
    text: str,
    placeholder: str,
    is_meant: Callable[[str], bool],
    *,
    unless: re.Pattern[str] | None = None,
) -> str:
    """Replace what matches and is meant, unless a word of its own kind stands before it."""

    def choose(match: re.Match[str]) -> str:
        before = text[max(0, match.start() - _BEFORE) : match.start()]
        if not is_meant(match[0]) or (unless is not None and unless.search(before)):
            return match[0]
        return placeholder

    return pattern.sub(choose, text)


def _is_ipv6(text: str) -> bool:
    """Tell an address from a time (``12:30:45``) and from ``::``."""
    if text.count(":") < 2 or not any(letter.isdigit() for letter in text):
        return False
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_resident_id(text: str) -> bool:
    """Check the last digit: ISO 7064, MOD 11-2 (GB 11643)."""
    digits = text.replace(" ", "").replace("-", "").upper()
    total = sum(int(digit) * (2 ** (17 - place) % 11) for place, digit in enumerate(digits[:17]))
    return "10X98765432"[total % 11] == digits[17]


def _is_card(text: str) -> bool:
    """Check issuer, length and the last digit (Luhn)."""
    digits = text.replace(" ", "").replace("-", "")
    if _CARD_PREFIX.match(digits) is None:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (1 + place % 2)
        total += doubled - 9 * (doubled > 9)
    return total % 10 == 0
