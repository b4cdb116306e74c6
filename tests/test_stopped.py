"""A run that was stopped is recorded as far as it came, and joined with the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import speechlike
from runner_folder import INDEX, lines, strict
from test_runner_resume import stop_in_second_batch

from armory_mdnf import cli
from armory_mdnf.audio.files import write_flac
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.records import read_record


@pytest.fixture
def part(config: dict[str, Any], run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of three utterances that was stopped after one of them."""
    return stop_in_second_batch(config, run, monkeypatch)


def test_what_was_done_is_a_record(part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file.name: file.read_bytes() for file in part.iterdir()}
    ((position, outcome),) = lines(part).items()
    out = tmp_path / "kept" / "mine.json"
    assert cli.main(["record", str(out), str(part)]) == 2
    assert "the run is not the whole of mine: dataset index [" in capsys.readouterr().err
    assert cli.main(["record", str(out), str(part), "--partial"]) == 0
    kept, about = read_record(out), strict(part / "run.json")
    assert [found.adversarial for found in kept.outcomes] == [outcome.adversarial]
    assert (kept.chosen, kept.config["dataset"]["index"]) == (1, [position])
    assert kept.changed["dataset.index"] == [INDEX, [position]]
    assert (kept.weights, kept.device) == (about["weights"], about["device"])
    assert kept.versions.items() >= about["versions"].items()
    assert {file.name: file.read_bytes() for file in part.iterdir()} == before
    assert cli.main(["run", "--resume", str(part)]) == 0


def test_nobody_elses_code_is_run(part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not_ours.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    about = strict(part / "run.json")
    for block in ("attack", "dataset", "defense", "model"):
        about["config"][block]["module"] = "not_ours"
    (part / "run.json").write_text(json.dumps(about))
    assert cli.main(["record", str(tmp_path / "kept.json"), str(part), "--partial"]) == 0
    assert read_record(tmp_path / "kept.json").split_size is None


def test_the_rest_is_joined_to_it(config: dict[str, Any], run: Callable[..., Path], part: Path, tmp_path: Path) -> None:
    rest = run(config, "--index", ",".join(str(i) for i in INDEX if i not in lines(part)))
    out = tmp_path / "kept" / "mine.json"
    assert cli.main(["record", str(out), str(part), "--add", str(rest), "--partial"]) == 0
    whole, kept = read_armory_results(run(config) / "results.json"), read_record(out)
    assert kept.config["dataset"]["index"] == INDEX
    assert {o.id: (o.reference, o.benign) for o in kept.outcomes} == {
        o.id: (o.reference, o.benign) for o in whole.outcomes
    }


def test_the_folder_of_a_run_that_ended_is_its_results(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = run(config, "--skip-attack")
    for name, given in (("a", folder), ("b", folder / "results.json")):
        assert cli.main(["record", str(tmp_path / name / "mine.json"), str(given), "--partial"]) == 0
    assert (tmp_path / "a" / "mine.json").read_bytes() == (tmp_path / "b" / "mine.json").read_bytes()


def test_a_summary_is_of_whatever_has_a_run(
    config: dict[str, Any], run: Callable[..., Path], part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, record = run(config, "--skip-attack"), tmp_path / "mine.json"
    assert cli.main(["record", str(record), str(folder), "--partial"]) == 0
    found = []
    for given in (folder, folder / "results.json", record):
        capsys.readouterr()
        assert cli.main(["summary", str(given)]) == 0
        found.append(capsys.readouterr().out.split("results   ")[0])
    assert found[0] == found[1]
    assert "word error rate, %" in found[2]
    assert cli.main(["summary", str(part), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["utterances"] == 1
    assert cli.main(["compare", str(folder), str(record)]) == 2
    assert f"{folder} is a folder: expected a file in it" in capsys.readouterr().err


def test_results_are_recorded_without_torch(config: dict[str, Any], run: Callable[..., Path], tmp_path: Path) -> None:
    words = ["record", str(tmp_path / "mine.json"), str(run(config, "--skip-attack")), "--partial"]
    code = (
        f"import sys; from armory_mdnf import cli; assert cli.main({words!r}) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_no_part_of_a_run_is_refused(part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(words: str) -> None:
        assert cli.main(["record", str(tmp_path / "mine.json"), str(part), "--partial"]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "mine.json").exists()

    content, about = (part / "utterances.jsonl").read_text(), strict(part / "run.json")
    (part / "utterances.jsonl").write_text(content + '{"index": 18}\n')
    refused("utterances.jsonl, line 2")
    (part / "utterances.jsonl").write_text(content[: len(content) // 2])  # a kill in the middle of the first line
    refused("none of its utterances is done")
    (part / "utterances.jsonl").write_text(content)
    for key, value, words in (
        ("weights", {"w": 1}, "run.json: what it says of the run is damaged: expected weights with their"),
        ("changed", {"dataset.index": [1]}, "run.json: what it says of the run is damaged"),
        ("changed", {"attack.x": 1}, "run.json: what it says of the run is damaged: changed is"),
        ("versions", None, "run.json: expected versions as dict, found None"),
        ("versions", {"torch": ["2"]}, "run.json: what it says of the run is damaged: versions.torch is"),
        ("config", {}, "config"),
        ("format", "armory_mdnf_run/2", "is of an older version"),
    ):
        (part / "run.json").write_text(json.dumps(about | {key: value}))
        refused(words)
    (part / "run.json").unlink()
    refused("is not the folder of a run")


def test_recordings_that_have_moved_keep_nothing_from_being_recorded(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    for name in ("a", "b"):
        write_flac(data / f"{name}.flac", speechlike(8000), 16000)
        (data / f"{name}.txt").write_text("press one")
    config["dataset"] |= {"name": "recordings", "eval_split": str(data), "index": None}
    part = stop_in_second_batch(config, run, monkeypatch)
    data.rename(tmp_path / "moved")
    assert cli.main(["summary", str(part)]) == 0
    assert cli.main(["record", str(tmp_path / "mine.json"), str(part), "--partial"]) == 0
    assert read_record(tmp_path / "mine.json").split_size is None
