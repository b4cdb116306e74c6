"""How much a value from a file may hold: in YAML and in pickles a list can hold itself, or a billion others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from armory_mdnf.errors import BundleError

MAX_VALUES, MAX_DEPTH = 10_000, 32


def check_small(value: Any, where: str, most: int = MAX_VALUES, deepest: int = MAX_DEPTH) -> None:
    """Raise :class:`BundleError` if ``value`` holds more than ``most`` others, or nests deeper than ``deepest``.

    Each place counts, also one that holds what another holds. What passes can be compared, printed and written.
    """
    count, level = 0, [value]
    for _ in range(deepest + 1):
        below: list[Any] = []
        for outer in level:
            inner = outer.values() if isinstance(outer, Mapping) else outer if isinstance(outer, (list, tuple)) else ()
            below.extend(itertools.islice(inner, most + 1))
            if count + len(below) > most:
                raise BundleError(f"{where}: it holds more than {most} values, which no configuration does")
        if not below:
            return
        count, level = count + len(below), below
    raise BundleError(f"{where}: it is nested more than {deepest} deep, which no configuration is")
