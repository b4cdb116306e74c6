"""Character error rate, kept as counts as the word error rate is."""

from __future__ import annotations

from collections.abc import Sequence

from armory_mdnf.metrics.wer import WordCounts, align, pooled_rate


class CharacterCounts(WordCounts):
    """Alignment of a hypothesis with its reference, in characters: white space is one space between words."""

    @property
    def reference_characters(self) -> int:
        """Characters of the reference, spaces between its words among them."""
        return self.reference_words


def count_characters(reference: str, hypothesis: str) -> CharacterCounts:
    """Align two transcripts by the smallest number of character edits, as :func:`.wer.align` says."""
    return CharacterCounts(*align(reference, hypothesis, characters=True))


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate pooled over utterances, a fraction; above 1 if characters are inserted.

    Raises :class:`TranscriptError` if no reference has a character.
    """
    return pooled_rate(count_characters, references, hypotheses, "character")
