"""Transcripts side by side, word under word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

HIT, SUBSTITUTED, INSERTED, LOST, NOTHING = "hit", "substituted", "inserted", "lost", "nothing"


@dataclass(frozen=True)
class Word:
    """A word of a transcript and how it stands to the reference; its text is empty where there is none."""

    text: str
    kind: str


@dataclass(frozen=True)
class Column:
    """A word of the reference (empty between two of them), and what each transcript has in its place."""

    reference: str
    words: tuple[Word, ...]


def align(reference: str, transcripts: Sequence[str]) -> list[Column]:
    """Transcripts aligned with one reference by the fewest word edits. Each has a word, or nothing, in each column.

    The words of transcript i, in the order of the columns, are those of ``transcripts[i]``; the errors of a column are
    those that a word error rate counts.
    """
    said = reference.split()
    aligned = [_against(said, text.split()) for text in transcripts]
    columns = []
    for place in range(len(said) + 1):
        between = [inserted[place] for inserted, _ in aligned]
        for row in zip_longest(*between):
            words = tuple(Word("", NOTHING) if text is None else Word(text, INSERTED) for text in row)
            columns.append(Column("", words))
        if place < len(said):
            columns.append(Column(said[place], tuple(found[place] for _, found in aligned)))
    return columns


def _against(said: list[str], heard: list[str]) -> tuple[list[list[str]], list[Word]]:
    """Words inserted before each word of the reference and at its end, and what stands for each of its words."""
    inserted: list[list[str]] = [[] for _ in range(len(said) + 1)]
    found = [Word("", LOST)] * len(said)
    if not said or not heard:  # jiwer refuses these
        inserted[-1] = list(heard)
        return inserted, found
    import jiwer

    for chunk in jiwer.process_words(" ".join(said), " ".join(heard)).alignments[0]:
        words = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert":
            inserted[chunk.ref_start_idx] += words
        elif chunk.type in ("equal", "substitute"):
            kind = HIT if chunk.type == "equal" else SUBSTITUTED
            for i, word in enumerate(words):
                found[chunk.ref_start_idx + i] = Word(word, kind)
    return inserted, found


def spoken(reference: str, transcript: str) -> str:
    """In words what differs, for somebody who hears the page read."""
    said = {SUBSTITUTED: [], INSERTED: [], LOST: []}  # type: dict[str, list[str]]
    for column in align(reference, [transcript]):
        (word,) = column.words
        if word.kind == SUBSTITUTED:
            said[SUBSTITUTED].append(f"{word.text} for {column.reference}")
        elif word.kind == INSERTED:
            said[INSERTED].append(word.text)
        elif word.kind == LOST:
            said[LOST].append(column.reference)
    parts = [f"{kind}: {', '.join(words)}" for kind, words in said.items() if words]
    return "; ".join(parts) or "no errors"
