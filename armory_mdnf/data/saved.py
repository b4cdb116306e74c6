"""A data set of Hugging Face's as ``datasets`` keeps it on disk: a folder that ``save_to_disk`` wrote.

Recordings are what its rows have in a column of :data:`armory_mdnf.data.own.AUDIO`: encoded bytes or the path of a
file, which libsndfile reads, or an array of floats with its sampling rate. Nothing is decoded by ``datasets`` itself,
which would need another package.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from armory_mdnf.audio.files import duration_s
from armory_mdnf.audio.recordings import Samples, from_samples, read_recording
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.errors import AudioError, BundleError, OptionError, cause, quoted, shown

OF_A_SPLIT = ("dataset_info.json", "state.json")
OF_SPLITS = "dataset_dict.json"
BYTES, PATH, ARRAY, RATE = "bytes", "path", "array", "sampling_rate"
# What soundfile raises for what it does not read: of headerless files it asks for the rate, and names are to be UTF-8.
UNREADABLE = (OSError, RuntimeError, TypeError, UnicodeError)


@dataclass(frozen=True)
class SavedUtterance(Utterance):
    """A row of a saved data set, whose audio is read when it is asked for. ``path`` is the data set's folder."""

    row: int = 0
    column: str = ""

    def samples(self, rate_hz: int) -> Samples:
        """Its samples, float32 (T,) at ``rate_hz``. Raises :class:`AudioError` naming the row."""
        audio, name = self._audio(), f"{self.path}, row {self.row}"
        if isinstance(audio, Path):
            return read_recording(audio, rate_hz)
        if isinstance(audio, bytes):
            return read_recording(io.BytesIO(audio), rate_hz, name)
        return from_samples(audio[0], audio[1], rate_hz, name)

    def checksum(self) -> str:
        """SHA-256 of the audio as it is kept, an array's with its rate. Raises :class:`AudioError`."""
        audio = self._audio()
        try:
            content = audio.read_bytes() if isinstance(audio, Path) else audio
        except OSError as error:
            raise AudioError(f"{self.path}, row {self.row}: its file cannot be read: {cause(error)}") from error
        if isinstance(content, tuple):
            content = f"{content[1]} Hz ".encode() + content[0].tobytes()
        return hashlib.sha256(content).hexdigest()

    def _audio(self) -> Path | bytes | tuple[Samples, int]:
        return audio_of(open_saved(self.path)[self.row][self.column], self.path, self.row)


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that ``save_to_disk`` wrote, of one split or of several."""
    return (folder / OF_SPLITS).is_file() or all((folder / name).is_file() for name in OF_A_SPLIT)


@functools.lru_cache(maxsize=4)
def open_saved(folder: Path) -> Any:
    """The data set of a folder, rows as numpy, audio not decoded; its content stays on disk.

    Raises :class:`OptionError` without the package ``datasets``, :class:`BundleError` for a folder that is damaged, or
    that has several splits.
    """
    name = shown(str(folder), 200)
    if (folder / OF_SPLITS).is_file():
        inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and is_saved(path))
        raise BundleError(f"{name} has the splits {', '.join(inner) or 'of none'}: name the folder of one of them")
    try:
        import datasets
    except ImportError as error:
        raise OptionError(
            f"{name} is a data set of Hugging Face's, which needs the package datasets: pip install 'armory-mdnf[hf]'"
        ) from error
    try:
        found = datasets.load_from_disk(str(folder))
        for column, feature in found.features.items():
            if isinstance(feature, datasets.Audio):
                found = found.cast_column(column, datasets.Audio(decode=False))
        return found.with_format("numpy")
    except Exception as error:  # whatever a damaged file of Arrow's raises, the user needs the folder's name
        raise BundleError(f"{name} is not a data set that can be read: {cause(error)}") from error


def audio_of(value: Any, folder: Path, row: int) -> Path | bytes | tuple[Samples, int]:
    """What a row has as its audio: the path of a file, its encoded bytes, or samples with their rate in Hz.

    A relative path is one from the data set's folder. Raises :class:`AudioError` naming the row for anything else.
    """
    where = f"{folder}, row {row}"
    if isinstance(value, str):
        return folder / value
    if isinstance(value, Mapping):
        if isinstance(value.get(BYTES), bytes):
            return bytes(value[BYTES])
        if value.get(ARRAY) is not None and RATE in value:
            samples, rate_hz = np.asarray(value[ARRAY]), int(value[RATE])
            if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating) or rate_hz < 1:
                raise AudioError(
                    f"{where}: expected an array of floats, of one channel, and its rate, found {samples.dtype} "
                    f"{samples.shape} at {rate_hz} Hz"
                )
            return samples.astype(np.float32), rate_hz
        if isinstance(value.get(PATH), str):
            return folder / value[PATH]
    known = f"{BYTES}, {PATH}, or {ARRAY} and {RATE}"
    found = quoted(sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__)
    raise AudioError(f"{where}: expected audio as a path, or as an object with {known}, found {found}")


def seconds_of(audio: Path | bytes | tuple[Samples, int], where: str) -> float:
    """Length of what :func:`audio_of` gives; of encoded audio only the header is read.

    Raises :class:`AudioError` naming the row for what does not say it, one of :data:`UNREADABLE` for what libsndfile
    does not read.
    """
    if isinstance(audio, tuple):
        return len(audio[0]) / audio[1]
    return duration_s(io.BytesIO(audio) if isinstance(audio, bytes) else str(audio), where)
