"""How intelligible processed speech is against the speech that went in: STOI."""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec

import numpy as np
from numpy.typing import ArrayLike

from armory_mdnf.errors import AudioError, OptionError

NEEDS = "STOI needs pystoi: pip install 'armory-mdnf[stoi]'"


def available() -> bool:
    """Whether pystoi is installed."""
    return find_spec("pystoi") is not None


def stoi(clean: ArrayLike, processed: ArrayLike, sample_rate_hz: int = 16000) -> float | None:
    """Short-time objective intelligibility of ``processed`` against ``clean``, both float (T,); 1 is unchanged.

    None where there is none: fewer than 30 frames of 26 ms that are not silent (0.4 s), or nothing but silence.
    Source: Taal et al. 2011, computed by pystoi. Raises :class:`OptionError` without pystoi, :class:`AudioError` for
    audio of two lengths or with samples that are not finite.
    """
    try:
        from pystoi import stoi as compute
    except ImportError as error:
        raise OptionError(NEEDS) from error
    x, y = (np.asarray(a, dtype=np.float64) for a in (clean, processed))
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise AudioError(f"expected two utterances of one length, got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise AudioError("expected finite samples, found NaN or infinity")
    if not x.any():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            value = float(compute(x, y, sample_rate_hz, extended=False))
    except (RuntimeWarning, ValueError):  # what pystoi says of too few frames, or finds when it cuts them
        return None
    return value if math.isfinite(value) else None
