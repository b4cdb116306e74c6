"""What each configuration says, and that two of a table differ in one thing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from config_tables import CELLS, FOLDER, defence_of, load, tiny, tool, under_pgd
from conftest import speechlike

from armory_mdnf.attacks import PGD, CarliniWagner, RandomNoise
from armory_mdnf.runner import components

THREATS = sorted({threat for _, _, threat, _ in CELLS.values()})
DEFENCE_MAY_DIFFER = ("_description", "defense", "model.model_kwargs.weights")
THREAT_MAY_DIFFER = ("_description", "attack")


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{at}.{key}" if at else key)
    else:
        yield at, value


def differing(one: str, other: str, but: tuple[str, ...]) -> set[str]:
    a, b = dict(leaves(load(one))), dict(leaves(load(other)))
    return {key for key in a.keys() | b.keys() if a.get(key, ...) != b.get(key, ...) and not key.startswith(but)}


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
    rows = {"none_100": "none", "none": "none", "mg_mdnf_flat": "MG-MDNF with flat noise"}
    rows |= {f"none_{name.lower()}": f"none-{name}" for name in ("MG", "WG", "HG")}
    rows |= {"mg_mdnf_frame": "MG-MDNF of the later files"}
    rows |= {f"{name.lower()}_mdnf_anew": f"{name}-MDNF of a curve anew" for name in ("MG", "HG")}
    plain = re.sub("(whisper_v2|whisper|tiny_en)_?|_gan", "", system) or "none"
    row = rows.get(plain, plain.upper().replace("_", "-"))
    where = (
        "text, " if place == "text" else "not in the paper, " if place.startswith("own") else f"Table {place[1:]}, row "
    )
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
    expected = ("test_clean", "[:100]" if place in ("T4", "own4") else "[:500]") if scale else ("human", "[:10]")
    assert (data["eval_split"], data["index"]) == expected


@pytest.mark.parametrize("name", CELLS)
def test_targets_are_those_of_the_evaluated_split(name: str) -> None:
    config = load(name)
    labels = config["attack"].get("targeted_labels")
    assert (labels is not None) is config["attack"]["kwargs"]["targeted"]
    if labels is not None:
        assert labels["kwargs"]["split"] == config["dataset"]["eval_split"]
