"""``--json``: one object on standard output, whatever else prints there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner_folder import CELLS, write_cells

from armory_mdnf import cli, console

LOUD = """
print("{loud as it is read}")

def size(x, x_adv):
    print("{loud as it measures}", flush=True)
    return 1.0
"""


@pytest.fixture
def loud(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration of one utterance with a metric that prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "loud", raising=False)
    Path("loud.py").write_text(LOUD)
    config["metric"]["perturbation"] = ["l2", "loud.size"]
    config["dataset"]["index"] = [13]
    return config


def test_a_metric_that_prints_in_a_run(
    loud: dict[str, Any], run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(loud, "--json")
    out, err = capsys.readouterr()
    assert json.loads(out)["results"] == str(folder / "results.json")
    assert "{loud as it is read}" in err
    assert "{loud as it measures}" in err
    run(loud)
    assert "{loud as it measures}" in capsys.readouterr().out  # without it everything is as it was


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_metric_that_prints_in_a_sweep(
    processes: str, loud: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its processes have the standard output of this one as long as nothing is done about it."""
    grid = write_cells(loud, tmp_path, "[13:15]")
    words = ["sweep", *grid, "--output-dir", "runs", "--json", "--processes", processes]
    assert cli.main(words) == 0
    out, err = capfd.readouterr()
    assert [cell["name"] for cell in json.loads(out)["cells"]] == list(CELLS)
    assert "{loud as it measures}" in err  # the utterances that were timed here


def test_a_file_of_json_is_another_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Path(__file__).parents[1] / "results" / "human" / "none_pgd_l2.json"
    assert cli.main(["metrics", str(results), "--json", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert "none_pgd_l2" in capsys.readouterr().out


def test_json_goes_where_standard_output_was_and_no_further(capsys: pytest.CaptureFixture[str]) -> None:
    with console.json_alone():
        print("a")
        console.print_json({})
    print("b")
    assert tuple(capsys.readouterr()) == ("{}\nb\n", "a\n")


def test_json_goes_nowhere_where_standard_output_is_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with console.json_alone():
        console.print_json([1])
    assert capsys.readouterr().err == ""
