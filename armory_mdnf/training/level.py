"""Choose MDNF's noise level on a dev split: benign and adversarial WER over a grid of levels.

    armory-mdnf train level --recognizer ds2_mg --levels 0 10 20 40 --out results/level_mg.json

The chosen level has the smallest sum of benign and adversarial WER; the whole grid is kept, so that anyone can weigh
the two otherwise. The evaluation split is not touched.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.asr.estimator import DeepSpeech2Estimator
from armory_mdnf.atomic import write_text
from armory_mdnf.attacks import PGD
from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.librispeech import split_name
from armory_mdnf.data.selection import any_split
from armory_mdnf.defenses import MDNF
from armory_mdnf.errors import OptionError
from armory_mdnf.metrics.wer import word_error_rate


def measure(
    recognizer: str,
    levels: Iterable[float],
    utterances: list[tuple[np.ndarray, str]],
    defense_options: dict[str, Any],
    eps: float,
    iterations: int,
) -> list[dict[str, float]]:
    """Benign and adversarial WER in percent at each level, PGD l2 with the model's own prediction as label."""
    audio = [waveform for waveform, _ in utterances]
    references = [transcript for _, transcript in utterances]
    model = load_recognizer(recognizer)
    rows = []
    for level in levels:
        defense = MDNF(noise_level=level, **defense_options)
        estimator = DeepSpeech2Estimator(model, preprocessing_defences=[defense])
        attack = PGD(estimator, norm="l2", eps=eps, max_iter=iterations)
        benign = list(estimator.predict(audio))
        adversarial = list(estimator.predict(attack.generate(audio)))
        rows.append(
            {
                "noise_level": level,
                "benign_wer": round(100 * word_error_rate(references, benign), 2),
                "adversarial_wer": round(100 * word_error_rate(references, adversarial), 2),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="armory-mdnf train level", description=__doc__)
    parser.add_argument("--recognizer", required=True)
    parser.add_argument("--vocoder", default="melgan")
    parser.add_argument("--curve", default="bundled_l2")
    parser.add_argument("--normalize", default="utterance")
    parser.add_argument("--levels", type=float, nargs="+", required=True)
    parser.add_argument("--corpus", default="human", help="human, synthetic, or a split of LibriSpeech: dev-clean")
    parser.add_argument("--utterances", type=int, default=16)
    parser.add_argument("--eps", type=float, default=1.5)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    known = split_name(args.corpus)
    if known is not None and not known.startswith("dev"):
        raise OptionError(f"--corpus {args.corpus}: expected a dev split, a level is chosen on nothing else")
    split = args.corpus if known else f"{args.corpus}_dev"
    chosen = any_split(split)[: args.utterances]
    utterances = [(read_audio(u.path)[0], u.transcript) for u in chosen]
    curve = None if args.curve == "flat" else args.curve
    options = {"vocoder": args.vocoder, "curve": curve, "normalize": args.normalize, "seed": args.seed}
    rows = measure(args.recognizer, args.levels, utterances, options, args.eps, args.iterations)
    best = min(rows, key=lambda row: row["benign_wer"] + row["adversarial_wer"])
    content = {"recipe": {k: v for k, v in vars(args).items() if k != "out"}, "grid": rows, "chosen": best}
    write_text(args.out, json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
