"""Writing corpora: lists as JSON lines, splits as FLAC with a manifest, all atomically."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from armory_mdnf.audio.files import write_flac
from armory_mdnf.errors import AudioError, BundleError
from armory_mdnf.files.atomic import replacing
from armory_mdnf.files.json_lines import write_lines
from armory_mdnf.files.provenance import sha256_of

SAMPLE_RATE_HZ = 16_000
UNFINISHED = "unfinished"
AHEAD = "ahead"
MAKERS = {UNFINISHED: "`train resynthesis`", AHEAD: "`train corpus` or `train books`"}
"""What is in a folder of shards until they are whole, an empty file or a folder, and the command that makes them."""


@dataclass(frozen=True)
class Entry:
    """One utterance of a split before it is written: 16 kHz float32 samples (T,)."""

    id: str
    transcript: str
    voice: str
    source: str
    audio: npt.NDArray[np.float32]


def write_shard(
    folder: Path, name: str, utterances: Iterable[tuple[npt.NDArray[np.float32], Mapping[str, Any]]]
) -> float:
    """Write training utterances end to end as int16 in ``NAME.npy``, and their list, which comes last.

    Each line of the list has the shard, offset and length in samples, and the fields given. Returns the duration in s.
    Raises :class:`AudioError` if there is no utterance.
    """
    lines: list[dict[str, Any]] = []
    pieces, offset = [], 0
    for audio, fields in utterances:
        pieces.append(np.clip(np.round(audio * 32768), -32768, 32767).astype(np.int16))
        lines.append({"shard": f"{name}.npy", "offset": offset, "length": len(audio), **fields})
        offset += len(audio)
    if not pieces:
        raise AudioError(f"{folder / name}: no utterance is left to write")
    with replacing(folder / f"{name}.npy") as partial:
        try:
            np.save(partial, np.concatenate(pieces), allow_pickle=False)
        except OSError as error:  # of a full disk numpy says only how many values it wrote
            raise OSError(f"{folder / name}.npy could not be written ({error}; is the disk full?)") from error
    write_lines(folder / f"{name}.jsonl", lines)
    return offset / SAMPLE_RATE_HZ


def check_finished(folder: Path) -> None:
    """Raise :class:`BundleError` for a folder of shards whose command was stopped, or is at work."""
    for name, maker in MAKERS.items():
        if (folder / name).exists():
            raise BundleError(f"{folder / name}: the shards there are not all: start {maker} again, which goes on")


def write_split(folder: Path, entries: Iterable[Entry]) -> None:
    """Write ``NNN.flac`` and ``manifest.jsonl`` in the given order."""
    lines = []
    for number, entry in enumerate(entries):
        name = f"{number:03d}.flac"
        write_flac(folder / name, entry.audio, SAMPLE_RATE_HZ)
        lines.append(
            {
                "id": entry.id,
                "file": name,
                "transcript": entry.transcript,
                "voice": entry.voice,
                "duration_s": round(len(entry.audio) / SAMPLE_RATE_HZ, 4),
                "sha256": sha256_of(folder / name),
                "source": entry.source,
            }
        )
    write_lines(folder / "manifest.jsonl", lines)
