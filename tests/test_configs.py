"""The scenario configurations: those of the tables, valid, as their names say, different only where they should be."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from art.attacks.evasion import ProjectedGradientDescent
from conftest import tiny_recognizer
from librispeech_folder import make_librispeech

from armory_mdnf.asr.estimator import DeepSpeech2Estimator
from armory_mdnf.attacks import PGD, CarliniWagner
from armory_mdnf.data.librispeech import VARIABLE
from armory_mdnf.plugin.attacks import CarliniWagnerASR
from armory_mdnf.plugin.targets import MatchedLengthTargeter
from armory_mdnf.runner import components
from armory_mdnf.runner.config import check_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "scenario_configs"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_configs", ROOT / "tools" / "make_configs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()
# name of a file without its ending -> folder, system, threat, place in the paper
CELLS = {
    f"{scale}/{system}_{threat}".lstrip("/"): (scale, system, threat, place)
    for scale, (table, *_) in tool.SCALES.items()
    for system, threat, place in tool.cells(table)
}
# Defence and recogniser of each column, said here once more: the tables are what is tested.
SYSTEMS = {
    "none": (None, "ds2_base"),
    "none_100": (None, "ds2_base"),
    "none_mg": (None, "ds2_mg"),
    "rs": ("RandomizedSmoothing", "ds2_base"),
    "mg": ("MelResynth", "ds2_mg"),
    "mg_mdnf": ("MDNF", "ds2_mg"),
    "mg_mdnf_flat": ("MDNF", "ds2_mg"),
    "wg": ("MelResynth", "ds2_wg"),
    "wg_mdnf": ("MDNF", "ds2_wg"),
}
ART_PGD = {"max_iter": 100, "num_random_init": 0, "targeted": False, "batch_size": 1, "verbose": False}
OUR_PGD = {"max_iter": 100, "seed": 0}
SNR = OUR_PGD | {"norm": "snr", "step_fraction": 0.5, "targeted": True}
ARMORY_SNR = ART_PGD | {"eps_step": 0.5, "targeted": True}
CW = {"eps": 0.01, "learning_rate": 1e-4, "max_iter": 400, "decrease_factor_eps": 0.8, "num_iter_decrease_eps": 10}
L2 = {"norm": 2, "eps": 1.5, "eps_step": 0.3}
# Attack and its numbers of each row. Armory's class is named, not imported.
THREATS: dict[str, tuple[type | str, dict[str, Any]]] = {
    "benign": (ProjectedGradientDescent, ART_PGD | L2 | {"max_iter": 0}),
    "pgd_l2": (ProjectedGradientDescent, ART_PGD | L2),
    "pgd_l2_1.0": (ProjectedGradientDescent, ART_PGD | {"norm": 2, "eps": 1.0, "eps_step": 0.2}),
    "pgd_l2_0.5": (ProjectedGradientDescent, ART_PGD | {"norm": 2, "eps": 0.5, "eps_step": 0.1}),
    "pgd_linf": (ProjectedGradientDescent, ART_PGD | {"norm": "inf", "eps": 0.01, "eps_step": 0.002}),
    "pgd_linf_0.005": (ProjectedGradientDescent, ART_PGD | {"norm": "inf", "eps": 0.005, "eps_step": 0.001}),
    "pgd_l2_250_steps": (ProjectedGradientDescent, ART_PGD | L2 | {"max_iter": 250}),
    "pgd_l2_500_steps": (ProjectedGradientDescent, ART_PGD | L2 | {"max_iter": 500}),
    "pgd_l2_ours": (PGD, OUR_PGD | L2 | {"norm": "l2", "targeted": False}),
    "eot_l2": (PGD, OUR_PGD | L2 | {"norm": "l2", "eot_draws": 5, "targeted": False}),
    "snr20": (PGD, SNR | {"snr_db": 20.0}),
    "snr30": (PGD, SNR | {"snr_db": 30.0}),
    "snr40": (PGD, SNR | {"snr_db": 40.0}),
    "snr20_armory": ("SNR_PGD_Numpy", ARMORY_SNR | {"norm": "snr_db", "eps": 20.0}),
    "snr_linear20": ("SNR_PGD_Numpy", ARMORY_SNR | {"norm": "snr", "eps": 20.0, "max_iter": 500}),
    "snr_linear30": ("SNR_PGD_Numpy", ARMORY_SNR | {"norm": "snr", "eps": 30.0, "max_iter": 500}),
    "snr_linear40": ("SNR_PGD_Numpy", ARMORY_SNR | {"norm": "snr", "eps": 40.0, "max_iter": 500}),
    "cw": (CarliniWagner, CW | {"targeted": True, "seed": 0}),
    "cw_art": (CarliniWagnerASR, CW | {"targeted": True}),
}
DEFENCE_MAY_DIFFER = ("_description", "defense", "model.model_kwargs.weights")
THREAT_MAY_DIFFER = ("_description", "attack")

needs_armory = pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")
incomplete = pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split")


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


def blocks(key: str) -> list[Any]:
    """Every different block of that name, under the name of the first file that has it."""
    found: dict[str, tuple[str, Any]] = {}
    for name in CELLS:
        block = load(name)[key]
        found.setdefault(json.dumps(block, sort_keys=True), (name, block))
    return [pytest.param(block, id=name) for name, block in found.values()]


def as_bundled(block: Any) -> Any:
    """The block with bundled weights in place of those of the paper's scale, which are not here."""
    return json.loads(json.dumps(block).replace("librispeech/", "").replace(".safetensors", ""))


def tiny() -> DeepSpeech2Estimator:
    return DeepSpeech2Estimator(tiny_recognizer(), device_type="cpu")


# Files and tables.


def test_files_and_tables_agree() -> None:
    made = tool.files()
    assert {path.relative_to(FOLDER) for path in FOLDER.rglob("*.json")} == set(made)
    for path, text in made.items():
        assert (FOLDER / path).read_text(encoding="utf-8") == text, f"{path}: run python tools/make_configs.py"


def test_a_file_that_was_edited_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(tool, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["make_configs.py"])
    assert tool.main() == 0
    (tmp_path / "stranger.json").write_text("{}")
    edited = tmp_path / "librispeech" / "rs_pgd_l2.json"
    edited.write_text(edited.read_text().replace("15.0", "14.0"))
    monkeypatch.setattr("sys.argv", ["make_configs.py", "--check"])
    assert tool.main() == 1
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [
        "librispeech/rs_pgd_l2.json",
        "stranger.json",
    ]
    monkeypatch.setattr("sys.argv", ["make_configs.py"])
    tool.main()
    monkeypatch.setattr("sys.argv", ["make_configs.py", "--check"])
    assert tool.main() == 0


@pytest.mark.parametrize("scale", ["", "librispeech/"])
@pytest.mark.parametrize("threat", ["pgd_l2", "pgd_linf_0.005", "snr20"])
@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(["none", "rs", "mg", "mg_mdnf"], 2)))
def test_two_systems_differ_only_in_defence_and_recogniser(scale: str, threat: str, one: str, other: str) -> None:
    assert differing(f"{scale}{one}_{threat}", f"{scale}{other}_{threat}", DEFENCE_MAY_DIFFER) == set()


@pytest.mark.parametrize("name", CELLS)
def test_two_threats_differ_only_in_the_attack(name: str) -> None:
    scale, system, threat, _ = CELLS[name]
    found = differing(name, f"{scale}/{system}_pgd_l2".lstrip("/"), THREAT_MAY_DIFFER)
    assert found == ({"sysconfig.skip_attack"} if threat == "benign" else set())


@pytest.mark.parametrize("system", ["none", "rs", "mg", "mg_mdnf"])
def test_two_scales_differ_only_in_data_weights_and_machine(system: str) -> None:
    found = differing(f"{system}_snr20", f"librispeech/{system}_snr20", ("_description",))
    assert found <= {
        "attack.targeted_labels.kwargs.candidates",
        "attack.targeted_labels.kwargs.split",
        "dataset.eval_split",
        "dataset.index",
        "dataset.name",
        "defense.kwargs.curve",
        "defense.kwargs.vocoder",
        "model.model_kwargs.weights",
        "sysconfig.docker_image",
        "sysconfig.use_gpu",
        "user_init.kwargs.threads",
    }


@pytest.mark.parametrize("name", CELLS)
def test_the_attack_is_the_papers(name: str) -> None:
    threat = CELLS[name][2]
    config, (kind, expected) = load(name), THREATS[threat]
    attack = config["attack"]
    assert attack["kwargs"] == expected
    named = kind if isinstance(kind, str) else kind.__name__
    assert (attack["name"], attack["knowledge"], attack["use_label"]) == (named, "white", False)
    assert config["sysconfig"].get("skip_attack", False) is (threat == "benign")


@pytest.mark.parametrize("name", CELLS)
def test_the_name_and_the_description_say_the_numbers(name: str) -> None:
    scale, system, threat, place = CELLS[name]
    description, (kind, kwargs) = load(name)["_description"], THREATS[threat]
    rows = {"none_100": "none", "none_mg": "none-MG", "mg_mdnf_flat": "MG-MDNF with flat noise"}
    row = rows.get(system, "none" if system == "none" else system.upper().replace("_", "-"))
    where = {"text": "text, ", "own": "not in the paper, "}.get(place, f"Table {place[1:]}, row ")
    assert f": {where}{row}, " in description
    assert ("LibriSpeech test-clean" in description) is bool(scale)
    assert ("targeted" in description.replace("untargeted", "")) is kwargs["targeted"]
    assert (" linf" in description) is (kwargs["norm"] == "inf" if "norm" in kwargs else True)
    if threat == "benign":
        assert "no attack" in description
    else:
        assert f"{kwargs['max_iter']} iterations" in description
    if threat.startswith("pgd"):
        assert f"eps {kwargs['eps']}" in description
        assert kwargs["eps_step"] == pytest.approx(kwargs["eps"] / 5)
    if kind is PGD and kwargs["norm"] == "snr":
        assert threat == f"snr{kwargs['snr_db']:.0f}"
        assert f"{kwargs['snr_db']:.0f} dB (decibels, not" in description
    if threat.startswith("snr_linear"):
        assert threat == f"snr_linear{kwargs['eps']:.0f}"
        assert f"the power ratio {kwargs['eps']:.0f}, which is {10 * np.log10(kwargs['eps']):.1f} dB" in description


def test_no_two_say_the_same() -> None:
    descriptions = [load(name)["_description"] for name in CELLS]
    assert len(set(descriptions)) == len(descriptions)


@pytest.mark.parametrize("name", CELLS)
def test_recogniser_defence_and_run(name: str) -> None:
    scale, system, _, place = CELLS[name]
    config, (defense, weights) = load(name), SYSTEMS[system]
    assert config["model"]["model_kwargs"] == {"weights": f"{scale}/{weights}.safetensors" if scale else weights}
    assert (config["defense"] or {}).get("name") == defense
    if defense == "MDNF":
        curve = {"": "bundled_l2", "librispeech": "published_linear"}[scale]
        assert config["defense"]["kwargs"]["curve"] == (None if system == "mg_mdnf_flat" else curve)
    if config["defense"]:
        assert isinstance(config["defense"]["kwargs"]["seed"], int)
    assert isinstance(config["user_init"]["kwargs"]["seed"], int)
    assert config["sysconfig"]["docker_image"] == ("armory-mdnf" if scale else None)
    data = config["dataset"]
    expected = ("test_clean", "[:100]" if place == "T4" else "[:500]") if scale else ("human", "[:10]")
    assert (data["eval_split"], data["index"]) == expected


@pytest.mark.parametrize("name", CELLS)
def test_targets_are_those_of_the_evaluated_split(name: str) -> None:
    config = load(name)
    labels = config["attack"].get("targeted_labels")
    assert (labels is not None) is config["attack"]["kwargs"]["targeted"]
    if labels is not None:
        assert labels["kwargs"]["split"] == config["dataset"]["eval_split"]


# Components.


@pytest.mark.parametrize("name", CELLS)
def test_the_native_runner_accepts_it(name: str) -> None:
    config = as_bundled(load(name))
    check_config(config)
    attack = components.make_attack(config, tiny(), 32.0)
    assert attack.targeted is config["attack"]["kwargs"]["targeted"]


@pytest.mark.parametrize("block", blocks("defense"))
def test_every_defence_can_be_made(block: dict[str, Any] | None) -> None:
    if block is not None:
        assert type(components.make_defense(as_bundled(block), "cpu")).__name__ == block["name"]


def test_the_readmes_examples_of_swapping_a_defence_work() -> None:
    fenced = re.findall(r"```json\n(\"defense\".*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    made = [components.make_defense(json.loads(f"{{{text}}}")["defense"], "cpu") for text in fenced]
    assert {type(defence).__name__ for defence in made} == {"MDNF", "RandomizedSmoothing", "MelResynth"}


@incomplete
@pytest.mark.parametrize("block", blocks("dataset"))
def test_every_dataset_can_be_read(block: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(make_librispeech(tmp_path / "LibriSpeech")))
    chosen = components.load_dataset(block)
    assert len(chosen) == (5 if block["name"] == "librispeech" else 10)


@pytest.mark.armory
@needs_armory
@pytest.mark.parametrize("name", CELLS)
def test_armory_accepts_it(name: str) -> None:
    from armory.utils.configuration import load_config

    assert load_config(str(FOLDER / f"{name}.json")) == load(name)


@pytest.mark.armory
@needs_armory
@pytest.mark.parametrize("block", blocks("attack"))
def test_armory_makes_every_attack(block: dict[str, Any]) -> None:
    from armory.utils import config_loading

    attack = config_loading.load_attack(copy.deepcopy(block), tiny())
    assert type(attack).__name__ == block["name"]
    theirs = block["name"] == "SNR_PGD_Numpy"  # whose radius comes with the utterance
    stages = ("learning_rate", "max_iter") if block["name"] == "CarliniWagnerASR" else ()  # the first of two, in ART
    for key, expected in block["kwargs"].items():
        if not (theirs and key in ("norm", "eps", "eps_step")):
            assert getattr(attack, f"{key}_1" if key in stages else key) == expected
    if theirs:
        ratio = 10 ** (block["kwargs"]["eps"] / 10) if block["kwargs"]["norm"] == "snr_db" else block["kwargs"]["eps"]
        assert attack.snr_sqrt_reciprocal == pytest.approx(ratio**-0.5)


@incomplete
@pytest.mark.armory
@needs_armory
@pytest.mark.parametrize("scale", ["", "librispeech/"])
def test_armory_makes_the_other_components(scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from armory import metrics
    from armory.utils import config_loading

    monkeypatch.setenv(VARIABLE, str(make_librispeech(tmp_path / "LibriSpeech", seconds=8.0)))
    for system in ("none", "rs", "mg", "mg_mdnf", "wg", "wg_mdnf"):
        config, (defense, _) = as_bundled(load(f"{scale}{system}_pgd_l2")), SYSTEMS[system]
        model, _ = config_loading.load_model(config["model"])
        if config["defense"]:
            config_loading.load_defense_internal(config["defense"], model)
            assert [type(d).__name__ for d in model.preprocessing_defences] == [defense]
    config = load(f"{scale}mg_mdnf_snr20")
    data = config_loading.load_dataset(config["dataset"], epochs=1, split=config["dataset"]["eval_split"])
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
def test_armory_takes_its_own_librispeech_too() -> None:
    """Its route through TensorFlow stays a matter of one block."""
    from armory.utils import config_loading
    from armory.utils.configuration import validate_config

    config = load("librispeech/mg_mdnf_pgd_l2")
    config["dataset"]["module"] = "armory.data.datasets"
    assert validate_config(config) == config
    assert config_loading.load_fn(config["dataset"]).__module__ == "armory.data.datasets"


@pytest.mark.armory
@needs_armory
def test_armory_run_skips_the_attack_of_the_benign_configuration() -> None:
    """Its command line takes the option from sysconfig; ``adhoc.skip_adversarial`` would lose to the flag's default."""
    import argparse

    from armory.arguments import merge_config_and_args

    for name, skips in (("mg_mdnf_benign", True), ("mg_mdnf_pgd_l2", False)):
        _, args = merge_config_and_args(load(name), argparse.Namespace(skip_attack=False))
        assert args.skip_attack is skips


@pytest.mark.armory
@needs_armory
def test_armory_does_not_rename_the_image() -> None:
    from armory.docker import images

    assert not images.is_armory(tool.SCALES["librispeech"][3])


def test_an_attack_without_steps_changes_nothing(recognizer: Any) -> None:
    """What the benign configuration attacks with where nobody reads sysconfig."""
    estimator = DeepSpeech2Estimator(recognizer, device_type="cpu")
    x = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 4000)).astype(np.float32)
    attack = ProjectedGradientDescent(estimator, **THREATS["benign"][1])
    np.testing.assert_array_equal(attack.generate(x), x)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_results_sets_the_split_of_data_and_targets() -> None:
    options = ["CONFIGS=mg_mdnf_cw", "SPLIT=synthetic"]
    recipe = subprocess.run(["make", "-n", "results", *options], cwd=ROOT, capture_output=True, text=True, check=True)
    (command,) = [line for line in recipe.stdout.splitlines() if line.strip().startswith("sed")]
    sed = command.strip().removesuffix("\\").replace("$name", "mg_mdnf_cw")
    text = subprocess.run(sed, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    config, expected = json.loads(text), load("mg_mdnf_cw")
    expected["dataset"]["eval_split"] = expected["attack"]["targeted_labels"]["kwargs"]["split"] = "synthetic"
    assert config == expected
    assert '"results/synthetic/$name.json"' in recipe.stdout
