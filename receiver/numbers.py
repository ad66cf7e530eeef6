"""Telephone numbers as senders write them, read into their digits; each costs linear time."""

import re
import unicodedata
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

LONGEST = 1024  # characters of a text that is read; Kazoo's queries have no more
MOST_DIGITS = 18  # of E.164's 15, and a prefix; more are several numbers
DECODED_MOST = 3  # times, where proxies have percent-encoded what was encoded

_SCHEMES = ("sip:", "sips:", "tel:", "callto:", "h323:")
_NUMBER = re.compile(r"[ (/]*+\+*+[0-9 ()./'_~-]*+")
_EXTENSION = re.compile(
    r"(?:extension|extn|ext|durchwahl|poste|#+)[ .=-]*[0-9]{0,7}#?|(?:x|dw|nst|p|w) ?[0-9]{1,7}#?",
    re.IGNORECASE,
)
_CODE = re.compile(r"[*#]+[0-9]{1,4}[*#]?")  # of a feature, such as *97
_ADDRESS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_TRUNK = re.compile(r"\( ?0 ?\)")  # is not dialled after a country's code
_LIKE = str.maketrans(
    {
        **dict.fromkeys("\N{MINUS SIGN}\N{KATAKANA-HIRAGANA PROLONGED SOUND MARK}", "-"),
        **dict.fromkeys("\N{HEAVY PLUS SIGN}\N{SMALL PLUS SIGN}\N{SUPERSCRIPT PLUS SIGN}", "+"),
        **dict.fromkeys("\N{FRACTION SLASH}\N{DIVISION SLASH}", "/"),
        **dict.fromkeys(
            "\N{MIDDLE DOT}\N{BULLET}\N{HYPHENATION POINT}\N{KATAKANA MIDDLE DOT}", "."
        ),
        **dict.fromkeys("\N{RIGHT SINGLE QUOTATION MARK}\N{PRIME}", "'"),
    }
)


def digits_of(text: str) -> str:
    """The digits of a telephone number, or of a SIP address's user part that is one; else ""."""
    text = text.strip()
    if len(text) > LONGEST:
        return ""
    number = _user_of(_plain(text))
    if _is_address(number):
        return ""
    if number.lstrip(" (/").startswith(("+", "00")):
        number = _TRUNK.sub("", number)
    begin = next((at for at, char in enumerate(number) if char.isalpha() or char == "#"), None)
    if begin is not None and _EXTENSION.fullmatch(number[begin:].rstrip()):
        number = number[:begin].rstrip(" ,;")
    digits = _only_digits(number)
    return digits if _NUMBER.fullmatch(number) and len(digits) <= MOST_DIGITS else ""


def numbers_in(text: str) -> set[str]:
    """The digits of a number, or of what may be several: of each part, and all of them in a row."""
    if digits := digits_of(text):
        return {digits}
    plain = _plain(text.strip()[:LONGEST])
    parts = {digits_of(part) for part in re.split("[,;/|<> ]+", plain)}
    return (parts | {_only_digits(_user_of(plain))}) - {""}


def may_hold(text: str, digits: str, *, is_address: bool) -> bool:
    """Whether a text that cannot be read may be a number with these digits all the same.

    Of a SIP `is_address`, few users are numbers: it may only where it holds the digits, or begins
    as a number does. Anything else is meant to be one, and may wherever it holds any digit.
    """
    text = text.strip()
    if len(text) > LONGEST:
        found = any(digit in text for digit in "0123456789")
        return found or not text.isascii() and re.search(r"\d", text) is not None
    plain = _plain(text)
    user = _user_of(plain)
    held = _only_digits(user if is_address else plain)
    if not held or digits_of(text):
        return False
    if _is_address(user) or _CODE.fullmatch(user):
        return _only_digits(user) == digits
    if not is_address:
        return True
    begins = user.lstrip(" (").startswith(("+", *"0123456789"))
    return digits in held or begins and len(held) >= 5


def texts_in(value: Any) -> list[str]:
    """The texts of a value of JSON, which may be a number, or have some in it."""
    found, waiting = [], [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, float) and each.is_integer():
            found.append(str(int(each)))
        elif each is not None and not isinstance(each, bool):
            found.append(str(each))
    return found


def _plain(text: str) -> str:
    """The text decoded, with ASCII's digits, and one kind of spaces, dashes and the like."""
    for _ in range(DECODED_MOST):
        if "%" not in text:
            break
        text = unquote(text)
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_plain_char, text))
    return text.strip()


@lru_cache(4096)
def _plain_char(char: str) -> str:
    if (digit := unicodedata.digit(char, None)) is not None:
        return str(digit)
    if "\N{FULLWIDTH EXCLAMATION MARK}" <= char <= "\N{FULLWIDTH TILDE}":
        return chr(ord(char) - ord("\N{FULLWIDTH EXCLAMATION MARK}") + ord("!"))
    category = unicodedata.category(char)
    if category in ("Cf", "Mn", "Me") or char == "\0":  # marks of direction, joiners, keycaps
        return ""
    if category[0] == "Z" or category == "Cc":
        return " "
    return "-" if category == "Pd" else char.translate(_LIKE)


def _user_of(text: str) -> str:
    """What stands for the user in an address, with or without a name beside it."""
    if text.count("<") == 1:
        text = text.partition("<")[2].partition(">")[0]
    elif text.startswith('"'):
        quoted, _, rest = text[1:].rpartition('"')
        text = rest.strip() or quoted
    if text.count("<") or text.count("@") > 1:
        return text  # there are several
    user = text.partition("@")[0]
    lower = user.lower()
    begin = max((at + len(each) for each in _SCHEMES if (at := lower.rfind(each)) >= 0), default=0)
    user = user[begin:]
    for end in ";?:":
        user = user.partition(end)[0]
    return user.strip(" \"'")


def _is_address(text: str) -> bool:
    """Whether it is an IPv4 address, which a number with dots may look like."""
    return bool(_ADDRESS.fullmatch(text)) and all(int(part) < 256 for part in text.split("."))


def _only_digits(text: str) -> str:
    return re.sub("[^0-9]", "", text)
