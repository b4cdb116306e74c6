"""How written English is read out, in upper-case words: one rule for references and for what a recogniser writes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from armory_mdnf.errors import TranscriptError

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
TEENS = ("TEN", "ELEVEN", "TWELVE", "THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN", "SEVENTEEN", "EIGHTEEN", "NINETEEN")
TENS = ("TWENTY", "THIRTY", "FORTY", "FIFTY", "SIXTY", "SEVENTY", "EIGHTY", "NINETY")
SCALES = ((1_000_000_000, "BILLION"), (1_000_000, "MILLION"), (1000, "THOUSAND"), (100, "HUNDRED"))
MAX_NUMBER = 10**12 - 1
ABBREVIATIONS = {"MR": "MISTER", "MRS": "MISSUS", "DR": "DOCTOR", "ST": "SAINT"}
"""What Whisper abbreviates and LibriSpeech's transcripts spell out, by the word in upper case without its dot."""
_SIGNS = {"#": " POUND ", "*": " STAR ", "&": " AND ", "%": " PERCENT "}
_TYPOGRAPHIC = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]+)"
_THOUSANDS = re.compile(r"\b[0-9]{1,3}(?:,[0-9]{3}){1,3}\b")
# Not what follows a sign of money, and not one of three numbers with points between them, such as a date.
_DECIMAL = re.compile(rf"(?<![0-9.,$\u00a3\u20ac])({_WHOLE})\.([0-9]+)(?![0-9]|[.,][0-9])")
_ORDINAL = re.compile(rf"\b({_WHOLE})(?:ST|ND|RD|TH)\b", re.IGNORECASE)
_DECADE = re.compile(r"\b([0-9]{2,4})'?S\b", re.IGNORECASE)
_ORDINALS = {
    "ONE": "FIRST",
    "TWO": "SECOND",
    "THREE": "THIRD",
    "FIVE": "FIFTH",
    "EIGHT": "EIGHTH",
    "NINE": "NINTH",
    "TWELVE": "TWELFTH",
}


def number_words(n: int) -> str:
    """Read a cardinal number from 0 to 999 999 999 999 the American way: 1234 -> ONE THOUSAND TWO HUNDRED THIRTY FOUR.

    Raises :class:`TranscriptError` outside that range.
    """
    if not 0 <= n <= MAX_NUMBER:
        raise TranscriptError(f"expected a number from 0 to {MAX_NUMBER}, found {n}")
    if n < 10:
        return DIGITS[n]
    if n < 20:
        return TEENS[n - 10]
    if n < 100:
        return TENS[n // 10 - 2] + (f" {DIGITS[n % 10]}" if n % 10 else "")
    size, name = next((size, name) for size, name in SCALES if n >= size)
    head = f"{number_words(n // size)} {name}"
    return f"{head} {number_words(n % size)}" if n % size else head


def digit_words(digits: str) -> str:
    """Read a string of decimal digits one by one: 4242 -> FOUR TWO FOUR TWO."""
    if not digits or not all(d in "0123456789" for d in digits):
        raise TranscriptError(f"expected decimal digits, found {digits!r}")
    return " ".join(DIGITS[int(d)] for d in digits)


def plain(text: str) -> str:
    """Letters without their marks, and quotes, apostrophes and dashes as a typewriter has them."""
    marked = unicodedata.normalize("NFKD", text.translate(_TYPOGRAPHIC))
    return "".join(c for c in marked if not unicodedata.combining(c))


def read_signs(text: str) -> str:
    """Spell out ``#``, ``*``, ``&`` and ``%``."""
    for sign, reading in _SIGNS.items():
        text = text.replace(sign, reading)
    return text


def read_numbers(text: str) -> str:
    """Spell out the numbers.

    A cardinal up to four digits or with commas after the thousands; digit by digit beyond that or after a leading zero.
    Ordinals, decimals and plurals: 21ST -> TWENTY FIRST, 3.5 -> THREE POINT FIVE, 20S -> TWENTIES.
    """
    text = _DECIMAL.sub(lambda match: f" {_number(match[1])} POINT {digit_words(match[2])} ", text)
    text = _ORDINAL.sub(lambda match: _last_word(_number(match[1]), _ordinal), text)
    text = _DECADE.sub(lambda match: _last_word(_number(match[1]), _plural), text)
    text = _THOUSANDS.sub(lambda match: _number(match.group()), text)
    return re.sub(r"[0-9]+", lambda match: f" {_number(match.group())} ", text)


def _number(digits: str) -> str:
    if "," in digits:
        return number_words(int(digits.replace(",", "")))
    one_by_one = (len(digits) > 1 and digits[0] == "0") or len(digits) > 4
    return digit_words(digits) if one_by_one else number_words(int(digits))


def _last_word(words: str, change: Callable[[str], str]) -> str:
    *head, last = words.split()
    return " ".join([*head, change(last)])


def _ordinal(word: str) -> str:
    return _ORDINALS.get(word) or (f"{word[:-1]}IETH" if word.endswith("Y") else f"{word}TH")


def _plural(word: str) -> str:
    return f"{word[:-1]}IES" if word.endswith("Y") else f"{word}ES" if word.endswith("X") else f"{word}S"
