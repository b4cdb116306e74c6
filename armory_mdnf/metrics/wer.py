"""Word error rate, kept as counts so that it can be pooled over utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from armory_mdnf.errors import TranscriptError


@dataclass(frozen=True)
class WordCounts:
    """Alignment of a hypothesis with its reference, in words. Addition pools utterances."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise TranscriptError(f"expected {name} to be a whole number >= 0, got {value!r}")

    def __add__(self, other: WordCounts) -> WordCounts:
        return WordCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @classmethod
    def of(cls, errors: int, reference_words: int) -> WordCounts:
        """Counts of which only the errors and the words of the reference are known, errors taken for substitutions."""
        right = max(reference_words - errors, 0)
        return cls(right, reference_words - right, 0, errors - (reference_words - right))

    @property
    def reference_words(self) -> int:
        """Words of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Edit distance in words."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def without_insertions(self) -> WordCounts:
        """The same, of the words that were said alone: right, wrong or missing."""
        return replace(self, insertions=0)

    @property
    def rate(self) -> float | None:
        """Errors per reference word; above 1 if words are inserted. None if the reference has no words."""
        return self.errors / self.reference_words if self.reference_words else None


def validate(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Raise :class:`TranscriptError` for lists that cannot be compared without giving a wrong number."""
    _check_texts(references, hypotheses)
    check_case(references, hypotheses)


def check_case(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Raise :class:`TranscriptError` where one list is upper case and the other lower: every word would be wrong.

    Of all utterances together: in data of both cases, single ones may be of one.
    """
    joined = [" ".join(texts) for texts in (references, hypotheses)]
    if any(a.isupper() and b.islower() for a, b in (joined, joined[::-1])):
        raise TranscriptError("one list is upper case and the other lower case, and words are compared with their case")


def _check_texts(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    for what, texts in (("references", references), ("hypotheses", hypotheses)):
        if isinstance(texts, (str, bytes)):
            raise TranscriptError(f"expected {what} as a list of transcripts, got one {type(texts).__name__}")
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                hint = "; decode it first" if isinstance(text, bytes) else ""
                raise TranscriptError(f"expected {what}[{i}] to be a string, got {type(text).__name__}{hint}")
    if len(references) != len(hypotheses):
        raise TranscriptError(f"expected one hypothesis per reference, got {len(references)} and {len(hypotheses)}")


def align(reference: str, hypothesis: str, characters: bool = False) -> tuple[int, int, int, int]:
    """Hits, substitutions, deletions, insertions of the smallest number of edits of words, or of characters.

    White space is one space between words. A reference without any makes an insertion of all of the hypothesis.
    """
    _check_texts([reference], [hypothesis])
    said, heard = (" ".join(text.split()) for text in (reference, hypothesis))
    if not said or not heard:  # jiwer refuses these
        left, made = (len(text) if characters else len(text.split()) for text in (said, heard))
        return 0, 0, left, made
    import jiwer

    found = jiwer.process_characters(said, heard) if characters else jiwer.process_words(said, heard)
    return found.hits, found.substitutions, found.deletions, found.insertions


def count_words(reference: str, hypothesis: str) -> WordCounts:
    """Align two transcripts by the smallest number of word edits, as :func:`align` says."""
    return WordCounts(*align(reference, hypothesis))


def pool(counts: Iterable[WordCounts]) -> WordCounts:
    """Sum of the counts; its rate is the pooled word error rate, in which a long utterance weighs more."""
    return sum(counts, WordCounts())


def mean_rate(counts: Iterable[WordCounts]) -> float | None:
    """Mean of the utterances' own rates, in which each weighs the same; None without an utterance that has words.

    Utterances whose reference has no words have no rate and are left out; pooled, their insertions count.
    """
    rates = [c.rate for c in counts if c.rate is not None]
    return sum(rates) / len(rates) if rates else None


def worst_case(attacks: Sequence[Sequence[WordCounts]], fewest: bool = False) -> list[WordCounts]:
    """Of several attacks on the same utterances in the same order, each utterance's counts with the most errors.

    ``fewest``: with the fewest instead, which is the worst case where the counts are those of the attacker's targets
    and the targets are the same. Raises :class:`TranscriptError` for attacks on other utterances.
    """
    sizes = [[c.reference_words for c in counts] for counts in attacks]
    if not sizes or any(other != sizes[0] for other in sizes[1:]):
        found = [len(words) for words in sizes]
        raise TranscriptError(f"expected attacks on the same utterances, got {found} of them, or other references")
    choose = min if fewest else max
    return [choose(found, key=lambda c: c.errors) for found in zip(*attacks, strict=True)]


def reached(target: str, heard: str) -> bool:
    """Whether an utterance is understood exactly as its target, white space apart: decoding leaves some at the ends."""
    return target.split() == heard.split()


def success_rate(targets: Sequence[str], transcripts: Sequence[str]) -> float:
    """Share of the utterances that are understood exactly as their targets, white space apart, as a fraction.

    Raises :class:`TranscriptError` without an utterance.
    """
    validate(targets, transcripts)
    if not len(targets):
        raise TranscriptError("expected at least one target, got none")
    return sum(map(reached, targets, transcripts)) / len(targets)


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate pooled over utterances: all errors over all reference words (the paper's tables), a fraction.

    Raises :class:`TranscriptError` if no reference has a word.
    """
    return pooled_rate(count_words, references, hypotheses, "word")


def pooled_rate(
    count: Callable[[str, str], WordCounts], references: Sequence[str], hypotheses: Sequence[str], what: str
) -> float:
    """Rate of the pooled counts. Raises :class:`TranscriptError` if no reference has any of ``what`` is counted."""
    validate(references, hypotheses)
    rate = pool(map(count, references, hypotheses)).rate
    if rate is None:
        raise TranscriptError(f"expected references with at least one {what}, got {len(references)} without")
    return rate
