"""The command line."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_summary import armory_content
from test_tour import subparsers

import armory_mdnf
from armory_mdnf import cli, console
from armory_mdnf.evaluation import summary, tables
from armory_mdnf.runner.overrides import BATCH_SECONDS


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
    assert capsys.readouterr().out == ""
    assert cli.main(["report-table", *folder]) == 0
    assert "mg_mdnf_pgd_l2" in capsys.readouterr().out


def test_record_and_table_for_machines(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, readme = tmp_path / "results" / "mg_mdnf_pgd_l2.json", tmp_path / "README.md"
    readme.write_text(f"{tables.BEGIN}\n{tables.END}\n")

    def told(*words: object, code: int = 0) -> Any:
        assert cli.main([*map(str, words), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    assert told("record", out, results) == {"results": str(results), "out": str(out), "utterances": 2}
    words = ("report-table", "--results", out.parent)
    table = told(*words)
    assert table.keys() == {"results", "table"}
    assert told(*words, "--check", readme, code=1) == table | {"file": str(readme), "up_to_date": False}
    assert told(*words, "--write", readme) == table | {"out": str(readme)}
    assert table["table"].strip() in readme.read_text()
    assert told(*words, "--check", readme)["up_to_date"] is True


def test_results_that_are_not_new_are_refused_by_name_too(results: Path, tmp_path: Path, capsys: Any) -> None:
    started = tmp_path / "started"
    started.touch()
    os.utime(results, (1000, 1000))
    assert cli.main(["summary", str(results), "--newer-than", str(started)]) == 2
    assert f"{results} is not new" in capsys.readouterr().err
    assert cli.main(["summary", str(results), "--newer-than", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"armory-mdnf: error: {tmp_path}/none: No such file or directory\n"


def test_a_target_that_cannot_be_written_is_one_line(results: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["record", str(tmp_path), str(results)]) == 2
    assert capsys.readouterr().err == (
        f"armory-mdnf: error: cannot write {tmp_path}: it is a folder, expected the name of a file\n"
    )
    assert cli.main(["record", str(results / "x.json"), str(results)]) == 2
    assert f"{results} is a file, expected a folder" in capsys.readouterr().err
    assert cli.main(["report-table", "--results", str(tmp_path / "none"), "--write", str(tmp_path)]) == 2
    assert f"cannot write {tmp_path}: it is a folder" in capsys.readouterr().err  # before the records are read


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device", "results/a.json"), 2, "results/a.json: No space left on device"),
        (PermissionError(13, "Permission denied"), 2, "Permission denied"),
        (MemoryError(), 2, "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB"), 2, "not enough memory"),
        (KeyboardInterrupt(), 130, None),
        (BrokenPipeError(), 141, None),
    ],
)
def test_what_a_user_did_gives_no_traceback(
    error: BaseException,
    code: int,
    message: str | None,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(summary, "summarise", fail)
    assert cli.main(["summary", str(results)]) == code
    told = capsys.readouterr().err
    assert message is None or told == f"armory-mdnf: error: {message}\n"
    assert str(code) in cli.EXIT_CODES


def test_a_fault_of_this_package_is_told_whole_and_is_no_regression(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("it cannot be")

    monkeypatch.setattr(summary, "summarise", fail)
    assert cli.main(["summary", str(results)]) == 70
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith("RuntimeError: it cannot be\n")
    assert "\n  70 " in cli.EXIT_CODES


def test_options_that_would_have_no_effect_are_refused(results: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main(["report-table", "--write", "a", "--check", "b"])
    assert "not allowed with argument" in capsys.readouterr().err
    assert cli.main(["summary", str(results), "--examples", "-1"]) == 2


def test_help_says_what_the_code_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    assert f"(default {BATCH_SECONDS:g})" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert cli.EXIT_CODES in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"armory-mdnf {armory_mdnf.__version__}\n"


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


@pytest.mark.parametrize(("code", "told"), [(0, ""), (1, ""), (3, "left out: a.wav\n"), (130, "left out: a.wav\n")])
def test_quiet_tells_what_went_wrong(code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        print("left out: a.wav", file=sys.stderr)
        return code

    assert console.quietly(run) == code
    assert capsys.readouterr().err == told


def test_quiet_tells_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in cli.SHOW_PROGRESS:
        assert "--quiet" in dict(subparsers(cli.build_parser()))[name]._option_string_actions
    assert cli.main(["run", str(tmp_path / "none.json"), "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("armory-mdnf: error: ")


def test_every_command_that_tells_something_tells_it_to_machines() -> None:
    # These write files that machines read.
    writing = {"baseline", "train"}
    commands = [(name, parser) for name, parser in subparsers(cli.build_parser()) if not any(subparsers(parser))]
    without = {name for name, parser in commands if "--json" not in parser._option_string_actions}
    assert without == writing
