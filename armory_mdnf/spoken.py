"""How numbers and signs are read out, in upper-case words."""

from __future__ import annotations

import re

from armory_mdnf.errors import TranscriptError

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
TEENS = ("TEN", "ELEVEN", "TWELVE", "THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN", "SEVENTEEN", "EIGHTEEN", "NINETEEN")
TENS = ("TWENTY", "THIRTY", "FORTY", "FIFTY", "SIXTY", "SEVENTY", "EIGHTY", "NINETY")
SCALES = ((1_000_000_000, "BILLION"), (1_000_000, "MILLION"), (1000, "THOUSAND"), (100, "HUNDRED"))
MAX_NUMBER = 10**12 - 1
_SIGNS = {"#": " POUND ", "*": " STAR ", "&": " AND ", "%": " PERCENT ", "\u2019": "'"}


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


def read_signs(text: str) -> str:
    """Spell out ``#``, ``*``, ``&`` and ``%``; a typographic apostrophe becomes a plain one."""
    for sign, reading in _SIGNS.items():
        text = text.replace(sign, reading)
    return text


def read_numbers(text: str) -> str:
    """Spell out the numbers: a cardinal up to four digits, digit by digit beyond that or after a leading zero."""
    return re.sub(r"[0-9]+", _read, text)


def _read(match: re.Match[str]) -> str:
    digits = match.group()
    one_by_one = (len(digits) > 1 and digits[0] == "0") or len(digits) > 4
    return f" {digit_words(digits) if one_by_one else number_words(int(digits))} "
