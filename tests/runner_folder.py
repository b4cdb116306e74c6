"""What the tests of the native runner share: a configuration's parts, and what a run's folder holds."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rapidfuzz.distance import Levenshtein

from armory_mdnf.evaluation.records import LeftOut, Outcome
from armory_mdnf.files.json_lines import finished, objects
from armory_mdnf.runner.lines import parse_line

CONFIGS = Path(__file__).parents[1] / "scenario_configs"
INDEX = [13, 18, 41]
RS = {
    "module": "armory_mdnf.defenses",
    "name": "RandomizedSmoothing",
    "type": "Preprocessor",
    "kwargs": {"snr_db": 10, "passes": 2, "seed": 3},
}
TARGETED = {
    "module": "armory_mdnf.plugin.targets",
    "name": "MatchedLengthTargeter",
    "kwargs": {"candidates": "bundled", "split": "human"},
}
OURS = {"module": "armory_mdnf.attacks", "name": "PGD"}
CELLS = ("plain", "smoothed")
needs_armory = pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")


def write_cells(config: dict[str, Any], folder: Path, index: str) -> list[str]:
    """The files of two cells of a sweep: ART's attack on nothing, ours in batches on smoothing."""
    config["dataset"]["index"] = index
    (folder / "plain.json").write_text(json.dumps(config))
    config["defense"] = RS
    config["attack"] |= OURS | {"kwargs": {"eps": 0.5, "max_iter": 2}}
    (folder / "smoothed.json").write_text(json.dumps(config))
    return [str(folder / f"{name}.json") for name in CELLS]


def unsaid_length(path: Path) -> Path:
    """Make the header of a FLAC file say that its length is not known, as that of one from a pipe does."""
    content = bytearray(path.read_bytes())
    packed = int.from_bytes(content[18:26], "big")
    content[18:26] = (packed >> 36 << 36).to_bytes(8, "big")
    path.write_bytes(content)
    return path


def lines(folder: Path) -> dict[int, Outcome]:
    return {line.index: line for line in _parsed(folder) if isinstance(line, Outcome)}


def failures(folder: Path) -> dict[int, LeftOut]:
    return {line.index: line for line in _parsed(folder) if isinstance(line, LeftOut)}


def _parsed(folder: Path) -> list[Outcome | LeftOut]:
    # A run at work may be in the middle of a line.
    found = objects(finished((folder / "utterances.jsonl").read_bytes()), "here")
    return [parse_line(line, where) for where, line in found]


def strict(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{path} has {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def same(a: Outcome, b: Outcome) -> bool:
    """Equal but for the time, and what rounding can do to sizes and transcripts."""
    # The largest sample hangs on one sample's rounding, the others on all of them.
    sizes = [(getattr(a, k), getattr(b, k), 0.05 if k == "linf" else 1e-3) for k in ("snr_db", "l2", "linf")]
    texts = ("index", "id", "reference", "target", "seed")
    return (
        all(getattr(a, k) == getattr(b, k) for k in texts)
        and all(near(x, y) for x, y in ((a.benign, b.benign), (a.adversarial, b.adversarial)))
        and all(x == pytest.approx(y, rel=rel) for x, y, rel in sizes)
    )


def near(a: str | None, b: str | None) -> bool:
    """Transcripts of the same utterance that differ in a tenth of their letters at most.

    Two classes of nearly the same probability change places by rounding, which hangs on the processor and the batch.
    """
    if a is None or b is None:
        return a is b
    return Levenshtein.distance(a, b) <= max(1, len(b) // 10)


def change(config: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    *parents, key = where.split(".")
    block = config
    for parent in parents:
        block = block[parent]
    if value is ...:
        del block[key]
    else:
        block[key] = value
    return config


KILLED = """
import os
import signal
import sys

from armory_mdnf import cli
from armory_mdnf.runner.journal import Journal

real, done = Journal.append, []


def append(journal, lines):
    real(journal, lines)
    done.extend(lines)
    if len(done) >= int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Journal.append = append
    sys.exit(cli.main(sys.argv[2:]))
"""


def killing(folder: Path, lines: int) -> list[str]:
    """The command ``armory-mdnf``, which is killed when so many utterances are on disk."""
    script = folder / "killed.py"
    script.write_text(KILLED)
    return [sys.executable, str(script), str(lines)]
