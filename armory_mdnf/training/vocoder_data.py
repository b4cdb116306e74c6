"""Random segments of speech for vocoder training, and the utterances that a vocoder is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.audio.files import read_audio
from armory_mdnf.audio.mel import LogMel, MelRecipe
from armory_mdnf.data.librispeech import SUFFIXES
from armory_mdnf.errors import AudioError, BundleError
from armory_mdnf.options import TEXT
from armory_mdnf.training.augmentation import under_white_noise
from armory_mdnf.training.sources import read_lines


def find_recordings(source: Path, held_out_speakers: Sequence[str] = ()) -> list[Path]:
    """Recordings of a folder (all its FLAC and Opus files, sorted) or of a JSON-lines manifest (its ``file`` fields).

    What lies below a folder of the name of a held-out speaker is left out.
    """
    if source.is_dir():
        held_out = set(held_out_speakers)
        found = (path for suffix in SUFFIXES for path in source.rglob(f"*{suffix}"))
        paths = sorted(path for path in found if not held_out & set(path.relative_to(source).parts[:-1]))
    elif source.is_file():
        paths = [source.parent / line["file"] for line in read_lines(source, {"file": TEXT})]
    else:
        raise BundleError(f"expected a folder of FLAC or Opus files or a manifest, found nothing at {source}")
    if not paths:
        raise BundleError(f"no recordings in {source}")
    return paths


def read_all(paths: Sequence[Path], sample_rate_hz: int) -> list[Tensor]:
    """Read recordings, all of which must have the given rate."""
    utterances = []
    for path in paths:
        x, rate = read_audio(path)
        if rate != sample_rate_hz:
            raise AudioError(f"{path}: expected {sample_rate_hz} Hz, found {rate} Hz")
        utterances.append(torch.from_numpy(x))
    return utterances


@dataclass
class Segments:
    """Seeded random segments; a step's batch depends on the seed and the step alone, so a run can be resumed.

    ``sources`` are lists of utterances, drawn from by ``weights``, then by duration. A segment's audio carries the
    reflected padding at an utterance's ends, so that its mel equals that of the whole utterance there. The share
    ``noisy`` of them is under white noise, at a ratio to the segment's own power drawn from ``snr_db``: the vocoder has
    to say noise as well as speech, or what perturbs its input comes out enlarged.
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
            x = self.sources[group][int(rng.choice(len(self._odds[group]), p=self._odds[group]))]
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
    mels = [front_end(u[None], torch.tensor([u.shape[0]]))[0][0] for u in utterances[::stride]]
    together = torch.cat(mels, dim=1)
    return together.mean(1), together.std(1)
