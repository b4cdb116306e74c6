"""Ragged batches: each utterance is treated as if it were alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad as torch_pad

from armory_mdnf.audio import noise, ragged
from armory_mdnf.errors import AudioError, OptionError

lengths_of = st.lists(st.integers(6, 40), min_size=1, max_size=5)


def utterances(lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(n, generator=generator) for n in lengths]


@given(lengths_of)
def test_unpad_inverts_pad(lengths: list[int]) -> None:
    given_ = utterances(lengths)
    x, found = ragged.pad(given_)
    assert x.shape == (len(lengths), max(lengths))
    assert all(torch.equal(a, b) for a, b in zip(given_, ragged.unpad(x, found), strict=True))


@given(lengths_of, st.integers(0, 5), st.integers(0, 5))
@settings(deadline=None)
def test_reflection_is_torchs_own_for_each_utterance(lengths: list[int], left: int, right: int) -> None:
    given_ = utterances(lengths)
    padded = ragged.reflect_pad(*ragged.pad(given_), left, right)
    for row, u in zip(padded, given_, strict=True):
        expected = torch_pad(u[None], (left, right), mode="reflect")[0]
        assert torch.equal(row[: len(expected)], expected)
        assert not row[len(expected) :].any()


def test_reflection_refuses_what_is_too_short() -> None:
    with pytest.raises(AudioError, match=r"5 samples is too short.*at least 6"):
        ragged.reflect_pad(*ragged.pad(utterances([5, 9])), 5, 0)


@given(lengths_of)
def test_flip_reverses_within_each_utterance(lengths: list[int]) -> None:
    given_ = utterances(lengths)
    x, found = ragged.pad(given_)
    flipped = ragged.flip(x.t()[:, :, None], found)[:, :, 0].t()
    for row, u in zip(flipped, given_, strict=True):
        assert torch.equal(row[: len(u)], u.flip(0))


@given(lengths_of)
def test_nothing_is_left_beyond_the_end(lengths: list[int]) -> None:
    x = torch.ones(len(lengths), 3, max(lengths))
    assert ragged.zero_beyond(x, torch.tensor(lengths)).sum() == 3 * sum(lengths)


def test_noise_of_a_batch_is_the_noise_of_its_utterances_in_turn() -> None:
    together, alone = noise.NoiseSource(4), noise.NoiseSource(4)
    sizes = [7, 3, 5]
    batch = noise.normal(together.streams(3), sizes, torch.zeros(1))
    for row, n in zip(batch, sizes, strict=True):
        assert torch.equal(row[:n], noise.normal(alone.streams(1), [n], torch.zeros(1))[0])
        assert not row[n:].any()
    assert together.count == alone.count == 3


def test_noise_repeats_after_rewind_and_differs_between_seeds() -> None:
    source = noise.NoiseSource(1)
    first = noise.normal(source.streams(1), [50], torch.zeros(1))
    assert not torch.equal(first, noise.normal(source.streams(1), [50], torch.zeros(1)))
    source.rewind()
    assert torch.equal(first, noise.normal(source.streams(1), [50], torch.zeros(1)))
    assert not torch.equal(first, noise.normal(noise.NoiseSource(2).streams(1), [50], torch.zeros(1)))


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_noise_refuses_what_is_no_seed(seed: object) -> None:
    with pytest.raises(OptionError, match="seed"):
        noise.NoiseSource(seed)  # type: ignore[arg-type]
