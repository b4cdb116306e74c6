"""Log mel front-ends: parity with descript's and parallel-wavegan's own, ragged exactness, silence, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from armory_mdnf.audio.mel import (
    MELGAN_DESCRIPT,
    PARALLEL_WAVEGAN_LIBRITTS,
    PARALLEL_WAVEGAN_LJSPEECH,
    LogMel,
    MelRecipe,
    mel_filterbank,
)
from armory_mdnf.errors import AudioError, OptionError

SMALL = MelRecipe(16000, 256, 64, 256, 20, 0.0, 8000.0)
RECIPES = [
    MELGAN_DESCRIPT,
    PARALLEL_WAVEGAN_LJSPEECH,
    PARALLEL_WAVEGAN_LIBRITTS,
    SMALL,
    dataclasses.replace(SMALL, framing="melgan"),
]


def magnitudes(log_mel: torch.Tensor | np.ndarray) -> np.ndarray:
    """Mel magnitudes of a log mel without statistics."""
    return 10 ** np.asarray(log_mel, dtype=np.float64)


def mel_tolerance(recipe: MelRecipe, audio: np.ndarray, expected_log_mel: np.ndarray, frames: slice) -> np.ndarray:
    """How far two float32 computations of the same mel magnitudes can lie apart. Shape: (n_mels, F).

    The logarithm stretches every error without bound as a magnitude goes to zero, so magnitudes are compared. With u
    the unit roundoff, each FFT errs in a bin by about u log2(n) |frame|, however quiet that bin is (Higham, Accuracy
    and Stability of Numerical Algorithms, theorem 24.2, spread evenly over the bins); a filter sums that over its bins,
    and two computations may err to two sides. The filters' own edges are float32 too: half the spacing of the numbers
    at 11 kHz, 5e-4 Hz, against the narrowest filter's slope of 21 Hz, at either edge, is a part of the magnitude.
    """
    u = 2.0**-24
    extended = np.pad(audio, recipe.padding, mode="reflect").astype(np.float64)
    windowed = np.lib.stride_tricks.sliding_window_view(extended, recipe.n_fft)[:: recipe.hop]
    left = (recipe.n_fft - recipe.win) // 2
    window = np.zeros(recipe.n_fft)
    window[left : left + recipe.win] = torch.hann_window(recipe.win).numpy()
    norms = np.linalg.norm(windowed * window, axis=1)[frames]
    of_the_fft = 2 * u * np.log2(recipe.n_fft) * norms * mel_filterbank(recipe).double().numpy().sum(0)[:, None]
    return of_the_fft + 5e-5 * magnitudes(expected_log_mel)


def test_parity_with_descripts_front_end() -> None:
    """Both ends of a recording whose log mel descript's own code computed; the cut's two frames are left out."""
    golden = np.load(Path(__file__).parent / "data" / "melgan_descript_mel.npz")
    for part, frames in (("head", slice(0, 29)), ("tail", slice(2, None))):
        audio = torch.from_numpy(golden[part])[None]
        log_mel, _ = LogMel(MELGAN_DESCRIPT)(audio, torch.tensor([audio.shape[1]]))
        tolerance = mel_tolerance(MELGAN_DESCRIPT, golden[part], golden[f"{part}_mel"], frames)
        assert (np.abs(magnitudes(log_mel[0, :, frames]) - magnitudes(golden[f"{part}_mel"])) <= tolerance).all()


def test_the_tolerance_of_parity_is_tight() -> None:
    """Where a frame is loud it is a few parts in 100 000, and at the floor a small part of the floor."""
    golden = np.load(Path(__file__).parent / "data" / "melgan_descript_mel.npz")
    expected = magnitudes(golden["head_mel"])
    tolerance = mel_tolerance(MELGAN_DESCRIPT, golden["head"], golden["head_mel"], slice(0, 29))
    assert (tolerance <= 0.05 * expected).all()
    assert np.median(tolerance / expected) < 1e-3


@pytest.mark.parametrize("recipe", [PARALLEL_WAVEGAN_LJSPEECH, PARALLEL_WAVEGAN_LIBRITTS])
def test_parity_with_parallel_wavegans_front_end(recipe: MelRecipe) -> None:
    """Its logmelfilterbank is librosa's stft and mel filters; computed here in the same way, from librosa."""
    librosa = pytest.importorskip("librosa")
    rng = np.random.default_rng(0)
    audio = rng.normal(0, 0.1, 9000).astype(np.float32)
    audio[3000:6000] *= 1e-3
    stft = librosa.stft(audio, n_fft=recipe.n_fft, hop_length=recipe.hop, win_length=recipe.win, pad_mode="reflect")
    filters = librosa.filters.mel(
        sr=recipe.sample_rate_hz, n_fft=recipe.n_fft, n_mels=recipe.n_mels, fmin=recipe.f_min_hz, fmax=recipe.f_max_hz
    )
    np.testing.assert_allclose(mel_filterbank(recipe).T.numpy(), filters, atol=2e-6)
    expected = np.log10(np.maximum(recipe.floor, filters @ np.abs(stft)))
    log_mel, frames = LogMel(recipe)(torch.from_numpy(audio)[None], torch.tensor([9000]))
    assert frames.tolist() == [expected.shape[1]]
    tolerance = mel_tolerance(recipe, audio, expected, slice(None))
    assert (np.abs(magnitudes(log_mel[0]) - magnitudes(expected)) <= tolerance).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_utterance_does_not_depend_on_its_batch(recipe: MelRecipe) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([5000, recipe.min_samples, 7000])
    x = torch.randn(3, 7000, requires_grad=True)  # what lies beyond an end must not be heard
    front_end = LogMel(recipe, torch.randn(recipe.n_mels), torch.rand(recipe.n_mels) + 0.5)
    log_mel, frames = front_end(x, lengths)
    (gradient,) = torch.autograd.grad(log_mel.square().sum(), x)
    for i, n in enumerate(lengths.tolist()):
        part = x[i : i + 1, :n].detach().requires_grad_()
        alone, size = front_end(part, torch.tensor([n]))
        f = int(size)
        assert f == int(frames[i]) == alone.shape[2]
        torch.testing.assert_close(log_mel[i, :, :f], alone[0], atol=1e-5, rtol=1e-5)
        assert not log_mel[i, :, f:].any()
        (alone_gradient,) = torch.autograd.grad(alone.square().sum(), part)
        assert (gradient[i, :n] - alone_gradient[0]).norm() < 1e-4 * alone_gradient.norm()
        assert not gradient[i, n:].any()


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradient_is_finite_on_digital_silence_and_next_to_it(recipe: MelRecipe) -> None:
    x = torch.zeros(1, 6000)
    x[0, 4000:] = 1e-12
    x.requires_grad_()
    log_mel, _ = LogMel(recipe)(x, torch.tensor([6000]))
    log_mel.sum().backward()
    assert log_mel.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert log_mel.min() >= np.log10(recipe.floor) - 1e-4


def test_a_tone_lights_its_bin_and_ten_times_the_level_adds_one() -> None:
    recipe = MelRecipe()
    time = torch.arange(16000) / 16000
    x = 0.05 * torch.sin(2 * torch.pi * 1000 * time)[None]
    a, _ = LogMel(recipe)(x, torch.tensor([16000]))
    b, _ = LogMel(recipe)(10 * x, torch.tensor([16000]))
    middle = a[0, :, 30]
    filters = mel_filterbank(recipe)
    assert int(middle.argmax()) == int(filters[round(1000 / 16000 * 1024)].argmax())
    torch.testing.assert_close(b[0, int(middle.argmax())] - a[0, int(middle.argmax())], torch.ones(63))


def test_normalisation_is_per_bin() -> None:
    mean, scale = torch.arange(20.0), torch.arange(1.0, 21.0)
    x, n = torch.randn(1, 3000), torch.tensor([3000])
    plain, _ = LogMel(SMALL)(x, n)
    normal, _ = LogMel(SMALL, mean, scale)(x, n)
    torch.testing.assert_close(normal[0], (plain[0] - mean[:, None]) / scale[:, None])


@pytest.mark.parametrize("recipe", RECIPES)
def test_too_short_an_utterance_is_refused_with_the_minimum(recipe: MelRecipe) -> None:
    front_end, n = LogMel(recipe), recipe.min_samples
    assert front_end(torch.randn(1, n), torch.tensor([n]))[1].min() >= 1
    with pytest.raises(AudioError, match=f"at least {n} samples"):
        front_end(torch.randn(2, n), torch.tensor([n, n - 1]))


def test_a_recipe_survives_json_and_refuses_what_no_spectrogram_has() -> None:
    for recipe in RECIPES:
        assert MelRecipe.from_dict(recipe.to_dict()) == recipe
    bad = {
        "hop": 0,
        "n_fft": 512,
        "framing": "centred",
        "f_max_hz": 9000.0,
        "floor": 0.0,
        "n_mels": 80.0,
        "sample_rate_hz": True,
    }
    for name, value in bad.items():
        with pytest.raises(OptionError, match="mel recipe"):
            dataclasses.replace(MelRecipe(), **{name: value})
    with pytest.raises(OptionError, match="mel bins of at most 65536"):
        MelRecipe(n_fft=1 << 17)
    with pytest.raises(OptionError, match=r"filters of at most 4194304 numbers, .* which make 4202496"):
        MelRecipe(n_mels=1 << 13)
    with pytest.raises(OptionError, match="did you mean 'hop'"):
        MelRecipe.from_dict(MelRecipe().to_dict() | {"hopp": 3})
    with pytest.raises(OptionError, match="missing framing"):
        MelRecipe.from_dict({k: v for k, v in MelRecipe().to_dict().items() if k != "framing"})


def test_statistics_must_fit() -> None:
    with pytest.raises(OptionError, match="both mean and scale"):
        LogMel(SMALL, torch.zeros(20))
    with pytest.raises(OptionError, match="20 finite values"):
        LogMel(SMALL, torch.zeros(19), torch.ones(19))
    with pytest.raises(OptionError, match="> 0"):
        LogMel(SMALL, torch.zeros(20), torch.zeros(20))
