"""Character error rate, kept as counts as the word error rate is."""

from __future__ import annotations

from collections.abc import Sequence

from armory_mdnf.errors import TranscriptError
from armory_mdnf.metrics.wer import WordCounts, pool, validate


class CharacterCounts(WordCounts):
    """Alignment of a hypothesis with its reference, in characters: white space is one space between words."""

    @property
    def reference_characters(self) -> int:
        """Characters of the reference, spaces between its words among them."""
        return self.reference_words


def count_characters(reference: str, hypothesis: str) -> CharacterCounts:
    """Align two transcripts by the smallest number of character edits.

    A reference without characters makes an insertion of every character of the hypothesis.
    """
    validate([reference], [hypothesis])
    said, heard = (" ".join(text.split()) for text in (reference, hypothesis))
    if not said or not heard:  # jiwer refuses these
        return CharacterCounts(deletions=len(said), insertions=len(heard))
    import jiwer

    found = jiwer.process_characters(said, heard)
    return CharacterCounts(found.hits, found.substitutions, found.deletions, found.insertions)


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate pooled over utterances, a fraction; above 1 if characters are inserted.

    Raises :class:`TranscriptError` if no reference has a character.
    """
    validate(references, hypotheses)
    rate = pool(map(count_characters, references, hypotheses)).rate
    if rate is None:
        raise TranscriptError(f"expected references with at least one character, got {len(references)} without")
    return rate
