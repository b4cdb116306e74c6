"""Sweeps: what they will take is told before, a budget is kept, and the command that goes on is told."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner_folder import CELLS, strict
from sweep_cells import sweep

from armory_mdnf import cli
from armory_mdnf.errors import OptionError
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.records import LeftOut
from armory_mdnf.runner import sweep as module
from armory_mdnf.runner import sweep_engine, sweep_places, sweep_plan
from armory_mdnf.runner.sweep_engine import Done, Task, perform
from armory_mdnf.runner.sweep_plan import Cell, Cost, cost, names, parse_budget

pytestmark = pytest.mark.usefixtures("kept_threads")


def test_a_budget_stops_whole_and_every_cell_has_some(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out, now = tmp_path / "runs", [1000.0]

    def slow(task: Task) -> Done:
        now[0] += 30.0
        return replace(perform(task), seconds=30.0)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_engine, "perform", slow)
        costs = lambda cells: {c.kind: Cost(10.0, 0.0, 1) for c in cells}  # noqa: E731
        patch.setattr(module, "_estimate", lambda cells, *_: module._Estimate(costs(cells), 1, 1.0, 0, []))
        patch.setattr(time, "monotonic", lambda: now[0])
        assert sweep(grid, out, "--budget", "2m10s") == 4
    assert now[0] <= 1130.0
    assert "the time is over: stopped after" in capsys.readouterr().err
    for name in CELLS:
        record = read_armory_results(out / name / "partial.json")
        assert 0 < len(record.outcomes) < record.chosen == 5
        about = strict(out / name / "run.json")
        assert (record.name, record.weights, record.device) == (name, about["weights"], about["device"])
        assert not (out / name / "results.json").exists()
    assert sweep(grid, out, "--resume") == 0
    assert not (out / "plain" / "partial.json").exists()


def test_a_dry_run_tells_time_and_memory_and_writes_nothing(grid: list[str], tmp_path: Path, capsys: Any) -> None:
    assert sweep(grid, tmp_path / "runs", "--dry-run", "--json") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [(row["name"], row["left"], row["iterations"]) for row in told["cells"]] == [(name, 5, 2) for name in CELLS]
    assert told["seconds"] == pytest.approx(sum(row["seconds"] for row in told["cells"]))
    assert told["processes"] == 1
    assert "smoothed: 5 of 5 utterances left, 2 iterations, 0:0" in err  # a busy machine takes a while
    gib = float(err.split("about ")[1].split(" GiB")[0])
    assert 0.1 < gib < 100
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_why_nothing_of_a_cell_can_be_computed(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def failing(task: Task) -> Done:
        left = [LeftOut("u", "u.wav", "Raises cannot be used: RuntimeError: my own bug", i) for i in task.indices]
        return Done(task, [*left], 0.1, 1)

    monkeypatch.setattr(sweep_places, "perform", failing)
    monkeypatch.setattr(sweep_engine, "perform", failing)
    sweep(grid, tmp_path / "runs", "--dry-run")
    told = capsys.readouterr().err
    assert "none of the utterances that were tried can be used: Raises cannot be used: RuntimeError: my own bug" in told


def test_a_dry_run_of_what_is_there_writes_nothing(grid: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "runs"
    assert sweep(grid[:1], out, "--index", "13,14") == 0
    journal = out / "plain" / "utterances.jsonl"
    first, second = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(first + second[:20])
    dry = ("--index", "13,14", "--resume", "--dry-run")

    def files() -> dict[Path, Any]:
        return {path: path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*")}

    before = files()
    capsys.readouterr()
    assert sweep(grid, out, *dry) == 0
    err = capsys.readouterr().err
    assert "plain: 1 of 2 utterances left" in err
    assert "smoothed: 2 of 2 utterances left" in err
    assert sweep(grid[:1], out, *dry, "--batch-seconds", "3") == 2
    assert "sweep.batch_seconds was 32.0 there, is 3.0 now" in capsys.readouterr().err
    assert sweep(grid[:1], out, *dry, "--batch-seconds", "3", "--set-aside") == 0
    assert "plain: 2 of 2 utterances left" in capsys.readouterr().err
    assert files() == before
    journal.unlink()  # as of a kill between the two files of a cell
    assert sweep(grid[:1], out, *dry) == 0
    assert "plain: 2 of 2 utterances left" in capsys.readouterr().err
    assert not journal.exists()


def test_the_command_that_goes_on_repeats_all_that_changes_the_sweep() -> None:
    (parsers,) = (a for a in cli.build_parser()._actions if isinstance(a.choices, dict))
    parser = parsers.choices["sweep"]
    words = ["a.json", "b c.json"]
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            value = {int: "7", float: "7.5"}.get(action.type, "x y")
            given = [] if action.nargs == 0 else [list(action.choices)[-1] if action.choices else value]
            words += [action.option_strings[0], *given]
    given = parser.parse_args(words)
    first, second, *again = shlex.split(module._again(given))
    # These change what is told, or whether anything is done; what `--set-aside` does has been done.
    untold = {"dry_run": False, "set_aside": False, "json": False, "quiet": False}
    assert (first, second) == ("armory-mdnf", "sweep")
    assert vars(parser.parse_args(again)) == vars(given) | {k: v for k, v in untold.items() if k in vars(given)}
    assert all(vars(given)[name] != parser.get_default(name) for name in vars(given) if name != "run")


@pytest.mark.parametrize("budget_s", [None, 200])
def test_time_elapsed_and_time_left_make_up_the_whole(
    budget_s: int | None, grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    now: list[float] = [1000.0]
    cells: list[Cell] = []

    def estimate(made: list[Cell], journals: list[Any], place: Any) -> Any:
        cells.extend(made)
        left = [sum(module._audio(c, t) for t in module._left(c, j)) for c, j in zip(made, journals, strict=True)]
        costs = {cell.kind: Cost(10.0, 0.0, 1) for cell in made}
        return module._Estimate(costs, 1, 1.0, 0, [{"seconds": 10 * audio} for audio in left])

    def twice_as_long(task: Task) -> Done:
        seconds = 20 * module._audio(cells[task.cell], task)
        now[0] += seconds
        return replace(perform(task), seconds=seconds)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_engine, "perform", twice_as_long)
        patch.setattr(module, "_estimate", estimate)
        patch.setattr(time, "monotonic", lambda: now[0])
        options = [] if budget_s is None else ["--budget", f"{budget_s}s"]
        assert sweep(grid, tmp_path / "runs", *options) == (0 if budget_s is None else module.OUT_OF_TIME)
    told = re.findall(r"(\d+):(\d+):(\d+) elapsed, (\d+):(\d+):(\d+) left in all\n", capsys.readouterr().err)
    assert len(told) > 1
    for numbers in told:
        sums = [sum(map(int, pair)) for pair in zip(numbers[:3], numbers[3:], strict=True)]
        whole = 3600 * sums[0] + 60 * sums[1] + sums[2]
        assert whole == pytest.approx(budget_s or now[0] - 1000, abs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "2 hours"], "--budget: expected a time such as 2h"),
        (["--processes", "0"], "--processes: expected a whole number >= 1"),
        (["--threads", "0"], "--threads: expected a whole number >= 1"),
        (["--index", "x"], "--index: expected positions"),
        (["--index", "0," + "9" * 5000], "--index: expected positions"),
    ],
)
def test_options_are_refused(grid: list[str], tmp_path: Path, options: list[str], message: str, capsys: Any) -> None:
    assert sweep(grid, tmp_path / "runs", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m5s", 5405), ("0.5h", 1800)])
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2d", "-1h", "0s", "1h 2m", "inf"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(OptionError, match="--budget"):
        parse_budget(text)


def test_a_folder_per_configuration(tmp_path: Path) -> None:
    assert names(["a/x.json", "b/y.json"]) == ["x", "y"]
    assert names(["a/x.json", "b/x.json"]) == ["a_x", "b_x"]
    assert names(["a/\udcff.json"]) == [r"\udcff"]
    with pytest.raises(OptionError, match="twice"):
        names(["a/x.json", "a/x.json"])
    with pytest.raises(OptionError, match=r"'\.hidden': a folder of that name is hidden"):
        names(["a/.hidden.json"])


@pytest.mark.parametrize(("kwargs", "steps"), [({"max_iter": 7}, 7), ({"max_iter": "auto"}, 0), ({}, 0)])
def test_the_steps_of_anothers_attack_may_be_said_otherwise(kwargs: dict[str, Any], steps: int) -> None:
    config = {"attack": {"kwargs": kwargs}, "sysconfig": {}}
    assert Cell("x", config, {}, [], 0, {}, [], 1).steps == steps


def test_two_timed_utterances_tell_steps_from_the_rest() -> None:
    made = cost([(2.0 * (0.5 + 1 * 0.25), 2.0, 1), (3.0 * (0.5 + 3 * 0.25), 3.0, 3)], 7)
    assert (made.plain, made.step, made.memory) == (pytest.approx(0.5), pytest.approx(0.25), 7)
    assert made.seconds(10.0, 100) == pytest.approx(10 * 25.5)
    assert cost([(1.0, 2.0, 0), (3.0, 2.0, 0)], 0).plain == pytest.approx(1.0)


def test_turns_grow_and_hold_every_utterance_once() -> None:
    turns = list(sweep_plan._turns([(i, None) for i in range(50)]))  # type: ignore[misc]
    assert [len(turn) for turn in turns] == [1, 1, 2, 4, 8, 16, 16, 2]
    assert [i for turn in turns for i, _ in turn] == list(range(50))
