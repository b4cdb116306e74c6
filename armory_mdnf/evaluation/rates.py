"""Word error rates of runs and their paired differences, with intervals."""

from __future__ import annotations

from armory_mdnf.evaluation.records import RunRecord, common_outcomes, compare
from armory_mdnf.metrics.intervals import Interval, difference_interval, wer_interval


def interval(run: RunRecord, comparison: str) -> Interval | None:
    """Pooled word error rate of a comparison, as a fraction; None where no utterance has it, or no word was said."""
    counts = [c for c in (compare(o, comparison) for o in run.outcomes) if c is not None]
    return wer_interval(counts) if any(c.reference_words for c in counts) else None


def difference(first: RunRecord, second: RunRecord, comparison: str) -> Interval | None:
    """Word error rate of ``first`` less that of ``second``, on the utterances for which both have the comparison.

    None where there is none, or no word was said in them.
    """
    pairs = [(compare(a, comparison), compare(b, comparison)) for a, b in common_outcomes(first, second)]
    counts = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not any(a.reference_words for a, _ in counts):
        return None
    return difference_interval([a for a, _ in counts], [b for _, b in counts])
