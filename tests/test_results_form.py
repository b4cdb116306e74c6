"""A run's record, written in Armory's form and read back: the same record, but for what that form has no place for."""

from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from armory_mdnf import __version__
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.records import LeftOut, Outcome, RunRecord, read_record, write_record
from armory_mdnf.evaluation.summary import summarise
from armory_mdnf.files import provenance
from armory_mdnf.runner import results
from armory_mdnf.runner.lines import parse_line, to_line

FOUND = (
    Outcome("GO UP", "GO UP", "NO CUP", "STOP", 20.5, 1.5, 0.01, "a", 3, 7, {"attack": 1.25, "inference": 0.5}),
    Outcome("TURN", "TURN", "TURN", "HOLD", None, 0.0, 0.0, "b", 1, 7, {"attack": 2.0, "inference": 0.25}),
)
LEFT = LeftOut("c", "/x/c.flac", "no samples", 2)


@pytest.fixture
def record(config: dict[str, Any]) -> RunRecord:
    about = {"timestamp": 5, "chosen": 3, "split_size": 64, "changed": {"dataset.index": [None, [1, 2, 3]]}}
    return results.record(FOUND, [LEFT], config, "mine", **about)


def bare(run: RunRecord) -> RunRecord:
    """Without what neither Armory's form nor a record of this project's keeps."""
    outcomes = tuple(dataclasses.replace(o, index=None, seed=None, seconds={}, measures=None) for o in run.outcomes)
    left_out = tuple(dataclasses.replace(left, index=None) for left in run.left_out)
    return dataclasses.replace(run, outcomes=outcomes, left_out=left_out)


def test_armorys_form_gives_the_record_back(record: RunRecord, config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(results.armory_json(record, config), allow_nan=False))
    assert read_armory_results(path) == bare(record)
    assert summarise(read_armory_results(path)) == summarise(record)
    assert record.seconds == {"attack": 3.25, "inference": 0.75}


def test_a_record_gives_itself_back(record: RunRecord, tmp_path: Path) -> None:
    write_record(tmp_path / "mine.json", record)
    assert read_record(tmp_path / "mine.json") == bare(record)


@pytest.mark.parametrize("flag", ["skip_attack", "skip_benign", "check"])
def test_flags_make_it_a_part(flag: str, config: dict[str, Any], tmp_path: Path) -> None:
    config["sysconfig"][flag] = True
    record = results.record(FOUND, [], config, "mine")
    assert record.flags == {"check_run" if flag == "check" else flag: True}
    (tmp_path / "mine.json").write_text(json.dumps(results.armory_json(record, config)))
    assert read_armory_results(tmp_path / "mine.json").flags == record.flags


@pytest.mark.parametrize("found", [*FOUND, dataclasses.replace(FOUND[0], measures={"letters.x": None}), LEFT])
def test_a_line_gives_the_outcome_back(found: Outcome | LeftOut) -> None:
    assert parse_line(json.loads(to_line(found)), "here") == found


def test_versions_of_a_copy_that_was_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(provenance.versions_of(provenance.COMPUTES).values()).isdisjoint({"unknown"})

    def none(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)
    assert provenance.versions_of(["armory-mdnf", "torch"]) == {"armory-mdnf": __version__, "torch": "unknown"}
