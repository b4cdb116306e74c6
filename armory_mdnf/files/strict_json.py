"""JSON as it is meant, both ways: what is ambiguous, not finite, or without bounds is refused with file and place.

Python's own reader takes the last of two equal keys, NaN and Infinity, ``1e999`` for infinity, and as much nesting as
its stack holds; its writer gives back NaN, and ``"1"`` for a key 1. No other reader would agree on those.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from armory_mdnf.errors import ArmoryMdnfError, BundleError, quoted

WORDS = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
MAX_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_PLACE = 200  # characters of a dotted key in a message
MAX_DIGITS = 400  # of a whole number: more than any float has before its point


class _Pairs(list[tuple[str, Any]]):
    """An object with its keys as they stand in the file."""


class _Refused:
    """A number that is none of JSON's, until its place is known."""

    def __init__(self, why: str) -> None:
        self.why = why


def loads(text: str | bytes, where: str, error: type[ArmoryMdnfError] = BundleError) -> Any:
    """Read a JSON text; bytes have to be UTF-8.

    Raises ``error`` naming ``where`` and the place, by line or by dotted key, for what is not JSON: a key twice, a
    number that is not finite or too large, an unpaired surrogate, nesting of more than :data:`MAX_DEPTH` levels, a
    byte order mark.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as found:
            byte = found.object[found.start]
            raise error(f"{where} is not JSON: expected UTF-8, found the byte 0x{byte:02x} at {found.start}") from None
    if text.startswith("\ufeff"):
        raise error(f"{where} is not JSON: it begins with a byte order mark; save it as UTF-8 without one")
    try:
        raw = json.loads(
            text,
            object_pairs_hook=_Pairs,
            parse_constant=lambda name: _Refused(f'{name} is no number of JSON; write "{WORDS[name]}" in quotes'),
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        raise error(f"{where} is not JSON as it is meant: more than {MAX_DEPTH} levels of nesting") from None
    except ValueError as found:
        raise error(f"{where} is not JSON: {found}") from None
    try:
        return _plain(raw, "", 0)
    except _PlaceError as found:
        raise error(f"{where} is not JSON as it is meant: {found}") from None


def read_json(
    path: str | os.PathLike[str], error: type[ArmoryMdnfError] = BundleError, max_bytes: int = MAX_BYTES
) -> Any:
    """Read a JSON file of at most ``max_bytes``. Raises ``error`` naming it, as :func:`loads`, or if it is missing."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as f:
            content = f.read(max_bytes + 1)
    except FileNotFoundError:
        raise error(f"no file at {name}") from None
    except (OSError, ValueError) as found:  # ValueError: a zero byte in the name
        raise error(f"{name} cannot be read: {found}") from None
    if len(content) > max_bytes:
        raise error(f"{name}: expected at most {max_bytes} bytes of JSON, found more")
    return loads(content, name, error)


def dumps(
    value: Any,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    error: type[ArmoryMdnfError] = BundleError,
    name: str = "a value",
) -> str:
    """Write a JSON text that :func:`loads` reads back.

    Raises ``error`` naming ``name`` and the dotted key for what that refuses: a number that is not finite or too large,
    an unpaired surrogate, nesting of more than :data:`MAX_DEPTH` levels; and for a key that is no string.
    """
    try:
        _check(value, "", 0, _writable)
    except _PlaceError as found:
        raise error(f"{name} cannot be written as JSON: {found}") from None
    return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)


def check_bounds(value: Any, where: str, error: type[ArmoryMdnfError] = BundleError) -> None:
    """Raise ``error`` naming ``where`` and the place for what others' JSON may hold and nothing here could go through.

    That is nesting of more than :data:`MAX_DEPTH` levels and an unpaired surrogate; NaN and Infinity pass.
    """
    try:
        _check(value, "", 0, _text)
    except _PlaceError as found:
        raise error(f"{where} is not JSON as it is meant: {found}") from None


def readable(name: str) -> str:
    """A file's name as JSON can hold it: bytes of it that are no UTF-8, surrogates in Python, are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


class _PlaceError(ValueError):
    """What is wrong, and where."""

    def __init__(self, at: str, what: str) -> None:
        at = at if len(at) <= MAX_PLACE else f"...{at[-MAX_PLACE:]}"
        super().__init__(f"{at}: {what}" if at else what)


def _plain(raw: Any, at: str, depth: int) -> Any:
    """The value without its markers; an object that has each key once."""
    if isinstance(raw, _Refused):
        raise _PlaceError(at, raw.why)
    if not isinstance(raw, list):
        return _text(raw, at)
    if depth == MAX_DEPTH:
        raise _PlaceError(at, f"more than {MAX_DEPTH} levels of nesting")
    if not isinstance(raw, _Pairs):
        return [_plain(inner, f"{at}[{i}]", depth + 1) for i, inner in enumerate(raw)]
    found: dict[str, Any] = {}
    for key, inner in raw:
        _text(key, at)
        if key in found:
            raise _PlaceError(at, f"the key {quoted(key)} is there twice")
        found[key] = _plain(inner, _below(at, key), depth + 1)
    return found


def _check(value: Any, at: str, depth: int, check_leaf: Callable[[Any, str], object]) -> None:
    check_leaf(value, at)
    if isinstance(value, (Mapping, list, tuple)) and depth == MAX_DEPTH:
        raise _PlaceError(at, f"more than {MAX_DEPTH} levels of nesting")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _PlaceError(at, f"expected keys that are strings, found {quoted(key)}")
            check_leaf(key, at)
            _check(inner, _below(at, key), depth + 1, check_leaf)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            _check(inner, f"{at}[{i}]", depth + 1, check_leaf)


def _writable(value: Any, at: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _PlaceError(at, f"{value} is no number of JSON")
    if isinstance(value, int) and math.isinf(_as_float(value)):
        raise _PlaceError(at, f"{quoted(value)} is too large a number")
    _text(value, at)


def _text(value: Any, at: str) -> Any:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _PlaceError(at, f"an unpaired surrogate in {quoted(value)}") from None
    return value


def _below(at: str, key: str) -> str:
    # A key is the file's own: cut and escaped where it would not read as one.
    plain = key if key.isidentifier() and key.isascii() and len(key) <= 60 else quoted(key, 60)
    return f"{at}.{plain}" if at else plain


def _float(text: str) -> float | _Refused:
    value = float(text)
    return value if math.isfinite(value) else _Refused(f"the number {text[:40]} is too large")


def _int(text: str) -> int | _Refused:
    if len(text) > MAX_DIGITS or not math.isfinite(_as_float(value := int(text))):
        return _Refused(f"the number {text[:40]}{'...' if len(text) > 40 else ''} is too large")
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
