"""Word error rates of runs and their paired differences, with intervals."""

from __future__ import annotations

from collections.abc import Iterable

from armory_mdnf.evaluation.records import Outcome, RunRecord, common_outcomes, compare
from armory_mdnf.metrics.intervals import Interval, difference_interval, wer_interval
from armory_mdnf.metrics.wer import WordCounts


def interval(run: RunRecord, comparison: str) -> Interval | None:
    """Pooled word error rate of a comparison, as a fraction; None where no utterance has it, or no word was said."""
    counts = [c for c in (compare(o, comparison) for o in run.outcomes) if c is not None]
    return wer_interval(counts) if any(c.reference_words for c in counts) else None


def difference(first: RunRecord, second: RunRecord, comparison: str, insertions: bool = True) -> Interval | None:
    """Word error rate of ``first`` less that of ``second``, on the utterances for which both have the comparison.

    None where there is none, or no word was said in them. Without ``insertions``, of the words that are wrong or
    missing: no utterance counts for more than its words then, where a decoder may write one word hundreds of times.
    """
    counts = paired_counts(common_outcomes(first, second), (comparison, comparison))
    if not insertions:
        counts = ([c.without_insertions for c in counts[0]], [c.without_insertions for c in counts[1]])
    return difference_interval(*counts) if any(c.reference_words for c in counts[0]) else None


def paired_counts(
    pairs: Iterable[tuple[Outcome, Outcome]], comparisons: tuple[str, str]
) -> tuple[list[WordCounts], list[WordCounts]]:
    """Word counts of a comparison on each side, of the pairs that have both."""
    both = [(compare(a, comparisons[0]), compare(b, comparisons[1])) for a, b in pairs]
    found = [(a, b) for a, b in both if a is not None and b is not None]
    return [a for a, _ in found], [b for _, b in found]
