"""The native runner: what it gives, that nothing depends on the batch, and how it goes on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.defences.preprocessor.preprocessor import Preprocessor
from conftest import tiny_recognizer
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import save_recognizer
from armory_mdnf.asr.estimator import DeepSpeech2Estimator
from armory_mdnf.attacks import PGD
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.data.bundled import load_split
from armory_mdnf.data.selection import bundled, parse_slice
from armory_mdnf.errors import OptionError
from armory_mdnf.evaluation.armory_results import newest_results, read_armory_results
from armory_mdnf.evaluation.records import read_record
from armory_mdnf.runner import evaluate, journal, progress
from armory_mdnf.runner.components import fingerprints, load_dataset
from armory_mdnf.runner.config import check_config, read_config
from armory_mdnf.runner.evaluate import Evaluation
from armory_mdnf.runner.lines import Line, parse_line
from armory_mdnf.runner.overrides import Overrides, override, parse_index

CONFIGS = Path(__file__).parents[1] / "scenario_configs"
INDEX = [13, 18, 41]
RS = {
    "module": "armory_mdnf.defenses",
    "name": "RandomizedSmoothing",
    "type": "Preprocessor",
    "kwargs": {"snr_db": 10, "passes": 2, "seed": 3},
}
TARGETED = {
    "module": "armory_mdnf.plugin.targets",
    "name": "MatchedLengthTargeter",
    "kwargs": {"candidates": "bundled", "split": "human"},
}
needs_armory = pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_recognizer(path, tiny_recognizer(), {})
    return str(path)


@pytest.fixture
def config(weights: str) -> dict[str, Any]:
    """Three utterances, none defended, two steps of the configurations' l2 PGD, a tiny recogniser."""
    config = json.loads((CONFIGS / "none_pgd_l2.json").read_text())
    config["model"]["model_kwargs"]["weights"] = weights
    config["attack"]["kwargs"]["max_iter"] = 2
    config["dataset"]["index"] = INDEX
    config["user_init"]["kwargs"]["threads"] = 1
    return config


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Run a configuration from the command line. Returns the new folder."""

    def run(config: dict[str, Any], *options: str, code: int = 0) -> Path:
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(config))
        before = set(tmp_path.glob("out/*"))
        assert cli.main(["run", str(path), "--output-dir", str(tmp_path / "out"), *options]) == code
        (folder,) = set(tmp_path.glob("out/*")) - before
        return folder

    return run


def lines(folder: Path) -> dict[int, Line]:
    texts = (folder / "utterances.jsonl").read_text().splitlines()
    return {line.index: line for line in (parse_line(text, "here") for text in texts)}


def strict(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{path} has {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def same(a: Line, b: Line) -> bool:
    """Equal but for the time, and the last bits of the sizes."""
    sizes = [(getattr(a, k), getattr(b, k)) for k in ("snr_db", "l2", "linf")]
    texts = ("index", "id", "reference", "benign", "adversarial", "target", "seed")
    return all(getattr(a, k) == getattr(b, k) for k in texts) and all(x == pytest.approx(y, rel=1e-3) for x, y in sizes)


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
    assert cli.main(["summary", str(folder / "results.json")]) == 0
    assert cli.main(["record", str(tmp_path / "r.json"), str(folder / "results.json")]) == 0
    assert read_record(tmp_path / "r.json").outcomes == found.outcomes
    for index, line in lines(folder).items():
        assert line.id == utterances[index].id
        assert line.seed == 0
        assert set(line.seconds) == {"attack", "inference"}


def test_what_is_not_finite_is_null(config: dict[str, Any], run: Callable[..., Path]) -> None:
    config["attack"]["kwargs"]["max_iter"] = 0
    folder = run(config)
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
    estimator = DeepSpeech2Estimator(weights, preprocessing_defences=Grain(), device_type="cpu")
    attack = PGD(estimator, norm="l2", eps=0.5, max_iter=2)
    evaluation = Evaluation(estimator, attack, by_keys=False)
    chosen = bundled("human", INDEX)
    together = [line for batch in evaluation.batches(chosen, 1000.0) for line in evaluation(batch)]
    (alone,) = evaluation(chosen[1:2])
    assert same(next(line for line in together if line.index == alone.index), alone)
    assert len(together) == 3


def test_arts_preprocessors_stand_in_front(config: dict[str, Any], run: Callable[..., Path], capsys: Any) -> None:
    block: dict[str, Any] = {"module": "art.defences.preprocessor", "type": "Preprocessor"}
    squeezing = {"name": "FeatureSqueezing", "kwargs": {"bit_depth": 3, "clip_values": [-1, 1]}}
    run(config | {"defense": block | squeezing}, "--index", "13", code=2)  # it does not take ragged audio
    assert "defense art.defences.preprocessor.FeatureSqueezing cannot be used: loop of ufunc" in capsys.readouterr().err


def test_evaluations_see_other_noise_than_any_attack() -> None:
    assert len({evaluate.BENIGN, evaluate.ADVERSARIAL, *Purpose}) == 2 + len(Purpose)


# Going on.


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
    assert [o.adversarial for o in outcomes[0]] == [o.adversarial for o in outcomes[1]]


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
    assert "is of another run: weights." in capsys.readouterr().err


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


# Refusals.


def test_every_configuration_here_can_be_run() -> None:
    for path in CONFIGS.glob("*.json"):
        config = read_config(path)
        assert override(config, Overrides())["attack"] == config["attack"]


def change(config: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    *parents, key = where.split(".")
    block = config
    for parent in parents:
        block = block[parent]
    if value is ...:
        del block[key]
    else:
        block[key] = value
    return config


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("atack", {}, "unknown key of the configuration 'atack'.*did you mean 'attack'"),
        ("model.model_kwarg", {}, "did you mean 'model_kwargs'"),
        ("dataset.indx", "[:1]", "did you mean 'index'"),
        ("sysconfig.use_gpus", True, "did you mean 'use_gpu'"),
        ("metric.means", ..., "expected the key 'means' in metric"),
        ("defense", ..., "expected the key 'defense' in the configuration"),
        ("dataset.batch_size", True, "dataset.batch_size: expected int, found True"),
        ("dataset.batch_size", 0, "expected at least 1"),
        ("dataset.framework", "tf", "expected 'numpy', found 'tf'"),
        ("adhoc.audio_channel", {"delay": 1, "attenuation": 0.5}, "adhoc.audio_channel is not supported"),
        ("adhoc.something", 1, "unknown key of adhoc"),
        ("metric.task", "categorical_accuracy", "unknown metric.task 'categorical_accuracy'"),
        ("metric.task", ["armory_mdnf.plugin.metrics.transcripts"], "expected 'word_error_rate' among them"),
        ("metric.perturbation", ["snr"], "did you mean 'snr_db'"),
        ("metric.profiler_type", "deterministic", "unknown metric.profiler_type"),
        ("metric", None, "metric: expected dict, found None"),
        ("model.fit", True, "model.fit is not supported"),
        ("scenario.name", "SpeakerRecognition", "expected armory.scenarios.audio_asr.AutomaticSpeechRecognition"),
        ("scenario.export_batches", 3, "audio is not exported"),
        ("attack.type", "sweep", "attack.type is not supported"),
        ("attack.knowledge", "grey", "unknown attack.knowledge"),
        ("attack.kwargs.targeted", True, "expected attack.targeted_labels"),
        ("attack.targeted_labels", TARGETED, "attack.kwargs.targeted is false"),
        ("attack.generate_kwargs", {"mask": 1}, "attack.generate_kwargs is not supported"),
        ("sysconfig.local_repo_path", "here", "sysconfig.local_repo_path is not supported"),
    ],
)
def test_a_configuration_is_refused_by_key(config: dict[str, Any], where: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_config(change(config, where, value))


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("dataset.name", "bundle", "did you mean 'armory_mdnf.plugin.datasets.bundled'"),
        ("dataset.eval_split", "humen", "did you mean 'human'"),
        ("dataset.eval_split", ..., "unknown split 'test_clean'"),
        ("dataset.index", "[5:3]", "to end after it begins"),
        ("model.name", "get_model", "did you mean 'armory_mdnf.plugin.model.get_art_model'"),
        ("model.model_kwargs.weight", "x", "unknown option of model_kwargs 'weight'"),
        ("model.wrapper_kwargs.device_type", "tpu", "unknown model.wrapper_kwargs.device_type"),
        ("defense", RS | {"name": "RandomisedSmoothing"}, "did you mean 'RandomizedSmoothing'"),
        ("defense", RS | {"kwargs": {"snr": 3}}, "did you mean 'snr_db'"),
        ("defense", RS | {"type": "Trainer"}, "expected 'Preprocessor', found 'Trainer'"),
        ("defense", RS | {"module": "os", "name": "system"}, "unknown defense 'os.system'"),
        ("defense", RS | {"module": "armory_mdnf.defenses.base", "name": "NoiseSource"}, "expected a preprocessor"),
        ("defense", RS | {"module": "armory_mdnf.defenses.none"}, "no module armory_mdnf.defenses.none"),
        ("attack.name", "DeepFool", "unknown attack 'art.attacks.evasion.DeepFool'"),
        ("attack.kwargs.decay", 0.5, "expected decay None, got 0.5"),
        ("attack.kwargs.eps", "big", "expected eps to be a finite number"),
        ("user_init.name", "seed_all", "did you mean 'armory_mdnf.plugin.seeding.seed_everything'"),
        ("user_init.kwargs.sed", 1, "did you mean 'seed'"),
        ("sysconfig.device", "cuda:7", "unknown device"),
    ],
)
def test_a_component_is_refused_by_name(
    config: dict[str, Any], tmp_path: Path, where: str, value: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(change(config, where, value)))
    assert cli.main(["run", str(path), "--output-dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_targeted_attack_of_ours_needs_to_say_so(config: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    config["attack"] |= {"module": "armory_mdnf.attacks", "name": "PGD", "targeted_labels": TARGETED}
    config["attack"]["kwargs"] = {"eps": 0.1}
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert cli.main(["run", str(tmp_path / "c.json")]) == 2
    assert "expected attack.kwargs.targeted to be true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no configuration at"),
        ("{", "is not JSON"),
        ("[]", "expected the configuration to be an object, found list"),
        ('{"norm": Infinity}', 'write "inf" in quotes'),
        ('{"norm": 1e999}', "too large"),
        ("\x80", "is not a readable configuration"),
    ],
)
def test_files_that_are_no_configuration(
    tmp_path: Path, text: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    assert cli.main(["run", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Overrides(num_eval_batches=1, index=[1]), "cannot go together"),
        (Overrides(num_eval_batches=-1), "expected a whole number >= 0"),
        (Overrides(skip_attack=True, skip_benign=True), "leave nothing to do"),
        (Overrides(batch_seconds=0.0), "expected a finite number > 0"),
        (Overrides(batch_seconds=float("nan")), "expected a finite number > 0"),
    ],
)
def test_options_that_contradict_each_other(config: dict[str, Any], given: Overrides, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        override(config, given)


@pytest.mark.parametrize("options", [[], ["--num-eval-batches", "9"], ["--index", "1,x"], ["--seed", "-1"]])
def test_bad_options_exit_with_two(config: dict[str, Any], tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert cli.main(["run", *([str(tmp_path / "c.json")] if options else []), *options]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there(config: dict[str, Any], run: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert cli.main(["run", str(tmp_path / "c.json"), "--device", "cuda"]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err
    config["sysconfig"] |= {"use_gpu": True, "docker_image": "some/image"}
    run(config, "--skip-attack", "--index", "13")
    error = capsys.readouterr().err
    assert "no CUDA device here, running on the CPU" in error
    assert "docker_image 'some/image' is ignored" in error


def test_overriding_twice_changes_nothing(config: dict[str, Any]) -> None:
    config["defense"] = RS
    given = Overrides(index="[2:4]", seed=4, check=True, batch_seconds=3.0, output_dir="/o")
    once = override(config, given)
    assert override(once, Overrides()) == override(once, given) == once
    assert once["defense"]["kwargs"]["seed"] == once["user_init"]["kwargs"]["seed"] == 4
    assert once["dataset"]["index"] == "[2:4]"
    assert RS["kwargs"]["seed"] == 3


@pytest.mark.parametrize(
    ("text", "found"), [("3", [3]), (" 5, 0,5", [0, 5]), ("[1,2]", [1, 2]), ("[2:9]", "[2:9]"), (":4", ":4")]
)
def test_the_index_option(text: str, found: Any) -> None:
    assert parse_index(text) == found


@pytest.mark.armory
@needs_armory
@given(st.one_of(st.text("[]: 0123456789-+_x", max_size=9), st.text(max_size=5)))
def test_slices_are_read_as_armory_reads_them(text: str) -> None:
    from armory.data.datasets import parse_str_slice

    try:
        expected = parse_str_slice(text)
    except ValueError:
        with pytest.raises(OptionError):
            parse_slice(text)
    else:
        assert parse_slice(text) == expected


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


@pytest.mark.parametrize("tty", [False, True])
def test_progress_tells_the_time_left_after_the_first_batch(
    config: dict[str, Any], tty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = load_dataset(config["dataset"] | {"index": "[:4]"})
    batches, stream = [chosen[:2], chosen[2:]], Terminal(tty)
    for _ in progress.follow(batches, 3, stream):  # type: ignore[arg-type]
        time.sleep(0.01)
    assert "7/7 utterances" in stream.text
    assert "left" in stream.text
    assert ("batch 1/2: 5/7" in stream.text) is not tty


# The same as Armory.


@pytest.mark.armory
@needs_armory
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["none_pgd_l2", "mg_pgd_l2"])
def test_a_deterministic_defence_gives_what_armory_gives(
    name: str, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from armory import paths
    from armory.scenarios.main import get

    config = json.loads((CONFIGS / f"{name}.json").read_text())
    config["attack"]["kwargs"]["max_iter"] = 3
    config["dataset"]["index"] = [13, 18]
    config["user_init"]["kwargs"]["threads"] = 1
    native = run(config) / "results.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(paths, "NO_DOCKER", True)
    path = tmp_path / "armory.json"
    path.write_text(json.dumps(config))
    get(str(path), from_file=True).evaluate()
    theirs = newest_results()
    ours, armory = json.loads(native.read_text()), json.loads(theirs.read_text())
    assert ours.keys() == armory.keys()
    assert ours["config"].keys() == armory["config"].keys()
    assert ours["results"].keys() == armory["results"].keys()
    assert ours["results"]["compute"].keys() == armory["results"]["compute"].keys()
    for key, expected in armory["results"].items():
        if key.startswith("perturbation"):
            for a, b in zip(ours["results"][key], expected, strict=True):
                assert a == pytest.approx(b, rel=1e-3)
        elif key != "compute":
            assert ours["results"][key] == expected
    found = [read_armory_results(p).outcomes for p in (native, theirs)]
    assert [(o.benign, o.adversarial) for o in found[0]] == [(o.benign, o.adversarial) for o in found[1]]
