"""How the native runner goes on after a stop or a kill, and what it will not go on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_recognizer
from runner_folder import INDEX, RS, lines, near, same

from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import save_recognizer
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.runner import journal
from armory_mdnf.runner.components import fingerprints
from armory_mdnf.runner.evaluate import Evaluation


@pytest.fixture
def interrupted(config: dict[str, Any], run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run stopped by Ctrl-C in its second batch."""
    return stop_in_second_batch(config, run, monkeypatch)


def stop_in_second_batch(config: dict[str, Any], run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    config["defense"] = RS
    original, calls = Evaluation.__call__, []

    def call(self: Evaluation, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "__call__", call)
        return run(config, "--batch-seconds", "0.001", code=130)


def test_an_interrupted_run_goes_on(
    config: dict[str, Any],
    run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupted = stop_in_second_batch(config, run, monkeypatch)
    assert f"stopped after 1 of 3 utterances; go on with\n  armory-mdnf run --resume {interrupted}" in (
        capsys.readouterr().err
    )
    assert not (interrupted / "results.json").exists()
    (first,) = lines(interrupted).values()
    with (interrupted / "utterances.jsonl").open("a") as file:
        file.write('{"index": 2')  # a kill in the middle of a line
    assert cli.main(["run", "--resume", str(interrupted)]) == 0
    found, whole = lines(interrupted), lines(run(config))
    assert found[first.index] == first
    assert all(same(found[i], whole[i]) for i in INDEX)
    outcomes = [read_armory_results(f / "results.json").outcomes for f in (interrupted, run(config))]
    assert all(near(a.adversarial, b.adversarial) for a, b in zip(*outcomes, strict=True))


def test_a_finished_run_goes_on_to_the_same_results(config: dict[str, Any], run: Callable[..., Path]) -> None:
    folder = run(config, "--skip-attack")
    before = (folder / "results.json").read_text()
    assert cli.main(["run", "--resume", str(folder)]) == 0
    assert (folder / "results.json").read_text() == before


def test_another_configuration_does_not_go_on(
    interrupted: Path, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, resume = tmp_path / "tiny.json", ["--resume", str(interrupted)]
    assert cli.main(["run", "--resume", str(interrupted), "--seed", "9"]) == 2
    assert "seed was" in capsys.readouterr().err
    config["attack"]["kwargs"]["eps"] = 1.0
    path.write_text(json.dumps(config))
    assert cli.main(["run", str(path), *resume]) == 2
    assert "config.attack.kwargs.eps was 1.5 there, is 1.0 now" in capsys.readouterr().err
    config["attack"]["kwargs"]["eps"] = 1.5
    path.write_text(json.dumps(config))
    assert cli.main(["run", str(path), *resume, "--batch-seconds", "9", "--device", "cpu"]) == 0


def test_other_weights_do_not_go_on(interrupted: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    original = Path(weights).read_bytes()
    try:
        save_recognizer(weights, tiny_recognizer(hidden_size=16), {})
        assert cli.main(["run", "--resume", str(interrupted)]) == 2
    finally:
        Path(weights).write_bytes(original)
    assert "was made of something else: weights." in capsys.readouterr().err


def test_a_run_is_known_by_the_weights_that_are_its_defaults(config: dict[str, Any], weights: str) -> None:
    config["defense"] = {"module": "armory_mdnf.defenses", "name": "MDNF", "type": "Preprocessor", "kwargs": {}}
    assert set(fingerprints(config)) == {weights, "melgan", "bundled_l2"}
    config["defense"]["kwargs"] = {"vocoder": "pwg", "curve": None}
    assert set(fingerprints(config)) == {weights, "pwg"}
    config["defense"] = RS
    assert set(fingerprints(config)) == {weights}


@pytest.mark.parametrize("damage", ["not JSON\n", '{"index": 1, "words": {}}\n', "twice", "counts"])
def test_damaged_lines_are_named(interrupted: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = interrupted / "utterances.jsonl"
    text = path.read_text()
    if damage == "counts":
        path.write_text(text.replace('"hits": ', '"hits": 1'))
    else:
        path.write_text(text + (text if damage == "twice" else damage))
    assert cli.main(["run", "--resume", str(interrupted)]) == 2
    assert "utterances.jsonl, line" in capsys.readouterr().err


def test_two_runs_do_not_write_one_folder(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = journal.Journal.reopen(interrupted)
    try:
        assert cli.main(["run", "--resume", str(interrupted)]) == 2
    finally:
        other.close()
    assert "is being written by another run" in capsys.readouterr().err


def test_no_folder_is_ever_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.7e9)
    folders = []
    for _ in range(3):
        made = journal.Journal.create(tmp_path / "new" / "out", "name", {"config": {}})
        made.close()
        folders.append(made.folder)
    assert len(set(folders)) == 3


@pytest.mark.slow
def test_a_killed_run_goes_on(config: dict[str, Any], tmp_path: Path) -> None:
    config["attack"]["kwargs"]["max_iter"] = 60
    path, out = tmp_path / "killed.json", tmp_path / "out"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "armory_mdnf.cli", "run", str(path), "--output-dir", str(out)]
    process = subprocess.Popen([*command, "--batch-seconds", "0.001"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        until = time.monotonic() + 300
        while not any(f.stat().st_size for f in out.glob("*/utterances.jsonl")) and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (folder,) = out.iterdir()
    before = lines(folder)
    assert 0 < len(before) < len(INDEX)
    assert cli.main(["run", "--resume", str(folder)]) == 0
    after = lines(folder)
    assert set(after) == set(INDEX)
    assert all(after[i] == line for i, line in before.items())
