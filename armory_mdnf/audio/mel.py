"""Log mel spectrograms, by recipe.

A vocoder owns its recipe: the pair travels in one file (:mod:`armory_mdnf.vocoders`), so weights cannot meet a
front-end that they were not trained with. ``log_mel = (log10(max(mel @ |STFT|, floor)) - mean) / scale``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.errors import AudioError, OptionError, choices, quoted, refuse_unknown

FRAMINGS = ("centered", "melgan")
# More than any spectrogram has. Recipes come from files, and filters are made of them before a weight is looked at.
MAX_SIZE, MAX_FILTERS, MAX_RATE_HZ = 1 << 16, 1 << 22, 10**6
# Under the square root of the magnitude: sqrt has an infinite slope at zero, and digital silence would give NaN.
POWER_FLOOR = 1e-20


@dataclass(frozen=True)
class MelRecipe:
    """What turns audio into a log mel spectrogram.

    ``framing`` is "centered" (reflect by n_fft/2, frame k is centred on sample k * hop: librosa and parallel-wavegan)
    or "melgan" (reflect by (n_fft - hop)/2, the descript checkpoints). ``floor`` is the smallest mel magnitude that
    the logarithm sees; ``power_floor`` is added to the power before the square root.

    Raises :class:`OptionError` for sizes that no spectrogram can have.
    """

    sample_rate_hz: int = 16000
    n_fft: int = 1024
    hop: int = 256
    win: int = 1024
    n_mels: int = 80
    f_min_hz: float = 0.0
    f_max_hz: float = 8000.0
    framing: str = "centered"
    floor: float = 1e-5
    power_floor: float = POWER_FLOOR

    def __post_init__(self) -> None:
        for name in ("sample_rate_hz", "n_fft", "hop", "win", "n_mels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"mel recipe: expected {name} to be a whole number >= 1, got {value!r}")
        if max(self.n_fft, self.n_mels) > MAX_SIZE or self.sample_rate_hz > MAX_RATE_HZ:
            raise OptionError(
                f"expected a mel recipe with an n_fft and mel bins of at most {MAX_SIZE} and at most {MAX_RATE_HZ} Hz, "
                f"got {quoted(self.n_fft)}, {quoted(self.n_mels)} and {quoted(self.sample_rate_hz)}"
            )
        if (size := (self.n_fft // 2 + 1) * self.n_mels) > MAX_FILTERS:
            raise OptionError(
                f"mel recipe: expected filters of at most {MAX_FILTERS} numbers, got an n_fft of {self.n_fft} and "
                f"{self.n_mels} mel bins, which make {size}"
            )
        if self.framing not in FRAMINGS:
            raise OptionError(choices(self.framing, FRAMINGS, "framing of a mel recipe"))
        if self.win > self.n_fft or self.hop > self.win:
            raise OptionError(f"mel recipe: expected hop <= win <= n_fft, got {self.hop}, {self.win}, {self.n_fft}")
        if self.framing == "melgan" and (self.n_fft - self.hop) % 2:
            raise OptionError(f"mel recipe: expected n_fft - hop to be even, got {self.n_fft} - {self.hop}")
        if not 0 <= self.f_min_hz < self.f_max_hz <= self.sample_rate_hz / 2:
            raise OptionError(
                f"mel recipe: expected 0 <= f_min_hz < f_max_hz <= {self.sample_rate_hz / 2:g} (half the sample rate), "
                f"got {self.f_min_hz:g} and {self.f_max_hz:g}"
            )
        if not (0 < self.floor < math.inf and 0 < self.power_floor < math.inf):
            raise OptionError(f"mel recipe: expected floors > 0, got {self.floor!r} and {self.power_floor!r}")

    @property
    def padding(self) -> int:
        """Samples reflected at each end."""
        return self.n_fft // 2 if self.framing == "centered" else (self.n_fft - self.hop) // 2

    @property
    def min_samples(self) -> int:
        """Shortest utterance that reflection can extend and that holds one frame."""
        return max(self.padding + 1, self.n_fft - 2 * self.padding)

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames of utterances of ``lengths`` samples. Shape: (N,) -> (N,)."""
        return torch.div(lengths + 2 * self.padding - self.n_fft, self.hop, rounding_mode="floor") + 1

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MelRecipe:
        """Inverse of :meth:`to_dict`. Raises :class:`OptionError` for unknown or missing keys."""
        known = [f.name for f in fields(cls)]
        refuse_unknown(values, known, "a mel recipe")
        if missing := [name for name in known if name not in values]:
            raise OptionError(f"mel recipe: missing {', '.join(missing)}")
        return cls(**values)


# The front-ends of published checkpoints.
MELGAN_DESCRIPT = MelRecipe(22050, 1024, 256, 1024, 80, 0.0, 11025.0, "melgan", 1e-5)
PARALLEL_WAVEGAN_LJSPEECH = MelRecipe(22050, 1024, 256, 1024, 80, 80.0, 7600.0, "centered", 1e-10)
PARALLEL_WAVEGAN_LIBRITTS = MelRecipe(24000, 2048, 300, 1200, 80, 80.0, 7600.0, "centered", 1e-10)


def mel_filterbank(recipe: MelRecipe) -> Tensor:
    """Slaney mel filters with area normalisation, librosa's default. Shape: (n_fft // 2 + 1, n_mels)."""
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(
        recipe.n_fft // 2 + 1,
        recipe.f_min_hz,
        recipe.f_max_hz,
        recipe.n_mels,
        recipe.sample_rate_hz,
        norm="slaney",
        mel_scale="slaney",
    )


class LogMel(nn.Module):
    """Differentiable log mel spectrogram of ragged batches.

    ``mean`` and ``scale`` of shape (n_mels,), if given, normalise each bin (both or neither, scale > 0).
    """

    window: Tensor
    filters: Tensor
    mean: Tensor | None
    scale: Tensor | None

    def __init__(self, recipe: MelRecipe, mean: Tensor | None = None, scale: Tensor | None = None) -> None:
        super().__init__()
        if (mean is None) != (scale is None):
            raise OptionError("expected both mean and scale of the log mel, or neither")
        for name, value in (("mean", mean), ("scale", scale)):
            if value is not None and (value.shape != (recipe.n_mels,) or not bool(value.isfinite().all())):
                raise OptionError(
                    f"expected {name} of {recipe.n_mels} finite values, one per mel bin, got shape {tuple(value.shape)}"
                )
        if scale is not None and not bool((scale > 0).all()):
            raise OptionError("expected the scale of each mel bin to be > 0")
        self.recipe = recipe
        window = torch.hann_window(recipe.win)
        left = (recipe.n_fft - recipe.win) // 2
        window = nn.functional.pad(window, (left, recipe.n_fft - recipe.win - left))
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", mel_filterbank(recipe), persistent=False)
        self.register_buffer("mean", None if mean is None else mean.detach().clone().float(), persistent=False)
        self.register_buffer("scale", None if scale is None else scale.detach().clone().float(), persistent=False)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log mel of each utterance as if it were alone.

        Shape: (N, T), (N,) -> (N, n_mels, F), (N,) frames; zero beyond an utterance's frames.
        Raises :class:`AudioError` naming the minimum if an utterance is too short.
        """
        recipe = self.recipe
        if x.dim() != 2 or lengths.shape != x.shape[:1]:
            raise AudioError(
                f"expected audio (N, T) and lengths (N,), got shapes {tuple(x.shape)} and {tuple(lengths.shape)}"
            )
        ragged.check_shortest(lengths, recipe.min_samples, recipe.sample_rate_hz, "this mel recipe")
        padded = ragged.reflect_pad(x, lengths, recipe.padding, recipe.padding)
        log_mel = self.unpadded(padded)
        frames = recipe.frames(lengths)
        return ragged.zero_beyond(log_mel, frames), frames

    def unpadded(self, x: Tensor) -> Tensor:
        """Log mel of audio that already carries its padding. Shape: (N, T) -> (N, n_mels, F)."""
        recipe = self.recipe
        # as_strided frames and one rfft: torch.stft would pad a window shorter than n_fft again
        framed = x.unfold(-1, recipe.n_fft, recipe.hop) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(framed))
        magnitude = (spectrum.square().sum(-1) + recipe.power_floor).sqrt()
        mel = (magnitude @ self.filters).clamp(min=recipe.floor).log10()
        if self.mean is not None and self.scale is not None:
            mel = (mel - self.mean) / self.scale
        return mel.transpose(1, 2)
