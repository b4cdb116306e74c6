"""The command line."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_summary import armory_content

from armory_mdnf import cli
from armory_mdnf.evaluation import tables


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(armory_content()))
    return path


def test_summary(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["summary", str(results), "--examples", "1"]) == 0
    assert "75.0" in capsys.readouterr().out


def test_summary_of_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    started = tmp_path / "started"
    started.touch()
    os.utime(started, (1000, 1000))
    assert cli.main(["summary", "--newer-than", str(started)]) == 2
    folder = tmp_path / ".armory" / "outputs" / "run"
    folder.mkdir(parents=True)
    (folder / "r.json").write_text(json.dumps(armory_content()))
    assert cli.main(["summary", "--newer-than", str(started)]) == 0
    assert str(folder / "r.json") in capsys.readouterr().out


def test_bad_input_gives_a_message_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["summary", str(tmp_path / "none.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("armory-mdnf: error: no results file at")


def test_record_and_table(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, readme = tmp_path / "results" / "mg_mdnf_pgd_l2.json", tmp_path / "README.md"
    assert cli.main(["record", str(out), str(results)]) == 0
    readme.write_text(f"{tables.BEGIN}\n{tables.END}\n")
    folder = ["--results", str(out.parent)]
    assert cli.main(["report-table", *folder, "--check", str(readme)]) == 1
    assert cli.main(["report-table", *folder, "--write", str(readme)]) == 0
    assert cli.main(["report-table", *folder, "--check", str(readme)]) == 0
    assert "| human | mg_mdnf_pgd_l2 |" in readme.read_text()
    assert cli.main(["report-table", *folder]) == 0
    assert "mg_mdnf_pgd_l2" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", cli.RECIPES)
def test_every_recipe_is_a_module(recipe: str) -> None:
    assert find_spec(f"armory_mdnf.training.{recipe}")


def test_train_hands_its_options_over(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "vocoder", "--help"])
    assert stop.value.code == 0
    assert "--kind" in capsys.readouterr().out


def test_unknown_recipes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "vocoderr"])
    assert "invalid choice: 'vocoderr'" in capsys.readouterr().err


def test_the_readme_has_the_committed_results() -> None:
    root = Path(__file__).parents[1]
    assert cli.main(["report-table", "--results", str(root / "results"), "--check", str(root / "README.md")]) == 0
