"""``armory-mdnf defend``: a recording as a defence makes it, to listen to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.commands import options
from armory_mdnf.commands.blocks import defense_block
from armory_mdnf.errors import OptionError

RATE_HZ = 16000


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    parser = commands.add_parser(
        "defend",
        help="write a recording as a defence makes it",
        description="Writes a recording as a defence makes it: what the recogniser behind it hears, mono at 16 kHz.",
        **console.example("armory-mdnf defend hello.wav -o defended.wav --defense mg_mdnf"),
    )
    parser.add_argument("file", type=Path, metavar="IN")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help=".wav, .flac, .ogg, .opus, .mp3")
    options.add_defense(parser, "mg_mdnf")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the defence's noise (default 0)")
    options.add_piece_seconds(parser)
    console.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Defend. Raises :class:`armory_mdnf.errors.ArmoryMdnfError` for bad input."""
    import torch

    from armory_mdnf.asr.preprocessing import Chain
    from armory_mdnf.audio import recordings
    from armory_mdnf.commands import listener
    from armory_mdnf.files.atomic import ensure_writable
    from armory_mdnf.metrics.perturbation import snr_db
    from armory_mdnf.runner.components import find_own_code, make_defense

    longest_s = listener.check_piece_seconds(args.piece_seconds)
    block = defense_block(args.defense, args.seed)
    if block is None:
        raise OptionError("--defense none leaves the recording as it is: expected a defence")
    recordings.check_format(args.out)
    ensure_writable(args.out, unlike=[args.file])
    audio = recordings.read_recording(args.file, RATE_HZ)
    find_own_code()
    defense = make_defense(block, listener.choose_device(args.device))
    # A chain says which defence gives back what it should not, and takes those of others as a recogniser does.
    chain, device = Chain([defense]), getattr(defense, "device", torch.device("cpu"))
    bounds = recordings.pieces(audio, RATE_HZ, longest_s)
    defended = audio.copy()
    with options.Progress(len(bounds), args.file.name) as progress:
        for start, end in bounds:
            x = torch.from_numpy(audio[start:end])[None].to(device)
            with torch.no_grad():
                heard, _ = chain(x, torch.tensor([end - start], device=device), chain.draw(1))
            defended[start:end] = heard[0].cpu().numpy()
            progress.step()
    recordings.write_recording(args.out, defended, RATE_HZ)
    difference = snr_db(audio, defended)
    content = {"file": str(args.file), "out": str(args.out), "defense": args.defense, "seed": args.seed}
    content |= {"duration_s": round(len(audio) / RATE_HZ, 3), "pieces": len(bounds)}
    content["snr_db"] = difference if difference is not None and abs(difference) < float("inf") else None
    if args.json:
        console.print_json(content)
    else:
        print(f"{args.out}: {content['duration_s']:.1f} s at {RATE_HZ // 1000} kHz, defended by {args.defense}")
    return 0
