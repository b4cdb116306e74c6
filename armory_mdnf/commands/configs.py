"""``armory-mdnf configs``: the configurations that come with the package, and copies of them to edit."""

from __future__ import annotations

import argparse
import difflib
import fnmatch
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import armory_mdnf
from armory_mdnf import console
from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.files.strict_json import read_json

FOLDER = Path(armory_mdnf.__file__).parent / "scenario_configs"
"""Where they are: in a clone a link to the folder beside the package, in a wheel a folder of it."""
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Shipped:
    """A configuration: its name, what it evaluates, which utterances, and the image that it asks Armory for."""

    name: str
    what: str
    split: str
    index: str | None
    docker_image: str | None

    @property
    def scale(self) -> str:
        """Which utterances, for a reader."""
        return self.split if self.index is None else f"{self.split}{self.index}"


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    parser = commands.add_parser(
        "configs",
        help="list the configurations that come with the package, or write them",
        description="Lists the configurations that come with the package, or with --to writes copies, which `armory "
        "run` and `armory-mdnf run` take, to run and to edit.",
        **console.example(
            "armory-mdnf configs",
            "armory-mdnf configs 'mg_mdnf_*' --json",
            "armory-mdnf configs none_pgd_l2 mg_mdnf_pgd_l2 --to my_configs",
        ),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these; * stands for anything (default: all)")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write them there, as NAME.json")
    parser.add_argument("--force", action="store_true", help="with --to: replace files that are there and differ")
    console.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List or write. Raises :class:`OptionError` for a name of none, and for files that would be replaced."""
    names = chosen(args.names)
    if args.to is None:
        if args.force:
            raise OptionError("--force replaces files: expected --to FOLDER too")
        found = [shipped(name) for name in names]
        if args.json:
            console.print_json({"configs": [asdict(one) for one in found]})
        else:
            width = max(len(one.name) for one in found)
            scales = max(len(one.scale) for one in found)
            print(*(f"{one.name:{width}}  {one.scale:{scales}}  {one.what}" for one in found), sep="\n")
        return 0
    written = write(names, args.to, args.force)
    if args.json:
        console.print_json({"written": [str(path) for path in written]})
    else:
        print(*written, sep="\n")
    return 0


def known() -> list[str]:
    """The names of all configurations: those of the bundled data, then those of a folder, as ``librispeech/NAME``."""
    names = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("**/*.json")]
    return sorted(names, key=lambda name: (name.count("/"), name))


def chosen(patterns: list[str]) -> list[str]:
    """The names that a list of names and patterns chooses, each once; all for an empty one.

    Raises :class:`OptionError` for a pattern that matches none.
    """
    names = known()
    if not names:
        raise OptionError(f"no configurations in {FOLDER}: install the package again")
    found: dict[str, None] = {}
    for pattern in patterns or ["*"]:
        matching = fnmatch.filter(names, pattern.removesuffix(".json"))
        if not matching:
            raise OptionError(_unknown(pattern, names))
        found |= dict.fromkeys(matching)
    return list(found)


def _unknown(pattern: str, names: list[str]) -> str:
    near = difflib.get_close_matches(pattern[:80], names, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"no configuration {quoted(pattern)}: `armory-mdnf configs` lists them{meant}"


def shipped(name: str) -> Shipped:
    """What a configuration says of itself."""
    config = read_json(FOLDER / f"{name}.json", OptionError, MAX_BYTES)
    data = config["dataset"]
    image = config["sysconfig"]["docker_image"]
    return Shipped(name, config["_description"], data["eval_split"], data.get("index"), image)


def write(names: list[str], folder: Path, force: bool) -> list[Path]:
    """Copy configurations to a folder, all of them or none. Returns the files.

    Raises :class:`OptionError` for a file that is there and differs, unless ``force``.
    """
    from armory_mdnf.files.atomic import ensure_writable_folder, write_text

    contents = {folder / f"{name}.json": (FOLDER / f"{name}.json").read_text(encoding="utf-8") for name in names}
    if not force:
        for path, text in contents.items():
            if path.exists() and path.read_bytes() != text.encode():
                raise OptionError(f"{path} is there and differs: --force replaces it")
    ensure_writable_folder(folder)
    for path, text in contents.items():
        write_text(path, text)
    return list(contents)
