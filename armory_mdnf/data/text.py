"""Transcripts in the recogniser's alphabet: upper-case letters, apostrophe and single spaces."""

from __future__ import annotations

import re

from armory_mdnf.errors import TranscriptError
from armory_mdnf.spoken import ABBREVIATIONS, plain, read_numbers, read_signs

CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
ENGLISH_ONLY = "expected English; another alphabet takes a @dataset of your own (docs/own.md)"

_PUNCTUATION = '.,!?;:"-/'


def normalise(text: str) -> str:
    """Bring a written transcript into the alphabet.

    Brackets of any kind hold no speech and are dropped with what is in them; signs, numbers and abbreviations are read
    out as :mod:`armory_mdnf.spoken` says, as in what Whisper writes; letters lose their marks; punctuation becomes a
    space, an apostrophe inside a word stays. Idempotent.
    Raises :class:`TranscriptError` for a character that has no reading. The result may be empty.
    """
    out = re.sub(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>", " ", plain(text))
    out = read_numbers(read_signs(out)).upper()
    out = out.translate(dict.fromkeys(map(ord, _PUNCTUATION), " "))
    out = " ".join(ABBREVIATIONS.get(word, word) for word in (raw.strip("'") for raw in out.split()) if word)
    unknown = sorted(set(out) - CHARACTERS)
    if unknown:
        raise TranscriptError(f"no reading for {' '.join(map(repr, unknown))} in {text!r}: {ENGLISH_ONLY}")
    return out


def contains_run(haystack: str, needle: str) -> bool:
    """True if the words of ``needle`` occur in ``haystack`` one after another. An empty needle occurs everywhere."""
    return f" {needle} " in f" {haystack} " if needle else True
