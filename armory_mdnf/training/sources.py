"""Where training utterances come from: recordings, synthetic shards, and recordings spliced anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.librispeech import FOLDER, audio_checksum, load_split
from armory_mdnf.data.selection import read_samples
from armory_mdnf.errors import BundleError, quoted
from armory_mdnf.files.json_lines import objects
from armory_mdnf.files.provenance import of_array, sha256_of
from armory_mdnf.options import FILE_NAME, TEXT, Kind, number, whole
from armory_mdnf.training.corpora.files import check_finished
from armory_mdnf.training.held_out import check_left_out, check_speakers

SAMPLE_RATE_HZ = 16000


class Source(Protocol):
    """Draws one training utterance: float32 audio at 16 kHz, and its transcript."""

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, str]: ...

    def contents(self) -> Iterable[object]:
        """Plain values that differ where the recordings or transcripts do, in the order of the draws."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Recording:
    """A recording in memory, with the times of its words in seconds where they are known."""

    audio: np.ndarray
    transcript: str
    words: tuple[tuple[str, float, float], ...]


def read_lines(path: Path, kinds: Mapping[str, Kind]) -> list[dict]:
    """Read a JSON-lines file of objects that have values of these kinds, and others.

    Raises :class:`BundleError` naming the file, the line and the field.
    """
    if not path.is_file():
        raise BundleError(f"no such list of utterances: {path}; build the corpus first")
    lines = []
    for where, line in objects(path.read_bytes(), path):
        for key, kind in kinds.items():
            if not kind.holds(line.get(key)):
                found = quoted(line[key]) if key in line else "none"
                raise BundleError(f"{where}: {key}: expected {kind.words}, found {found}")
        lines.append(line)
    return lines


def _is_words(value: object) -> bool:
    if value is None:
        return True
    time = number(0)
    return isinstance(value, list) and all(
        isinstance(w, list) and len(w) == 3 and TEXT.holds(w[0]) and time.holds(w[1]) and time.holds(w[2])
        for w in value
    )


WORDS = Kind("a list of words with their start and end in seconds, or null", _is_words)
LISTED = {"file": TEXT, "transcript": TEXT, "words": WORDS}
IN_SHARDS = {"shard": FILE_NAME, "offset": whole(0, 2**40), "length": whole(1, 2**40), "transcript": TEXT}


def read_recordings(path: Path) -> list[Recording]:
    """Recordings of a list with ``file``, ``transcript`` and, where aligned, ``words``."""
    recordings = []
    for line in read_lines(path, LISTED):
        audio, rate = read_audio(path.parent / line["file"])
        if rate != SAMPLE_RATE_HZ:
            raise BundleError(f"{line['file']}: expected {SAMPLE_RATE_HZ} Hz, found {rate}")
        words = tuple((w, float(a), float(b)) for w, a, b in line.get("words") or ())
        recordings.append(Recording(audio, line["transcript"], words))
    return recordings


def _contents(recordings: list[Recording]) -> Iterator[object]:
    for r in recordings:
        yield [r.transcript, of_array(r.audio), r.words]


class Recordings:
    """Whole recordings, each as often as the others."""

    def __init__(self, recordings: list[Recording]) -> None:
        self.recordings = recordings

    def __len__(self) -> int:
        return len(self.recordings)

    def contents(self) -> Iterator[object]:
        return _contents(self.recordings)

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        r = self.recordings[rng.integers(len(self.recordings))]
        return r.audio, r.transcript


def librispeech_in(data_dir: Path) -> Path | None:
    """LibriSpeech in a data directory; None where there is none, and :mod:`armory_mdnf.data.librispeech` looks."""
    folder = data_dir / FOLDER
    return folder if folder.is_dir() else None


@dataclass(frozen=True)
class OnDisk:
    """The audio of an utterance, read whenever it is asked for as an array."""

    utterance: Utterance

    def __len__(self) -> int:
        return round(self.utterance.duration_s * SAMPLE_RATE_HZ)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return read_samples(self.utterance)


class LibriSpeech:
    """A split of LibriSpeech, each recording as often as the others.

    Recordings are kept as 16 bits once they are read, up to ``KEPT_SAMPLES``: decoding them at every draw would take
    a tenth of a training step's time on a CPU.
    """

    KEPT_SAMPLES = 1 << 30

    def __init__(
        self,
        split: str,
        folder: Path | None = None,
        max_duration_s: float = 17.0,
        held_out_speakers: Sequence[str] = (),
    ) -> None:
        check_speakers(held_out_speakers, folder)
        held_out = set(held_out_speakers)
        self.utterances = [
            u for u in load_split(split, folder) if u.duration_s <= max_duration_s and u.voice not in held_out
        ]
        if not self.utterances:
            raise BundleError(f"{split} has no utterance of at most {max_duration_s:g} s")
        self._kept: dict[int, np.ndarray] = {}
        self._room = self.KEPT_SAMPLES

    def __len__(self) -> int:
        return len(self.utterances)

    def contents(self) -> Iterator[object]:
        for u in self.utterances:
            yield [u.id, u.transcript, audio_checksum(u.path)]

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        i = int(rng.integers(len(self.utterances)))
        utterance = self.utterances[i]
        if i in self._kept:
            return self._kept[i].astype(np.float32) / np.float32(32768), utterance.transcript
        audio = np.clip(np.round(read_samples(utterance) * 32768), -32768, 32767).astype(np.int16)
        if len(audio) <= self._room:
            self._kept[i] = audio
            self._room -= len(audio)
        return audio.astype(np.float32) / np.float32(32768), utterance.transcript


class Joined:
    """Short recordings one after another, so that a fixed set gives many sentences, none of them ``refused``."""

    def __init__(
        self, recordings: list[Recording], refused: Callable[[str], bool], max_duration_s: float = 7.0
    ) -> None:
        self.recordings = [r for r in recordings if len(r.audio) < max_duration_s / 2 * SAMPLE_RATE_HZ]
        self.refused = refused
        self.max_samples = int(max_duration_s * SAMPLE_RATE_HZ)

    def __len__(self) -> int:
        return len(self.recordings)

    def contents(self) -> Iterator[object]:
        return _contents(self.recordings)

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        while True:
            chosen = self._draw(rng)
            text = " ".join(r.transcript for r in chosen)
            if not self.refused(text):
                return np.concatenate([r.audio for r in chosen]), text

    def _draw(self, rng: np.random.Generator) -> list[Recording]:
        chosen: list[Recording] = []
        room = self.max_samples
        for _ in range(int(rng.integers(2, 6))):
            r = self.recordings[rng.integers(len(self.recordings))]
            room -= len(r.audio)
            if room < 0:
                break
            chosen.append(r)
        return chosen


def _load_shard(path: Path) -> np.ndarray:
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path} is not a readable shard (truncated or corrupt?): {error}") from error
    if not isinstance(shard, np.ndarray) or shard.dtype != np.int16 or shard.ndim != 1:
        raise BundleError(f"{path}: expected samples of 16 bits in one row")
    return shard


class Shards:
    """Utterances in int16 shards, memory-mapped, listed in JSON lines: shard, offset, length, transcript.

    Raises :class:`BundleError` for a folder that has none, or not all yet.
    """

    def __init__(self, folder: Path, max_duration_s: float = 9.0, held_out_speakers: Sequence[str] = ()) -> None:
        lists = sorted(folder.glob("*.jsonl"))
        if not lists:
            raise BundleError(f"no shards in {folder}; build the corpus first")
        check_finished(folder)
        check_left_out(folder, held_out_speakers)
        self.folder = folder
        self.lines = [line for path in lists for line in read_lines(path, IN_SHARDS)]
        self.lines = [line for line in self.lines if line["length"] <= max_duration_s * SAMPLE_RATE_HZ]
        self.shards: dict[str, np.ndarray] = {}

    def read(self, line: dict) -> np.ndarray:
        """Audio of one entry of :attr:`lines`, float32."""
        name = line["shard"]
        if name not in self.shards:
            self.shards[name] = _load_shard(self.folder / name)
        piece = self.shards[name][line["offset"] : line["offset"] + line["length"]]
        if len(piece) < line["length"]:
            expected = line["offset"] + line["length"]
            raise BundleError(f"{self.folder / name}: expected {expected} samples, found {len(self.shards[name])}")
        return piece.astype(np.float32) / np.float32(32768)

    def __len__(self) -> int:
        return len(self.lines)

    def contents(self) -> Iterator[object]:
        yield from self.lines
        for name in sorted({Path(line["shard"]).name for line in self.lines}):
            yield sha256_of(self.folder / name)

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        line = self.lines[rng.integers(len(self.lines))]
        return self.read(line), line["transcript"]


class Spliced:
    """New sentences in the recorded voice: a walk through the recordings that changes to another one between words.

    The walk leaves a recording only where another says the same word, and goes on with what follows it there:
    a bigram language model whose every word is heard after a word it was really spoken after. Words of one class
    (the digits of a menu) may stand in for each other.
    """

    DIGITS = frozenset(
        ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "STAR", "POUND"]
    )

    def __init__(
        self,
        recordings: list[Recording],
        refused: Callable[[str], bool],
        change: float = 0.4,
        swap: float = 0.5,
        max_duration_s: float = 6.5,
    ) -> None:
        self.recordings = [r for r in recordings if r.words]
        self.refused = refused
        self.change, self.swap = change, swap
        self.max_duration_s = max_duration_s
        self.places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, r in enumerate(self.recordings):
            for j, (word, _, _) in enumerate(r.words):
                self.places[word].append((i, j))
        self.words = sorted(self.places)
        self.digits = [place for word in sorted(self.DIGITS) for place in self.places.get(word, ())]

    def _pick(self, places: list[tuple[int, int]], rng: np.random.Generator) -> tuple[int, int]:
        return places[rng.integers(len(places))]

    def walk(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Places (recording, word) of one sentence."""
        i, j = self._start(rng)
        path: list[tuple[int, int]] = []
        limit = int(rng.integers(2, 15))
        while len(path) < limit:
            word = self.recordings[i].words[j][0]
            if word in self.DIGITS and rng.random() < self.swap:
                path.append(self._pick(self.digits, rng))
            else:
                path.append((i, j))
            if rng.random() < self.change:
                i, j = self._pick(self.places[word], rng)
            j += 1
            if j >= len(self.recordings[i].words):
                if len(path) > 2 and rng.random() < 0.4:
                    break
                i, j = self._start(rng)
        return path

    def _start(self, rng: np.random.Generator) -> tuple[int, int]:
        """A place to start: all words alike, so that rare ones are heard, mostly from their sentence's start."""
        i, j = self._pick(self.places[self.words[rng.integers(len(self.words))]], rng)
        return (i, 0) if rng.random() < 0.6 else (i, j)

    def __len__(self) -> int:
        return len(self.recordings)

    def contents(self) -> Iterator[object]:
        return _contents(self.recordings)

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        while True:
            path = self.walk(rng)
            text = " ".join(self.recordings[i].words[j][0] for i, j in path)
            if self.refused(text):
                continue
            audio = self._render(path)
            if len(audio) <= self.max_duration_s * SAMPLE_RATE_HZ:
                return audio, text

    def _render(self, path: list[tuple[int, int]]) -> np.ndarray:
        """Cut runs of neighbouring words in one piece and cross-fade the pieces over 8 ms."""
        pieces = []
        start = 0
        for k in range(1, len(path) + 1):
            joined = k < len(path) and path[k] == (path[k - 1][0], path[k - 1][1] + 1)
            if not joined:
                pieces.append(self._cut(path[start], path[k - 1]))
                start = k
        fade = 128
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        out = pieces[0].copy()
        for piece in pieces[1:]:
            if min(len(out), len(piece)) <= fade:
                out = np.concatenate([out, piece])
                continue
            mixed = out[-fade:] * ramp[::-1] + piece[:fade] * ramp
            out = np.concatenate([out[:-fade], mixed, piece[fade:]])
        return out

    def _cut(self, first: tuple[int, int], last: tuple[int, int]) -> np.ndarray:
        recording = self.recordings[first[0]]
        words = recording.words
        # The silence before and after a word belongs half to it, at most 0.12 s.
        before = words[first[1] - 1][2] if first[1] else 0.0
        after = words[last[1] + 1][1] if last[1] + 1 < len(words) else len(recording.audio) / SAMPLE_RATE_HZ
        start = words[first[1]][1] - min(0.12, (words[first[1]][1] - before) / 2)
        end = words[last[1]][2] + min(0.12, (after - words[last[1]][2]) / 2)
        return recording.audio[max(0, int(start * SAMPLE_RATE_HZ)) : int(end * SAMPLE_RATE_HZ)]
