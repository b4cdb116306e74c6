"""One transcript out of several, for recognisers without probabilities per frame."""

from __future__ import annotations

from collections.abc import Sequence


def vote(transcripts: Sequence[str]) -> str:
    """The transcript with the least summed word errors to the others; the earliest of equals.

    Raises :class:`ValueError` for no transcript.
    """
    if len(set(transcripts)) == 1:
        return transcripts[0]
    from rapidfuzz.distance import Levenshtein

    words = [text.split() for text in transcripts]
    errors = [sum(Levenshtein.distance(mine, other) for other in words) for mine in words]
    return transcripts[errors.index(min(errors))]
