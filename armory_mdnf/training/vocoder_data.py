"""Random segments of speech for vocoder training, and the utterances that a vocoder is judged on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.audio.files import read_audio
from armory_mdnf.audio.mel import LogMel, MelRecipe
from armory_mdnf.data.bundled import CORPORA, PARTS
from armory_mdnf.data.librispeech import recordings
from armory_mdnf.errors import AudioError, BundleError, OptionError
from armory_mdnf.options import TEXT
from armory_mdnf.training.augmentation import under_white_noise
from armory_mdnf.training.held_out import is_training_split, refuse_missing
from armory_mdnf.training.sources import read_lines


def find_recordings(source: Path, held_out_speakers: Sequence[str] = ()) -> list[Path]:
    """Recordings of a folder (all its FLAC and Opus files, sorted) or of a JSON-lines manifest (its ``file`` fields).

    What lies below a folder of the name of a held-out speaker is left out, be it above the source.
    """
    return _of_others(_listed(source), source, held_out_speakers)


def _listed(source: Path) -> list[Path]:
    if source.is_dir():
        return recordings(source.rglob("*"))
    if source.is_file():
        return [source.parent / line["file"] for line in read_lines(source, {"file": TEXT})]
    raise BundleError(f"expected a folder of FLAC or Opus files or a manifest, found nothing at {source}")


def _of_others(paths: Sequence[Path], source: Path, held_out_speakers: Sequence[str]) -> list[Path]:
    """Those of the recordings of a source that are of other speakers. Raises :class:`BundleError` if none is."""
    held_out = set(held_out_speakers)
    left_out = {folder for folder in {path.parent for path in paths} if held_out & set(_folders(folder))}
    if kept := [path for path in paths if path.parent not in left_out]:
        return kept
    raise BundleError(f"no recordings in {source}" + (", of other speakers than those held out" if paths else ""))


def _folders(folder: Path) -> tuple[str, ...]:
    """The names of a folder and of those above it, as it is called and as it is linked to."""
    return (*Path(os.path.abspath(folder)).parts, *folder.resolve().parts)


def training_recordings(sources: Iterable[str], held_out_speakers: Sequence[str] = ()) -> list[list[Path]]:
    """The recordings of each source, as :func:`find_recordings` gives them.

    Raises :class:`OptionError` for a source that evaluates, and for a held-out speaker whom no source has.
    """
    missing = set(held_out_speakers)
    chosen = []
    for source in sources:
        paths = _listed(Path(source))
        for folder in {path.parent for path in paths}:
            _check_training(source, folder, held_out_speakers)
            missing -= set(_folders(folder))
        chosen.append(_of_others(paths, Path(source), held_out_speakers))
    refuse_missing(sorted(missing), "source")
    return chosen


def _check_training(source: str, folder: Path, held_out_speakers: Sequence[str]) -> None:
    names = _folders(folder)
    for name in names:
        is_training_split(name, held_out_speakers, f"{source}: {name}")
    for corpus, part in pairwise(names):
        if corpus in CORPORA and part in PARTS:
            raise OptionError(f"{source}: expected recordings to learn from, {corpus}/{part} is for evaluation")


def read_each(paths: Sequence[Path], sample_rate_hz: int) -> Iterator[Tensor]:
    """Read recordings, all of which must have the given rate."""
    for path in paths:
        x, rate = read_audio(path)
        if rate != sample_rate_hz:
            raise AudioError(f"{path}: expected {sample_rate_hz} Hz, found {rate} Hz")
        yield torch.from_numpy(x)


def read_all(paths: Sequence[Path], sample_rate_hz: int) -> list[Tensor]:
    """What :func:`read_each` reads."""
    return list(read_each(paths, sample_rate_hz))


def packed(x: Tensor) -> Tensor:
    """Audio as 16 bits, where it has no more of them, for half the memory; :func:`unpacked` gives the same samples."""
    in_16_bits = (x * 32768).round().clamp(-32768, 32767).to(torch.int16)
    return in_16_bits if torch.equal(unpacked(in_16_bits), x) else x


def unpacked(x: Tensor) -> Tensor:
    """Audio as float32."""
    return x.float() / 32768 if x.dtype == torch.int16 else x


@dataclass
class Segments:
    """Seeded random segments; a step's batch depends on the seed and the step alone, so a run can be resumed.

    ``sources`` are lists of utterances, :func:`packed` or not, drawn from by ``weights``, then by duration. A segment's
    audio carries the reflected padding at an utterance's ends, so that its mel equals that of the whole utterance
    there. The share ``noisy`` of them is under white noise, at a ratio to the segment's own power drawn from
    ``snr_db``: the vocoder has to say noise as well as speech, or what perturbs its input comes out enlarged.
    """

    sources: list[list[Tensor]]
    weights: list[float]
    recipe: MelRecipe
    segment: int
    gain_db: tuple[float, float] = (-12.0, 4.0)
    noisy: float = 0.0
    snr_db: tuple[float, float] = (0.0, 40.0)

    def __post_init__(self) -> None:
        if self.recipe.framing != "centered":
            raise AudioError("vocoder training expects a centered mel recipe")
        shortest = self.segment + self.recipe.n_fft
        self.sources = [[u for u in group if u.shape[0] >= shortest] for group in self.sources]
        if not all(self.sources):
            raise AudioError(f"each training source needs an utterance of at least {shortest} samples")
        sizes = [np.array([u.shape[0] for u in group], dtype=float) for group in self.sources]
        self._odds = [size / size.sum() for size in sizes]

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Returns audio with mel context, (size, segment - hop + n_fft), and the target, (size, segment)."""
        rng = np.random.default_rng([seed, step])
        odds = np.array(self.weights) / sum(self.weights)
        half, hop = self.recipe.n_fft // 2, self.recipe.hop
        contexts, targets = [], []
        for _ in range(size):
            group = int(rng.choice(len(odds), p=odds))
            x = unpacked(self.sources[group][int(rng.choice(len(self._odds[group]), p=self._odds[group]))])
            start = hop * int(rng.integers(0, (x.shape[0] - self.segment) // hop + 1))
            gain = 10 ** (rng.uniform(*self.gain_db) / 20)
            gain = min(gain, 0.99 / max(float(x.abs().max()), 1e-3))
            index = torch.arange(start - half, start + self.segment - hop + half).abs()
            last = x.shape[0] - 1
            index = last - (last - index).abs()
            context = gain * x[index]
            if self.noisy and rng.random() < self.noisy:
                context = torch.from_numpy(under_white_noise(context.numpy(), self.snr_db, rng))
            contexts.append(context)
            targets.append(context[half : half + self.segment])
        return torch.stack(contexts), torch.stack(targets)


def mel_statistics(utterances: Sequence[Tensor], recipe: MelRecipe, limit: int = 400) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each log mel bin over at most ``limit`` utterances. Shapes: (n_mels,) each."""
    front_end = LogMel(recipe)
    stride = max(1, -(-len(utterances) // limit))
    mels = [front_end(unpacked(u)[None], torch.tensor([u.shape[0]]))[0][0] for u in utterances[::stride]]
    together = torch.cat(mels, dim=1)
    return together.mean(1), together.std(1)
