"""How written English is read out, in upper-case words: one rule for references and for what a recogniser writes."""

from __future__ import annotations

import re
import unicodedata

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
_THOUSANDS = re.compile(r"\b[0-9]{1,3}(?:,[0-9]{3}){1,3}\b")


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
    """
    text = _THOUSANDS.sub(lambda match: number_words(int(match.group().replace(",", ""))), text)
    return re.sub(r"[0-9]+", _read, text)


def _read(match: re.Match[str]) -> str:
    digits = match.group()
    one_by_one = (len(digits) > 1 and digits[0] == "0") or len(digits) > 4
    return f" {digit_words(digits) if one_by_one else number_words(int(digits))} "
