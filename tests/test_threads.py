"""Parts of a batch side by side: the same numbers, and torch's settings as they were."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from conftest import speechlike, tiny_recognizer
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.audio import ragged
from armory_mdnf.cpu.threads import even_parts, rounds, side_by_side
from armory_mdnf.defenses import RandomizedSmoothing
from armory_mdnf.errors import TranscriptError


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.integers(1, 9))
def test_parts_hold_every_utterance_once_in_order_of_length(lengths: list[int], count: int) -> None:
    parts = even_parts(lengths, count)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    assert 1 <= len(parts) <= count
    in_turn = [lengths[i] for part in parts for i in part]
    assert in_turn == sorted(in_turn)


def test_parts_are_about_even() -> None:
    assert [len(part) for part in even_parts([7] * 8, 4)] == [2, 2, 2, 2]
    sums = [sum([30, 10, 20, 60, 40, 50][i] for i in part) for part in even_parts([30, 10, 20, 60, 40, 50], 2)]
    assert max(sums) - min(sums) <= 60


def test_equal_utterances_that_do_not_divide_wait_for_a_round_of_their_own() -> None:
    assert rounds([7] * 5, 2, 100) == [[[0, 1], [2, 3]], [[4]]]
    assert rounds([7] * 4, 2, 100) == [[[0, 1], [2, 3]]]
    assert rounds([7] * 2, 3, 100) == [[[0], [1]]]
    assert rounds([7, 7, 8], 2, 100) == [even_parts([7, 7, 8], 2)]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 3000))
def test_rounds_hold_every_utterance_once_in_parts_of_a_bounded_size(
    lengths: list[int], threads: int, samples: int
) -> None:
    found = rounds(lengths, threads, samples)
    assert sorted(i for parts in found for part in parts for i in part) == list(range(len(lengths)))
    for part in found[0]:
        # Parts are even to an utterance, and there are no more of them than utterances.
        share = max(samples, sum(lengths) / len(lengths))
        assert sum(lengths[i] for i in part) <= share + 2 * max(lengths[i] for i in part)
    costs = [len(part) * max(lengths[i] for i in part) for part in found[0]]
    assert costs == sorted(costs, reverse=True)


def test_larger_batches_are_cut_into_a_multiple_of_the_threads() -> None:
    assert [len(part) for part in rounds([10] * 12, 2, 25)[0]] == [2] * 6
    assert [len(part) for part in rounds([10] * 12, 1, 25)[0]] == [3, 3, 2, 2, 2]


def test_parts_run_at_the_same_time_each_with_its_share_of_the_threads(three_threads: None) -> None:
    everyone = threading.Barrier(3, timeout=30)

    def threads(part: int) -> int:
        everyone.wait()
        torch.ones(10**6).add_(1).sum()  # what uses threads may not change how many there are
        return torch.get_num_threads()

    assert side_by_side(threads, [0, 1, 2]) == [1, 1, 1]
    assert side_by_side(threads, list(range(6))) == [1] * 6  # more parts than threads wait for their turn
    assert torch.get_num_threads() == 3
    found: list[int] = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert found == [3]


def test_gradients_side_by_side_are_those_one_by_one(three_threads: None) -> None:
    estimator = RecognizerEstimator(
        tiny_recognizer(), preprocessing_defences=RandomizedSmoothing(seed=3), device_type="cpu"
    )
    estimator.to_training_mode()
    x, lengths = ragged.pad([torch.from_numpy(speechlike(n, n)) for n in (9000, 4000, 16000, 7000, 8000)])
    keys = [(i, 3) for i in range(5)]
    together = estimator.gradients(x, lengths, [[2, 3]] * 5, keys)
    assert all(m.training for m in estimator.model.modules())
    for i, n in enumerate(lengths.tolist()):
        alone = estimator.gradients(x[i : i + 1, :n], lengths[i : i + 1], [[2, 3]], keys[i : i + 1])[0]
        torch.testing.assert_close(together[i, :n], alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))
        assert not bool(together[i, n:].any())


def test_an_error_in_a_part_is_the_caller_s(three_threads: None) -> None:
    estimator = RecognizerEstimator(tiny_recognizer(), device_type="cpu")
    x, lengths = ragged.pad([torch.from_numpy(speechlike(n, n)) for n in (8000, 9000, 4000)])
    with pytest.raises(TranscriptError, match="transcript 1 has 800"):
        estimator.gradients(x, lengths, [[2], list(np.tile([2, 3], 400)), [2]], [(i, 0) for i in range(3)])
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 // part, [1, 0, 2])


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background commands ignore them
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    time.sleep(0.3)  # until the caller waits: a signal just before that is not heard before the wait is over
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def fail() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(("stop", "error"), [(fail, ZeroDivisionError), (interrupt, KeyboardInterrupt)])
def test_no_part_runs_on_behind_what_ends_the_call(
    three_threads: None, heeds_interrupts: None, stop: Callable[[], None], error: type[BaseException]
) -> None:
    """The caller gives the recogniser its modes back then, batch norm's for instance."""
    everyone = threading.Barrier(3, timeout=30)
    begun, ended = [], []

    def part(i: int) -> None:
        begun.append(i)
        if i < 3:
            everyone.wait()
        if i == 1:
            ended.append(i)
            stop()
            return
        time.sleep(0.1 if i else 0.6)
        ended.append(i)

    with pytest.raises(error):
        side_by_side(part, list(range(300)))
    assert sorted(begun) == sorted(ended)
    assert stop is interrupt or len(begun) < 300
    time.sleep(0.1)
    assert sorted(begun) == sorted(ended)
    assert side_by_side(str, [1, 2, 3]) == ["1", "2", "3"]


def test_of_several_errors_the_first_part_s_is_raised(three_threads: None) -> None:
    def part(i: int) -> None:
        time.sleep(0.2 if i == 0 else 0)
        raise ValueError(f"part {i}")

    with pytest.raises(ValueError, match="part 0"):
        side_by_side(part, [0, 1, 2])
