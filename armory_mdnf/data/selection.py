"""Which utterances of a split an evaluation takes, in Armory's notation, and their samples."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from armory_mdnf.audio.files import read_audio
from armory_mdnf.audio.recordings import read_recording
from armory_mdnf.data import librispeech as openslr
from armory_mdnf.data.bundled import Utterance, corpora_folder, load_split, read_manifest
from armory_mdnf.data.own import load_own
from armory_mdnf.data.paths import is_path
from armory_mdnf.data.saved import SavedUtterance
from armory_mdnf.errors import AudioError, OptionError, choices, quoted
from armory_mdnf.files.provenance import of_array, of_values, sha256_of

SAMPLE_RATE_HZ = 16000
SPLITS = {
    "human": ("human", "eval"),
    "human_dev": ("human", "dev"),
    "synthetic": ("synthetic", "eval"),
    "synthetic_dev": ("synthetic", "dev"),
}
"""Names that a configuration's ``eval_split`` gives to the bundled corpora and their parts."""

Index = str | Sequence[int] | None


@dataclass(frozen=True)
class HeldUtterance(Utterance):
    """An utterance whose samples are in memory, float32 (T,): of a dataset that gives arrays. ``path`` names it."""

    samples: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32), compare=False, repr=False)


def bundled(split: str, index: Index = None, *, strict: bool = True) -> list[tuple[int, Utterance]]:
    """The chosen utterances of a bundled split with their positions in it, in its order.

    A path (:func:`armory_mdnf.data.paths.is_path`) is that of recordings of one's own.
    ``strict`` False gives those that cannot be used too, with their ``problem``.

    Raises :class:`OptionError` for an unknown split or an index that chooses nothing, :class:`BundleError` for a file
    that is missing or whose checksum differs.
    """
    utterances = bundled_split(split, strict=strict)
    return [(i, utterances[i]) for i in positions(index, len(utterances))]


def bundled_split(split: str, *, strict: bool = True) -> list[Utterance]:
    """All utterances of a bundled split, or of the path of one's own recordings. Raises as :func:`bundled`."""
    if is_path(split):
        return load_own(split, strict=strict)
    if split not in SPLITS:
        raise OptionError(
            f"{choices(split, SPLITS, 'split')}; or the path of your own recordings, with a {os.sep} in it"
        )
    return load_split(*SPLITS[split], strict=strict)


def any_split(name: str, *, strict: bool = True) -> list[Utterance]:
    """All utterances of a split by the name that ``eval_split`` gives it: bundled, of LibriSpeech, or by path.

    ``strict`` False gives those that cannot be used too, with their ``problem``.
    """
    if is_path(name):
        return load_own(name, strict=strict)
    if name in SPLITS:
        return bundled_split(name, strict=strict)
    if openslr.split_name(name) is None:
        raise OptionError(choices(name, [*SPLITS, *openslr.SPLITS], "split"))
    return openslr.load_split(name, strict=strict)


def split_size(name: str) -> int:
    """How many utterances a split has when it is complete. Raises :class:`OptionError` for an unknown one."""
    if is_path(name):
        return len(load_own(name, strict=False))
    if name in SPLITS:
        corpus, part = SPLITS[name]
        return len(read_manifest(corpora_folder() / corpus / part / "manifest.jsonl"))
    known = openslr.split_name(name)
    if known is None:
        raise OptionError(choices(name, [*SPLITS, *openslr.SPLITS], "split"))
    return openslr.SPLITS[known]


def fingerprint(utterance: Utterance) -> str:
    """A checksum of a recording and of its words, for what depends on both; also of a recording that is damaged."""
    if isinstance(utterance, HeldUtterance):
        return of_values([of_array(utterance.samples), utterance.transcript])[:16]
    try:
        audio = audio_checksum(utterance)
    except (OSError, ValueError) as error:  # AudioError is one, and what a null in a path raises
        audio = str(error)
    return of_values([audio, utterance.transcript])[:16]


def audio_checksum(utterance: Utterance) -> str:
    """A checksum of a recording on disk. Raises :class:`AudioError` or ``OSError`` if it cannot be read.

    Of one that is to be converted the whole file counts: its rate and channels decide too, which FLAC's MD5 leaves out,
    and nothing holds its audio to that MD5 when it is read.
    """
    if isinstance(utterance, SavedUtterance):
        return utterance.checksum()
    return sha256_of(utterance.path) if utterance.converted else openslr.audio_checksum(utterance.path)


def positions(index: Index, size: int) -> list[int]:
    """Positions in a split of ``size`` utterances, in ascending order, each once.

    ``index``: a list of positions, a slice such as ``"[:12]"``, or None for all. Raises :class:`OptionError`.
    """
    if index is None:
        return list(range(size))
    if isinstance(index, str):
        first, last = parse_slice(index)
        found = list(range(size)[first:last])
        if not found:
            raise OptionError(f"index {quoted(index)} selects none of the {size} utterances")
        return found
    if not isinstance(index, Sequence):
        raise OptionError(f"expected index as a list of positions or a slice such as '[:12]', got {quoted(index)}")
    chosen: set[int] = set()
    for i in index:
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < size:
            raise OptionError(f"expected index to be positions from 0 to {size - 1}, got {quoted(i)} among them")
        chosen.add(i)
    if not chosen:
        raise OptionError("expected index to have at least one position, got an empty list")
    return sorted(chosen)


def parse_slice(text: str) -> tuple[int | None, int | None]:
    """Bounds of a slice ``"[first:last]"``, brackets and bounds optional; what Armory's ``parse_str_slice`` takes.

    Raises :class:`OptionError` where that raises ``ValueError``.
    """
    tokens = text.strip().lstrip("[").rstrip("]").strip().split(":")
    if len(tokens) != 2:
        raise OptionError(f"expected index as a slice such as '[3:12]', with one colon and no step, got {quoted(text)}")
    try:
        first, last = (int(token) if token.strip() else None for token in tokens)
    except ValueError:
        found = quoted(text)
        raise OptionError(f"expected index as a slice between whole numbers such as '[3:12]', got {found}") from None
    if first is not None and first < 0:
        raise OptionError(f"expected index {quoted(text)} to begin at 0 or later")
    if first is not None and last is not None and last <= first:
        raise OptionError(f"expected index {quoted(text)} to end after it begins")
    return first, last


def read_samples(utterance: Utterance) -> NDArray[np.float32]:
    """The recording as float32 (T,) in [-1, 1) at :data:`SAMPLE_RATE_HZ`.

    Raises :class:`AudioError` for what cannot be read, and for audio that is not that of which a FLAC file has the MD5.
    """
    if isinstance(utterance, HeldUtterance):
        return utterance.samples
    if utterance.converted:
        x = _recording(utterance)
        return (np.clip(np.rint(x * 32768.0), -32768, 32767) / 32768).astype(np.float32)  # Armory's are of 16 bits
    x, sample_rate_hz = read_audio(utterance.path)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        raise AudioError(f"{utterance.path}: expected {SAMPLE_RATE_HZ} Hz, found {sample_rate_hz} Hz")
    if not np.isfinite(x).all():
        raise AudioError(f"{utterance.path}: expected finite samples, found NaN or infinity")
    if utterance.path.suffix == ".flac":
        header = openslr.flac_header(utterance.path)
        if header.bits == 16 and header.md5 not in (openslr.NO_MD5, found := pcm_md5(x)):
            raise AudioError(f"{utterance.path}: expected audio of MD5 {header.md5}, decoded {found}")
    return x


def _recording(utterance: Utterance) -> NDArray[np.float32]:
    if isinstance(utterance, SavedUtterance):
        return utterance.samples(SAMPLE_RATE_HZ)
    return read_recording(utterance.path, SAMPLE_RATE_HZ)


def pcm_md5(x: NDArray[np.float32]) -> str:
    """MD5 of float samples (T,) as 16-bit integers, which a FLAC file has of its audio."""
    pcm = np.rint(x.astype(np.float64) * 32768).astype("<i2")
    return hashlib.md5(pcm.tobytes(), usedforsecurity=False).hexdigest()
