"""Reading and writing audio files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from armory_mdnf.errors import AudioError
from armory_mdnf.files.atomic import replacing


def read_audio(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], int]:
    """Read a mono recording of any format that libsndfile knows.

    Returns the samples, float32 (T,) in [-1, 1], and the sample rate in Hz.
    Raises :class:`AudioError` naming the file if it is missing, damaged, empty or has more than one channel.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise AudioError(f"no audio file at {path}")
    try:
        x, sample_rate_hz = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (UnicodeError, soundfile.LibsndfileError) as error:
        raise AudioError(f"{path} is not a readable audio file (truncated or corrupt?): {error}") from error
    if x.shape[1] != 1:
        raise AudioError(f"{path}: expected one channel, found {x.shape[1]}; mix it down to mono first")
    if x.shape[0] == 0:
        raise AudioError(f"{path}: expected audio, found no samples")
    return np.ascontiguousarray(x[:, 0]), int(sample_rate_hz)


def write_flac(path: str | os.PathLike[str], x: npt.ArrayLike, sample_rate_hz: int) -> None:
    """Write float samples (T,) in [-1, 1] as 16-bit mono FLAC, atomically.

    Raises :class:`AudioError` for another shape, for NaN or infinite samples, and for samples outside [-1, 1], which
    16 bits would clip.
    """
    import soundfile

    samples = np.asarray(x)
    if samples.ndim != 1 or samples.size == 0:
        raise AudioError(f"expected samples of shape (T,) with T > 0, found {samples.shape}")
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"expected float samples in [-1, 1], found {samples.dtype}")
    if not np.isfinite(samples).all():
        raise AudioError("expected finite samples, found NaN or infinity")
    peak = float(np.abs(samples).max())
    if peak > 1:
        raise AudioError(f"expected samples in [-1, 1], found a peak of {peak:.3g}; integer audio not yet scaled?")
    path = Path(path)
    # libsndfile scales by 32767 or 32768 depending on the type; integers leave no doubt
    pcm = np.clip(np.round(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    with replacing(path) as partial:
        soundfile.write(str(partial), pcm, sample_rate_hz, format="FLAC", subtype="PCM_16")
