"""Confidence intervals over utterances: one method, for tables, gate, claims, audit and report.

Utterances are drawn with replacement, each with its errors and its words: percentiles of the pooled rates
(``scipy.stats.bootstrap``). Where Student's interval reaches farther, so does ours: with ten utterances, of which four
moved by a word, resampling alone is too sure of itself. Student's is that of the ratio of all errors to all words,
linearised (Cochran, Sampling Techniques, 1977, section 6.4). The same counts give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from armory_mdnf.errors import TranscriptError
from armory_mdnf.metrics.wer import WordCounts

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 20230
FEWEST = 10  # utterances: drawn again from fewer, the interval says too little of others
VALUES_AT_ONCE = 2_000_000  # of a resampling: some 50 MB
ROUNDING = 1e-9
"""Fractions that differ by less are equal: sums of whole numbers round far below it."""


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its confidence interval, all as fractions, and the number of utterances behind it.

    ``low`` and ``high`` are None where there are fewer than two utterances to draw from.
    """

    value: float
    low: float | None
    high: float | None
    utterances: int

    @property
    def deciding(self) -> tuple[float, float] | None:
        """The bounds, where they say something of other utterances.

        Those of fewer than :data:`FEWEST` are too sure of themselves. So are those of no width: no two utterances
        moved differently, and how much others would cannot be told.
        """
        if self.low is None or self.high is None or self.utterances < FEWEST or self.high - self.low <= ROUNDING:
            return None
        return self.low, self.high

    def percent(self) -> str:
        """As text, in percent: ``52.4 [40.1, 63.9]``."""
        if self.low is None or self.high is None:
            return f"{100 * self.value:.1f}"
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wer_interval(counts: Sequence[WordCounts], confidence: float = CONFIDENCE) -> Interval:
    """Pooled word error rate of utterances with its interval. Raises :class:`TranscriptError` without a word."""
    errors, words = _telling(_columns(counts))
    found = _interval([errors, words], _rate, confidence)
    wide = _widened(found, errors - found.value * words, words.mean(), confidence)
    return wide if wide.low is None else replace(wide, low=max(0.0, wide.low))  # no rate is less


def difference_interval(
    first: Sequence[WordCounts], second: Sequence[WordCounts], confidence: float = CONFIDENCE
) -> Interval:
    """Word error rate of ``first`` less that of ``second``, the same utterances in the same order, paired.

    Raises :class:`TranscriptError` for lists that do not pair, or without a word.
    """
    if len(first) != len(second):
        raise TranscriptError(f"expected the same utterances twice, got {len(first)} and {len(second)}")
    (x, words), (y, others) = _columns(first), _columns(second)
    if not np.array_equal(words, others):
        raise TranscriptError("expected the same references twice: their numbers of words differ")
    x, y, words = _telling((x, y, words))
    found = _interval([x, y, words], lambda x, y, n, axis=-1: _rate(x - y, n, axis), confidence)
    return _widened(found, x - y - found.value * words, words.mean(), confidence)


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of a value per utterance with its interval, in the values' own unit.

    The mean of paired differences has the interval of a paired difference. Raises :class:`TranscriptError` for none.
    """
    if not len(values):
        raise TranscriptError("expected at least one value, got none")
    column = np.asarray(values, dtype=np.float64)
    found = _interval([column], lambda x, axis=-1: x.mean(axis), confidence)
    return _widened(found, column - found.value, 1.0, confidence)


def _widened(found: Interval, residuals: np.ndarray, size: float, confidence: float) -> Interval:
    """The interval and Student's together, of the mean of what each utterance adds, over their mean ``size``."""
    from scipy.stats import t

    if found.low is None or found.high is None:
        return found
    n = found.utterances
    error = float(np.sqrt(np.sum(residuals**2) / (n * (n - 1))) / size)
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * error
    return Interval(found.value, min(found.low, found.value - half), max(found.high, found.value + half), n)


def _columns(counts: Sequence[WordCounts]) -> tuple[np.ndarray, np.ndarray]:
    errors = np.array([c.errors for c in counts], dtype=np.float64)
    words = np.array([c.reference_words for c in counts], dtype=np.float64)
    if not words.sum():
        raise TranscriptError(f"expected references with at least one word, got {len(counts)} without")
    return errors, words


def _telling(columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Without the utterances of which no word was said and none understood: they tell nothing, and are no evidence."""
    some = np.any(np.stack(columns) != 0, axis=0)
    return tuple(column[some] for column in columns)


def _rate(errors: np.ndarray, words: np.ndarray, axis: int = -1) -> np.ndarray:
    # A resample may hold no word at all, of references that are nearly all empty: then it has no rate.
    return errors.sum(axis) / np.maximum(words.sum(axis), 1)


def _interval(columns: list[np.ndarray], statistic: object, confidence: float) -> Interval:
    from scipy.stats import bootstrap

    value = float(statistic(*columns))  # type: ignore[operator]
    n = len(columns[0])
    if n < 2:
        return Interval(value, None, None, n)
    found = bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(SEED),
        batch=max(1, min(1000, VALUES_AT_ONCE // n)),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high), n)
