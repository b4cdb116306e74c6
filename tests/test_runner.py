"""The native runner: what it gives, that nothing depends on the batch, and that Armory gives the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from art.defences.preprocessor import FeatureSqueezing
from art.defences.preprocessor.preprocessor import Preprocessor
from runner_folder import CONFIGS, INDEX, RS, TARGETED, lines, needs_armory, same, strict

from armory_mdnf import cli
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.data.bundled import Utterance, load_split
from armory_mdnf.data.selection import bundled, read_samples
from armory_mdnf.evaluation.armory_results import newest_results, read_armory_results
from armory_mdnf.evaluation.records import FURTHER, read_record
from armory_mdnf.runner import evaluate, progress
from armory_mdnf.runner.evaluate import Evaluation

pytestmark = pytest.mark.usefixtures("closes_files")


def test_a_run_gives_what_the_other_commands_read(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(config, "--batch-seconds", "3")
    assert folder.name.startswith("tiny_20")
    out, err = capsys.readouterr()
    assert "word error rate, %" in out
    assert str(folder / "results.json") in out
    assert "batch 1/" in err
    assert "left" in err
    found = read_armory_results(folder / "results.json")
    utterances = load_split("human", "eval")
    assert [o.reference for o in found.outcomes] == [utterances[i].transcript for i in INDEX]
    assert all(o.l2 is not None and 0 < o.l2 <= 0.6001 for o in found.outcomes)
    assert set(found.seconds) == {"attack", "inference"}
    assert found.seed == 0
    assert cli.main(["summary", str(folder / "results.json"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["wer"]["adversarial"]["value"] == found.rate("adversarial")
    assert told["counts"]["target"] is told["wer"]["target"] is told["reached"] is None
    assert cli.main(["record", str(tmp_path / "r.json"), str(folder / "results.json")]) == 0
    assert read_record(tmp_path / "r.json").outcomes == found.outcomes
    for index, line in lines(folder).items():
        assert line.id == utterances[index].id
        assert line.seed == 0
        assert set(line.seconds) == {"attack", "inference"}


def test_what_is_not_finite_is_null(
    config: dict[str, Any], run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config["attack"]["kwargs"]["max_iter"] = 0
    folder = run(config, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["results"] == str(folder / "results.json")
    assert told["snr_db"] is None
    for line in (folder / "utterances.jsonl").read_text().splitlines():
        assert json.loads(line)["snr_db"] is None
    results = strict(folder / "results.json")["results"]
    assert results["perturbation_snr_db"] == [[None]] * 3
    assert results["perturbation_mean_snr_db"] == [None]
    assert results["perturbation_mean_l2"] == [0.0]
    strict(folder / "run.json")
    assert all(o.snr_db is None for o in read_armory_results(folder / "results.json").outcomes)


@pytest.mark.parametrize("defense", [None, RS])
def test_no_result_depends_on_the_batch(config: dict[str, Any], run: Callable[..., Path], defense: Any) -> None:
    config["defense"] = defense
    config["attack"] |= {"module": "armory_mdnf.attacks", "name": "PGD"}
    config["attack"]["kwargs"] = {"norm": "snr", "snr_db": 20, "max_iter": 2, "random_start": True, "eot_draws": 2}
    together, alone = lines(run(config)), lines(run(config, "--batch-seconds", "0.001"))
    assert together.keys() == alone.keys() == set(INDEX)
    assert all(same(together[i], alone[i]) for i in INDEX)
    # ... nor on what else is chosen, in any notation.
    assert same(lines(run(config, "--index", "[18:19]"))[18], together[18])
    assert same(lines(run(config, "--index", "41"))[41], together[41])


def test_a_seed_fixes_a_run(config: dict[str, Any], run: Callable[..., Path]) -> None:
    config["defense"], config["dataset"]["index"] = RS, [13]
    runs = [lines(run(config, "--seed", seed))[13] for seed in ("5", "5", "6")]
    assert same(runs[0], runs[1])
    assert runs[0].l2 != runs[2].l2
    assert [line.seed for line in runs] == [5, 5, 6]


def test_results_are_in_the_order_of_the_split(config: dict[str, Any], run: Callable[..., Path]) -> None:
    config["dataset"] |= {"index": "[18:23]", "batch_size": 2}
    folder = run(config, "--skip-attack", "--batch-seconds", "3")
    found = strict(folder / "results.json")["results"]
    utterances = load_split("human", "eval")[18:23]
    assert [u["reference"] for u in found["benign_transcripts"][0]["utterances"]] == [u.transcript for u in utterances]
    assert [len(batch) for batch in found["benign_word_error_rate"]] == [2, 2, 1]
    assert not [name for name in found if name.startswith(("adversarial", "perturbation"))]


def test_a_targeted_attack_takes_targets_by_position(config: dict[str, Any], run: Callable[..., Path]) -> None:
    config["attack"] = {
        "knowledge": "white",
        "kwargs": {"max_iter": 2, "targeted": True},
        "module": "armory_mdnf.plugin.attacks",
        "name": "CarliniWagnerASR",
        "targeted_labels": TARGETED,
        "use_label": False,
    }
    folder = run(config)
    found = lines(folder)
    results = strict(folder / "results.json")["results"]
    pairs = results["targeted_transcripts"][0]["utterances"]
    assert [p["reference"] for p in pairs] == [found[i].target for i in INDEX]
    total, (errors, words) = results["targeted_total_wer"][0]
    assert total == errors / words
    assert lines(run(config, "--index", "41"))[41].target == found[41].target
    assert all(line.target not in (None, line.reference) for line in found.values())


@pytest.mark.parametrize("way", ["adhoc", "null", "option", "sysconfig"])
def test_the_attack_can_be_left_out(config: dict[str, Any], run: Callable[..., Path], way: str) -> None:
    if way == "adhoc":
        config["adhoc"] = {"skip_adversarial": True}
    if way == "null":
        config["attack"] = None
    if way == "sysconfig":
        config["sysconfig"]["skip_attack"] = True
    folder = run(config, *(["--skip-attack"] if way == "option" else []), "--index", "13")
    assert [(o.benign is None, o.adversarial) for o in read_armory_results(folder / "results.json").outcomes] == [
        (False, None)
    ]


def test_the_benign_utterances_can_be_left_out(config: dict[str, Any], run: Callable[..., Path]) -> None:
    folder = run(config, "--skip-benign", "--index", "13")
    (outcome,) = read_armory_results(folder / "results.json").outcomes
    assert outcome.benign is None
    assert outcome.adversarial is not None


def test_a_check_takes_one_batch_and_one_iteration(config: dict[str, Any], run: Callable[..., Path]) -> None:
    folder = run(config, "--check")
    assert list(lines(folder)) == INDEX[:1]
    stored = strict(folder / "results.json")["config"]
    assert stored["attack"]["kwargs"]["max_iter"] == 1
    assert stored["scenario"]["kwargs"]["check_run"] is True
    assert lines(folder)[INDEX[0]].l2 <= 0.3001


def test_a_run_loads_neither_armory_nor_tensorflow(config: dict[str, Any], tmp_path: Path) -> None:
    config["attack"] |= {"module": "armory_mdnf.attacks", "name": "CarliniWagner", "targeted_labels": TARGETED}
    config["attack"]["kwargs"] = {"max_iter": 1}
    config["defense"] = RS
    (tmp_path / "c.json").write_text(json.dumps(config))
    options = ["run", str(tmp_path / "c.json"), "--check", "--output-dir", str(tmp_path / "out")]
    code = f"""
import sys
from armory_mdnf import cli
assert cli.main({options}) == 0
assert not {{"armory", "tensorflow"}} & set(sys.modules)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=environment)


def test_the_first_batches(config: dict[str, Any], run: Callable[..., Path]) -> None:
    config["dataset"]["batch_size"] = 2
    assert set(lines(run(config, "--skip-attack", "--num-eval-batches", "1"))) == set(INDEX[:2])
    config["sysconfig"]["num_eval_batches"] = 2  # Armory keeps its options there
    assert set(lines(run(config, "--skip-attack"))) == set(INDEX)


class Grain(Preprocessor):
    """A preprocessor that draws from NumPy's global generator, as ART's do."""

    def __init__(self) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)

    def __call__(self, x: Any, y: Any = None) -> Any:
        for i, u in enumerate(x):
            x[i] = (u + 0.05 * np.random.standard_normal(u.shape)).astype(np.float32)
        return x, y


def test_other_preprocessors_draw_alike_whatever_the_batch(weights: str) -> None:
    estimator = RecognizerEstimator(weights, preprocessing_defences=Grain(), device_type="cpu")
    attack = PGD(estimator, norm="l2", eps=0.5, max_iter=2)
    evaluation = Evaluation(estimator, attack, by_keys=False)
    chosen, found = bundled("human", INDEX), np.random.get_state()[1].copy()
    together = [line for batch in evaluation.batches(chosen, 1000.0) for line in evaluation(batch)]
    (alone,) = evaluation(chosen[1:2])
    assert same(next(line for line in together if line.index == alone.index), alone)
    assert len(together) == 3
    assert np.array_equal(np.random.get_state()[1], found)  # and others draw as if nothing had been


@pytest.mark.parametrize("defense", [RS, None])
def test_arts_attack_draws_alike_whatever_came_before(
    config: dict[str, Any], run: Callable[..., Path], defense: Any
) -> None:
    """Its own draws, here a random radius, and those of the defence that it evaluates."""
    config["defense"] = defense
    config["attack"]["kwargs"]["random_eps"] = defense is None
    every, one = lines(run(config)), lines(run(config, "--index", "18"))
    assert one[18] == replace(every[18], seconds=one[18].seconds)
    assert lines(run(config, "--index", "18", "--seed", "9"))[18].l2 != one[18].l2


def test_arts_preprocessors_stand_in_front(config: dict[str, Any], run: Callable[..., Path], weights: str) -> None:
    kwargs = {"bit_depth": 3, "clip_values": [-1, 1]}
    block = {"module": "art.defences.preprocessor", "name": "FeatureSqueezing", "type": "Preprocessor"}
    found = lines(run(config | {"defense": block | {"kwargs": kwargs}}, "--skip-attack"))
    estimator = RecognizerEstimator(weights, device_type="cpu")
    squeeze = FeatureSqueezing(bit_depth=3, clip_values=(-1, 1))
    for index, utterance in bundled("human", INDEX):
        audio = read_samples(utterance)[None]
        (squeezed,) = estimator.predict(squeeze(audio)[0])
        assert found[index].benign == squeezed != estimator.predict(audio)[0]


class DrawsGlobally(Preprocessor):
    """A preprocessor of others' that draws from NumPy's global generator."""

    def __init__(self) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.drawn: list[float] = []

    def __call__(self, x: Any, y: Any = None) -> tuple[Any, Any]:
        self.drawn.append(np.random.random())
        return x, y


def test_others_preprocessors_draw_anew_for_every_purpose(weights: str) -> None:
    noise = DrawsGlobally()
    estimator = RecognizerEstimator(weights, preprocessing_defences=noise, device_type="cpu")
    evaluation = Evaluation(estimator, PGD(estimator, eps=0.1, max_iter=1), by_keys=False, seed=3)
    audio = [read_samples(utterance) for _, utterance in bundled("human", INDEX[:1])]
    first: list[list[float]] = []
    for _ in range(2):
        noise.drawn.clear()
        for purpose in (evaluate.BENIGN, evaluate.ADVERSARIAL):
            evaluation._predict(audio, [18], purpose)
        evaluation.generate(audio, ["PRESS"], [18])
        first.append(list(noise.drawn))
    assert first[0] == first[1]  # by the seed
    assert len(set(first[0])) == len(first[0]) >= 3


def test_evaluations_see_other_noise_than_any_attack() -> None:
    assert len({evaluate.BENIGN, evaluate.ADVERSARIAL, evaluate.THEIRS, *Purpose}) == 3 + len(Purpose)


# Progress.


class Terminal:
    """A stream that keeps what is written."""

    def __init__(self, tty: bool) -> None:
        self.text, self.tty = "", tty

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


class Clock:
    """A clock that goes by as much as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)


def batches_of(*seconds: float) -> list[list[tuple[int, Utterance]]]:
    """A batch of two utterances for each duration."""
    return [[(i, Utterance(str(i), Path(), "A", "1", s)) for i in (2 * k, 2 * k + 1)] for k, s in enumerate(seconds)]


def test_progress_tells_the_time_left_by_the_audio_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, stream = Clock(monkeypatch), Terminal(tty=False)
    for _ in progress.follow(batches_of(6.0, 3.0, 1.0), 3, stream=stream):  # type: ignore[arg-type]
        watch.now += 60
    assert stream.text.splitlines() == [
        "batch 1/3: 5/9 utterances, 0:01:00 elapsed, 0:00:40 left",  # 6 of 10 s of audio took 60 s
        "batch 2/3: 7/9 utterances, 0:02:00 elapsed, 0:00:13 left",
        "batch 3/3: 9/9 utterances, 0:03:00 elapsed, 0:00:00 left",
    ]


@pytest.mark.parametrize("tty", [False, True])
def test_progress_tells_how_far_the_attack_of_a_batch_is(tty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, stream = Clock(monkeypatch), Terminal(tty)
    attack = types.SimpleNamespace(on_progress=None)
    for _ in progress.follow(batches_of(6.0, 2.0), 0, attack, stream):  # type: ignore[arg-type]
        for step in range(1, 5):
            watch.now += 40
            attack.on_progress(step / 4)
    assert attack.on_progress is None
    if tty:
        shown = [text for text in stream.text.split("\r") if "0/4 utterances" in text]
        assert any(" 38%" in text and "01:20 elapsed, 02:13 left" in text for text in shown)
        return
    assert stream.text.splitlines() == [
        "batch 1/2: 50% of its attack, 0:01:20 elapsed, 0:02:13 left",  # 3 of 8 s of audio took 80 s
        "batch 1/2: 2/4 utterances, 0:02:40 elapsed, 0:00:53 left",
        "batch 2/2: 50% of its attack, 0:04:00 elapsed, 0:00:34 left",
        "batch 2/2: 4/4 utterances, 0:05:20 elapsed, 0:00:00 left",
    ]


def test_empty_recordings_cost_next_to_nothing() -> None:
    stream = Terminal(tty=False)
    assert len(list(progress.follow(batches_of(0.0, 0.0), 0, stream=stream))) == 2  # type: ignore[arg-type]
    assert stream.text.splitlines()[-1].endswith("0:00:00 left")


def test_the_bar_at_a_terminal_counts_audio_and_utterances(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, stream = Clock(monkeypatch), Terminal(tty=True)
    for _ in progress.follow(batches_of(6.0, 3.0, 1.0), 3, stream=stream):  # type: ignore[arg-type]
        watch.now += 60
    shown = [text for text in stream.text.split("\r") if "utterances" in text]
    assert any("60%" in text and "5/9 utterances, 01:00 elapsed, 00:40 left" in text for text in shown)
    assert "100%" in shown[-1]
    assert "9/9 utterances, 03:00 elapsed, 00:00 left" in shown[-1]


@pytest.mark.parametrize("tty", [False, True])
def test_a_log_that_cannot_be_written_does_not_stop_a_run(tty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Terminal):
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    assert len(list(progress.follow(batches_of(1.0, 1.0), 0, stream=Full(tty)))) == 2  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stderr", None)  # closed before the start
    assert len(list(progress.follow(batches_of(1.0, 1.0), 0))) == 2


# The same as Armory.


def both(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Results files of the native runner and of Armory, one thread, two utterances."""
    from armory import paths
    from armory.scenarios.main import get

    config["dataset"]["index"] = [13, 18]
    config["user_init"]["kwargs"]["threads"] = 1
    native = run(config) / "results.json"
    config["sysconfig"].pop("batch_seconds", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(paths, "NO_DOCKER", True)
    path = tmp_path / "armory.json"
    path.write_text(json.dumps(config))
    get(str(path), from_file=True).evaluate()
    return native, newest_results()


@pytest.mark.armory
@needs_armory
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["none_pgd_l2", "mg_pgd_l2"])
def test_arts_attack_on_a_deterministic_defence_gives_armorys_results_to_the_last_bit(
    name: str, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    config["attack"]["kwargs"]["max_iter"] = 5
    native, theirs = both(config, run, tmp_path, monkeypatch)
    ours, armory = json.loads(native.read_text()), json.loads(theirs.read_text())
    assert ours.keys() == armory.keys() | {"run"}
    assert ours["config"].keys() == armory["config"].keys()
    assert ours["results"].keys() == armory["results"].keys()
    assert ours["results"]["compute"].keys() == armory["results"]["compute"].keys()
    for key, expected in armory["results"].items():
        if key.startswith("perturbation"):  # sums of squares in another order
            assert all(a == pytest.approx(b) for a, b in zip(ours["results"][key], expected, strict=True))
        elif key != "compute":
            assert ours["results"][key] == expected
    found = [read_armory_results(p).outcomes for p in (native, theirs)]
    assert [(o.benign, o.adversarial) for o in found[0]] == [(o.benign, o.adversarial) for o in found[1]]


@pytest.mark.armory
@needs_armory
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_our_attacks_on_one_utterance_at_a_time_give_armorys_results_to_the_last_bit(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((CONFIGS / "mg_pgd_l2.json").read_text())
    options = {"norm": "l2", "eps": 1.5, "eps_step": 0.3, "max_iter": 8}
    config["attack"] |= {"module": "armory_mdnf.attacks", "name": "PGD", "kwargs": options}
    config["sysconfig"]["batch_seconds"] = 0.1
    native, theirs = both(config, run, tmp_path, monkeypatch)
    only_ours = dict.fromkeys(("id", *FURTHER))
    ours = tuple(replace(outcome, **only_ours) for outcome in read_armory_results(native).outcomes)
    assert ours == read_armory_results(theirs).outcomes
