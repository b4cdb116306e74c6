"""``armory-mdnf attack``: a recording that sounds the same and is understood as something else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.commands import options
from armory_mdnf.commands.blocks import defense_block, model_for
from armory_mdnf.errors import AudioError, OptionError


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    parser = commands.add_parser(
        "attack",
        help="write a recording that is understood as something else",
        description="Attacks one recording, white box: a recogniser behind a defence is to misunderstand it, or to "
        "understand a target. The result, mono at the recogniser's rate, is read back from OUT before it is "
        "transcribed.",
        **console.example(
            "armory-mdnf attack hello.wav -o attacked.wav --steps 20",
            'armory-mdnf attack hello.wav -o attacked.wav --target "OPEN THE DOOR" --defense mg_mdnf --eot 5',
        ),
    )
    parser.add_argument("file", type=Path, metavar="IN")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help=".wav, .flac, .ogg, .opus, .mp3")
    parser.add_argument("--target", metavar="TEXT", help="what is to be understood (default: anything else)")
    parser.add_argument(
        "--reference", metavar="TEXT", help="what is said, to count errors in (default: what is understood of IN)"
    )
    options.add_model(parser, seeds="the attack and the defence's noise, but for that of a FILE.json")
    options.add_attack(parser)
    options.add_piece_seconds(parser)
    console.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Attack. Raises :class:`armory_mdnf.errors.ArmoryMdnfError` for bad input."""
    from armory_mdnf import attacks
    from armory_mdnf.audio import recordings
    from armory_mdnf.commands import listener
    from armory_mdnf.files.atomic import ensure_writable
    from armory_mdnf.runner.config import within
    from armory_mdnf.runner.evaluate import check_reference

    longest_s = listener.check_piece_seconds(args.piece_seconds)
    target = None if args.target is None else _words("--target", args.target)
    reference = None if args.reference is None else _words("--reference", args.reference)
    block = options.chosen_attack(args, target is not None)
    recordings.check_format(args.out)
    ensure_writable(args.out, unlike=[args.file])
    model = model_for(args.model, args.defense)
    estimator = listener.load(model, defense_block(args.defense, args.seed), args.device)
    if reference is not None:
        with within("--reference"):
            check_reference(estimator, reference)
    audio = recordings.read_recording(args.file, estimator.sample_rate)
    parts = _parts(estimator, audio, longest_s, args.file)
    if target is not None and len(parts) > 1:
        raise OptionError(
            f"--target: expected a recording of one piece, found {len(audio) / estimator.sample_rate:.1f} s in "
            f"{len(parts)} pieces of at most {longest_s:g} s: cut it, or raise --piece-seconds"
        )
    attack = getattr(attacks, block["name"])(estimator, **block["kwargs"])
    before = listener.transcribe(estimator, parts)
    with options.Progress(len(parts) * attack.max_iter, "attack") as progress:
        estimator.tell = progress.step
        changed = [_attacked(attack, part, target, i) for i, part in enumerate(parts)]
    recordings.write_recording(args.out, recordings.join(changed), estimator.sample_rate)
    written = recordings.read_recording(args.out, estimator.sample_rate)
    after = listener.transcribe(estimator, recordings.split_like(recordings.fitted(written, len(audio)), parts))
    content = {"file": str(args.file), "out": str(args.out), "model": model, "defense": args.defense}
    content |= {"attack": {key: block[key] for key in ("module", "name", "kwargs")}, "pieces": len(parts)}
    content |= _found(listener.joined(before), listener.joined(after), reference, target)
    content["perturbation"] = _sizes(audio, recordings.fitted(written, len(audio)))
    if args.json:
        console.print_json(content)
    else:
        console.say(_told(content))
    return 0


def _words(option: str, text: str) -> str:
    found = " ".join(text.upper().split())
    if not found:
        raise OptionError(f"{option}: expected words, got none")
    return found


def _parts(estimator: Any, audio: Any, longest_s: float, path: Path) -> list[Any]:
    from armory_mdnf.commands import listener

    try:
        return listener.cut(estimator, audio, longest_s)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error


def _attacked(attack: Any, part: Any, target: str | None, index: int) -> Any:
    return attack.generate([part], None if target is None else [target], indices=[index])[0]


def _found(before: str, after: str, reference: str | None, target: str | None) -> dict[str, Any]:
    from armory_mdnf.metrics.wer import count_words, reached

    said = before if reference is None else reference
    return {
        "reference": said,
        "reference_is_given": reference is not None,
        "before": before,
        "after": after,
        "target": target,
        "reached": None if target is None else reached(target, after),
        "wer_before": count_words(said, before).rate,
        "wer_after": count_words(said, after).rate,
        "wer_to_target": None if target is None else count_words(target, after).rate,
    }


def _sizes(audio: Any, changed: Any) -> dict[str, float | None]:
    import math

    from armory_mdnf.metrics import perturbation

    found = {name: getattr(perturbation, name)(audio, changed) for name in ("l2", "linf", "snr_db")}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}


def _told(content: dict[str, Any]) -> str:
    """The outcome for a reader."""
    from armory_mdnf.evaluation.comparison import mark_words

    def percent(rate: float | None) -> str:
        return "-" if rate is None else f"{100 * rate:.1f} %"

    sizes = content["perturbation"]
    size = f"l2 {sizes['l2']:.3g}, linf {sizes['linf']:.3g}"
    size += "" if sizes["snr_db"] is None else f", SNR {sizes['snr_db']:.1f} dB"
    rows = [("said", content["reference"])] if content["reference_is_given"] else []
    rows += [
        ("understood", content["before"] or "(nothing)"),
        ("under attack", mark_words(content["reference"], content["after"]) or "(nothing)"),
    ]
    if content["target"] is not None:
        verdict = "reached" if content["reached"] else f"not reached, {percent(content['wer_to_target'])} away"
        rows.append(("target", f"{content['target']} ({verdict})"))
    errors = f"{percent(content['wer_before'])}, under attack {percent(content['wer_after'])}"
    rows += [("word errors", errors), ("perturbation", size), ("written", content["out"])]
    return options.table(rows)
