"""``armory-mdnf data sample``: bundled recordings as plain files, to try the other commands on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.errors import OptionError


def add_sample(actions: Any) -> None:
    """Add the command to the actions of ``data``."""
    sample = actions.add_parser(
        "sample",
        help="write some bundled recordings as WAV with a text file beside each",
        **console.example("armory-mdnf data sample speech --count 3"),
    )
    sample.add_argument("folder", type=Path, metavar="FOLDER", help="where they go, as 000.wav, 000.txt, and so on")
    sample.add_argument("--split", default="human", metavar="NAME", help="human, human_dev, synthetic, synthetic_dev")
    sample.add_argument("--count", type=int, default=3, metavar="N", help="how many, from the first on (default 3)")
    console.add_json(sample)
    sample.set_defaults(run=_sample)


def _sample(args: argparse.Namespace) -> int:
    """Write them. Raises :class:`OptionError` for an unknown split or a number of none."""
    from armory_mdnf.audio.recordings import write_recording
    from armory_mdnf.data.bundled import corpora_folder
    from armory_mdnf.data.selection import SAMPLE_RATE_HZ, SPLITS, bundled, read_samples
    from armory_mdnf.files.atomic import ensure_writable_folder, write_text

    if args.split not in SPLITS:
        raise OptionError(f"--split: expected one of {', '.join(SPLITS)}, got {args.split!r}")
    if args.count < 1:
        raise OptionError(f"--count: expected a whole number >= 1, got {args.count}")
    ensure_writable_folder(args.folder)
    chosen = [(args.folder / f"{i:03}.wav", u) for i, u in bundled(args.split, f"[:{args.count}]")]
    for path, utterance in chosen:
        text = path.with_suffix(".txt")
        there = next((p for p in (text, path) if p.exists()), None)
        if there and not (text.is_file() and text.read_bytes() == f"{utterance.transcript}\n".encode()):
            raise OptionError(f"{there} is there and not of this sample: expected a folder of its own")
    card = corpora_folder() / SPLITS[args.split][0] / "CARD.md"
    written = []
    for path, utterance in chosen:
        write_recording(path, read_samples(utterance), SAMPLE_RATE_HZ)
        write_text(path.with_suffix(".txt"), f"{utterance.transcript}\n")
        written.append({"file": str(path), "transcript": utterance.transcript})
        if not args.json:
            print(f"{path}: {utterance.transcript}")
    if args.json:
        console.print_json({"files": written, "licence": str(card)})
    else:
        print(f"who speaks, and the licence: {card}")
    return 0
