"""Transcripts brought into the recogniser's alphabet."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf.data.selection import SPLITS, bundled_split
from armory_mdnf.data.text import CHARACTERS, contains_run, normalise
from armory_mdnf.errors import TranscriptError
from armory_mdnf.spoken import DIGITS, MAX_NUMBER, SCALES, TEENS, TENS, digit_words, number_words
from armory_mdnf.training.corpora.prompts import fix, parse_transcripts

words = st.lists(st.sampled_from(["A", "B", "C", "D", "AB", "BA"]), max_size=8).map(" ".join)


def value(text: str) -> int:
    """Read a number in words, independently of how it was made: add small words, multiply by scales."""
    small = {**{w: i for i, w in enumerate(DIGITS)}, **{w: i + 10 for i, w in enumerate(TEENS)}}
    small |= {w: 10 * (i + 2) for i, w in enumerate(TENS)}
    scales = {name: size for size, name in SCALES}
    total = group = 0
    for word in text.split():
        if word == "HUNDRED":
            group *= 100
        elif word in scales:
            total, group = total + group * scales[word], 0
        else:
            group += small[word]
    return total + group


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("the 1st of May", "THE FIRST OF MAY"),
        ("2nd 3rd 5TH 12th 21st 30th", "SECOND THIRD FIFTH TWELFTH TWENTY FIRST THIRTIETH"),
        ("the 1,000th and 9th Ave", "THE ONE THOUSANDTH AND NINTH AVE"),
        ("St. Ives, 4 sts", "SAINT IVES FOUR STS"),
        ("3.5 keys.", "THREE POINT FIVE KEYS"),
        ("0.05 or 1,000.50", "ZERO POINT ZERO FIVE OR ONE THOUSAND POINT FIVE ZERO"),
        ("in 1984. 5 men", "IN ONE THOUSAND NINE HUNDRED EIGHTY FOUR FIVE MEN"),
        ("1.5.2 on 1.10.20", "ONE FIVE TWO ON ONE TEN TWENTY"),
        ("the 20s, '60s", "THE TWENTIES SIXTIES"),
    ],
)
def test_ordinals_decimals_and_decades_are_read(written, read):
    assert normalise(written) == read
    assert normalise(read) == read


@given(st.integers(1, 9999))
def test_an_ordinal_differs_from_its_number_in_the_last_word(n):
    ordinal, number = normalise(f"{n}th").split(), number_words(n).split()
    assert ordinal[:-1] == number[:-1]
    assert ordinal[-1] != number[-1]
    assert ordinal[-1].endswith(("ST", "ND", "RD", "TH"))


@given(st.integers(0, MAX_NUMBER))
def test_number_words_say_the_number(n):
    assert value(number_words(n)) == n


@pytest.mark.parametrize("n", [-1, MAX_NUMBER + 1])
def test_numbers_outside_the_range_are_refused(n):
    with pytest.raises(TranscriptError, match="expected a number from 0"):
        number_words(n)


@given(st.text("0123456789", min_size=1, max_size=12))
def test_digit_words_keep_every_digit(digits):
    assert [str(DIGITS.index(w)) for w in digit_words(digits).split()] == list(digits)


@pytest.mark.parametrize("digits", ["", "1a", "-1", "\u0663"])
def test_only_decimal_digits_are_read(digits):
    with pytest.raises(TranscriptError, match="expected decimal digits"):
        digit_words(digits)


@given(
    st.text(string.ascii_letters + string.digits + " .,!?;:\"'-/#*&%[]()<>\u2018\u201d\u2013\u00e9\ufb01", max_size=60)
)
def test_normalised_text_is_in_the_alphabet_and_stays_as_it_is(text):
    out = normalise(text.translate(str.maketrans("", "", "[]()<>")))
    assert set(out) <= CHARACTERS
    assert out == " ".join(out.split())
    assert normalise(out) == out


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Press 1 to record, or 12 for more...", "PRESS ONE TO RECORD OR TWELVE FOR MORE"),
        ("press * then #", "PRESS STAR THEN POUND"),
        ("at [@]", "AT"),
        ("[sound of monkeys screaming]", ""),
        ("(10 seconds of silence)", ""),
        ("<beep ascending>", ""),
        ('a polite "don\'t call" menu', "A POLITE DON'T CALL MENU"),
        ("'quoted' o'clock", "QUOTED O'CLOCK"),
        ("dial 007 or 10000", "DIAL ZERO ZERO SEVEN OR ONE ZERO ZERO ZERO ZERO"),
        ("extension 1234", "EXTENSION ONE THOUSAND TWO HUNDRED THIRTY FOUR"),
        ("number.Please", "NUMBER PLEASE"),
        ("\uff081 second\uff09 x", "X"),
    ],
)
def test_written_forms_are_read_out(written, spoken):
    assert normalise(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Mr. Smith paid 1,000 dollars to Mrs. Jones.", "MISTER SMITH PAID ONE THOUSAND DOLLARS TO MISSUS JONES"),
        ("Dr. Watson of St. Paul's", "DOCTOR WATSON OF SAINT PAUL'S"),
        ("1,234,567 or 1,23", f"{number_words(1234567)} OR ONE TWENTY THREE"),
        ("caf\u00e9 na\u00efve cafe\u0301", "CAFE NAIVE CAFE"),
        (
            "\u201cHello,\u201d he said \u2014 it\u2019s a well\u2011known \u2018one\u2019\u2026",
            "HELLO HE SAID IT'S A WELL KNOWN ONE",
        ),
        ("7\u20139 & 50%", "SEVEN NINE AND FIFTY PERCENT"),
    ],
)
def test_references_are_spelt_as_whispers_transcripts(written, spoken):
    from armory_mdnf.asr.huggingface.whisper import words

    assert normalise(written) == words(written) == spoken


@pytest.mark.parametrize("split", SPLITS)
def test_the_bundled_transcripts_are_spelt_so(split):
    for utterance in bundled_split(split):
        assert normalise(utterance.transcript) == utterance.transcript


def test_a_character_without_a_reading_is_refused():
    with pytest.raises(TranscriptError, match=r"no reading for '\u0416' .*expected English; another alphabet takes"):
        normalise("\u0436")


def test_corrections_of_the_prompts():
    assert normalise(fix("mute or umute all 3D A.M. touchtone")) == "MUTE OR UNMUTE ALL THREE D A M TOUCH TONE"


def test_prompt_list_is_parsed():
    text = "; a comment: no\n\nhello: Hello.\ndigits/a-m: A.M.\nbeep: [tone]\n"
    assert parse_transcripts(text) == {"hello": "HELLO", "digits/a-m": "A M", "beep": ""}


@given(words, words, words)
def test_a_run_of_words_is_found_where_it_was_put(before, run, after):
    assert contains_run(" ".join(f"{before} {run} {after}".split()), run)


@given(words, words)
def test_a_run_of_words_is_found_as_a_search_through_the_words_finds_it(haystack, needle):
    h, n = haystack.split(), needle.split()
    assert contains_run(haystack, needle) == any(h[i : i + len(n)] == n for i in range(len(h) - len(n) + 1))
