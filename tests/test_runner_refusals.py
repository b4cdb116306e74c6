"""What the native runner refuses, and how options are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runner_folder import CONFIGS, RS, TARGETED, change, needs_armory

from armory_mdnf import cli
from armory_mdnf.data.selection import parse_slice
from armory_mdnf.errors import OptionError
from armory_mdnf.runner.config import check_config, read_config
from armory_mdnf.runner.overrides import Overrides, override, parse_index

pytestmark = pytest.mark.usefixtures("closes_files")


def test_every_configuration_here_can_be_run() -> None:
    for path in CONFIGS.glob("*.json"):
        config = read_config(path)
        assert override(config, Overrides())["attack"] == config["attack"]


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
    ],
)
def test_a_configuration_is_refused_by_key(config: dict[str, Any], where: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_config(change(config, where, value))


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("dataset.name", "bundle", "did you mean 'bundled'"),
        ("dataset.eval_split", "humen", "did you mean 'human'"),
        ("dataset.eval_split", ..., "unknown split 'test_clean'"),
        ("dataset.index", "[5:3]", "to end after it begins"),
        ("model.name", "get_model", "did you mean 'get_art_model'"),
        ("model.model_kwargs.weight", "x", "unknown option of model_kwargs 'weight'"),
        ("model.wrapper_kwargs.device_type", "tpu", "unknown model.wrapper_kwargs.device_type"),
        ("defense", RS | {"name": "RandomisedSmoothing"}, "did you mean 'RandomizedSmoothing'"),
        ("defense", RS | {"kwargs": {"snr": 3}}, "did you mean 'snr_db'"),
        ("defense", RS | {"type": "Trainer"}, "expected 'Preprocessor', found 'Trainer'"),
        ("defense", RS | {"module": "os", "name": "system"}, "expected a preprocessor, found 'os.system'"),
        ("defense", RS | {"module": "armory_mdnf.defenses.base", "name": "NoiseSource"}, "expected a preprocessor"),
        ("defense", RS | {"module": "armory_mdnf.defenses.none"}, "no module armory_mdnf.defenses.none"),
        ("attack.name", "ProjectedGradientDescend", "did you mean 'ProjectedGradientDescent'"),
        ("attack.name", "DeepFool", "unknown option of art.attacks.evasion.DeepFool 'eps'"),
        ("attack.kwargs.epss", 1, "did you mean 'eps'"),
        ("attack.kwargs.eps", "big", "ProjectedGradientDescent does not take batch_size=1, eps='big', "),
        ("attack.kwargs.verbose", "no", "attack.kwargs: expected verbose to be true or false, got 'no'"),
        ("metric.task", ["word_error_rate", "no.such"], "metric.task: no.such is no function"),
        ("metric.perturbation", ["os.path.nothing"], "metric.perturbation: os.path.nothing is no function"),
        ("user_init.name", "seed_all", "no 'seed_all' in armory_mdnf.plugin.seeding, which has seed_everything"),
        ("user_init.kwargs.sed", 1, "did you mean 'seed'"),
        ("sysconfig.device", "cuda:7", "unknown sysconfig.device"),
        ("sysconfig.output_filename", "../escaped", "sysconfig.output_filename: expected a plain name"),
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
        (None, "no file at"),
        ("{", "is not JSON"),
        ("[]", "expected the configuration to be an object, found list"),
        ('{"norm": Infinity}', 'write "inf" in quotes'),
        ('{"norm": 1e999}', "too large"),
        ("\x80", "is not JSON: expected UTF-8"),
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
