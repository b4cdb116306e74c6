"""What the tests of sweeps share: the command in one process, and what there is of its cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from runner_folder import CELLS, lines

from armory_mdnf import cli


def sweep(grid: list[str], out: Path, *options: str) -> int:
    return cli.main(["sweep", *grid, "--output-dir", str(out), "--processes", "1", *options])


def found(out: Path) -> dict[str, dict[int, Any]]:
    """Every utterance of every cell, without the time that it took. The sweep may be at work: a folder comes first."""
    return {
        name: {i: replace(line, seconds={}) for i, line in lines(out / name).items()}
        for name in CELLS
        if (out / name / "utterances.jsonl").exists()
    }
