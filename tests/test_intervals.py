"""Bootstrap intervals of word error rates, against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from armory_mdnf.errors import TranscriptError
from armory_mdnf.evaluation.findings import verdict
from armory_mdnf.metrics import intervals
from armory_mdnf.metrics.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    wer_interval,
)
from armory_mdnf.metrics.wer import WordCounts


def counts(errors: list[int], words: list[int]) -> list[WordCounts]:
    return [WordCounts(n - min(e, n), min(e, n), 0, max(0, e - n)) for e, n in zip(errors, words, strict=True)]


def test_the_value_is_the_pooled_rate_and_lies_within() -> None:
    found = wer_interval(counts([1, 0, 5, 2], [10, 5, 10, 4]))
    assert found.value == pytest.approx(8 / 29)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert found.utterances == 4
    assert found == wer_interval(counts([1, 0, 5, 2], [10, 5, 10, 4]))


def test_the_interval_has_the_width_of_the_normal_one_where_that_holds() -> None:
    rng = np.random.default_rng(0)
    errors = rng.binomial(10, 0.3, 400)
    found = wer_interval(counts(errors.tolist(), [10] * 400))
    half = 1.96 * errors.std() / 10 / np.sqrt(400)
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    rng = np.random.default_rng(1)
    hard = rng.integers(0, 10, 60)
    first, second = counts((hard + 1).tolist(), [10] * 60), counts(hard.tolist(), [10] * 60)
    difference = difference_interval(first, second)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    single = wer_interval(first)
    assert single.high is not None
    assert single.low is not None
    assert single.high - single.low > 0.1


def test_an_interval_of_few_utterances_or_of_no_width_decides_nothing() -> None:
    assert Interval(0.1, 0.0, 0.2, 10).deciding == (0.0, 0.2)
    assert not Interval(0.1, 0.0, 0.2, 9).deciding
    assert not Interval(0.1, None, None, 1).deciding
    assert [verdict(Interval(0.1, 0.05, 0.2, n)) for n in (9, 10)] == ["open", "higher"]
    # A word more in each: what rounding leaves of the width is none.
    first, second = counts([k + 1 for k in range(20)], [30] * 20), counts(list(range(20)), [30] * 20)
    assert not difference_interval(first, second).deciding
    assert difference_interval(counts([2, *range(2, 21)], [30] * 20), second).deciding


def test_four_of_ten_utterances_a_word_apart_are_no_difference_at_the_confidence_of_many() -> None:
    before, after = counts([2] * 10, [8] * 10), counts([1] * 4 + [2] * 6, [8] * 10)
    cautious = difference_interval(after, before, 0.983)
    assert cautious.low is not None
    assert cautious.high is not None
    assert cautious.low < 0 < cautious.high
    # Student's: mean -0.4 words, deviation 0.5164, of 8 words each; the quantile of 9 degrees of freedom is 2.9199.
    half = 2.9199 * 0.5164 / np.sqrt(10) / 8
    assert cautious.high == pytest.approx(-0.05 + half, abs=1e-4)


def test_values_that_all_moved_alike_have_no_width() -> None:
    found = mean_interval([0.5] * 12)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert mean_interval([1.0]) == Interval(1.0, None, None, 1)
    assert difference_interval(counts([1], [4]), counts([0], [4])) == Interval(0.25, None, None, 1)
    values = np.random.default_rng(2).normal(size=200).tolist()
    found = mean_interval(values)
    half = 1.9720 * np.std(values, ddof=1) / np.sqrt(200)  # the quantile of 199 degrees of freedom
    assert found.low == pytest.approx(np.mean(values) - half, abs=0.02)
    with pytest.raises(TranscriptError, match="at least one value"):
        mean_interval([])


def test_a_rate_of_few_utterances_is_as_wide_as_students_and_never_below_nothing() -> None:
    found = wer_interval(counts([0, 0, 1, 5], [5, 5, 5, 5]))
    # The rate is 0.3, errors have a deviation of 2.3805; the quantile of 3 degrees of freedom is 3.1824.
    assert found.high == pytest.approx(0.3 + 3.1824 * 2.3805 / np.sqrt(4) / 5, abs=1e-4)
    assert found.low == 0
    assert wer_interval(counts([0, 0], [5, 5])) == Interval(0.0, 0.0, 0.0, 2)


def test_one_utterance_has_no_interval() -> None:
    assert wer_interval(counts([1], [4])) == Interval(0.25, None, None, 1)
    assert wer_interval(counts([1], [4])).percent() == "25.0"
    assert Interval(0.524, 0.401, 0.639, 9).percent() == "52.4 [40.1, 63.9]"


def test_what_has_no_rate_or_does_not_pair_is_refused() -> None:
    with pytest.raises(TranscriptError, match="at least one word, got 2 without"):
        wer_interval(counts([1, 0], [0, 0]))
    with pytest.raises(TranscriptError, match="at least one word, got 0 without"):
        wer_interval([])
    with pytest.raises(TranscriptError, match="twice, got 1 and 2"):
        difference_interval(counts([1], [4]), counts([1, 1], [4, 4]))
    with pytest.raises(TranscriptError, match="numbers of words differ"):
        difference_interval(counts([1], [4]), counts([1], [5]))


def test_rates_over_one_and_empty_references_count() -> None:
    assert wer_interval(counts([9, 2], [3, 0])).value == pytest.approx(11 / 3)


def test_utterances_that_say_nothing_are_not_counted() -> None:
    told, silent = counts([1, 0, 5, 2], [10, 5, 10, 4]), [WordCounts()] * 7
    assert wer_interval([*told, *silent]) == wer_interval(told)
    other = counts([2, 0, 3, 2], [10, 5, 10, 4])
    assert difference_interval([*silent, *told], [*silent, *other]) == difference_interval(told, other)
    heard = [WordCounts(insertions=1), *silent[1:]]  # what is understood of silence counts
    assert difference_interval([*heard, *told], [*silent, *other]).utterances == 5


def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = counts([1, 0, 5, 2], [10, 5, 10, 4]), counts([2, 0, 3, 2], [10, 5, 10, 4])
    whole = difference_interval(first, second)
    monkeypatch.setattr(intervals, "VALUES_AT_ONCE", 28)
    assert difference_interval(first, second) == whole


def test_a_difference_that_is_exact_is_exact() -> None:
    first, second = counts([3] * 12, [10] * 12), counts([1] * 12, [10] * 12)
    assert difference_interval(first, second).value == 24 / 120
