"""Values of recipes and options: of which type and in which range they are, said in words, and what they are for."""

from __future__ import annotations

import argparse
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from armory_mdnf.errors import ArmoryMdnfError, BundleError, OptionError, choices, quoted, refuse_unknown
from armory_mdnf.files.strict_json import read_json

LARGEST = 10**9


@dataclass(frozen=True)
class Kind:
    """What a value may be: ``words`` for a message, and ``holds``, which says whether a value is one."""

    words: str
    holds: Callable[[Any], bool]

    def check(self, value: Any, where: str) -> None:
        """Raise :class:`OptionError` naming the place, the expected and the found."""
        if not self.holds(value):
            raise OptionError(f"{where}: expected {self.words}, found {quoted(value)}")


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


def _is_number(value: Any) -> bool:
    # A whole number of a JSON file may be larger than any float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300


def number(low: float, high: float = math.inf, above: bool = False) -> Kind:
    """A finite number from ``low`` (``above``: more than it) to ``high``."""
    words = "a finite number" + (f" above {low:g}" if above else f" of at least {low:g}" if low > -math.inf else "")
    words = f"a number from {low:g} to {high:g}" if high < math.inf and not above else words
    words += f" and at most {high:g}" if high < math.inf and above else ""
    return Kind(words, lambda v: _is_number(v) and (low < v if above else low <= v) and v <= high)


def whole(low: int, high: int = LARGEST) -> Kind:
    """A whole number."""
    words = f"a whole number from {low} to {high}"
    return Kind(words, lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high)


def pair(low: float = -math.inf, high: float = math.inf) -> Kind:
    """Two finite numbers, the lower one first."""
    inner = number(low, high)
    words = "two finite numbers, the lower one first" + (f", none below {low:g}" if low > -math.inf else "")
    return Kind(words, lambda v: _is_list(v, inner, 2) and v[0] <= v[1])


def _is_list(value: Any, inner: Kind, length: int | None = None) -> bool:
    return isinstance(value, (list, tuple)) and length in (None, len(value)) and all(map(inner.holds, value))


def listed(inner: Kind, words: str, empty: bool = True) -> Kind:
    """A list of values of a kind."""
    return Kind(words, lambda v: _is_list(v, inner) and (empty or len(v) > 0))


def or_null(kind: Kind) -> Kind:
    """A value of a kind, or none."""
    return Kind(f"{kind.words}, or null", lambda v: v is None or kind.holds(v))


def one_of(names: Iterable[str]) -> Kind:
    """One of some names."""
    known = sorted(names)
    return Kind(f"one of {', '.join(known)}", lambda v: isinstance(v, str) and v in known)


TEXT = Kind("a text that is not empty", lambda v: isinstance(v, str) and v != "" and "\0" not in v)
FILE_NAME = Kind(
    "a plain name of letters, digits, '.', '_' and '-'",
    lambda v: isinstance(v, str) and re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", v) is not None,
)
OBJECT = Kind("an object", lambda v: isinstance(v, Mapping))
SEED = whole(0, 2**63 - 1)


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
