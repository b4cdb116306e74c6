"""``armory-mdnf checkpoint``: inspect, convert, download."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.errors import OptionError


def add_checkpoint_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    checkpoint = commands.add_parser("checkpoint", help="inspect, convert or download checkpoints of other projects")
    actions = checkpoint.add_subparsers(dest="action", required=True, metavar="ACTION")

    inspect = actions.add_parser(
        "inspect",
        help="say what a recogniser's or vocoder's checkpoint holds",
        **console.example("armory-mdnf checkpoint inspect librispeech.ckpt"),
    )
    inspect.add_argument("file", type=Path)
    _add_files(inspect)
    console.add_json(inspect)
    inspect.set_defaults(run=_inspect)

    convert = actions.add_parser(
        "convert",
        help="write it as safetensors with the configuration inside",
        **console.example("armory-mdnf checkpoint convert librispeech.ckpt librispeech.safetensors"),
    )
    convert.add_argument("file", type=Path)
    convert.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="OUT.safetensors; of CTranslate2's Whisper (model.bin, its config.json and tokenizer.json beside it) a "
        "folder, which Hugging Face's transformers read",
    )
    _add_files(convert)
    console.add_json(convert)
    convert.set_defaults(run=_convert)

    download = actions.add_parser(
        "download",
        help="fetch a published checkpoint, or a model of Hugging Face's hub",
        **console.example(
            "armory-mdnf checkpoint download librispeech_v3 --out checkpoints",
            "armory-mdnf checkpoint download hf:openai/whisper-tiny.en",
        ),
    )
    download.add_argument(
        "name",
        help="of deepspeech.pytorch: librispeech, an4 or ted with _v3 or _v2, as librispeech_v3; of the hub: hf:NAME, "
        "which goes to Hugging Face's own cache",
    )
    download.add_argument("--sha256", metavar="HEX", help="refuse a file with another checksum")
    download.add_argument("--out", type=Path, metavar="DIR", help="(default: the current folder)")
    console.add_json(download)
    download.set_defaults(run=_download)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sha256", metavar="HEX", help="refuse to open a file with another checksum")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a vocoder's config.yml or config.json")
    parser.add_argument("--stats", type=Path, metavar="FILE", help="a vocoder's stats.h5 or stats.npy, or none")


def _inspect(args: argparse.Namespace) -> int:
    from armory_mdnf.checkpoints.files import as_json, describe, open_checkpoint

    opened = open_checkpoint(args.file, args.sha256, args.config, args.stats)
    if args.json:
        console.print_json(as_json(opened))
    else:
        console.say(describe(opened))
    return 0


def _convert(args: argparse.Namespace) -> int:
    from armory_mdnf.checkpoints.files import as_json, check_target, convert, open_checkpoint

    check_target(args.out, args.file)
    opened = open_checkpoint(args.file, args.sha256, args.config, args.stats)
    told = convert(opened, args.out)
    if args.json:
        console.print_json(as_json(opened) | {"out": str(args.out)})
    else:
        console.say(told)
    return 0


def _download(args: argparse.Namespace) -> int:
    from armory_mdnf.asr.huggingface.folders import PREFIX, find_folder
    from armory_mdnf.checkpoints.published import download
    from armory_mdnf.files.provenance import sha256_of

    if args.name.startswith(PREFIX):
        if args.out or args.sha256:
            raise OptionError(f"{args.name} goes to Hugging Face's own cache: leave out --out and --sha256")
        folder = find_folder(args.name, download=True)
        if args.json:
            console.print_json({"path": str(folder)})
        else:
            print(folder)
        return 0
    path = download(args.name, args.out or Path(), args.sha256)
    found = sha256_of(path)
    if args.json:
        console.print_json({"path": str(path), "sha256": found, "checked": args.sha256 is not None})
        return 0
    checked = "as expected" if args.sha256 else "not checked: pin it with --sha256"
    print(f"{path}\nsha256  {found} ({checked})")
    return 0
