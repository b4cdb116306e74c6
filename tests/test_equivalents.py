"""What ART's and Armory's attack blocks become."""

from __future__ import annotations

import inspect
import math
from importlib.util import find_spec
from typing import Any

import pytest
from art.attacks import evasion

from armory_mdnf import attacks
from armory_mdnf.errors import OptionError
from armory_mdnf.plugin import attacks as plugin_attacks
from armory_mdnf.runner import equivalents
from armory_mdnf.runner.equivalents import ART, OURS, PLUGIN, SNR_MODULE, translate

L2 = {"norm": 2, "eps": 1.5, "eps_step": 0.3, "max_iter": 7, "targeted": False, "num_random_init": 0, "batch_size": 1}


def test_pgd() -> None:
    assert translate(ART, "ProjectedGradientDescent", L2) == (
        "PGD",
        {"norm": "l2", "eps": 1.5, "eps_step": 0.3, "max_iter": 7, "targeted": False},
    )


def test_art_defaults_hold_where_nothing_is_said() -> None:
    name, options = translate(ART, "ProjectedGradientDescent", {})
    assert (name, options["norm"], options["eps"], options["eps_step"]) == ("PGD", "linf", 0.3, 0.1)
    assert options["max_iter"] == 100


def test_fgsm_is_one_step_as_long_as_the_radius() -> None:
    options = translate(ART, "FastGradientMethod", {"eps": 0.01, "eps_step": 0.5})[1]
    assert (options["eps"], options["eps_step"], options["max_iter"]) == (0.01, 0.01, 1)


@pytest.mark.parametrize(
    ("norm", "eps", "snr_db"), [("snr", 1000, 30), ("snr", 1, 0), ("snr_db", 20, 20), ("snr_db", -3.5, -3.5)]
)
def test_snr_is_a_power_ratio_and_snr_db_decibels(norm: str, eps: float, snr_db: float) -> None:
    name, options = translate(SNR_MODULE, "SNR_PGD_Numpy", {"norm": norm, "eps": eps, "eps_step": 0.25})
    assert name == "PGD"
    assert options["snr_db"] == pytest.approx(snr_db)
    assert (options["norm"], options["step_fraction"]) == ("snr", 0.25)


@pytest.mark.parametrize("module", [ART, f"{ART}.adversarial_asr", PLUGIN])
def test_carlini_wagner_is_targeted(module: str) -> None:
    name, options = translate(module, "CarliniWagnerASR", {"eps": 0.02, "batch_size": 4})
    assert name == "CarliniWagner"
    assert options["targeted"] is True
    assert options["eps"] == 0.02
    assert "batch_size" not in options


def test_ours_pass_as_they_are() -> None:
    assert translate(OURS, "PGD", {"norm": "snr", "snr_db": 20}) == ("PGD", {"norm": "snr", "snr_db": 20})


@pytest.mark.parametrize(
    ("module", "name", "made"),
    [
        (ART, "ProjectedGradientDescent", evasion.ProjectedGradientDescent),
        (ART, "ProjectedGradientDescentNumpy", evasion.ProjectedGradientDescentNumpy),
        (ART, "FastGradientMethod", evasion.FastGradientMethod),
        (ART, "CarliniWagnerASR", evasion.CarliniWagnerASR),
        (PLUGIN, "CarliniWagnerASR", plugin_attacks.CarliniWagnerASR),
    ],
)
def test_the_defaults_are_those_of_the_original(module: str, name: str, made: type) -> None:
    parameters = inspect.signature(made.__init__).parameters  # type: ignore[misc]
    defaults = {k: p.default for k, p in parameters.items() if k not in ("self", "estimator")}
    if defaults.get("norm") == math.inf:
        defaults["norm"] = "inf"
    assert equivalents._EQUIVALENTS[module, name][0] == defaults


@pytest.mark.armory
@pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")
def test_the_defaults_are_those_of_armory() -> None:
    from armory.art_experimental.attacks.snr_pgd import SNR_PGD_Numpy

    parameters = inspect.signature(SNR_PGD_Numpy.__init__).parameters
    ours = equivalents._EQUIVALENTS[SNR_MODULE, "SNR_PGD_Numpy"][0]
    for name in ("norm", "eps", "eps_step", "batch_size"):
        assert ours[name] == parameters[name].default


@pytest.mark.parametrize("entry", list(equivalents._EQUIVALENTS))
def test_what_comes_out_is_an_option_of_ours(entry: tuple[str, str]) -> None:
    name, options = translate(*entry, {})
    assert options.keys() <= inspect.signature(getattr(attacks, name).__init__).parameters.keys()


@pytest.mark.parametrize(
    ("module", "name", "kwargs", "message"),
    [
        (ART, "ProjectedGradientDescent", {"decay": 0.9}, "expected decay None, got 0.9: momentum"),
        (ART, "ProjectedGradientDescent", {"num_random_init": 2}, "num_random_init 0, got 2: ART refuses it"),
        (ART, "ProjectedGradientDescent", {"random_eps": True}, "random_eps"),
        (ART, "ProjectedGradientDescent", {"random_eps": "false"}, "random_eps"),
        (ART, "ProjectedGradientDescent", {"summary_writer": "logs"}, "TensorBoard"),
        (ART, "ProjectedGradientDescent", {"norm": 1}, "expected norm 2 or 'inf', got 1"),
        (ART, "ProjectedGradientDescent", {"norm": True}, "expected norm 2 or 'inf', got True"),
        (ART, "ProjectedGradientDescent", {"epss": 1}, "did you mean 'eps'"),
        (ART, "FastGradientMethod", {"minimal": True}, "minimal"),
        (ART, "FastGradientMethod", {"max_iter": 3}, "unknown option of FastGradientMethod 'max_iter'"),
        (ART, "ProjectedGradientDescentt", {}, "did you mean 'art.attacks.evasion.ProjectedGradientDescent'"),
        (ART, "DeepFool", {}, "unknown attack 'art.attacks.evasion.DeepFool'"),
        (SNR_MODULE, "SNR_PGD_Numpy", {"norm": "snr", "eps": -20}, "is it in dB"),
        (SNR_MODULE, "SNR_PGD_Numpy", {"norm": "db"}, "expected norm 'snr'"),
        (SNR_MODULE, "SNR_PGD_Numpy", {"eps": "20"}, "expected eps to be a finite number"),
        (SNR_MODULE, "SNR_PGD", {}, "did you mean"),
        (ART, "CarliniWagnerASR", {"targeted": True}, "unknown option of CarliniWagnerASR 'targeted'"),
        (PLUGIN, "CarliniWagnerASR", {"targeted": False}, "expected targeted true, got False"),
        (OURS, "PDG", {}, "did you mean 'PGD'"),
    ],
)
def test_refusals(module: str, name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        translate(module, name, kwargs)
