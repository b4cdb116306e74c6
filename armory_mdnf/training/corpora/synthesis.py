"""Synthetic training speech in large shards, and the synthetic evaluation and dev splits."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.files.json_lines import objects
from armory_mdnf.training.corpora.engines import VOICES, Request, Waveform, synthesise
from armory_mdnf.training.corpora.files import AHEAD, SAMPLE_RATE_HZ, Entry, write_shard, write_split
from armory_mdnf.training.corpora.sentences import Sampler
from armory_mdnf.training.loading import ahead

SHARD_SIZE = 200
SENTENCES_SEED = 11
HELD_OUT_VOICE = "festival-ked"
SPLIT_VOICES = (
    "flite-kal16", "flite-awb", "flite-rms", "flite-slt", "festival-kal", "festival-slt-hts", "espeak-en-us",
)  # fmt: skip
NUM_EVAL, NUM_DEV = 108, 48
SENTENCES = Path(__file__).parent.parent / "recipes" / "synthetic_sentences.txt"

# Share of each voice in training; the espeak-ng variants share theirs.
TRAIN_SHARES = {
    "flite-rms": 0.20, "flite-slt": 0.24, "flite-awb": 0.17, "flite-kal16": 0.12,
    "festival-kal": 0.06, "festival-slt-hts": 0.09, "espeak": 0.12,
}  # fmt: skip
_PITCH_HZ = {"flite-kal16": (80, 190), "flite-awb": (95, 220), "flite-slt": (140, 240), "espeak": (105, 215)}


def split_sentences() -> list[str]:
    """The sentences of the synthetic evaluation and dev splits, never trained on."""
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def write_synthetic_splits(folder: Path, seed: int = 3) -> None:
    """Say the split sentences, evenly over the voices; the held-out voice speaks in ``eval`` alone."""
    sentences = split_sentences()
    if len(sentences) != NUM_EVAL + NUM_DEV:
        raise BundleError(f"{SENTENCES}: expected {NUM_EVAL + NUM_DEV} sentences, found {len(sentences)}")
    random.Random(seed).shuffle(sentences)
    parts = {
        "eval": (sentences[:NUM_EVAL], (*SPLIT_VOICES, HELD_OUT_VOICE)),
        "dev": (sentences[NUM_EVAL:], SPLIT_VOICES),
    }
    for part, (texts, voices) in parts.items():
        requests = [Request(text, voices[i % len(voices)]) for i, text in enumerate(texts)]
        entries = []
        for i, (request, audio) in enumerate(zip(requests, synthesise(requests), strict=True)):
            engine = VOICES[request.voice].engine
            entries.append(Entry(f"{part}-{i:03d}", request.text, request.voice, f"{engine}, Debian", audio))
        write_split(folder / part, entries)


def train_request(text: str, rng: random.Random, shares: Mapping[str, float] = TRAIN_SHARES) -> Request:
    """A voice, rate, pitch and size of speaker for one training sentence; ``shares`` gives each voice's weight."""
    voice = rng.choices(list(shares), weights=list(shares.values()))[0]
    pitch_range = _PITCH_HZ.get(voice)
    if voice == "espeak":
        voice = rng.choice([name for name in VOICES if name.startswith("espeak-")])
    pitch_hz = rng.uniform(*pitch_range) if pitch_range and rng.random() < 0.7 else None
    stretch = rng.uniform(0.82, 1.3) if rng.random() < 0.85 else 1.0
    warp = round(rng.uniform(0.88, 1.18), 2) if rng.random() < 0.6 else 1.0
    return Request(text, voice, stretch, pitch_hz, warp)


Said = Iterable[tuple[Waveform, dict[str, str]]]
"""Samples (T,) of each sentence, its transcript and its voice."""
Say = Callable[[Sequence[str], str], Said]
"""Says sentences; how depends on a key and the place of each."""


def said(sentences: Sequence[str], key: str, shares: Mapping[str, float] = TRAIN_SHARES) -> Said:
    """Each sentence by one of the voices of :mod:`.engines`."""
    requests = [train_request(text, random.Random(f"{key}/{i}"), shares) for i, text in enumerate(sentences)]
    for request, audio in zip(requests, synthesise(requests), strict=True):
        yield audio, {"transcript": request.text, "voice": request.voice}


def make_shard(folder: Path, number: int, sentences: Sequence[str], seed: int, say: Say = said) -> float:
    """Write ``shard_NNN.npy`` (int16, end to end) and its list. Returns its duration in s. The list comes last."""
    return write_shard(folder, f"shard_{number:03d}", say(sentences, f"{seed}/{number}"))


def _duration_s(list_path: Path) -> float:
    return sum(line["length"] for _, line in objects(list_path.read_bytes(), list_path)) / SAMPLE_RATE_HZ


def write_synthetic_train(
    folder: Path,
    transcripts: Collection[str],
    held_out: Collection[str],
    hours: float,
    seed: int = SENTENCES_SEED,
    processes: int = 2,
    report: Callable[[str], None] = print,
) -> float:
    """Add shards of distinct sentences until ``folder`` holds at least ``hours``; those already there stay.

    The sentences of a shard depend on the seed and its number alone, how many there are on the hours. Returns the hours
    there are.
    """
    if hours <= 0:
        raise OptionError(f"expected a positive number of hours, got {hours}")
    folder.mkdir(parents=True, exist_ok=True)
    most = int(hours * 3600 / 2.0 / SHARD_SIZE) + 1  # no set of sentences is shorter than 2 s on average
    sampler = Sampler(transcripts, held_out, seed)
    sentences = sampler.distinct(most * SHARD_SIZE)
    done = fill_shards(folder, sentences, hours, seed, processes)
    report(f"{done:.2f} h of synthetic speech in {folder}")
    return done


def fill_shards(
    folder: Path,
    sentences: Sequence[str],
    hours: float,
    seed: int,
    processes: int,
    say: Say = said,
) -> float:
    """Say sentences into shards of ``folder`` until it holds at least ``hours``, or no shard's worth of them is left.

    It holds the first shards that reach the hours, however many processes work ahead of them, in a folder of their
    own, and however often they were stopped; shards that are there already, of a command for more hours, stay.
    Returns the hours there are.
    """
    aside = folder / AHEAD
    shutil.rmtree(aside, ignore_errors=True)  # of a killed command, perhaps of other sentences
    aside.mkdir(parents=True, exist_ok=True)

    def make(n: int) -> None:
        if not _list_of(folder, n).is_file():
            make_shard(aside, n, sentences[n * SHARD_SIZE : (n + 1) * SHARD_SIZE], seed, say)

    done_s, most = 0.0, len(sentences) // SHARD_SIZE
    with tqdm(total=hours, unit="h", desc="synthesis") as bar, closing(ahead(make, 0, most, processes)) as made:
        for n in range(most):
            if done_s >= hours * 3600:
                break
            next(made)
            path = _list_of(folder, n)
            if not path.is_file():
                for suffix in (".npy", ".jsonl"):  # the list last: it says that the shard is whole
                    os.replace(_list_of(aside, n).with_suffix(suffix), path.with_suffix(suffix))
            done_s += _duration_s(path)
            bar.update(min(done_s / 3600, hours) - bar.n)
    shutil.rmtree(aside, ignore_errors=True)
    return sum(map(_duration_s, sorted(folder.glob("shard_*.jsonl")))) / 3600


def _list_of(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:03d}.jsonl"
