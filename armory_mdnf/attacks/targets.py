"""Target transcripts of matched length, for targeted attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from armory_mdnf.errors import OptionError, TranscriptError, quoted


def normalise(text: str) -> str:
    """A transcript with its white space collapsed, as word error rates see it."""
    if not isinstance(text, str):
        raise TranscriptError(f"expected a transcript as a string, got {type(text).__name__}")
    return " ".join(text.split())


def candidate_pool(candidates: Iterable[str]) -> tuple[str, ...]:
    """Candidates normalised, each once, and sorted: their order in the file does not matter.

    Raises :class:`OptionError` if there is none, or one without words: silence is another attack.
    """
    if isinstance(candidates, str):
        raise OptionError(f"expected a list of candidates, got the string {quoted(candidates)}")
    pool = {normalise(text) for text in candidates}
    if not pool or "" in pool:
        raise OptionError(f"expected candidates with words, got {'an empty one' if pool else 'none'}")
    return tuple(sorted(pool))


def matched_length(
    reference: str, index: int, candidates: Sequence[str], fits: Callable[[str], bool] | None = None
) -> str:
    """Target for the utterance at position ``index``: of the candidates nearest in length, one by the index.

    ``candidates``: a :func:`candidate_pool`. ``fits`` tells whether an utterance has frames enough for a transcript
    (CTC needs one a character, and one between equal neighbours); all fit if it is left out. The reference itself is
    never chosen. The result depends on these arguments alone, so neither batches nor shards change it.

    Raises :class:`OptionError` for a negative index, :class:`TranscriptError` if no candidate is left.
    Source: Armory's ``MatchedTranscriptLengthTargeter``, which counts calls in place of an index.
    """
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise OptionError(f"expected an index that is a whole number >= 0, got {quoted(index)}")
    text = normalise(reference)
    others = [c for c in candidates if c != text]
    fitting = [c for c in others if fits is None or fits(c)]
    if not fitting:
        why = "is another text than the reference" if not others else "is short enough for the utterance's frames"
        raise TranscriptError(f"utterance {index}, {quoted(reference)}: none of the {len(candidates)} candidates {why}")
    nearest = min(abs(len(c) - len(text)) for c in fitting)
    pool = [c for c in fitting if abs(len(c) - len(text)) == nearest]
    return pool[index % len(pool)]
