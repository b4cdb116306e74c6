"""What a run keeps of each utterance beside transcripts and norms: segmental SNR, and STOI behind a defence."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import speechlike
from runner_folder import RS, lines, strict

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.selection import HeldUtterance
from armory_mdnf.defenses import RandomizedSmoothing
from armory_mdnf.errors import OptionError, ResultsError
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.measures import measures
from armory_mdnf.evaluation.records import LeftOut, Outcome, read_record, write_record
from armory_mdnf.metrics.intelligibility import stoi
from armory_mdnf.runner import command
from armory_mdnf.runner.evaluate import BENIGN, Evaluation
from armory_mdnf.runner.lines import parse_line, to_line
from armory_mdnf.runner.metrics import task_metrics
from armory_mdnf.runner.named import code_of, find, find_dotted, others

needs_stoi = pytest.mark.skipif(
    not command.intelligibility.available(), reason="pystoi is not installed: pip install armory-mdnf[stoi]"
)


def held(audio: np.ndarray, text: str = "A B") -> Utterance:
    return HeldUtterance("u", Path("u.flac"), text, "", len(audio) / 16000, samples=audio)


class Changes:
    """An attack that adds what it is told to."""

    def __init__(self, by: float) -> None:
        self.by = by

    def generate(self, audio: Any, y: Any, indices: Any) -> list[np.ndarray]:
        return [x + np.float32(self.by) for x in audio]


def evaluated(audio: np.ndarray, by: float, weights: str, text: str = "A B") -> Outcome:
    made = RecognizerEstimator(weights, preprocessing_defences=RandomizedSmoothing(10, 2), device_type="cpu")
    measure = stoi if command.intelligibility.available() else None
    (line,) = Evaluation(made, attack=Changes(by), intelligibility=measure)([(3, held(audio, text))])
    assert isinstance(line, Outcome)
    found = parse_line(json.loads(to_line(line)), "here")  # strict JSON, and nothing is lost
    assert isinstance(found, Outcome)
    assert found == replace(line, measures=None)
    return found


@needs_stoi
def test_a_run_keeps_them_and_every_reader_finds_them(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path
) -> None:
    config["defense"] = RS
    folder = run(config)
    own = lines(folder)
    for line in own.values():
        assert line.segmental_snr_db is not None
        assert line.snr_db is not None
        assert -10 <= line.segmental_snr_db <= 35
        assert line.stoi is not None
        assert 0 < line.stoi < 1
    strict(folder / "results.json")
    record = read_armory_results(folder / "results.json")
    assert [o.stoi for o in record.outcomes] == [own[i].stoi for i in sorted(own)]
    assert [o.segmental_snr_db for o in record.outcomes] == [own[i].segmental_snr_db for i in sorted(own)]
    write_record(tmp_path / "record.json", record)
    assert measures(read_record(tmp_path / "record.json")) == measures(record)
    assert measures(record)["stoi"] == pytest.approx(np.mean([line.stoi for line in own.values()]))


@needs_stoi
def test_stoi_is_of_what_the_recogniser_hears_when_nobody_attacks(weights: str) -> None:
    audio, defence = speechlike(16000), RandomizedSmoothing(10, 2)
    line = evaluated(audio, 0.01, weights)
    made = RecognizerEstimator(weights, preprocessing_defences=defence, device_type="cpu")
    (heard,) = made.defended([audio], keys=[(3, BENIGN)])
    assert line.stoi == stoi(audio, heard)
    noise = heard - audio
    assert 10 * np.log10(np.sum(audio**2) / np.sum(noise**2)) == pytest.approx(10, abs=0.3)
    (other,) = made.defended([audio], keys=[(4, BENIGN)])
    assert np.abs(other - heard).max() > 0


def test_without_a_defence_nothing_is_between(config: dict[str, Any], run: Callable[..., Path]) -> None:
    folder = run(config)
    assert all("stoi" not in text for text in (folder / "utterances.jsonl").read_text().splitlines())
    assert "stoi" not in strict(folder / "results.json")["run"]
    assert all(line.segmental_snr_db is not None for line in lines(folder).values())


def test_without_pystoi_a_note_says_so(
    config: dict[str, Any], run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(command.intelligibility, "available", lambda: False)
    config["defense"] = RS
    folder = run(config)
    assert "note: STOI needs pystoi: pip install 'armory-mdnf[stoi]'; it is left out" in capsys.readouterr().err
    assert all(line.stoi is None for line in lines(folder).values())


@needs_stoi
@pytest.mark.parametrize("text", ["A B", ""])
def test_what_has_no_ratio_is_null(weights: str, text: str) -> None:
    silence, speech = np.zeros(16000, np.float32), speechlike(16000)
    changed = evaluated(silence, 0.01, weights, text)
    assert (changed.snr_db, changed.segmental_snr_db, changed.stoi) == (None, -10.0, None)
    assert changed.l2 == pytest.approx(0.01 * np.sqrt(16000))
    same = evaluated(speech, 0.0, weights, text)
    assert (same.snr_db, same.segmental_snr_db, same.l2, same.linf) == (None, 35.0, 0.0, 0.0)
    assert same.stoi is not None
    nothing = evaluated(silence, 0.0, weights, text)
    assert (nothing.snr_db, nothing.segmental_snr_db, nothing.stoi) == (None, None, None)
    short = evaluated(speech[:4000], 0.01, weights, text)  # STOI takes 0.4 s at least
    assert short.stoi is None
    assert short.segmental_snr_db is not None


def test_rates_over_one_and_empty_texts_are_numbers(weights: str) -> None:
    texts = [("", "A B"), ("A", "X Y Z"), ("A B", ""), ("", "")]
    made = [
        replace(evaluated(speechlike(1600), 0.01, weights, reference), adversarial=heard) for reference, heard in texts
    ]
    assert [json.loads(to_line(line))["words"]["adversarial"]["insertions"] for line in made] == [2, 2, 0, 0]


def test_lines_of_older_versions_are_read_and_gone_on_with(config: dict[str, Any], run: Callable[..., Path]) -> None:
    config["defense"] = RS
    folder = run(config)
    path = folder / "utterances.jsonl"
    older = [json.loads(text) for text in path.read_text().splitlines()]
    for line in older:
        line.pop("stoi", None)
        del line["segmental_snr_db"]
    path.write_text("".join(json.dumps(line) + "\n" for line in older[:-1]))
    (folder / "results.json").unlink()
    run_again = command_line("run", "--resume", str(folder))
    assert run_again == 0
    found = lines(folder)
    assert sum(line.segmental_snr_db is None for line in found.values()) == len(older) - 1
    record = read_armory_results(folder / "results.json")
    assert sum(outcome.segmental_snr_db is not None for outcome in record.outcomes) == 1


def command_line(*words: str) -> int:
    from armory_mdnf import cli

    return cli.main(list(words))


@pytest.mark.parametrize("value", ['"x"', "true", "null", "[1.0]"])
def test_a_damaged_line_is_refused(weights: str, value: str) -> None:
    text = to_line(evaluated(speechlike(16000), 0.01, weights))
    content = json.loads(text) | {"segmental_snr_db": json.loads(value)}
    with pytest.raises(ResultsError, match="segmental_snr_db is damaged"):
        parse_line(content, "here")


@pytest.mark.parametrize("value", [[1.0], "x", [1.0, 2.0, "x"], [1.0, True, None], [1e999, 1.0, 1.0]])
def test_damaged_results_are_refused(
    config: dict[str, Any], run: Callable[..., Path], value: Any, tmp_path: Path
) -> None:
    path = run(config, "--skip-benign") / "results.json"
    content = json.loads(path.read_text())
    content["run"]["segmental_snr_db"] = value
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="what it says of the run is damaged"):
        read_armory_results(tmp_path / "bad.json")


def test_a_failed_utterance_stays_one(weights: str) -> None:
    made = RecognizerEstimator(weights, device_type="cpu")
    (line,) = Evaluation(made, attack=None, intelligibility=stoi)([(0, held(np.zeros(10, np.float32)))])
    assert isinstance(line, LeftOut)


def test_a_metric_of_others_that_fails_is_named(weights: str) -> None:
    def fails(x: Any, x_adv: Any) -> float:
        raise ZeroDivisionError("silence")

    made = RecognizerEstimator(weights, device_type="cpu")
    evaluation = Evaluation(made, attack=Changes(0.1), measures={"mine.si_sdr": fails})
    with pytest.raises(
        OptionError, match=r"metric\.perturbation: mine\.si_sdr cannot be used: ZeroDivisionError: silence"
    ):
        evaluation([(3, held(speechlike(8000)))])


def test_a_task_metric_that_fails_costs_itself_alone(
    config: dict[str, Any],
    run: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It follows from the transcripts: what was computed for hours is not withheld for it, and goes on without it."""
    module = types.ModuleType("fragile_of_mine")
    module.share = lambda references, heard: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    plain = strict(run(config, "--skip-attack") / "results.json")["results"]
    config["metric"]["task"] = ["word_error_rate", "fragile_of_mine.share"]
    capsys.readouterr()
    found = strict(run(config, "--skip-attack") / "results.json")["results"]
    told = capsys.readouterr().err
    assert "note: metric.task: fragile_of_mine.share cannot be used: ZeroDivisionError" in told
    assert "the results are without it" in told
    assert found.keys() == plain.keys()


def test_a_metric_class_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("strict_of_mine")
    module.Share = type("Share", (), {"__init__": lambda self, depth: None})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(OptionError, match=r"metric.task: strict_of_mine.Share cannot be made without arguments"):
        task_metrics({"task": "strict_of_mine.Share"})


def test_the_code_of_a_metric_that_a_class_has_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sizes_of_mine.py").write_text("class Sizes:\n    @staticmethod\n    def peak(x, y): return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("sizes_of_mine")
    metric = {"task": ["sizes_of_mine.Other.peak"], "perturbation": ["sizes_of_mine.Sizes.peak"]}
    assert others({"metric": metric}) == [{"module": "sizes_of_mine", "name": "Sizes"}]
    assert set(code_of(others({"metric": metric}))) == {"armory_mdnf", "sizes_of_mine"}


def test_a_module_that_exits_is_no_end_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exits_of_mine.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError, match="exits_of_mine cannot be imported: SystemExit"):
        find({"module": "exits_of_mine", "name": "x"}, "defense")
    with pytest.raises(OptionError, match=r"exits_of_mine\.x cannot be imported: SystemExit"):
        find_dotted("exits_of_mine.x", "metric.task")


def test_the_code_that_defines_what_a_module_hands_on_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "package_of_mine").mkdir()
    for name, text in {
        "__init__": "from package_of_mine.inner import Made, made",
        "base": "class Base: pass",
        "inner": "from package_of_mine.base import Base\nclass Made(Base): pass\ndef made(): pass",
    }.items():
        (tmp_path / "package_of_mine" / f"{name}.py").write_text(text)
    blocks = [{"module": "package_of_mine", "name": name} for name in ("Made", "made", "absent")]
    importlib.import_module("package_of_mine")
    parts = ["", *(f"package_of_mine{end}" for end in ("", ".inner", ".base"))]
    for block, known in zip(blocks, (parts, parts[:3], parts[:2]), strict=True):
        assert set(code_of([block])) == {"armory_mdnf", *known[1:]}


def test_the_code_of_metrics_and_of_user_init_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letters_of_mine.py").write_text("def share(x, x_adv):\n    return 0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("letters_of_mine")
    metric = {"task": ["word_error_rate"], "perturbation": ["l2", "letters_of_mine.share"]}
    begun = {"metric": dict.fromkeys(metric, ()), "user_init": {"module": "letters_of_mine"}}
    for config in ({"metric": metric}, begun):
        assert set(code_of(others(config))) == {"armory_mdnf", "letters_of_mine"}
