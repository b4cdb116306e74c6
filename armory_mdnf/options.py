"""Options declared once: a dataclass field says the default and what the value may be, and all else follows from it.

Signatures come from the dataclass, checks from :func:`check_options`, messages and help from a :class:`Kind`'s words.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from armory_mdnf.errors import OptionError, choices, quoted

LARGEST = 10**9
FLOAT_LARGEST = 1e30
"""Of an option that float32 has to hold."""

MAX_SNR_DB = 300
GRADIENTS = ("exact", "published")
"""What an attack may follow behind a stochastic defence: the gradient of one draw, or the loss at one draw, pulled back
through another."""


@dataclass(frozen=True)
class Kind:
    """What a value may be: ``words`` for a message, ``holds``, which says whether a value is one, a choice's names."""

    words: str
    holds: Callable[[Any], bool]
    names: tuple[str, ...] = ()

    def check(self, value: Any, where: str) -> None:
        """Raise :class:`OptionError` naming the place, the expected and the found."""
        if not self.holds(value):
            raise OptionError(f"{where}: expected {self.words}, found {quoted(value)}")


def option(default: Any, kind: Kind, **more: Any) -> Any:
    """A field of a dataclass of options; ``more`` as for :func:`dataclasses.field`."""
    return dataclasses.field(default=default, metadata={"kind": kind}, **more)


def check_option(name: str, value: Any, kind: Kind) -> None:
    """Raise :class:`OptionError` naming the option, the expected and the found; of a choice, the nearest match."""
    if not kind.holds(value):
        if kind.names:
            raise OptionError(choices(value, kind.names, name))
        raise OptionError(f"expected {name} to be {kind.words}, got {quoted(value)}")


def check_options(options: Any) -> None:
    """:func:`check_option` of every field of a dataclass that was declared by :func:`option`."""
    for field in dataclasses.fields(options):
        if "kind" in field.metadata:
            check_option(field.name, getattr(options, field.name), field.metadata["kind"])


@contextmanager
def all_or_none(owner: object) -> Iterator[None]:
    """An object has its attributes back if the block raises: ART's ``set_params`` sets first and checks afterwards."""
    before = dict(vars(owner))
    try:
        yield
    except BaseException:
        vars(owner).clear()
        vars(owner).update(before)
        raise


def as_whole(value: Any) -> int | None:
    """The whole number that a value is, of any type of numbers, NumPy's for instance; None for what is none."""
    try:
        found = int(value)
        same = bool(found == value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch's of a tensor that holds several
        return None
    return found if same and not isinstance(value, bool) else None


def _is_number(value: Any) -> bool:
    # A whole number of a JSON file may be larger than any float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300


def number(low: float, high: float = math.inf, above: bool = False) -> Kind:
    """A finite number from ``low`` (``above``: more than it) to ``high``."""
    words = "a finite number" + (f" above {low:g}" if above else f" of at least {low:g}" if low > -math.inf else "")
    words = f"a number from {low:g} to {high:g}" if high < math.inf and not above else words
    words += f" and at most {high:g}" if high < math.inf and above else ""
    return Kind(words, lambda v: _is_number(v) and (low < v if above else low <= v) and v <= high)


def whole(low: int, high: int = LARGEST, unit: str = "") -> Kind:
    """A whole number; ``unit`` is for the words."""
    of = f" of {unit}" if unit else ""
    return Kind(f"a whole number{of} from {low} to {high}", lambda v: _is_whole(v) and low <= v <= high)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def count(low: int) -> Kind:
    """A whole number of at least ``low`` that 64 bits hold."""
    return Kind(f"a whole number >= {low}", lambda v: _is_whole(v) and low <= v < 2**63)


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
    known = tuple(sorted(names))
    return Kind(f"one of {', '.join(known)}", lambda v: isinstance(v, str) and v in known, known)


FLAG = Kind("true or false", lambda v: isinstance(v, bool))
POSITIVE = Kind("a finite number > 0", lambda v: _is_number(v) and 0 < v <= FLOAT_LARGEST)
DECIBELS = Kind(f"a number of decibels from {-MAX_SNR_DB} to {MAX_SNR_DB}", number(-MAX_SNR_DB, MAX_SNR_DB).holds)
NOT_NEGATIVE = Kind("a finite number >= 0", lambda v: _is_number(v) and 0 <= v <= FLOAT_LARGEST)
TEXT = Kind("a text that is not empty", lambda v: isinstance(v, str) and v != "" and "\0" not in v)
FILE_NAME = Kind(
    "a plain name of letters, digits, '.', '_' and '-'",
    lambda v: isinstance(v, str) and re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", v) is not None,
)
OBJECT = Kind("an object", lambda v: isinstance(v, Mapping))
SEED = whole(0, 2**63 - 1)
