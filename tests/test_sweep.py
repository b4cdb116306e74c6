"""Sweeps: nothing that is done is lost, whatever stops them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import speechlike
from runner_folder import CELLS, failures, killing, lines, strict
from sweep_cells import found, sweep
from test_runner_resume import full_from

from armory_mdnf import cli
from armory_mdnf.audio.files import write_flac
from armory_mdnf.errors import AudioError, ResultsError
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.records import results_files
from armory_mdnf.files import atomic, locks
from armory_mdnf.runner import evaluate, named, sweep_engine
from armory_mdnf.runner import sweep as module
from armory_mdnf.runner.lines import failed
from armory_mdnf.runner.sweep_engine import Done, Task, perform

pytestmark = pytest.mark.usefixtures("kept_threads", "closes_files")


def stopping(after: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Stop in the middle of the batch after so many, the timed ones aside."""
    calls: list[Task] = []

    def stopped(task: Task) -> Done:
        if len(calls) >= after:
            raise error
        calls.append(task)
        return perform(task)

    monkeypatch.setattr(sweep_engine, "perform", stopped)
    return calls


def test_a_sweep_gives_the_results_of_every_cell(grid: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "runs"
    assert sweep(grid, out) == 0
    for name in CELLS:
        record = read_armory_results(out / name / "results.json")
        assert len(record.outcomes) == record.chosen == 5
        assert not (out / name / "partial.json").exists()
        strict(out / name / "results.json")
    err = capsys.readouterr().err
    assert "plain: 5 of 5 utterances left, 2 iterations, 0:0" in err  # a busy machine takes a while
    assert " with 1 process, about " in err
    before = (out / "plain" / "results.json").read_bytes()
    assert sweep(grid, out) == 2
    assert "plain is there: --resume goes on with it" in capsys.readouterr().err
    assert sweep(grid, out, "--resume", "--json") == 0
    assert (out / "plain" / "results.json").read_bytes() == before
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [(cell["name"], cell["done"], cell["of"]) for cell in cells] == [(name, 5, 5) for name in CELLS]
    assert [cell["results"] for cell in cells] == [str(out / name / "results.json") for name in CELLS]
    rates = [read_armory_results(cell["results"]).rate("adversarial") for cell in cells]
    assert [cell["wer"]["adversarial"]["value"] for cell in cells] == pytest.approx(rates)
    assert cli.main(["run", "--resume", str(out / "plain")]) == 2
    assert "is of a sweep" in capsys.readouterr().err


def test_a_stopped_sweep_ends_with_the_same_bits(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "runs"
    assert sweep(grid, whole) == 0
    with monkeypatch.context() as patch:
        stopping(5, KeyboardInterrupt, patch)
        assert sweep(grid, out) == 130
    err = capsys.readouterr().err
    done = {name: set(cell) for name, cell in found(out).items()}
    assert 0 < sum(map(len, done.values())) < 10
    assert all(done.values())  # interleaved: each cell has some
    assert "which are safe; go on with\n  armory-mdnf sweep" in err
    assert "--resume" in err
    for name, cell in done.items():
        path = out / name / ("results.json" if len(cell) == 5 else "partial.json")
        assert len(read_armory_results(path).outcomes) == len(cell)
    # A kill in the middle of a line, and between two lines of one batch.
    with (out / "plain" / "utterances.jsonl").open("a") as file:
        file.write('{"index": 17, "id"')
    text = (whole / "smoothed" / "utterances.jsonl").read_text().splitlines(keepends=True)
    (out / "smoothed" / "utterances.jsonl").write_text("".join(text[:-1]))
    assert sweep(grid, out, "--resume") == 0
    assert found(out) == found(whole)
    outcomes = [[read_armory_results(f / n / "results.json").outcomes for n in CELLS] for f in (out, whole)]
    assert outcomes[0] == outcomes[1]


def test_what_something_else_made_is_refused_unless_set_aside(grid: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "runs"
    assert sweep(grid[:1], out, "--index", "13") == 0
    config = json.loads(Path(grid[0]).read_text())
    config["attack"]["kwargs"]["eps"] = 0.1
    Path(grid[0]).write_text(json.dumps(config))
    assert sweep(grid[:1], out, "--index", "13", "--resume") == 2
    err = capsys.readouterr().err
    assert "config.attack.kwargs.eps was 1.5 there, is 0.1 now" in err
    assert "--set-aside moves the folder away" in err
    assert sweep(grid[:1], out, "--index", "13", "--resume", "--set-aside") == 0
    kept = [path for path in (out / ".set_aside").iterdir() if path.name.startswith("plain.")]
    assert len(kept) == 1
    assert str(kept[0]) in capsys.readouterr().err
    # What was set aside is nothing to those that read the sweep's results, and is there for whom names it.
    assert results_files([out]) == [out / "plain" / "results.json"]
    assert results_files(kept) == [kept[0] / "results.json"]
    baseline = str(tmp_path / "baseline.json")
    assert cli.main(["baseline", baseline, str(out)]) == 0
    assert cli.main(["gate", str(out), "--baseline", baseline, "--tolerance", "1"]) == 0
    assert cli.main(["claims", str(out)]) == cli.main(["metrics", str(out)]) == 0
    assert "plain." not in capsys.readouterr().out
    assert lines(kept[0])[13].l2 > lines(out / "plain")[13].l2
    # The last bits hang on the size of a batch.
    assert sweep(grid[:1], out, "--index", "13", "--resume", "--batch-seconds", "3") == 2
    assert "sweep.batch_seconds was 32.0 there, is 3.0 now" in capsys.readouterr().err


def test_other_code_of_this_package_is_refused(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out, resumed = tmp_path / "runs", ("--index", "13", "--resume")
    assert sweep(grid[:1], out, "--index", "13") == 0
    before = named.own_code()
    monkeypatch.setattr(named, "own_code", lambda: "0" * 64)
    for options in (resumed, (*resumed, "--dry-run")):
        assert sweep(grid[:1], out, *options) == 2
        err = capsys.readouterr().err
        assert f"code.armory_mdnf was '{before}' there, is '{'0' * 64}' now" in err
        assert "begin in another --output-dir, or --set-aside moves the folder away" in err
    path = out / "plain" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "armory_mdnf_run/2"}))
    assert sweep(grid[:1], out, *resumed) == 2
    err = capsys.readouterr().err
    assert "is of an older version, which did not keep which code of this package" in err
    assert "--set-aside moves the folder away" in err
    assert sweep(grid[:1], out, *resumed, "--set-aside") == 0


def test_strict_keeps_what_is_done_and_stops_again(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "runs"
    original = evaluate.Evaluation.__call__

    def one_fails(self: Any, batch: Any) -> Any:
        pairs = zip(batch, original(self, batch), strict=True)
        return [failed(*entry, "a pause") if line.index == 18 else line for entry, line in pairs]

    monkeypatch.setattr(evaluate.Evaluation, "__call__", one_fails)
    assert sweep(grid[:1], out, "--index", "13,18", "--strict") == 2
    assert re.search("--strict: .*a pause", capsys.readouterr().err)
    assert set(lines(out / "plain")) == {13}
    assert sweep(grid[:1], out, "--index", "13,18", "--resume") == 3
    capsys.readouterr()
    assert sweep(grid[:1], out, "--index", "13,18", "--resume", "--strict") == 2
    assert "--strict: " in capsys.readouterr().err


def test_a_kill_before_a_cell_is_written_down_costs_nothing(grid: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "runs"
    (out / "plain").mkdir(parents=True)
    (out / "smoothed").mkdir()
    half = atomic._partial(out / "smoothed" / "run.json")
    half.write_text('{"attack')
    assert sweep(grid, out, "--index", "13", "--resume") == 0
    assert all((out / name / "results.json").exists() for name in CELLS)
    assert not half.exists()
    (out / "other").mkdir()
    (out / "other" / "notes.txt").touch()
    other = Path(grid[0]).rename(tmp_path / "other.json")
    assert sweep([str(other)], out, "--index", "13", "--resume") == 2
    assert "other is not the folder of a run" in capsys.readouterr().err


def test_a_full_disk_is_told_once_with_what_is_on_it(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "runs"
    with monkeypatch.context() as patch:
        full_from(3, patch)
        assert sweep(grid, out) == 2
    err = capsys.readouterr().err
    assert "armory-mdnf: error: " in err
    assert "/utterances.jsonl: No space left on device; stopped after 2 of 10 utterances, which are safe" in err
    assert err.count("go on with\n  armory-mdnf sweep") == 1
    assert sum(map(len, found(out).values())) == 2
    assert sweep(grid, out, "--resume") == 0
    assert all(len(cell) == 5 for cell in found(out).values())


@pytest.mark.parametrize("attacked", [True, False])
def test_recordings_that_change_after_the_plan_stop_the_sweep(
    attacked: bool, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def record(name: str) -> None:
        write_flac(tmp_path / "data" / f"{name}.flac", speechlike(8000, seed=ord(name)), 16000)
        (tmp_path / "data" / f"{name}.txt").write_text(f"press {name}")

    def estimate(*args: Any) -> Any:
        made = real(*args)
        record("0")
        return made

    for name in "ab":
        record(name)
    real, path, out = module._estimate, tmp_path / "plain.json", tmp_path / "runs"
    config["dataset"] |= {"name": "recordings", "eval_split": str(tmp_path / "data"), "index": None}
    path.write_text(json.dumps(config if attacked else config | {"attack": None}))
    monkeypatch.setattr(module, "_estimate", estimate)
    assert sweep([str(path)], out) == 2
    err = capsys.readouterr().err
    assert re.search("the plan, compared on node .* was made of something else: recordings.0 was absent there", err)
    assert "stopped after 0 of 2 utterances, which are safe" in err
    assert (out / "plain" / "utterances.jsonl").read_text() == ""


@pytest.mark.parametrize("before", [0, 4])  # calls: while utterances are timed, and in the work itself
def test_too_little_memory_is_told_with_what_to_do(
    before: int, grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    original, calls = evaluate.Evaluation.__call__, []

    def call(self: Any, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) > before:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batch)

    monkeypatch.setattr(evaluate.Evaluation, "__call__", call)
    assert sweep(grid[:1], tmp_path / "runs") == 2
    err = capsys.readouterr().err
    assert "armory-mdnf: error: not enough memory: fewer --processes take less" in err
    assert "smaller --batch-seconds X, on which the last bits hang: it needs another --output-dir" in err
    assert ("utterances, which are safe" in err) == bool(before)


def test_two_sweeps_do_not_write_one_folder(grid: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "runs"
    out.mkdir()
    with locks.held(out / module.LOCK, ResultsError):
        assert sweep(grid[:1], out, "--index", "13") == 2
    assert f"{out} is being written by process {os.getpid()} on " in capsys.readouterr().err
    assert not (out / "plain").exists()
    # What a killed one left behind locks nothing.
    assert (out / module.LOCK).read_text().startswith("process ")
    assert sweep(grid[:1], out, "--index", "13") == 0


def test_utterances_that_cannot_be_processed_are_left_out(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    real = evaluate.read_samples

    def read(utterance: Any) -> Any:
        if utterance.id.startswith("spy"):
            raise AudioError("nothing is heard")
        return real(utterance)

    monkeypatch.setattr(evaluate, "read_samples", read)
    assert sweep(grid[:1], tmp_path / "runs") == 3
    assert "left out: spy" in capsys.readouterr().err
    assert read_armory_results(tmp_path / "runs" / "plain" / "results.json").left_out


def test_a_cell_of_which_nothing_can_be_processed_is_named(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def mute(self: Any, batch: Any) -> Any:
        return [failed(*entry, "nothing is heard") for entry in batch]

    real = evaluate.Evaluation.__call__
    monkeypatch.setattr(evaluate.Evaluation, "__call__", lambda self, b: (real if self.in_batches else mute)(self, b))
    out = tmp_path / "runs"
    assert sweep(grid, out, "--index", "13,14", "--json") == 2
    told, err = capsys.readouterr()
    assert "plain: none of the 2 utterances could be processed; " in err
    assert "smoothed: none" not in err
    assert [cell["results"] for cell in json.loads(told)["cells"]] == [None, str(out / "smoothed" / "results.json")]
    assert set(failures(out / "plain")) == {13, 14}
    assert sweep(grid, out, "--index", "13,14", "--resume") == 2
    assert "plain: none of the 2 utterances could be processed; " in capsys.readouterr().err


def is_there(group: int) -> bool:
    """Whether a group still has a process that is not dead: of one that nobody waits for, the name is left."""
    states = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended since
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
            states += [state] * (int(its_group) == group)
    return any(state not in "ZX" for state in states)


FRAGILE = """
import os
from pathlib import Path
from armory_mdnf.defenses import WaveformDefense

class Fragile(WaveformDefense):
    def defend(self, x, lengths, streams):
        mark = Path(__file__).with_name("died")
        if os.environ.get("SWEEP_TEST") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), 9)
        return 0.5 * x
"""


@pytest.mark.slow
def test_processes_give_the_same_and_one_that_dies_is_replaced(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}")
    (tmp_path / "fragile_process.py").write_text(FRAGILE)
    config = json.loads(Path(grid[0]).read_text())
    config["defense"] = {"module": "fragile_process", "name": "Fragile", "type": "Preprocessor", "kwargs": {}}
    Path(grid[0]).write_text(json.dumps(config))
    whole, out = tmp_path / "whole", tmp_path / "runs"
    assert sweep(grid, whole) == 0
    real = module._estimate

    def estimate(*args: Any) -> Any:
        made = real(*args)
        monkeypatch.setenv("SWEEP_TEST", "1")  # from now on, in the processes
        return made

    monkeypatch.setattr(module, "_estimate", estimate)
    assert sweep(grid, out, "--processes", "2") == 0
    assert (tmp_path / "died").exists()
    assert found(out) == found(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1", "2"])
def test_a_killed_sweep_ends_with_the_same_bits(number: str, grid: list[str], tmp_path: Path) -> None:
    for path in grid:
        config = json.loads(Path(path).read_text())
        config["attack"]["kwargs"]["max_iter"] = 40
        Path(path).write_text(json.dumps(config))
    whole, out = tmp_path / "whole", tmp_path / "runs"
    assert sweep(grid, whole) == 0
    command = [sys.executable, "-m", "armory_mdnf.cli", "sweep", *grid, "--output-dir", str(out)]
    killed = [*killing(tmp_path, 2), *command[3:], "--processes", number]
    process = subprocess.Popen(killed, start_new_session=True)  # a group of its own
    try:
        assert process.wait(600) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    until = time.monotonic() + 60
    while is_there(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_there(process.pid)  # nothing goes on without it
    before = found(out)
    assert 2 <= sum(len(cell) for cell in before.values()) < 10
    resumed = subprocess.run([*command, "--resume", "--processes", number], capture_output=True, text=True, timeout=600)
    assert resumed.returncode == 0, resumed.stderr
    assert "leaked" not in resumed.stderr  # processes with nothing left to do are not killed
    assert found(out) == found(whole)
    assert all(found(out)[name][i] == line for name, cell in before.items() for i, line in cell.items())
