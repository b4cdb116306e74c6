"""``armory-mdnf evaluate``: an evaluation in one line, which is also the configuration that it writes."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.commands import options
from armory_mdnf.commands.blocks import Block, attack_block, defense_block, model_for
from armory_mdnf.errors import OptionError, quoted

OUTPUTS = Path("outputs")
NO_ATTACK = "none"
Run = Callable[[Sequence[str], Mapping[str, Any]], int]
"""What ``armory-mdnf run`` does with words of a command line; its JSON tells what is given with them besides."""


def add_command(commands: Any, run: Run) -> None:
    """Add the command to an argument parser's sub-commands."""
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a recogniser behind a defence under an attack, in one line",
        description="Writes the configuration that the options describe, which `armory run` and `armory-mdnf run` "
        "take, and runs it.",
        **console.example(
            "armory-mdnf evaluate --defense mg_mdnf --attack pgd-l2 --eps 1.5 --eot 5 --data human --limit 20",
            "armory-mdnf evaluate --defense rs --data my_recordings/ --attack none",
        ),
    )
    options.add_model(parser, seeds="the run, the attack and the defence's noise, but for that of a FILE.json")
    options.add_attack(parser, NO_ATTACK)
    add = parser.add_argument
    add("--targeted", action="store_true", help="towards transcripts of the same length; always so with cw")
    add(
        "--data",
        default="human",
        metavar="DATA",
        help="human, human_dev, synthetic, synthetic_dev; a split of a local LibriSpeech, as test-clean; a folder of "
        "recordings with a text file beside each, or with a CSV, TSV or JSONL list, Kaldi's text and wav.scp, or a "
        "LibriSpeech split; or such a list; or a folder that save_to_disk of Hugging Face's datasets wrote (default: "
        "human)",
    )
    add("--limit", type=int, metavar="N", help="only the first N utterances")
    add("--output-dir", type=Path, default=OUTPUTS, metavar="FOLDER", help=f"(default: {OUTPUTS})")
    add("--config", type=Path, metavar="FILE.json", help="where to write the configuration (default: in the folder)")
    add("--only-write", action="store_true", help="write the configuration, and run nothing")
    console.add_json(parser)
    parser.set_defaults(run=lambda args: evaluate(args, run))


def evaluate(args: argparse.Namespace, run: Run) -> int:
    """Write the configuration and run it. Returns the exit code of the run."""
    from armory_mdnf.files.atomic import ensure_writable, write_text
    from armory_mdnf.files.strict_json import dumps

    text = dumps(make_config(args), indent=4, sort_keys=True, error=OptionError, name="the configuration") + "\n"
    path = args.config or args.output_dir / f"{_name(args)}.json"
    ensure_writable(path)
    if path.exists() and path.read_bytes() != text.encode():
        raise OptionError(f"{path} is there and differs: --config FILE.json takes another name")
    write_text(path, text)
    print(f"configuration: {path}", flush=True)
    if args.only_write:
        if args.json:
            console.print_json({"config": str(path)})
        return 0
    words = [str(path), "--output-dir", str(args.output_dir)]
    words += ["--device", args.device] if args.device == "cuda" else []
    words += ["--json"] if args.json else []
    return run(words, {"config": str(path)})


def make_config(args: argparse.Namespace) -> Block:
    """The configuration that the options describe.

    Raises :class:`OptionError` for those that contradict each other, and for data that are not there.
    """
    from armory_mdnf.commands.listener import choose_device
    from armory_mdnf.runner.completion import complete_config

    if args.limit is not None and args.limit < 1:
        raise OptionError(f"--limit: expected a whole number >= 1, got {args.limit}")
    data = _data(args.data)
    if args.limit is not None:
        data["index"] = f"[:{args.limit}]"
    attack = _attack(args, str(data["eval_split"]))
    defense = defense_block(args.defense, args.seed)
    against = "no attack" if attack is None else f"{args.attack}"
    blocks = {
        "_description": f"{args.defense} against {against}: {Path(args.data)}, written by `armory-mdnf evaluate`",
        "attack": attack,
        "dataset": data,
        "defense": defense,
        "model": {
            "fit": False,
            "fit_kwargs": {},
            "model_kwargs": {"weights": _weights(model_for(args.model, args.defense))},
            "module": "armory_mdnf.plugin.model",
            "name": "get_art_model",
            "weights_file": None,
            "wrapper_kwargs": {},
        },
        "user_init": {
            "kwargs": {"seed": args.seed},
            "module": "armory_mdnf.plugin.seeding",
            "name": "seed_everything",
        },
    }
    config = complete_config(blocks, skip_attack=attack is None)
    if attack is None:  # Armory asks for an attack, to skip it
        config["attack"] = attack_block("pgd-l2", steps=0)
    config["sysconfig"]["use_gpu"] = choose_device(args.device) == "cuda"
    return config


def _attack(args: argparse.Namespace, split: str) -> Block | None:
    if args.attack == NO_ATTACK:
        given = {"--eps": args.eps, "--snr-db": args.snr_db, "--steps": args.steps, "--targeted": args.targeted or None}
        given["--eot"] = None if args.eot == 1 else args.eot
        wrong = next((name for name, value in given.items() if value is not None), None)
        if wrong:
            raise OptionError(f"{wrong} has no effect with --attack none")
        return None
    targeted = args.targeted or args.attack == "cw"
    block = options.chosen_attack(args, targeted)
    if targeted:
        block["targeted_labels"] = {
            "module": "armory_mdnf.plugin.targets",
            "name": "MatchedLengthTargeter",
            "kwargs": {"candidates": "bundled", "split": split},
        }
    return block


def _data(text: str) -> Block:
    """The dataset block of bundled data, of a local LibriSpeech, or of one's own recordings."""
    from armory_mdnf.data.librispeech import SPLITS as OPENSLR
    from armory_mdnf.data.librispeech import split_name
    from armory_mdnf.data.own import load_own
    from armory_mdnf.data.paths import LISTS
    from armory_mdnf.data.selection import SPLITS

    block = {"module": "armory_mdnf.plugin.datasets", "framework": "numpy", "batch_size": 1}
    if text in SPLITS:
        return block | {"name": "bundled", "eval_split": text}
    there = Path(text).exists()
    if split_name(text) is not None and not there:
        return block | {"name": "librispeech", "eval_split": text}
    if not there:
        known = [*SPLITS, *OPENSLR]
        raise OptionError(
            f"--data {quoted(text)}: neither a path that exists nor one of {', '.join(known)}; a path is that of a "
            f"folder, or of a list ending in {', '.join(LISTS)}"
        )
    path = str(Path(text).resolve())
    load_own(path, strict=False)  # a folder that is none of the layouts is refused before anything is written
    return block | {"name": "recordings", "eval_split": path}


def _weights(model: str) -> str:
    """A path as it is found from everywhere; other names as they are."""
    return str(Path(model).resolve()) if os.path.exists(model) else model


def _name(args: argparse.Namespace) -> str:
    """A name of a file that says what was evaluated, with each option that was given."""
    parts = [Path(args.defense).stem if args.defense.endswith(".json") else args.defense, args.attack]
    parts += [Path(args.data).stem, *([Path(args.model).name] if args.model else [])]
    parts += ["targeted"] if args.targeted else []
    usual = {"eps": None, "snr_db": None, "steps": None, "eot": 1, "limit": None, "seed": 0}
    parts += [f"{name}{getattr(args, name)}" for name, value in usual.items() if getattr(args, name) != value]
    return "_".join(re.sub(r"[^A-Za-z0-9.=-]+", "_", part).strip("_.")[:50] for part in parts)
