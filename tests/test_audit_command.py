"""The command line of the audit, its file, and the docs of both."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runner_folder import OURS, strict

from armory_mdnf import cli
from armory_mdnf.audit.checks import CHECKS
from armory_mdnf.audit.command import parse_checks, parse_draws
from armory_mdnf.audit.findings import FAIL, PASS, WARN, Finding, judge_gain, of_part, worst
from armory_mdnf.audit.gradients import AFFORDABLE, draw_cosine, draws_needed
from armory_mdnf.audit.names import NAMES
from armory_mdnf.audit.strength import ANOTHER_SEED, HIGHER
from armory_mdnf.audit.trials import Trials
from armory_mdnf.errors import OptionError
from armory_mdnf.metrics.intervals import Interval
from armory_mdnf.runner import components

pytestmark = pytest.mark.usefixtures("closes_files")


def test_names_are_those_of_the_checks_and_of_the_docs() -> None:
    assert tuple(CHECKS) == NAMES
    docs = (Path(__file__).parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^### (.*)$", docs, re.MULTILINE)) == NAMES
    parser = cli.build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    known = {option for action in commands.choices["audit"]._actions for option in action.option_strings}
    assert set(re.findall(r"`(--[a-z-]+)", docs)) <= known


def test_lists_of_the_command_line() -> None:
    assert parse_draws("20,1,5,5") == (1, 5, 20)
    for wrong in ("", "0", "1,", "five", "1;5", "-1", "99999"):
        with pytest.raises(OptionError, match="--draws: expected whole numbers"):
            parse_draws(wrong)
    assert parse_checks("budget,gradient") == ["gradient", "budget"]
    assert parse_checks(None) == list(NAMES)
    with pytest.raises(OptionError, match=r"--only: unknown check 'budgets'.*did you mean 'budget'"):
        parse_checks("budgets")


def test_the_command_prints_and_keeps_what_it_finds(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, kept = tmp_path / "tiny.json", tmp_path / "made" / "audit.json"
    source.write_text(json.dumps(config))
    code = cli.main(
        ["audit", str(source), "--utterances", "2", "--only", "gradient,convergence", "--output", str(kept)]
    )
    found = strict(kept)
    printed = capsys.readouterr()
    assert printed.out.startswith("Audit of tiny.json: 2 utterances, 2 of 2 iterations")
    assert "1. gradient: PASS." in printed.out
    assert "4. convergence: " in printed.out
    assert "check 2 of 2, convergence" in printed.err
    assert found["complete"]
    assert [f["check"] for f in found["findings"]] == ["gradient", "convergence"]
    assert found["verdict"] == worst([f["verdict"] for f in found["findings"]])
    assert code == int(found["verdict"] == FAIL)
    assert found["settings"]["iterations"] == found["settings"]["iterations_asked"] == 2
    assert len(found["settings"]["utterances"]) == 2
    assert found["settings"]["draws"] == [1, 5]
    assert found["config"]["attack"] == config["attack"]
    assert str(tmp_path) not in json.dumps(found["findings"])
    words = ["audit", str(source), "--utterances", "2", "--only", "gradient", "--json"]
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["findings"] == found["findings"][:1]
    assert "1. gradient: PASS." in printed.err


def test_what_the_memory_does_not_hold_is_told_with_the_bound_to_lower(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bound is the command line's, else the configuration's own."""
    source = tmp_path / "tiny.json"
    source.write_text(json.dumps(config | {"sysconfig": config["sysconfig"] | {"batch_seconds": 7}}))
    words = ["audit", str(source), "--utterances", "2", "--only", "gradient,budget"]
    bounds: list[Any] = []

    def no_room(*args: Any, **options: Any) -> Finding:
        bounds.append(options.get("batch_seconds"))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patch:
        patch.setitem(CHECKS, "budget", no_room)
        assert cli.main(words) == 2
        assert (
            "error: not enough memory; stopped after 1 of 2 checks, whose findings are printed; "
            "try --batch-seconds X, less than 7\n" in capsys.readouterr().err
        )
    monkeypatch.setattr(Trials, "of", no_room)
    assert cli.main([*words, "--batch-seconds", "5.5"]) == 2
    assert bounds == [None, 5.5]
    assert "error: not enough memory; try --batch-seconds X, less than 5.5\n" in capsys.readouterr().err


@pytest.mark.parametrize("after", [0, 12])
def test_a_defence_of_ones_own_that_fails_is_told_by_its_line(
    after: int,
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = (
        *("from armory_mdnf.defenses import WaveformDefense", "CALLS = []", "class Fails(WaveformDefense):"),
        *("    def defend(self, x, lengths, streams):", "        CALLS.append(x.shape)"),
        *(f"        return 1 / 0 if len(CALLS) > {after} else x.clone()", ""),
    )
    (tmp_path / f"fails_after_{after}.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    defence = {"module": f"fails_after_{after}", "name": "Fails", "type": "Preprocessor", "kwargs": {}}
    Path("own.json").write_text(json.dumps(config | {"defense": defence}))
    assert cli.main(["audit", "own.json", "--utterances", "2", "--only", "gradient"]) == 2
    said = f"defense fails_after_{after}.Fails or attack art.attacks.evasion.ProjectedGradientDescent cannot be used: "
    out, err = capsys.readouterr()
    assert f"{said}ZeroDivisionError: division by zero (fails_after_{after}.py, line 6)\n" in err
    assert ("Audit of own.json" in out) is bool(after)  # before the checks, or in one


def test_an_audit_that_is_stopped_keeps_what_it_found(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(trials: Trials) -> Finding:
        raise KeyboardInterrupt

    monkeypatch.setitem(CHECKS, "convergence", lambda trials, options: stop(trials))
    source, kept = tmp_path / "tiny.json", tmp_path / "audit.json"
    source.write_text(json.dumps(config))
    assert cli.main(["audit", str(source), "--utterances", "2", "--output", str(kept)]) == cli.INTERRUPTED
    found = strict(kept)
    assert [f["check"] for f in found["findings"]] == ["gradient", "draws", "published"]
    assert not found["complete"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"attack": None}, [], "attack: expected an attack to audit, found null"),
        ({}, ["--utterances", "4"], "--utterances: expected at most the 3 of the configuration, got 4"),
        ({}, ["--utterances", "1"], "--utterances: expected utterances to be a whole number >= 2, got 1"),
        ({}, ["--iterations", "0"], "--iterations: expected iterations to be a whole number >= 1, got 0"),
        ({}, ["--draws", "x"], "--draws: expected whole numbers"),
        ({}, ["--only", "all"], "--only: unknown check 'all'"),
        ({}, ["--batch-seconds", "0"], "sysconfig.batch_seconds: expected a finite number > 0, got 0.0"),
    ],
)
def test_the_command_refuses(
    change: dict[str, Any],
    options: list[str],
    message: str,
    config: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "tiny.json"
    source.write_text(json.dumps(config | change))
    given = options if "--utterances" in options else ["--utterances", "2", *options]
    assert cli.main(["audit", str(source), *given]) == 2
    assert f"armory-mdnf: error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("attack", "transcript", "message"),
    [
        ({"eps": 0}, str, "attack: expected a bound above 0 to audit, found eps 0"),
        ({"eps": 1.5}, lambda text: "", "expected references with at least one word, got 2 without"),
        ({"eps": 1.5}, str.lower, "expected a transcript in lower case as the references, found "),
    ],
    ids=["no bound", "no word", "case"],
)
def test_the_command_refuses_what_nothing_could_be_judged_by(
    attack: dict[str, Any],
    transcript: Callable[[str], str],
    message: str,
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The defence would be blamed for it."""
    load = components.load_dataset

    def changed(*given: Any, **options: Any) -> components.Chosen:
        return [(i, replace(u, transcript=transcript(u.transcript))) for i, u in load(*given, **options)]

    monkeypatch.setattr(components, "load_dataset", changed)
    source = tmp_path / "tiny.json"
    source.write_text(json.dumps(config | {"attack": config["attack"] | OURS | {"kwargs": {"max_iter": 2} | attack}}))
    assert cli.main(["audit", str(source), "--utterances", "2"]) == 2
    printed = capsys.readouterr()
    assert f"armory-mdnf: error: {message}" in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


KEPT = sorted((Path(__file__).parents[1] / "results" / "audit").glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_docs_say_what_the_kept_audits_found(path: Path) -> None:
    found, text = strict(path), (Path(__file__).parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    assert found["complete"]
    worse = {verdict: [f["check"] for f in found["findings"] if f["verdict"] == verdict] for verdict in (FAIL, WARN)}
    told = "; ".join(f"{verdict}: {', '.join(checks)}" for verdict, checks in worse.items() if checks) or PASS
    settings = found["settings"]
    row = f"| `{path.stem}` | {len(settings['utterances'])}, {settings['iterations']} | {told} | "
    assert row in text
    assert str(Path.home()) not in path.read_text()


def _today(found: dict[str, Any]) -> dict[str, str]:
    """Verdicts that a kept audit would have by its evidence, of the checks whose evidence tells."""
    evidence = {f["check"]: f["evidence"] for f in found["findings"]}
    settings = found["settings"]
    part = settings["iterations"], settings["iterations_asked"]

    def judged(gain: dict[str, float]) -> str:
        bounds = (gain[name] / 100 for name in ("value", "low", "high"))
        return of_part(judge_gain(Interval(*bounds, len(settings["utterances"]))), *part)

    gains = [evidence["convergence"][f"gain_of_{what}"] for what in ("last_doubling", "most_draws")]
    of_means = evidence["draws"]["attacked"]["cosine_of_means_of_2"]
    needed = draws_needed(evidence["draws"]["attacked"] | {"cosine_by_means_of_2": draw_cosine(of_means, 2)})
    enough = needed is not None and needed <= evidence["draws"]["draws_of_the_attack"]
    tried = evidence["steps"]["tried"].values()
    best = {name: max(row[name] for row in tried) for name in ("wer", "loss")}
    past = [row for name, row in evidence["adaptive"].items() if isinstance(row, dict) and name != ANOTHER_SEED]
    # None beats the white box's best in mean loss by so much that it could in every utterance, nor in words.
    assert all(row["loss"] < HIGHER * best["loss"] and row["wer"] <= best["wer"] for row in past)
    return {
        "draws": PASS if enough else WARN if needed is not None and needed <= AFFORDABLE else FAIL,
        "convergence": worst([judged(gain) for gain in gains]),
        "budget": next(of_part(f["verdict"], *part) for f in found["findings"] if f["check"] == "budget"),
        "adaptive": PASS,
        "steps": judged(evidence["steps"]["gain_of_best"]),
        "headline": PASS if judged(evidence["headline"]["gain"]) == PASS else WARN,
    }


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_kept_audits_are_what_todays_rules_make_of_their_evidence(path: Path) -> None:
    found = strict(path)
    then = {f["check"]: f["verdict"] for f in found["findings"]}
    today = _today(found)
    assert today == {check: then[check] for check in today}
    assert len(today) >= 6
