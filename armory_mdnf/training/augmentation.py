"""Augmentation of training utterances: speed, level, spectral tilt, noise, and masks on the spectrogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far training utterances are changed. Ranges are drawn from uniformly, each utterance for itself."""

    speed: tuple[float, float] = (0.9, 1.12)
    speeds: tuple[float, ...] = ()
    gain_db: tuple[float, float] = (-9.0, 6.0)
    tilt: tuple[float, float] = (-0.35, 0.35)
    noise_probability: float = 0.5
    noise_snr_db: tuple[float, float] = (12.0, 40.0)
    pink_share: float = 0.4
    time_masks: int = 2
    time_mask_frames: int = 16
    frequency_masks: int = 2
    frequency_mask_bins: int = 24
    warp: tuple[float, float] = (1.0, 1.0)

    def waveform(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change one utterance, float32 (T,) -> (T',)."""
        speed = rng.uniform(*self.speed)
        if self.speeds:
            x = resampled(x, float(rng.choice(self.speeds)))
        elif abs(speed - 1) > 0.01:
            at = np.arange(int(len(x) / speed)) * speed
            x = np.interp(at, np.arange(len(x)), x).astype(np.float32)
        x = x * np.float32(10 ** (rng.uniform(*self.gain_db) / 20))
        x = tilted(x, rng.uniform(*self.tilt))
        if rng.random() < self.noise_probability:
            noise = rng.standard_normal(len(x), dtype=np.float32)
            if rng.random() < self.pink_share:
                noise = tilted(noise, -0.9)
            x = with_noise(x, noise, rng.uniform(*self.noise_snr_db))
        peak = np.abs(x).max(initial=1e-9)
        return x if peak <= 1 else x / peak

    def mask(self, spectrogram: Tensor, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """SpecAugment (Park et al. 2019) on (N, 1, bins, F), with the utterance's mean, after :func:`warped`."""
        if self.warp != (1.0, 1.0):
            spectrogram = warped(spectrogram, rng.uniform(*self.warp, len(spectrogram)))
        bins = spectrogram.shape[2]
        for row, n in zip(spectrogram, frames.tolist(), strict=True):
            mean = row[:, :, :n].mean()
            for _ in range(self.time_masks):
                width = int(rng.integers(0, min(self.time_mask_frames, max(1, n // 10)) + 1))
                start = int(rng.integers(0, n - width + 1))
                row[:, :, start : start + width] = mean
            for _ in range(self.frequency_masks):
                width = int(rng.integers(0, min(self.frequency_mask_bins, bins) + 1))
                start = int(rng.integers(0, bins - width + 1))
                row[:, start : start + width, :n] = mean
        return spectrogram


def resampled(x: np.ndarray, speed: float) -> np.ndarray:
    """Faster by ``speed``, pitch and all, without aliases (Ko et al. 2015); float32 (T,) -> (T / speed,)."""
    from scipy.signal import resample_poly

    return x if speed == 1 else resample_poly(x, 100, round(100 * speed)).astype(np.float32)


def warped(spectrogram: Tensor, factors: np.ndarray) -> Tensor:
    """Stretch each spectrogram's bins by a factor, as another length of vocal tract would (Jaitly and Hinton 2013).

    Linear between bins; what is drawn from beyond the last bin is that bin. Shape: (N, 1, bins, F), (N,) -> same.
    """
    bins = spectrogram.shape[2]
    at = torch.arange(bins, device=spectrogram.device) / torch.as_tensor(factors).to(spectrogram)[:, None]
    at = at.clamp(max=bins - 1)[:, None, :, None].expand(-1, -1, -1, spectrogram.shape[3])
    low = at.floor().long()
    share = at - low
    above = (low + 1).clamp(max=bins - 1)
    return spectrogram.gather(2, low) * (1 - share) + spectrogram.gather(2, above) * share


def tilted(x: np.ndarray, coefficient: float) -> np.ndarray:
    """First-order filter ``x[t] - c x[t-1]``: c > 0 lifts high frequencies, c < 0 low ones."""
    y = x.copy()
    y[1:] -= np.float32(coefficient) * x[:-1]
    return y


def with_noise(x: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add ``noise`` at the given ratio to the utterance's own power; a silent utterance stays silent."""
    power, noise_power = float(np.mean(x**2)), float(np.mean(noise**2))
    return x + noise * np.float32(np.sqrt(power / max(noise_power, 1e-12) * 10 ** (-snr_db / 10)))


def under_white_noise(x: np.ndarray, snr_db: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Add white noise at a ratio drawn from the range; float32 (T,) -> (T,)."""
    return with_noise(x, rng.standard_normal(len(x), dtype=np.float32), rng.uniform(*snr_db))
