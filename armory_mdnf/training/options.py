"""Recipes and the options of training commands: their values checked by kind, and described."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from armory_mdnf.errors import ArmoryMdnfError, BundleError, OptionError, choices, quoted, refuse_unknown
from armory_mdnf.files.strict_json import read_json
from armory_mdnf.options import Kind, whole


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of a JSON recipe. Raises :class:`BundleError` if there is none, :class:`OptionError` for no object."""
    if not path.is_file():
        raise BundleError(f"no recipe at {path}")
    values = read_json(path)
    if not isinstance(values, dict):
        raise OptionError(f"{path}: expected an object, found {quoted(values)}")
    return values


@dataclass(frozen=True)
class Field:
    """A field of a recipe: what it may be, and what it is for."""

    kind: Kind
    help: str


def check_fields(values: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> None:
    """Raise :class:`OptionError` for the first value that is not known, or not of its field's kind."""
    refuse_unknown(values, fields, where)
    for key, value in values.items():
        fields[key].kind.check(value, f"{where}: {key}")


def describe(fields: Mapping[str, Field], defaults: Mapping[str, Any]) -> str:
    """The fields of a recipe, a paragraph each, for ``--help``; those without a default have to be given."""
    lines = []
    for name, field in fields.items():
        given = f"(default: {describe_value(defaults[name])})" if name in defaults else "(has to be given)"
        text = f"{name}: {field.kind.words}. {field.help} {given}"
        lines.append(textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False))
    return "\n".join(lines)


def describe_value(value: Any) -> str:
    """A default for ``--help``."""
    if value is None or value in ({}, ()):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def typed(kind: Kind, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A ``type`` for an option of :mod:`argparse`, whose refusal says what was expected."""

    def read(text: str) -> Any:
        try:
            value = parse(text)
        except ValueError:
            value = text
        if not kind.holds(value):
            raise argparse.ArgumentTypeError(f"expected {kind.words}, got {quoted(text)}")
        return value

    return read


def device(text: str) -> str:
    """A ``type`` for ``--device``: cpu, cuda, or cuda and a number, and only what is there."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{choices(text, ('cpu', 'cuda'), 'device')} (or cuda:N)")
    number_of = int(text.partition(":")[2] or 0)
    if text != "cpu" and number_of >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"no device {text} here: torch finds {torch.cuda.device_count()} of CUDA")
    return text


class Parser(argparse.ArgumentParser):
    """Options of a training command: the description as it is written, and what all of them take."""

    def __init__(self, name: str, description: str, epilog: str | None = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(f"armory-mdnf train {name}", description=description, epilog=epilog, formatter_class=layout)

    def add_data_dir(self) -> None:
        """``--data-dir``."""
        text = "folder of corpora, shards and checkpoints (default: training_runs)"
        self.add_argument("--data-dir", type=Path, default=Path("training_runs"), metavar="FOLDER", help=text)

    def add_threads(self) -> None:
        """``--threads``."""
        text = "threads that torch computes with; 0: as many as cores (default: 0)"
        self.add_argument("--threads", type=typed(whole(0, 4096), int), default=0, metavar="N", help=text)

    def add_device(self) -> None:
        """``--device``."""
        text = "cpu, cuda, or cuda:N (default: cpu)"
        self.add_argument("--device", type=device, default="cpu", help=text)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Read the options, and set the number of threads."""
        args = self.parse_args(argv)
        if args.threads:
            torch.set_num_threads(args.threads)
        return args


def program(main: Callable[[], int]) -> int:
    """Run a command that was started as ``python -m``: what a user did wrong is one line, and status 2."""
    try:
        return main()
    except (ArmoryMdnfError, OSError) as error:
        print(f"armory-mdnf: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("armory-mdnf: stopped; start the same command again to go on", file=sys.stderr)
        return 130
