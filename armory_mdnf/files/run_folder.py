"""What the files in the folder of a run are called. Its own name tells runs apart, whose files are all called so."""

from __future__ import annotations

import shlex
from pathlib import Path

ABOUT = "run.json"
"""What is run."""
LINES = "utterances.jsonl"
"""A line per utterance that is done."""
NATIVE = "results.json"
"""The results, when all are."""
PARTIAL = "partial.json"
"""What a sweep has so far of a cell that is not done."""
RUNS = "armory_mdnf_run/"
"""How the format of :data:`ABOUT` begins, in every version."""
SWEEP = "sweep"
"""Key in it of what a sweep adds: how its utterances are parted, on which the last bits depend."""
ALL = (ABOUT, LINES, NATIVE, PARTIAL)


def resuming(folder: Path) -> str:
    """The command that goes on with a run that is no sweep's."""
    return shlex.join(["armory-mdnf", "run", "--resume", str(folder)])
