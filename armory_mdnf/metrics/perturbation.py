"""How large a perturbation is. Every ratio is in decibels of power."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from armory_mdnf.errors import AudioError


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


def l2(x: ArrayLike, x_adv: ArrayLike) -> float:
    """Euclidean norm of the perturbation, in full-scale samples."""
    return float(np.linalg.norm(_difference(x, x_adv)[1].ravel()))


def linf(x: ArrayLike, x_adv: ArrayLike) -> float:
    """Largest absolute change of a sample, in full scale."""
    return float(np.abs(_difference(x, x_adv)[1]).max())
