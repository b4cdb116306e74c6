"""Differentiable resampling of ragged batches, and the exact way back.

Band-limited interpolation with a windowed sinc (torchaudio's, Hann window of 6 zero crossings).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from armory_mdnf.audio import ragged
from armory_mdnf.errors import AudioError, OptionError, quoted
from armory_mdnf.options import as_whole

LARGEST_PRODUCT = 1 << 24
"""A resampler's filters have about as many taps as the product of the two rates, each over their common divisor."""


@lru_cache(maxsize=8)
def _resampler(from_hz: int, to_hz: int, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    from torchaudio.transforms import Resample

    # Made in the first caller's inference mode, it would refuse gradients to all others.
    with torch.inference_mode(False):
        return Resample(from_hz, to_hz).to(device, dtype)


def _check_rate(name: str, rate_hz: int) -> int:
    found = as_whole(rate_hz)
    if found is None or found < 1:
        raise OptionError(f"expected {name} to be a whole number of Hz >= 1, got {quoted(rate_hz)}")
    return found


def _ratio(from_hz: int, to_hz: int) -> tuple[int, int]:
    """Samples that come out for so many that go in, in the smallest whole numbers."""
    common = math.gcd(from_hz, to_hz)
    return to_hz // common, from_hz // common


def fits(from_hz: int, to_hz: int) -> bool:
    """Whether the filters between two rates fit into memory: rates with a small common divisor need many."""
    return math.prod(_ratio(from_hz, to_hz)) <= LARGEST_PRODUCT


def resampled_lengths(lengths: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Samples after resampling: ceil(length * to_hz / from_hz). Shape: (N,) -> (N,)."""
    up, down = _ratio(from_hz, to_hz)
    return torch.div(lengths * up + down - 1, down, rounding_mode="floor")


def resample(x: Tensor, lengths: Tensor, from_hz: int, to_hz: int) -> tuple[Tensor, Tensor]:
    """Change the sample rate of each utterance as if it were alone; the input itself if the rates are equal.

    Shape: (N, T), (N,) -> (N, T'), (N,); zero beyond each utterance's end, T' = max of the new lengths.
    Raises :class:`OptionError` for a rate that is no whole number of Hz >= 1, :class:`AudioError` for other shapes
    and for rates whose filters would be too many.
    """
    from_hz, to_hz = _check_rate("from_hz", from_hz), _check_rate("to_hz", to_hz)
    if x.dim() != 2 or lengths.shape != x.shape[:1]:
        raise AudioError(
            f"expected audio (N, T) and lengths (N,), got shapes {tuple(x.shape)} and {tuple(lengths.shape)}"
        )
    if from_hz == to_hz:
        return x, lengths
    if not fits(from_hz, to_hz):
        raise AudioError(
            f"expected a sample rate with a larger common divisor with {to_hz} Hz, got {from_hz} Hz: the filters "
            "between them would not fit into memory; resample the recording first"
        )
    # The interpolation reads zeros around an utterance: alone or in a batch, as long as nothing lies beyond its end.
    new: Tensor = _resampler(from_hz, to_hz, x.device, x.dtype)(ragged.zero_beyond(x, lengths))
    new_lengths = resampled_lengths(lengths, from_hz, to_hz)
    return fit_length(new, new_lengths, int(new_lengths.max())), new_lengths


def fit_length(x: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Crop or pad with zeros to ``size`` samples, zero beyond each utterance's length. Shape: (N, T) -> (N, size).

    The way back from a model of another rate: resampling 16000 -> 22050 -> 16000 Hz may end a sample longer.
    """
    x = x[:, :size] if x.shape[1] >= size else torch.nn.functional.pad(x, (0, size - x.shape[1]))
    return ragged.zero_beyond(x, lengths)
