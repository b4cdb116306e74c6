"""Estimate the noise curve of MDNF: where along the mel bins an attack puts its perturbation.

    armory-mdnf train curve --data-dir DIR --out FILE.json

100 training recordings (of the human corpus, or of LibriSpeech: ``--corpus train-clean-100``) are attacked by l2 PGD on
the undefended recogniser; the curve is the mean over pairs and frames of the absolute difference of the two log mels,
divided by its largest value (section 3 and figure 1 of the paper).

A command that was stopped goes on when it is started again: what is done is kept in ``FILE.json.progress.jsonl``. A
curve that something else made is not written over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.asr.checkpoints import load_recognizer, recognizer_checksum
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD
from armory_mdnf.audio.resample import resample
from armory_mdnf.data.librispeech import SPLITS, load_split
from armory_mdnf.data.selection import read_samples
from armory_mdnf.errors import AttackError, OptionError, choices
from armory_mdnf.files.atomic import ensure_all_writable, replacing, storing, write_text
from armory_mdnf.files.provenance import made_of, of_array, of_values, sha256_of
from armory_mdnf.files.strict_json import dumps, read_json
from armory_mdnf.options import SEED, Kind, listed, number, whole
from armory_mdnf.training.held_out import is_training_split
from armory_mdnf.training.options import Parser, program, typed
from armory_mdnf.training.sources import SAMPLE_RATE_HZ, librispeech_in, read_recordings
from armory_mdnf.training.state import MADE_OF, Progress, is_finished
from armory_mdnf.vocoders import Vocoder, load_vocoder, vocoder_file

ATTACKED_AT_ONCE = 8
Pair = list[float]
"""Sum over frames of |log mel difference| per bin of one pair, and the number of its frames."""


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
    estimator: RecognizerEstimator,
    vocoder: Vocoder,
    recordings: list[np.ndarray],
    eps: float,
    iterations: int,
    done: Sequence[Pair] = (),
    keep: Callable[[list[Pair]], None] = lambda pairs: None,
) -> tuple[list[float], list[float]]:
    """Curve and un-normalised mean difference over (adversarial, benign) pairs of the recordings.

    ``done`` are the first pairs' differences, from a run that was stopped; ``keep`` gets the new ones, as many as are
    attacked at once, so that a run that goes on attacks the same ones together.
    Raises :class:`AttackError` if an attack gave values that are not finite, or none changed anything.
    """
    attack = PGD(estimator, norm="l2", eps=eps, max_iter=iterations, verbose=sys.stderr.isatty())
    pairs = list(done)
    while len(pairs) < len(recordings):
        part = recordings[len(pairs) : len(pairs) + ATTACKED_AT_ONCE]
        new = [mel_difference(vocoder, *both) for both in zip(part, attack.generate(part), strict=True)]
        if not torch.stack(new).isfinite().all():
            raise AttackError(f"pairs from {len(pairs)} on: the attack gave values that are not finite")
        pairs += [difference.tolist() for difference in new]
        keep(pairs[-len(part) :])
    total = torch.tensor(pairs).sum(0)
    mean = total[:-1] / total[-1]
    if not mean.max() > 0:
        raise AttackError("the attack changed nothing anywhere: there is no curve")
    return (mean / mean.max()).tolist(), mean.tolist()


def choose(
    corpus: str, data_dir: Path, pairs: int, max_duration_s: float | None, seed: int
) -> tuple[list[np.ndarray], str]:
    """Recordings of at least 1.5 s drawn from ``human`` or a split of LibriSpeech, and a phrase on where they are from.

    Raises :class:`OptionError` for an unknown corpus, and if it has no such recording.
    """
    rng = np.random.default_rng(seed)
    if corpus == "human":
        longest = max_duration_s or 6.0
        recordings = read_recordings(data_dir / "human" / "train.jsonl")
        recordings = [r for r in recordings if 1.5 <= len(r.audio) / SAMPLE_RATE_HZ <= longest]
        _some(recordings, corpus, longest)
        chosen = [recordings[i].audio for i in rng.permutation(len(recordings))[:pairs]]
        return chosen, f"training recordings of the human corpus, 1.5 to {longest:g} s"
    if not is_training_split(corpus):
        raise OptionError(choices(corpus, ("human", *(s for s in SPLITS if s.startswith("train"))), "corpus"))
    longest = max_duration_s or 17.0
    utterances = load_split(corpus, librispeech_in(data_dir), transcribed=False)
    utterances = [u for u in utterances if 1.5 <= u.duration_s <= longest]
    _some(utterances, corpus, longest)
    chosen = [read_samples(utterances[i]) for i in rng.permutation(len(utterances))[:pairs]]
    return chosen, f"LibriSpeech {corpus}, 1.5 to {longest:g} s"


def _some(found: Sequence[object], corpus: str, longest: float) -> None:
    if not found:
        raise OptionError(f"{corpus} has no recording of 1.5 to {longest:g} s")


def plot(curve: list[float], path: Path, title: str) -> None:
    """The curve over the mel bins, as in figure 1 of the paper."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3))
    axes.bar(range(len(curve)), curve, width=0.9)
    axes.set(xlabel="mel bin", ylabel="mean |log mel difference|\n(largest = 1)", title=title, ylim=(0, 1.05))
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)


def check_plot(path: Path) -> None:
    """Refuse a picture that cannot be drawn. Raises :class:`OptionError`."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise OptionError("--plot needs matplotlib: pip install matplotlib") from error
    if path.suffix[1:] not in FigureCanvasBase.filetypes:
        raise OptionError(f"--plot: {choices(path.suffix[1:], FigureCanvasBase.filetypes, 'format of a picture')}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    above_0 = typed(number(0, above=True), float)
    parser = Parser("curve", __doc__)
    add = parser.add_argument
    add("--recognizer", default="ds2_base", help="name of a bundled recogniser, or a file (default: ds2_base)")
    add("--vocoder", default="melgan", help="name of a bundled vocoder, or a file (default: melgan)")
    parser.add_data_dir()
    add(
        "--corpus",
        default="human",
        help="human, or a training split of LibriSpeech, with words or without (default: human)",
    )
    text = "leave longer recordings out (default: 6 for human, 17 for LibriSpeech)"
    add("--max-duration-s", type=above_0, metavar="S", help=text)
    add("--pairs", type=typed(whole(1), int), default=100, metavar="N", help="recordings to attack (default: 100)")
    add("--eps", type=above_0, default=1.5, help="l2 norm that the attack may reach (default: 1.5)")
    add("--iterations", type=typed(whole(1), int), default=100, metavar="N", help="of the attack (default: 100)")
    add("--seed", type=typed(SEED, int), default=3, metavar="S", help="of the choice of recordings (default: 3)")
    add("--out", type=Path, required=True, metavar="FILE", help="curve to write: FILE.json")
    add("--plot", type=Path, metavar="FILE", help="picture of the curve to write: FILE.png or another of matplotlib's")
    parser.add_threads()
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    args = _arguments(argv)
    if args.plot:
        check_plot(args.plot)
    ensure_all_writable([args.out, args.plot], unlike=[args.recognizer, args.vocoder])
    recordings, data = choose(args.corpus, args.data_dir, args.pairs, args.max_duration_s, args.seed)
    provenance = made_of(
        recognizer=recognizer_checksum(args.recognizer),
        vocoder=sha256_of(vocoder_file(args.vocoder)),
        recordings=of_values(map(of_array, recordings)),
        pairs=len(recordings),
        eps=args.eps,
        iterations=args.iterations,
        seed=args.seed,
    )
    with storing(lambda: "start the same command again to go on"):
        if not is_finished(args.out, provenance):
            _make(args, recordings, data, provenance)
        if args.plot:
            title = f"PGD l2 {args.eps:g}, {len(recordings)} pairs, {args.recognizer}"
            plot(read_json(args.out)["curve"], args.plot, title)
    return 0


def _make(args: argparse.Namespace, recordings: list[np.ndarray], data: str, provenance: Mapping[str, Any]) -> None:
    """Write ``--out``; what is done of it is kept beside it meanwhile."""
    vocoder = load_vocoder(args.vocoder)
    size = vocoder.recipe.n_mels + 1
    pair = Kind(f"{size} numbers of at least 0", lambda v: listed(number(0), "").holds(v) and len(v) == size)
    kinds = {"differences": listed(pair, "lists of that", empty=False)}
    with closing(Progress(args.out, provenance, kinds)) as progress, storing(progress.__str__):
        done = [pair for row in progress.rows for pair in row["differences"]]
        if done:
            print(f"going on after {len(done)} of {len(recordings)} pairs", file=sys.stderr)
        estimator = RecognizerEstimator(load_recognizer(args.recognizer))
        keep = lambda pairs: progress.append({"differences": pairs})  # noqa: E731
        curve, mean = estimate(estimator, vocoder, recordings, args.eps, args.iterations, done, keep)
        content = {
            "description": "mean |log mel difference| of (adversarial, benign) pairs per mel bin, largest = 1",
            "recipe": {
                "recognizer": args.recognizer,
                "vocoder": args.vocoder,
                "pairs": len(recordings),
                "attack": f"PGD l2 eps {args.eps}, step eps/5, {args.iterations} iterations, label = own prediction",
                "data": data,
                "seed": args.seed,
            },
            MADE_OF: provenance,
            "mean_difference": [round(v, 6) for v in mean],
            "curve": [round(v, 6) for v in curve],
        }
        write_text(args.out, dumps(content, indent=1) + "\n")
        progress.finish()


if __name__ == "__main__":
    raise SystemExit(program(main))
