"""Estimate the noise curve of MDNF: where along the mel bins an attack puts its perturbation.

    armory-mdnf train curve --data-dir DIR --out FILE.json

100 training recordings (of the human corpus, or of LibriSpeech: ``--corpus train-clean-100``) are attacked by l2 PGD on
the undefended recogniser; the curve is the mean over pairs and frames of the absolute difference of the two log mels,
divided by its largest value (section 3 and figure 1 of the paper).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.asr.estimator import DeepSpeech2Estimator
from armory_mdnf.atomic import write_text
from armory_mdnf.attacks import PGD
from armory_mdnf.audio.resample import resample
from armory_mdnf.data.librispeech import FOLDER, SPLITS, load_split
from armory_mdnf.data.selection import read_samples
from armory_mdnf.errors import OptionError, choices
from armory_mdnf.training.sources import SAMPLE_RATE_HZ, is_training_split, read_recordings
from armory_mdnf.vocoders import Vocoder, load_vocoder


def mel_difference(vocoder: Vocoder, benign: np.ndarray, adversarial: np.ndarray) -> Tensor:
    """Sum over frames of |log mel difference| per bin, and the number of frames: (n_mels + 1,).

    The log mel is the one that the vocoder takes, since that is where the noise will be added.
    """
    rows = torch.from_numpy(np.stack([benign, adversarial]))
    lengths = torch.full((2,), len(benign))
    log_mel, frames = vocoder.mel(*resample(rows, lengths, SAMPLE_RATE_HZ, vocoder.recipe.sample_rate_hz))
    a, b, frames = log_mel[:1], log_mel[1:], frames[:1]
    return torch.cat([(a - b).abs().sum((0, 2)), frames])


def estimate(
    estimator: DeepSpeech2Estimator, vocoder: Vocoder, recordings: list[np.ndarray], eps: float, iterations: int
) -> tuple[list[float], list[float]]:
    """Curve and un-normalised mean difference over (adversarial, benign) pairs of the recordings."""
    attack = PGD(estimator, norm="l2", eps=eps, max_iter=iterations, verbose=sys.stderr.isatty())
    adversarial = attack.generate(recordings)
    pairs = (mel_difference(vocoder, *pair) for pair in zip(recordings, adversarial, strict=True))
    total = torch.stack(list(pairs)).sum(0)
    mean = total[:-1] / total[-1]
    return (mean / mean.max()).tolist(), mean.tolist()


def choose(
    corpus: str, data_dir: Path, number: int, max_duration_s: float | None, seed: int
) -> tuple[list[np.ndarray], str]:
    """Recordings of at least 1.5 s drawn from ``human`` or a split of LibriSpeech, and a phrase on where they are from.

    Raises :class:`OptionError` for an unknown corpus.
    """
    rng = np.random.default_rng(seed)
    if corpus == "human":
        longest = max_duration_s or 6.0
        recordings = read_recordings(data_dir / "human" / "train.jsonl")
        recordings = [r for r in recordings if 1.5 <= len(r.audio) / SAMPLE_RATE_HZ <= longest]
        chosen = [recordings[i].audio for i in rng.permutation(len(recordings))[:number]]
        return chosen, f"training recordings of the human corpus, 1.5 to {longest:g} s"
    if not is_training_split(corpus):
        raise OptionError(choices(corpus, ("human", *(s for s in SPLITS if s.startswith("train"))), "corpus"))
    longest = max_duration_s or 17.0
    local = data_dir / FOLDER
    utterances = load_split(corpus, local if local.is_dir() else None, transcribed=False)
    utterances = [u for u in utterances if 1.5 <= u.duration_s <= longest]
    chosen = [read_samples(utterances[i]) for i in rng.permutation(len(utterances))[:number]]
    return chosen, f"LibriSpeech {corpus}, 1.5 to {longest:g} s"


def plot(curve: list[float], path: Path, title: str) -> None:
    """The curve over the mel bins, as in figure 1 of the paper."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3))
    axes.bar(range(len(curve)), curve, width=0.9)
    axes.set(xlabel="mel bin", ylabel="mean |log mel difference|\n(largest = 1)", title=title, ylim=(0, 1.05))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="armory-mdnf train curve", description=__doc__)
    parser.add_argument("--recognizer", default="ds2_base")
    parser.add_argument("--vocoder", default="melgan")
    parser.add_argument("--data-dir", type=Path, default=Path("training_runs"))
    parser.add_argument("--corpus", default="human", help="human, or a split of LibriSpeech, with words or without")
    parser.add_argument("--max-duration-s", type=float, help="(default: 6 for human, 17 for LibriSpeech)")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--eps", type=float, default=1.5)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    pairs, data = choose(args.corpus, args.data_dir, args.pairs, args.max_duration_s, args.seed)
    estimator = DeepSpeech2Estimator(load_recognizer(args.recognizer))
    curve, mean = estimate(estimator, load_vocoder(args.vocoder), pairs, args.eps, args.iterations)
    content = {
        "description": "mean |log mel difference| of (adversarial, benign) pairs per mel bin, largest = 1",
        "recipe": {
            "recognizer": args.recognizer,
            "vocoder": args.vocoder,
            "pairs": len(pairs),
            "attack": f"PGD l2 eps {args.eps}, step eps/5, {args.iterations} iterations, label = own prediction",
            "data": data,
            "seed": args.seed,
        },
        "mean_difference": [round(v, 6) for v in mean],
        "curve": [round(v, 6) for v in curve],
    }
    write_text(args.out, json.dumps(content, indent=1) + "\n")
    if args.plot:
        plot(curve, args.plot, f"PGD l2 {args.eps:g}, {len(pairs)} pairs, {args.recognizer}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
