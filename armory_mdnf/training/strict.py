"""JSON as it is meant: no key twice, no NaN, and errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from armory_mdnf.errors import BundleError, quoted


def parse_json(text: str, where: str) -> Any:
    """Read a JSON text. Raises :class:`BundleError` naming ``where``."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is not JSON: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises :class:`BundleError` naming it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    return parse_json(text, str(path))


def to_json(value: Any, indent: int | None = None) -> str:
    """Write a JSON text; a NaN is an error."""
    return json.dumps(value, indent=indent, allow_nan=False)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {quoted(key)} is there twice")
        found[key] = value
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
