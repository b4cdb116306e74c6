"""How large a perturbation is. Every ratio is in decibels of power."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from armory_mdnf.errors import AudioError

SEGMENT_S = 0.03
SEGMENT_MIN_DB, SEGMENT_MAX_DB = -10.0, 35.0


def _difference(x: ArrayLike, x_adv: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    clean, perturbed = (np.asarray(a) for a in (x, x_adv))
    for name, a in (("x", clean), ("x_adv", perturbed)):
        if not np.issubdtype(a.dtype, np.floating):
            hint = "; pass ragged utterances one by one" if a.dtype == object else ""
            raise AudioError(f"expected {name} as floating-point samples, got {a.dtype}{hint}")
        if not np.isfinite(a).all():
            raise AudioError(f"{name} has samples that are not finite")
    if clean.shape != perturbed.shape or not clean.size:
        raise AudioError(f"expected two utterances of one shape, got {clean.shape} and {perturbed.shape}")
    clean = clean.astype(np.float64)
    return clean, perturbed.astype(np.float64) - clean


def snr_db(x: ArrayLike, x_adv: ArrayLike) -> float | None:
    """Signal-to-perturbation power ratio in dB: 10 log10(sum x^2 / sum (x_adv - x)^2).

    Infinity if nothing was changed, minus infinity if silence was, None if silence was left as it was.
    """
    clean, delta = _difference(x, x_adv)
    signal, noise = float(np.sum(clean**2)), float(np.sum(delta**2))
    if noise == 0:
        return math.inf if signal else None
    return 10 * math.log10(signal / noise) if signal else -math.inf


def segmental_snr_db(x: ArrayLike, x_adv: ArrayLike, sample_rate_hz: int = 16000) -> float | None:
    """Mean over frames of 30 ms, one after another, of their signal-to-perturbation ratio, each within -10 to 35 dB.

    A frame that is silent in ``x`` counts as -10 dB if it was changed, an unchanged one that is not silent as 35 dB;
    a silent one that was left as it was does not count, and neither does a rest shorter than half a frame. None if no
    frame counts. Source: the bounds of Hansen and Pellom, An effective quality evaluation protocol for speech
    enhancement algorithms, ICSLP 1998; the frames of Loizou, Speech Enhancement, 2007, which overlap there and do not
    here, so that no sample weighs more than another. Raises :class:`AudioError`.
    """
    clean, delta = _difference(x, x_adv)
    if clean.ndim != 1:
        raise AudioError(f"expected one utterance of one dimension, got shape {clean.shape}")
    size = max(1, round(SEGMENT_S * sample_rate_hz))
    ratios = []
    for start in range(0, clean.size, size):
        frame = slice(start, start + size)
        if start and clean[frame].size < size / 2:
            continue
        signal, noise = float(np.sum(clean[frame] ** 2)), float(np.sum(delta[frame] ** 2))
        if signal or noise:
            ratio = math.inf if not noise else -math.inf if not signal else 10 * math.log10(signal / noise)
            ratios.append(min(max(ratio, SEGMENT_MIN_DB), SEGMENT_MAX_DB))
    return sum(ratios) / len(ratios) if ratios else None


def l2(x: ArrayLike, x_adv: ArrayLike) -> float:
    """Euclidean norm of the perturbation, in full-scale samples."""
    return float(np.linalg.norm(_difference(x, x_adv)[1].ravel()))


def linf(x: ArrayLike, x_adv: ArrayLike) -> float:
    """Largest absolute change of a sample, in full scale."""
    return float(np.abs(_difference(x, x_adv)[1]).max())
