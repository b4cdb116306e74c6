"""Reading and writing audio files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from armory_mdnf.errors import AudioError
from armory_mdnf.files.atomic import replacing

COUNTED = re.compile(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f]")
"""What an MP3 has at its beginning that says how many frames follow. Of others libsndfile makes a guess."""

UNKNOWN = 1 << 62
"""Samples from which on a header says none: for FLAC from a pipe libsndfile gives the largest number that it has."""


def duration_s(source: str | BinaryIO, name: str) -> float:
    """Length of a file or an open one by its header, which alone is read.

    Raises :class:`AudioError` with ``name`` for one that does not say its length, and whatever soundfile does for what
    it does not read.
    """
    import soundfile

    info = soundfile.info(source)
    if info.frames >= UNKNOWN:
        raise AudioError(f"{name} does not say its length: write it to a file, not to a pipe")
    return float(info.frames / info.samplerate)


def decode(source: str | BinaryIO, name: str, unreadable: str) -> tuple[npt.NDArray[np.float32], int]:
    """All samples of a file or an open one, float32 (T, channels), and the sample rate in Hz.

    Raises :class:`AudioError` with ``name`` and ``unreadable`` for what libsndfile does not read, and for an MP3 that
    ends before it says it does. Of WAV, Ogg and others that are cut off, what is left is all there is to see.
    """
    import soundfile

    try:
        with soundfile.SoundFile(source) as file:
            x, rate_hz = file.read(dtype="float32", always_2d=True), int(file.samplerate)
            said, is_mp3 = file.frames, file.format == "MP3"
    except UnicodeError as error:
        raise AudioError(f"{name} cannot be opened: expected a name in UTF-8") from error
    # A file without a header is a TypeError; one that does not say its length, or says an absurd one, one of the last.
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise AudioError(f"{name} is {unreadable}: {error}") from error
    if len(x) < said and is_mp3 and COUNTED.search(_content(source)):
        raise AudioError(f"{name}: expected {said} samples, which it says it has, decoded {len(x)} (truncated?)")
    return x, rate_hz


def _content(source: str | BinaryIO) -> bytes:
    if isinstance(source, str):
        return Path(source).read_bytes()
    source.seek(0)
    return source.read()


def read_audio(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], int]:
    """Read a mono recording of any format that libsndfile knows.

    Returns the samples, float32 (T,) in [-1, 1], and the sample rate in Hz.
    Raises :class:`AudioError` naming the file if it is missing, empty, has more than one channel, or is damaged as
    :func:`decode` can tell.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"no audio file at {path}")
    x, sample_rate_hz = decode(str(path), str(path), "not a readable audio file (truncated or corrupt?)")
    if x.shape[1] != 1:
        raise AudioError(f"{path}: expected one channel, found {x.shape[1]}; mix it down to mono first")
    if x.shape[0] == 0:
        raise AudioError(f"{path}: expected audio, found no samples")
    return np.ascontiguousarray(x[:, 0]), sample_rate_hz


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
