"""What Armory's configurations name, as Armory calls it."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_recognizer

from armory_mdnf.asr.checkpoints import save_recognizer
from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import load_split
from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.evaluation.armory_results import newest_results, read_armory_results
from armory_mdnf.files import bundles
from armory_mdnf.plugin.model import get_art_model
from armory_mdnf.plugin.seeding import seed_everything

needs_armory = [
    pytest.mark.armory,
    pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed: pip install armory-mdnf[armory]"),
]


def armory(function: Any) -> Any:
    """Mark a test that needs Armory."""
    for mark in needs_armory:
        function = mark(function)
    return function


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_recognizer(path, tiny_recognizer(), {})
    return str(path)


@armory
def test_the_dataset_yields_the_corpus_in_its_order() -> None:
    from armory_mdnf.plugin.datasets import bundled

    data, utterances = bundled("human_dev"), load_split("human", "dev")
    assert len(data) == len(utterances)
    for utterance in utterances[:3]:
        x, y = next(data)
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, read_audio(utterance.path)[0][None])
        assert list(y) == [utterance.transcript]


@armory
@pytest.mark.parametrize(
    ("index", "expected"), [("[:2]", [0, 1]), ("[3:5]", [3, 4]), ([5, 1], [1, 5]), (None, range(6))]
)
def test_index_chooses_utterances(index: Any, expected: Any) -> None:
    from armory_mdnf.plugin.datasets import bundled

    data, utterances = bundled("human", index=index), load_split("human", "eval")
    assert [next(data)[1][0] for _ in expected] == [utterances[i].transcript for i in expected]
    assert index is None or len(data) == len(expected)


@armory
def test_batches_are_ragged_and_the_last_is_short() -> None:
    from armory_mdnf.plugin.datasets import bundled

    data = bundled("human", batch_size=2, index="[:3]")
    (x, y), (last, _) = next(data), next(data)
    assert len(data) == 2
    assert x.dtype == object
    assert [u.dtype for u in x] == [np.float32, np.float32]
    assert (len(x), len(y), len(last)) == (2, 2, 1)


@armory
def test_a_dataset_ends_after_its_epochs() -> None:
    from armory_mdnf.plugin.datasets import bundled

    data = bundled("human", epochs=2, index=[0])
    assert len(data) == 2
    assert len(list(data)) == 2


@armory
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "humen"}, "did you mean 'human'"),
        ({"framework": "tf"}, "expected framework 'numpy'"),
        ({"shuffle_files": True}, "shuffle_files"),
        ({"class_ids": [1]}, "transcripts have no classes"),
        ({"index": [10_000]}, "positions from 0 to"),
        ({"index": [True]}, "positions from 0 to"),
        ({"index": []}, "at least one"),
        ({"index": "[5000:]"}, "selects none"),
    ],
)
def test_the_dataset_refuses(options: dict[str, Any], message: str) -> None:
    from armory_mdnf.plugin.datasets import bundled

    with pytest.raises(OptionError, match=message):
        bundled(**options)


@armory
def test_armory_loads_the_dataset_block() -> None:
    from armory.utils.config_loading import load_dataset

    block = {"module": "armory_mdnf.plugin.datasets", "name": "bundled", "batch_size": 1, "framework": "numpy"}
    data = load_dataset(block | {"eval_split": "x"}, epochs=1, split="human", num_batches=2, shuffle_files=False)
    assert len(data) == 2
    assert next(data)[0].shape[0] == 1


def test_the_model_by_weights_or_file(weights: str) -> None:
    x = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 8000)).astype(np.float32)
    by_name = get_art_model({"weights": weights}, {"clip_values": [-1, 1], "device_type": "cpu"}, None)
    by_file = get_art_model({}, {}, weights)
    assert by_name.predict(x) == by_file.predict(x)


@pytest.mark.parametrize(
    ("model", "wrapper", "path", "message"),
    [
        ({"weigths": "ds2_mg"}, {}, None, "did you mean 'weights'"),
        ({"weights": "ds2_mg"}, {"clip_value": 1}, None, "did you mean 'clip_values'"),
        ({}, {}, None, "in either model_kwargs.weights or weights_file"),
        ({"weights": "ds2_mg"}, {}, "a.safetensors", "in either model_kwargs.weights or weights_file"),
    ],
)
def test_the_model_refuses(model: dict, wrapper: dict, path: str | None, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        get_art_model(model, wrapper, path)


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.safetensors")
    with pytest.raises(BundleError, match=r"none\.safetensors"):
        get_art_model({"weights": missing}, {}, None)
    other = tmp_path / "vocoder.safetensors"
    bundles.save(other, "melgan", {}, {"a": torch.zeros(1)})
    with pytest.raises(BundleError, match=r"expected a bundle of kind 'deepspeech2'.*found 'melgan'"):
        get_art_model({"weights": str(other)}, {}, None)


def test_seeding_repeats_every_generator() -> None:
    threads, numpy_state, python_state = torch.get_num_threads(), np.random.get_state(), random.getstate()
    try:
        draws = []
        for _ in range(2):
            seed_everything(7, threads=1)
            draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
        assert draws[0] == draws[1]
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@pytest.mark.parametrize(("seed", "threads"), [(-1, None), (2**32, None), (1.5, None), (True, None), (0, 0), (0, "2")])
def test_seeding_refuses(seed: Any, threads: Any) -> None:
    with pytest.raises(OptionError, match="expected"):
        seed_everything(seed, threads)


@armory
def test_the_metric_keeps_transcripts() -> None:
    from armory import metrics

    metric = metrics.get("armory_mdnf.plugin.metrics.transcripts")
    assert "transcripts" in metrics.task.population
    result = metric([b"PRESS ONE", "TWO"], np.array(["PRESS", "TWO"]))
    assert result["utterances"][0] == {"reference": "PRESS ONE", "hypothesis": "PRESS"}
    assert result["versions"]["torch"] == torch.__version__.split("+")[0]
    assert metrics.get_result_formatter("transcripts")(result) == "2 recorded"


@pytest.fixture
def armory_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from armory import paths

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(paths, "NO_DOCKER", True)
    return tmp_path


def tiny_config(weights: str) -> dict[str, Any]:
    path = Path(__file__).parents[1] / "scenario_configs" / "rs_pgd_l2.json"
    config = json.loads(path.read_text())
    config["model"]["model_kwargs"]["weights"] = weights
    config["attack"]["kwargs"]["max_iter"] = 2
    config["dataset"]["index"] = [0, 3]
    config["user_init"]["kwargs"]["threads"] = 1
    return config


@armory
@pytest.mark.filterwarnings("ignore")
def test_a_seeded_run_repeats_and_its_results_can_be_read(armory_home: Path, weights: str) -> None:
    from armory.scenarios.main import get

    runs = []
    for i in range(2):
        path = armory_home / f"config_{i}.json"
        path.write_text(json.dumps(tiny_config(weights)))
        scenario = get(str(path), from_file=True)
        scenario.evaluate()
        runs.append(read_armory_results(newest_results()))
    assert runs[0].outcomes == runs[1].outcomes
    references = [u.transcript for u in load_split("human", "eval")]
    assert [o.reference for o in runs[0].outcomes] == [references[0], references[3]]
    assert all(o.l2 is not None and 0 < o.l2 <= 1.5 for o in runs[0].outcomes)
    assert set(runs[0].seconds) == {"attack", "inference"}
