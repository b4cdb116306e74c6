"""The scenario configurations: valid, complete, as their names say, and different only where they should be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from art.attacks.evasion import ProjectedGradientDescent

from armory_mdnf.attacks import PGD, CarliniWagner
from armory_mdnf.plugin.targets import MatchedLengthTargeter

FOLDER = Path(__file__).parents[1] / "scenario_configs"
# Defence and recogniser, by the first part of a name.
SYSTEMS = {
    "none": (None, "ds2_base"),
    "rs": ("RandomizedSmoothing", "ds2_base"),
    "mg": ("MelResynth", "ds2_mg"),
    "mg_mdnf": ("MDNF", "ds2_mg"),
    "wg": ("MelResynth", "ds2_wg"),
    "wg_mdnf": ("MDNF", "ds2_wg"),
}
# Attack and its numbers, by the second part.
ART_PGD = {"max_iter": 100, "num_random_init": 0, "targeted": False, "batch_size": 1, "verbose": False}
OUR_PGD = {"max_iter": 100, "seed": 0}
SNR = OUR_PGD | {"norm": "snr", "step_fraction": 0.5, "targeted": True}
THREATS: dict[str, tuple[type, dict[str, Any]]] = {
    "benign": (ProjectedGradientDescent, ART_PGD | {"norm": 2, "eps": 1.5, "eps_step": 0.3, "max_iter": 0}),
    "pgd_l2": (ProjectedGradientDescent, ART_PGD | {"norm": 2, "eps": 1.5, "eps_step": 0.3}),
    "pgd_l2_1.0": (ProjectedGradientDescent, ART_PGD | {"norm": 2, "eps": 1.0, "eps_step": 0.2}),
    "pgd_l2_0.5": (ProjectedGradientDescent, ART_PGD | {"norm": 2, "eps": 0.5, "eps_step": 0.1}),
    "pgd_linf": (ProjectedGradientDescent, ART_PGD | {"norm": "inf", "eps": 0.01, "eps_step": 0.002}),
    "pgd_linf_0.005": (ProjectedGradientDescent, ART_PGD | {"norm": "inf", "eps": 0.005, "eps_step": 0.001}),
    "eot_l2": (PGD, OUR_PGD | {"norm": "l2", "eps": 1.5, "eps_step": 0.3, "eot_draws": 5, "targeted": False}),
    "snr20": (PGD, SNR | {"snr_db": 20.0}),
    "snr30": (PGD, SNR | {"snr_db": 30.0}),
    "snr40": (PGD, SNR | {"snr_db": 40.0}),
    "cw": (
        CarliniWagner,
        {
            "eps": 0.01,
            "learning_rate": 1e-4,
            "max_iter": 400,
            "decrease_factor_eps": 0.8,
            "num_iter_decrease_eps": 10,
            "targeted": True,
            "seed": 0,
        },
    ),
}
CELLS = {f"{system}_pgd_l2": (system, "pgd_l2") for system in SYSTEMS}
CELLS |= {f"mg_mdnf_{threat}": ("mg_mdnf", threat) for threat in THREATS}
# Where the cell of a threat stands in the paper.
COLUMNS = {
    "benign": "Table 2, row MG-MDNF, column benign",
    "pgd_l2": "l2 PGD, eps 1.5, 100 iterations: Table 2, row MG-MDNF, column l2 1.5",
    "pgd_l2_1.0": "l2 PGD, eps 1.0, 100 iterations: Table 2, row MG-MDNF, column l2 1.0",
    "pgd_l2_0.5": "l2 PGD, eps 0.5, 100 iterations: Table 2, row MG-MDNF, column l2 0.5",
    "pgd_linf": "linf PGD, eps 0.01, 100 iterations: Table 2, row MG-MDNF, column linf 0.01",
    "pgd_linf_0.005": "linf PGD, eps 0.005, 100 iterations: Table 2, row MG-MDNF, column linf 0.005",
    "eot_l2": "eps 1.5, 100 iterations, mean gradient of 5 draws (EOT): text, MG-MDNF, EOT-5 at l2 1.5",
    "snr20": "20 dB (decibels, not Armory's linear ratio), 100 iterations: Table 3, row MG-MDNF, column 20 dB",
    "snr30": "30 dB (decibels, not Armory's linear ratio), 100 iterations: Table 3, row MG-MDNF, column 30 dB",
    "snr40": "40 dB (decibels, not Armory's linear ratio), 100 iterations: Table 3, row MG-MDNF, column 40 dB",
    "cw": "linf bound 0.01, 400 iterations: Table 3, row MG-MDNF, column CW 0.01",
}
DEFENCE_MAY_DIFFER = ("_description", "defense", "model.model_kwargs.weights")
THREAT_MAY_DIFFER = ("_description", "attack")

needs_armory = pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{at}.{key}" if at else key)
    else:
        yield at, value


def differing(one: str, other: str, but: tuple[str, ...]) -> set[str]:
    a, b = dict(leaves(load(one))), dict(leaves(load(other)))
    return {key for key in a.keys() | b.keys() if a.get(key, ...) != b.get(key, ...) and not key.startswith(but)}


def test_every_configuration_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CELLS)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(SYSTEMS, 2)))
def test_two_systems_differ_only_in_defence_and_recogniser(one: str, other: str) -> None:
    assert differing(f"{one}_pgd_l2", f"{other}_pgd_l2", DEFENCE_MAY_DIFFER) == set()


@pytest.mark.parametrize("threat", THREATS)
def test_two_threats_differ_only_in_the_attack(threat: str) -> None:
    found = differing(f"mg_mdnf_{threat}", "mg_mdnf_pgd_l2", THREAT_MAY_DIFFER)
    assert found == ({"sysconfig.skip_attack"} if threat == "benign" else set())


@pytest.mark.parametrize("name", CELLS)
def test_the_attack_is_the_papers(name: str) -> None:
    config, (kind, expected) = load(name), THREATS[CELLS[name][1]]
    attack = config["attack"]
    assert attack["kwargs"] == expected
    assert (attack["name"], attack["knowledge"], attack["use_label"]) == (kind.__name__, "white", False)
    assert attack["module"] == ("armory_mdnf.attacks" if kind in (PGD, CarliniWagner) else "art.attacks.evasion")
    assert config["sysconfig"].get("skip_attack", False) is (CELLS[name][1] == "benign")


@pytest.mark.parametrize("threat", THREATS)
def test_the_name_and_the_description_say_the_numbers(threat: str) -> None:
    description, kwargs = load(f"mg_mdnf_{threat}")["_description"], THREATS[threat][1]
    assert description.endswith(COLUMNS[threat])
    assert ("targeted" in description.replace("untargeted", "")) is kwargs["targeted"]
    if threat.startswith("pgd"):
        _, norm, *eps = threat.split("_")
        assert norm == {2: "l2", "inf": "linf"}[kwargs["norm"]]
        assert kwargs["eps"] == (float(eps[0]) if eps else {"l2": 1.5, "linf": 0.01}[norm])
        assert kwargs["eps_step"] == pytest.approx(kwargs["eps"] / 5)
    if threat.startswith("snr"):
        assert kwargs["snr_db"] == float(threat.removeprefix("snr"))


@pytest.mark.parametrize("name", CELLS)
def test_recogniser_defence_and_run(name: str) -> None:
    config, (defense, weights) = load(name), SYSTEMS[CELLS[name][0]]
    assert config["model"]["model_kwargs"] == {"weights": weights}
    assert (config["defense"] or {}).get("name") == defense
    if config["defense"]:
        assert isinstance(config["defense"]["kwargs"]["seed"], int)
    assert config["sysconfig"]["docker_image"] is None
    assert isinstance(config["user_init"]["kwargs"]["seed"], int)
    assert config["dataset"]["eval_split"] in ("human", "synthetic")


@pytest.mark.parametrize("name", CELLS)
def test_targets_are_those_of_the_evaluated_split(name: str) -> None:
    config = load(name)
    labels = config["attack"].get("targeted_labels")
    assert (labels is not None) is config["attack"]["kwargs"]["targeted"]
    if labels is not None:
        assert labels["kwargs"]["split"] == config["dataset"]["eval_split"]


@pytest.mark.armory
@needs_armory
@pytest.mark.parametrize("name", CELLS)
def test_armory_accepts_it(name: str) -> None:
    from armory.utils.configuration import load_config

    assert load_config(str(FOLDER / f"{name}.json")) == load(name)


@pytest.mark.armory
@needs_armory
@pytest.mark.parametrize("name", CELLS)
def test_every_component_can_be_made(name: str) -> None:
    from armory import metrics
    from armory.utils import config_loading

    config, (defense, _) = load(name), SYSTEMS[CELLS[name][0]]
    model, _ = config_loading.load_model(config["model"])
    if config["defense"]:
        config_loading.load_defense_internal(config["defense"], model)
        assert [type(d).__name__ for d in model.preprocessing_defences] == [defense]
    attack = config_loading.load_attack(config["attack"], model)
    kind, expected = THREATS[CELLS[name][1]]
    assert type(attack) is kind
    assert {key: getattr(attack, key) for key in expected} == expected
    data = config_loading.load_dataset(config["dataset"], epochs=1, split=config["dataset"]["eval_split"])
    assert len(data) >= 10
    if expected["targeted"]:
        targeter = config_loading.load_label_targeter(config["attack"]["targeted_labels"])
        assert isinstance(targeter, MatchedLengthTargeter)
        reference = next(data)[1]
        assert (targeter.generate(reference) != reference).all()
    for metric in (*config["metric"]["task"], *config["metric"]["perturbation"]):
        assert callable(metrics.get(metric))
    assert callable(config_loading.load_fn(config["user_init"]))
    assert config_loading.load_fn(config["scenario"]).__name__ == "AutomaticSpeechRecognition"


@pytest.mark.armory
@needs_armory
def test_armory_run_skips_the_attack_of_the_benign_configuration() -> None:
    """Its command line takes the option from sysconfig; ``adhoc.skip_adversarial`` would lose to the flag's default."""
    import argparse

    from armory.arguments import merge_config_and_args

    for name, skips in (("mg_mdnf_benign", True), ("mg_mdnf_pgd_l2", False)):
        _, args = merge_config_and_args(load(name), argparse.Namespace(skip_attack=False))
        assert args.skip_attack is skips


def test_an_attack_without_steps_changes_nothing(recognizer: Any) -> None:
    """What the benign configuration attacks with where nobody reads sysconfig."""
    from armory_mdnf.asr.estimator import DeepSpeech2Estimator

    estimator = DeepSpeech2Estimator(recognizer, device_type="cpu")
    x = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 4000)).astype(np.float32)
    attack = ProjectedGradientDescent(estimator, **THREATS["benign"][1])
    np.testing.assert_array_equal(attack.generate(x), x)
