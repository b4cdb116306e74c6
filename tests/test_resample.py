"""Resampling: physics, ragged exactness, gradients, and the exact way back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from armory_mdnf.audio.resample import _resampler, fit_length, resample, resampled_lengths
from armory_mdnf.errors import AudioError, OptionError


def tone(frequency_hz: float, samples: int, rate_hz: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency_hz * torch.arange(samples, dtype=torch.float64) / rate_hz).float()


def of(n: int) -> torch.Tensor:
    return torch.tensor([n])


def test_a_tone_keeps_its_frequency_and_one_above_the_new_half_rate_dies() -> None:
    y, lengths = resample(tone(1000, 16000, 16000)[None], of(16000), 16000, 22050)
    assert y.shape == (1, 22050)
    assert lengths.tolist() == [22050]
    inner = slice(200, -200)
    torch.testing.assert_close(y[0, inner], tone(1000, 22050, 22050)[inner], atol=3e-3, rtol=0)
    gone, _ = resample(tone(5500, 16000, 16000)[None], of(16000), 16000, 8000)
    assert gone[0, inner].abs().max() < 0.02


def test_parity_with_scipys_fourier_resampling() -> None:
    rng = np.random.default_rng(0)
    spectrum = np.zeros(4001, complex)
    spectrum[100:2500] = rng.normal(size=2400) + 1j * rng.normal(size=2400)  # below 5 kHz
    x = np.fft.irfft(spectrum)
    x /= np.abs(x).max()
    from scipy.signal import resample as fourier

    expected = fourier(x, 11025)
    y, _ = resample(torch.tensor(x, dtype=torch.float32)[None], of(8000), 16000, 22050)
    middle = slice(500, -500)
    error = np.linalg.norm(y[0].numpy()[middle] - expected[middle]) / np.linalg.norm(expected[middle])
    assert error < 0.02


@pytest.mark.parametrize("rates", [(16000, 22050), (22000, 16000), (16000, 24000)])
def test_an_utterance_does_not_depend_on_its_batch(rates: tuple[int, int]) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([700, 1201, 333])
    x = torch.randn(3, 1201)  # what lies beyond an end must not be heard
    x.requires_grad_()
    y, new = resample(x, lengths, *rates)
    assert y.shape[1] == new.max()
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    for i, n in enumerate(lengths.tolist()):
        part = x[i : i + 1, :n].detach().requires_grad_()
        alone, size = resample(part, of(n), *rates)
        assert int(size) == int(new[i]) == math.ceil(n * rates[1] / rates[0]) == alone.shape[1]
        torch.testing.assert_close(y[i, : int(size)], alone[0], atol=1e-6, rtol=1e-5)
        assert not y[i, int(size) :].any()
        (alone_gradient,) = torch.autograd.grad(alone.square().sum(), part)
        torch.testing.assert_close(gradient[i, :n], alone_gradient[0], atol=1e-5, rtol=1e-5)
        assert not gradient[i, n:].any()


def test_there_and_back_has_the_inputs_length() -> None:
    for n in (1, 2, 319, 320, 321, 5000):
        x = tone(440, n, 16000)[None]
        there, lengths = resample(x, of(n), 16000, 22050)
        back, _ = resample(there, lengths, 22050, 16000)
        assert fit_length(back, of(n), n).shape == (1, n)
    torch.testing.assert_close(fit_length(back, of(n), n)[0, 200:-200], x[0, 200:-200], atol=5e-3, rtol=0)


def test_equal_rates_return_the_input_itself() -> None:
    x, lengths = torch.randn(2, 50), torch.tensor([50, 20])
    y, new = resample(x, lengths, 16000, 16000)
    assert y is x
    assert new is lengths


def test_lengths_are_exact_where_floating_point_is_not() -> None:
    lengths = torch.tensor([10**9 + 7, 3])
    assert resampled_lengths(lengths, 16000, 22050).tolist() == [-(-n * 441 // 320) for n in lengths.tolist()]


def test_keeps_the_dtype() -> None:
    assert resample(torch.randn(1, 100, dtype=torch.float64), of(100), 16000, 8000)[0].dtype == torch.float64


def test_a_gradient_goes_through_what_was_first_used_without_one() -> None:
    rates = (16000, 15000)
    _resampler.cache_clear()
    with torch.inference_mode():
        expected = resample(torch.ones(1, 100), of(100), *rates)[0].clone()
    x = torch.ones(1, 100, requires_grad=True)
    found, _ = resample(x, of(100), *rates)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert x.grad is not None


def test_bad_rates_and_shapes_are_refused() -> None:
    with pytest.raises(OptionError, match="to_hz to be a whole number of Hz >= 1, got 0"):
        resample(torch.zeros(1, 10), of(10), 16000, 0)
    with pytest.raises(OptionError, match=r"from_hz .* got 0\.5"):
        resample(torch.zeros(1, 10), of(10), 0.5, 16000)  # type: ignore[arg-type]
    for rate in ("16k", None, math.nan, math.inf, True):
        with pytest.raises(OptionError, match="from_hz to be a whole number of Hz >= 1"):
            resample(torch.zeros(1, 10), of(10), rate, 16000)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"audio \(N, T\)"):
        resample(torch.zeros(10), of(10), 16000, 8000)


@pytest.mark.parametrize("rates", [(16001, 16000), (44099, 16000), (16000, 383999)])
def test_rates_whose_filters_would_fill_the_memory_are_refused(rates: tuple[int, int]) -> None:
    with pytest.raises(AudioError, match=f"larger common divisor with {rates[1]} Hz, got {rates[0]} Hz"):
        resample(torch.zeros(1, 400), of(400), *rates)


def test_usual_rates_are_not() -> None:
    for rate in (8000, 11025, 12000, 22050, 24000, 32000, 44056, 44100, 48000, 96000, 192000):
        y, lengths = resample(torch.zeros(1, 400), of(400), rate, 16000)
        assert y.shape == (1, int(lengths))
