"""Choose MDNF's noise on a dev split, its level and its curve: benign and adversarial WER over a grid of both.

    armory-mdnf train level --recognizer ds2_mg --curve bundled_l2 flat --levels 0 10 20 40 --eot-draws 5 \\
        --out results/level_mg.json

The chosen pair has the smallest sum of benign and adversarial WER; the whole grid is kept, so that anyone can weigh
the two otherwise. Without noise all curves are the same, so that level 0 is measured once. ``--eot-draws`` averages the
attack's gradient over so many draws of the noise at each step: a level that wins against one draw alone may have
hidden the gradient only. The evaluation split is not touched. Of a split that the recogniser learned from,
``--speakers`` names those that it did not hear.

A command that was stopped goes on when it is started again: what is done is kept in ``FILE.json.progress.jsonl``. A
grid that something else made is not written over.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from armory_mdnf.asr.checkpoints import load_recognizer, recognizer_checksum
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD
from armory_mdnf.attacks.evasion import BATCH_SECONDS
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.librispeech import split_name
from armory_mdnf.data.selection import any_split, audio_checksum, read_samples
from armory_mdnf.defenses import MDNF
from armory_mdnf.defenses.mdnf import NORMALIZATION
from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.files.atomic import ensure_writable, storing, write_text
from armory_mdnf.files.provenance import made_of, of_values, sha256_of
from armory_mdnf.files.strict_json import dumps
from armory_mdnf.metrics.wer import word_error_rate
from armory_mdnf.options import SEED, TEXT, count, number, whole
from armory_mdnf.training.options import Parser, program, typed
from armory_mdnf.training.state import MADE_OF, Progress, curve_checksum, curve_option, is_finished
from armory_mdnf.vocoders import vocoder_file

ROW = {"curve": TEXT} | {name: number(0) for name in ("noise_level", "benign_wer", "adversarial_wer")}


def measure(
    recognizer: str,
    noises: Iterable[tuple[str, float]],
    utterances: list[tuple[np.ndarray, str]],
    defense_options: dict[str, Any],
    attack_options: dict[str, Any],
    keep: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Benign and adversarial WER in percent at each curve and level, PGD l2 with the model's own prediction as label.

    ``keep`` gets each row when it is there.
    """
    audio = [waveform for waveform, _ in utterances]
    references = [transcript for _, transcript in utterances]
    model = load_recognizer(recognizer)
    rows = []
    for curve, level in noises:
        defense = MDNF(noise_level=level, curve=curve_option(curve), **defense_options)
        estimator = RecognizerEstimator(model, preprocessing_defences=[defense])
        attack = PGD(estimator, norm="l2", **attack_options)
        benign = list(estimator.predict(audio))
        adversarial = list(estimator.predict(attack.generate(audio)))
        rows.append(
            {
                "curve": curve,
                "noise_level": level,
                "benign_wer": round(100 * word_error_rate(references, benign), 2),
                "adversarial_wer": round(100 * word_error_rate(references, adversarial), 2),
            }
        )
        keep(rows[-1])
        print(json.dumps(rows[-1]), flush=True)
    return rows


def grid(curves: Sequence[str], levels: Sequence[float]) -> list[tuple[str, float]]:
    """Pairs of a curve and a level, level by level; a level of 0 with the first curve only."""
    return [(curve, level) for level in levels for curve in (curves if level else curves[:1])]


def of_speakers(utterances: Sequence[Utterance], speakers: Sequence[str], corpus: str) -> list[Utterance]:
    """Those of the speakers, in their order. Raises :class:`OptionError` for a speaker that ``corpus`` has not."""
    there = {u.voice for u in utterances}
    if missing := [speaker for speaker in speakers if speaker not in there]:
        raise OptionError(f"--speakers: {corpus} has no speaker {', '.join(map(quoted, missing))}")
    return [u for u in utterances if u.voice in speakers]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("level", __doc__)
    add = parser.add_argument
    add("--recognizer", required=True, help="name of a bundled recogniser, or a file")
    add("--vocoder", default="melgan", help="name of a bundled vocoder, or a file (default: melgan)")
    text = "curves of the noise to choose from: names, files or flat (default: bundled_l2)"
    add("--curve", nargs="+", action="extend", metavar="CURVE", help=text)
    text = "how the noise is scaled, as in a configuration (default: utterance)"
    add("--normalize", choices=NORMALIZATION.names, default="utterance", help=text)
    level, above_0 = typed(number(0), float), typed(number(0, above=True), float)
    text = "levels of the noise to choose from"
    add("--levels", type=level, nargs="+", action="extend", required=True, metavar="LEVEL", help=text)
    text = "human, synthetic, or a dev split of LibriSpeech, such as dev-clean (default: human)"
    add("--corpus", default="human", help=text)
    text = "speakers whose utterances alone count, such as those that training left out (default: all)"
    add("--speakers", nargs="+", action="extend", metavar="SPEAKER", help=text)
    add("--utterances", type=typed(whole(1), int), default=16, metavar="N", help="the first N of it (default: 16)")
    add("--eps", type=above_0, default=1.5, help="l2 norm of the attack (default: 1.5)")
    add("--iterations", type=typed(whole(1), int), default=30, metavar="N", help="of the attack (default: 30)")
    text = "draws of the noise that a step's gradient is the mean of (default: 1)"
    add("--eot-draws", type=typed(count(1), int), default=1, metavar="K", help=text)
    add("--seed", type=typed(SEED, int), default=5, metavar="S", help="of the noise (default: 5)")
    text = f"audio that is attacked at once, the draws counted; more for a GPU (default: {BATCH_SECONDS:g})"
    add("--batch-seconds", type=above_0, default=BATCH_SECONDS, metavar="S", help=text)
    add("--out", type=Path, required=True, metavar="FILE", help="grid to write: FILE.json")
    parser.add_threads()
    args = parser.parse(argv)
    args.curve = args.curve or ["bundled_l2"]
    for option, values in (("--levels", [f"{level:g}" for level in args.levels]), ("--curve", args.curve)):
        if len(set(values)) < len(values):
            raise OptionError(f"{option}: expected each once, got {' '.join(values)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    args = _arguments(argv)
    known = split_name(args.corpus)
    if known is not None and not known.startswith("dev"):
        raise OptionError(f"--corpus {args.corpus}: expected a dev split, a level is chosen on nothing else")
    ensure_writable(args.out, unlike=[args.recognizer, args.vocoder, *args.curve])
    found = any_split(args.corpus if known else f"{args.corpus}_dev")
    if args.speakers:
        found = of_speakers(found, args.speakers, args.corpus)
    chosen = found[: args.utterances]
    provenance = made_of(
        recognizer=recognizer_checksum(args.recognizer),
        vocoder=sha256_of(vocoder_file(args.vocoder)),
        curve={curve: curve_checksum(curve) for curve in args.curve},
        normalize=args.normalize,
        levels=args.levels,
        utterances=of_values([u.id, u.transcript, audio_checksum(u)] for u in chosen),
        eps=args.eps,
        iterations=args.iterations,
        eot_draws=args.eot_draws,
        seed=args.seed,
    )
    with storing(lambda: "start the same command again to go on"):
        if not is_finished(args.out, provenance):
            _make(args, chosen, provenance)
    return 0


def _make(args: argparse.Namespace, chosen: list[Utterance], provenance: Mapping[str, Any]) -> None:
    """Write ``--out``; what is done of it is kept beside it meanwhile."""
    with closing(Progress(args.out, provenance, ROW)) as progress, storing(progress.__str__):
        have = {_key(row["curve"], row["noise_level"]): row for row in progress.rows}
        noises = grid(args.curve, args.levels)
        if have:
            print(f"going on after {len(have)} of {len(noises)} levels", file=sys.stderr)
        utterances = [(read_samples(u), u.transcript) for u in chosen]
        defense = {"vocoder": args.vocoder, "normalize": args.normalize, "seed": args.seed}
        attack = {"eps": args.eps, "max_iter": args.iterations}
        attack |= {"eot_draws": args.eot_draws, "batch_seconds": args.batch_seconds}
        left = [noise for noise in noises if _key(*noise) not in have]
        new = measure(args.recognizer, left, utterances, defense, attack, progress.append)
        have |= {_key(row["curve"], row["noise_level"]): row for row in new}
        rows = [have[_key(*noise)] for noise in noises]
        best = min(rows, key=lambda row: row["benign_wer"] + row["adversarial_wer"])
        recipe = {k: v for k, v in vars(args).items() if k != "out"}
        content = {"recipe": recipe, MADE_OF: provenance, "grid": rows, "chosen": best}
        write_text(args.out, dumps(content, indent=1) + "\n")
        progress.finish()


def _key(curve: str, level: float) -> tuple[str | None, float]:
    """What a cell of the grid is known by; the curves may be in another order than when it was measured."""
    return curve if level else None, level


if __name__ == "__main__":
    raise SystemExit(program(main))
