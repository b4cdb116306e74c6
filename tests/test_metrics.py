"""Word error rates and perturbation sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armory_mdnf.errors import AudioError, TranscriptError
from armory_mdnf.metrics import perturbation, wer

words = st.lists(st.sampled_from(["A", "B", "C", "PRESS", "ONE"]), max_size=7)


def edit_distance(a: list[str], b: list[str]) -> int:
    """Wagner and Fischer's, independent of jiwer."""
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1]


@settings(deadline=None)
@given(words, words)
def test_counts_are_an_optimal_alignment(reference: list[str], hypothesis: list[str]) -> None:
    counts = wer.count_words(" ".join(reference), " ".join(hypothesis))
    assert counts.errors == edit_distance(reference, hypothesis)
    assert counts.reference_words == len(reference)
    assert counts.hits + counts.substitutions + counts.insertions == len(hypothesis)


def test_rate_is_pooled_over_utterances() -> None:
    # 1 error in 1 word and 0 in 3: a mean of rates would say a half.
    assert wer.word_error_rate(["ONE", "PRESS TWO NOW"], ["TWO", "PRESS TWO NOW"]) == 0.25


def test_without_insertions_no_utterance_counts_for_more_than_its_words() -> None:
    counts = wer.count_words("A B C", "A X " + "Y " * 200)
    assert counts.rate is not None
    assert counts.rate > 50
    assert counts.without_insertions.rate == 2 / 3
    assert counts.without_insertions.reference_words == 3


def test_insertions_exceed_one() -> None:
    assert wer.word_error_rate(["ONE"], ["ONE TWO THREE"]) == 2.0


def test_an_empty_reference_counts_insertions_and_has_no_rate() -> None:
    counts = wer.count_words("", "HELLO THERE")
    assert counts == wer.WordCounts(insertions=2)
    assert counts.rate is None
    assert wer.word_error_rate(["", "ONE"], ["HELLO", "ONE"]) == 1.0


def test_an_empty_hypothesis_deletes_everything() -> None:
    assert wer.count_words("PRESS ONE", "") == wer.WordCounts(deletions=2)


def test_white_space_does_not_matter() -> None:
    assert wer.count_words(" PRESS  ONE ", "PRESS ONE").errors == 0


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        (["A"], ["A", "B"], "1 and 2"),
        ("A", ["A"], "expected references as a list"),
        ([b"A"], ["A"], "decode it first"),
        (["A"], [None], "NoneType"),
        (["PRESS ONE"], ["press one"], "case"),
        ([""], ["PRESS"], "at least one word"),
        ([], [], "at least one word"),
    ],
)
def test_refusals(references: list[str], hypotheses: list[str], message: str) -> None:
    with pytest.raises(TranscriptError, match=message):
        wer.word_error_rate(references, hypotheses)


def test_counts_are_whole_numbers() -> None:
    with pytest.raises(TranscriptError, match="insertions"):
        wer.WordCounts(insertions=-1)


@settings(deadline=None)
@given(st.floats(-60, 60), st.integers(2, 50), st.integers(0, 99))
def test_snr_is_decibels_of_power(level_db: float, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size)
    delta = rng.standard_normal(size)
    delta *= np.linalg.norm(x) / np.linalg.norm(delta) * 10 ** (-level_db / 20)
    assert perturbation.snr_db(x, x + delta) == pytest.approx(level_db, abs=1e-4)


def test_snr_of_what_has_no_ratio() -> None:
    silence, tone = np.zeros(8), np.ones(8)
    assert perturbation.snr_db(tone, tone) == math.inf
    assert perturbation.snr_db(silence, tone) == -math.inf
    assert perturbation.snr_db(silence, silence) is None


def test_norms() -> None:
    x = np.zeros((1, 4), dtype=np.float32)
    x_adv = np.array([[3, 0, -4, 0]], dtype=np.float32)
    assert perturbation.l2(x, x_adv) == 5
    assert perturbation.linf(x, x_adv) == 4


@pytest.mark.parametrize(
    ("x", "x_adv", "message"),
    [
        (np.zeros(3), np.zeros(4), r"\(3,\) and \(4,\)"),
        (np.zeros(3, dtype=np.int16), np.zeros(3), "int16"),
        (np.zeros(3), np.array([0, np.nan, 0]), "not finite"),
        (np.zeros(0), np.zeros(0), "expected two utterances"),
    ],
)
def test_perturbation_refusals(x: np.ndarray, x_adv: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        perturbation.snr_db(x, x_adv)


def test_blanks_around_what_was_heard_do_not_miss_the_target() -> None:
    assert wer.reached("HELLO YOU", " HELLO  YOU ")
    assert not wer.reached("HELLO YOU", "HELLOYOU")
