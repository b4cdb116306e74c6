"""The scenario configurations: valid, complete, and different only where they should be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "scenario_configs"
RECOGNIZERS = {
    "none_pgd_l2": "ds2_base",
    "rs_pgd_l2": "ds2_base",
    "mg_pgd_l2": "ds2_mg",
    "mg_mdnf_pgd_l2": "ds2_mg",
    "wg_pgd_l2": "ds2_wg",
    "wg_mdnf_pgd_l2": "ds2_wg",
}
DEFENSES = {
    "none_pgd_l2": None,
    "rs_pgd_l2": "RandomizedSmoothing",
    "mg_pgd_l2": "MelResynth",
    "mg_mdnf_pgd_l2": "MDNF",
    "wg_pgd_l2": "MelResynth",
    "wg_mdnf_pgd_l2": "MDNF",
}
MAY_DIFFER = ("_description", "defense", "model.model_kwargs.weights")

needs_armory = pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{at}.{key}" if at else key)
    else:
        yield at, value


def test_every_configuration_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(RECOGNIZERS)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(RECOGNIZERS, 2)))
def test_two_differ_only_in_defence_and_recogniser(one: str, other: str) -> None:
    a, b = dict(leaves(load(one))), dict(leaves(load(other)))
    differing = {key for key in a.keys() | b.keys() if a.get(key, ...) != b.get(key, ...)}
    assert {key for key in differing if not key.startswith(MAY_DIFFER)} == set()


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_the_attack_is_the_papers(name: str) -> None:
    config = load(name)
    kwargs = config["attack"]["kwargs"]
    assert {k: kwargs[k] for k in ("norm", "eps", "eps_step", "max_iter", "num_random_init")} == {
        "norm": 2,
        "eps": 1.5,
        "eps_step": 0.3,
        "max_iter": 100,
        "num_random_init": 0,
    }
    assert config["attack"]["use_label"] is False
    assert kwargs["targeted"] is False
    assert config["sysconfig"]["docker_image"] is None
    assert isinstance(config["user_init"]["kwargs"]["seed"], int)
    assert config["dataset"]["eval_split"] in ("human", "synthetic")


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_recogniser_and_defence(name: str) -> None:
    config = load(name)
    assert config["model"]["model_kwargs"] == {"weights": RECOGNIZERS[name]}
    assert (config["defense"] or {}).get("name") == DEFENSES[name]
    if config["defense"]:
        assert isinstance(config["defense"]["kwargs"]["seed"], int)


@pytest.mark.armory
@needs_armory
@pytest.mark.parametrize("name", RECOGNIZERS)
def test_armory_accepts_it(name: str) -> None:
    from armory.utils.configuration import load_config

    assert load_config(str(FOLDER / f"{name}.json")) == load(name)


@pytest.mark.armory
@needs_armory
@pytest.mark.parametrize("name", RECOGNIZERS)
def test_every_component_can_be_made(name: str) -> None:
    from armory import metrics
    from armory.utils import config_loading

    config = load(name)
    model, _ = config_loading.load_model(config["model"])
    if config["defense"]:
        config_loading.load_defense_internal(config["defense"], model)
        assert [type(d).__name__ for d in model.preprocessing_defences] == [DEFENSES[name]]
    attack = config_loading.load_attack(config["attack"], model)
    assert (attack.eps, attack.max_iter) == (1.5, 100)
    data = config_loading.load_dataset(config["dataset"], epochs=1, split=config["dataset"]["eval_split"])
    assert len(data) >= 10
    for metric in (*config["metric"]["task"], *config["metric"]["perturbation"]):
        assert callable(metrics.get(metric))
    assert callable(config_loading.load_fn(config["user_init"]))
    assert config_loading.load_fn(config["scenario"]).__name__ == "AutomaticSpeechRecognition"
