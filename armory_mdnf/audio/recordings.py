"""Recordings as people have them: any format, rate and number of channels in, pieces of a length that models take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from armory_mdnf.audio.checks import MAX_ABSOLUTE
from armory_mdnf.audio.files import decode
from armory_mdnf.audio.resample import resample
from armory_mdnf.errors import AudioError, OptionError, cause, choices
from armory_mdnf.files.atomic import replacing

Samples = npt.NDArray[np.float32]

# What each kind of file is written as. 24 bits hold a perturbation of any bound, and every player knows them.
SUBTYPES = {".wav": "PCM_24", ".flac": "PCM_24", ".aiff": "PCM_24", ".ogg": "VORBIS", ".opus": "OPUS", ".mp3": None}
UNREADABLE = (
    "not audio that can be read (expected WAV, FLAC, Ogg, MP3 or another format of libsndfile; ffmpeg converts others)"
)
FRAME_S = 0.02
SEARCH_S = 2.0  # how far around its place a cut looks for silence, both sides together


def read_recording(path: str | os.PathLike[str] | BinaryIO, rate_hz: int, name: str = "") -> Samples:
    """A recording as float32 (T,) in [-1, 1] at ``rate_hz``: channels averaged, then resampled.

    Every format that libsndfile reads. What decoders of lossy formats and resampling put beyond full scale is cut to
    it, as players do. ``name`` is that of an open file. Raises :class:`AudioError` naming the file if it is missing,
    unreadable, empty, not finite, of another scale, or an MP3 that was cut off.
    """
    if isinstance(path, (str, os.PathLike)):
        name, path = str(path), str(path)
        if not Path(path).is_file():
            raise AudioError(f"no audio file at {path}")
    return from_samples(*decode(path, name, UNREADABLE), rate_hz, name)


def from_samples(x: Samples, from_hz: int, to_hz: int, name: str) -> Samples:
    """Samples (T,), or (T, channels), as float32 (T,) in [-1, 1] at ``to_hz``: channels averaged, then resampled.

    Raises :class:`AudioError` with ``name`` if there are none, or they are not finite, or of another scale.
    """
    if not len(x):
        raise AudioError(f"{name}: expected audio, found no samples")
    if not np.isfinite(x).all():
        raise AudioError(f"{name}: expected finite samples, found NaN or infinity")
    if (peak := float(np.abs(x).max())) > MAX_ABSOLUTE:
        raise AudioError(f"{name}: expected samples in [-1, 1], found a peak of {peak:.3g}: scale it first")
    mono = x if x.ndim == 1 else x.mean(1, dtype=np.float32)
    return to_rate(np.clip(mono, -1, 1), from_hz, to_hz)


def to_rate(x: Samples, from_hz: int, to_hz: int) -> Samples:
    """Samples (T,) at another rate, within [-1, 1]; as they are where the rates are equal."""
    if from_hz == to_hz:
        return np.ascontiguousarray(x)
    y, _ = resample(torch.from_numpy(x)[None], torch.tensor([len(x)]), from_hz, to_hz)
    return y[0].clamp(-1, 1).numpy()


def check_format(path: str | os.PathLike[str]) -> None:
    """Raise :class:`OptionError` for a file's name that does not say how :func:`write_recording` is to write it."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUBTYPES:
        raise OptionError(choices(suffix, SUBTYPES, f"format of {Path(path).name}"))


def write_recording(path: str | os.PathLike[str], x: Samples, rate_hz: int) -> None:
    """Write samples (T,), atomically, in the format of the name; what lies beyond full scale is cut to it.

    WAV, FLAC and AIFF get 24 bits. Raises :class:`OptionError` for another name, and for a rate that its format lacks.
    """
    import soundfile

    check_format(path)
    subtype = SUBTYPES[Path(path).suffix.lower()]
    with replacing(path) as partial:
        try:
            soundfile.write(str(partial), np.clip(x, -1, 1), rate_hz, subtype=subtype, format=_container(partial))
        except (soundfile.SoundFileError, ValueError) as error:
            raise OptionError(f"cannot write {path} at {rate_hz} Hz: {cause(error)}") from error


def _container(path: Path) -> str | None:
    return "OGG" if path.suffix.lower() == ".opus" else None  # the others are known by their endings


def pieces(x: Samples, rate_hz: int, longest_s: float) -> list[tuple[int, int]]:
    """Bounds of consecutive pieces of at most ``longest_s``, of about equal lengths, cut where it is quietest.

    Shape: (T,) -> [(0, a), (a, b), ..., (z, T)]. Raises :class:`OptionError` for pieces too short to choose a cut in.
    """
    if longest_s < 3 * SEARCH_S:
        raise OptionError(f"expected pieces of at least {3 * SEARCH_S:g} s, got {longest_s:g}")
    if len(x) <= longest_s * rate_hz:
        return [(0, len(x))]
    count = int(np.ceil(len(x) / ((longest_s - SEARCH_S) * rate_hz)))
    cuts = [0, *(_quietest(x, round(i * len(x) / count), rate_hz) for i in range(1, count)), len(x)]
    return list(pairwise(cuts))


def _quietest(x: Samples, place: int, rate_hz: int) -> int:
    """Middle of the frame with the least energy within half of :data:`SEARCH_S` around ``place``."""
    half, frame = round(SEARCH_S / 2 * rate_hz), max(1, round(FRAME_S * rate_hz))
    start = place - half
    around = x[start : place + half]
    frames = around[: len(around) // frame * frame].reshape(-1, frame)
    return start + int(np.square(frames).sum(1).argmin()) * frame + frame // 2


def fitted(x: Samples, size: int) -> Samples:
    """Samples (T,) cut or filled with zeros to (size,): lossy formats add some."""
    return x[:size] if len(x) >= size else np.pad(x, (0, size - len(x)))


def join(parts: Sequence[Samples]) -> Samples:
    """Pieces in one."""
    return np.concatenate(parts)


def split_like(x: Samples, parts: Sequence[Samples]) -> list[Samples]:
    """Samples (T,) in pieces of the lengths of others, T in all."""
    return np.split(x, np.cumsum([len(part) for part in parts])[:-1])
