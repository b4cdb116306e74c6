"""``armory-mdnf transcribe``: what a recogniser understands of recordings, behind a defence if asked for."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.commands import blocks, options
from armory_mdnf.errors import AudioError, shown

INCOMPLETE = 3


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    parser = commands.add_parser(
        "transcribe",
        help="print what is understood of recordings",
        description="Prints what a recogniser understands of recordings of any format and rate that libsndfile reads.",
        **console.example(
            "armory-mdnf transcribe hello.wav",
            "armory-mdnf transcribe hello.wav --defense mg_mdnf --json",
        ),
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    options.add_model(parser, blocks.HEARS_BEST)
    options.add_piece_seconds(parser)
    console.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transcribe. Returns 3 if a file could not be, which is told; a single one raises :class:`AudioError`."""
    from armory_mdnf.audio.recordings import read_recording
    from armory_mdnf.commands import listener

    longest_s = listener.check_piece_seconds(args.piece_seconds)
    model = blocks.model_for(args.model, args.defense, blocks.HEARS_BEST)
    estimator = listener.load(model, blocks.defense_block(args.defense, args.seed), args.device)
    found: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for path in args.files:
        try:
            parts = listener.cut(estimator, read_recording(path, estimator.sample_rate), longest_s)
            with options.Progress(len(parts), path.name) as progress:
                heard = listener.transcribe(estimator, parts, progress.step)
        except AudioError as error:
            reason = str(error) if str(path) in str(error) else f"{path}: {error}"
            if len(args.files) == 1:
                raise AudioError(reason) from error
            console.say(f"left out: {reason}", sys.stderr)
            failed.append({"file": str(path), "reason": reason})
            continue
        text = listener.joined(heard)
        entry = {"file": str(path), "duration_s": heard[-1].end_s, "transcript": text}
        found.append(entry | {"pieces": [asdict(piece) for piece in heard]})
        if not args.json:
            console.say(text if len(args.files) == 1 else f"{shown(str(path), 200)}: {text}")
    if args.json:
        content = {"model": model, "defense": args.defense, "seed": args.seed}
        console.print_json(content | {"files": found, "failed": failed})
    return INCOMPLETE if failed else 0
