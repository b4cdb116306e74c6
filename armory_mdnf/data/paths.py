"""Which names of splits are paths of one's own recordings; apart from what reads these, for whoever only asks."""

from __future__ import annotations

import os

LISTS = (".csv", ".tsv", ".jsonl")


def is_path(split: str) -> bool:
    """Whether the name of a split is the path of one's own recordings: it has a separator, or is of a list."""
    return os.sep in split or split.endswith(LISTS)
