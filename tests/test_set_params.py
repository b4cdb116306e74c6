"""ART's ``set_params``, which sets first and checks afterwards: what is refused here does not stay in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import speechlike, tiny_recognizer

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD, CarliniWagner, RandomNoise
from armory_mdnf.defenses import MelResynth, RandomizedSmoothing
from armory_mdnf.errors import OptionError
from armory_mdnf.plugin import attacks as adapters

CPU = {"device_type": "cpu"}
X = speechlike(4000)


@pytest.fixture
def plain() -> RecognizerEstimator:
    return RecognizerEstimator(tiny_recognizer(), **CPU)


Attack = Callable[[RecognizerEstimator], Any]
ATTACKS: list[tuple[Attack, dict[str, Any], str]] = [
    (lambda e: PGD(e, eps=0.5), {"max_iter": 7, "keep": "bset"}, "unknown keep 'bset'.*did you mean 'best'"),
    (lambda e: PGD(e, eps=0.5), {"gradient": "publishd"}, "did you mean 'published'"),
    (lambda e: PGD(e, eps=0.5), {"norm": "snr"}, "expected snr_db"),
    (lambda e: PGD(e, eps=0.5), {"eps": 0.2, "max_itr": 3}, "unknown option of PGD 'max_itr'.*did you mean 'max_iter'"),
    (CarliniWagner, {"eps": 0.2, "decrease_factor_eps": 1.5}, "decrease_factor_eps below 1"),
    (lambda e: RandomNoise(e, eps=0.5), {"targeted": True}, "noise has no target"),
    (adapters.CarliniWagnerASR, {"eps": -1.0}, r"CarliniWagnerASR does not take .*'eps': -1\.0"),
    (adapters.CarliniWagnerASR, {"learning_rate": float("nan")}, "expected learning_rate to be finite"),
    (adapters.ImperceptibleASR, {"max_iter_1": 7, "alpha": -1.0}, "ImperceptibleASR does not take"),
    (adapters.ImperceptibleASRPyTorch, {"n_fft": 512, "alhpa": 0.1}, "unknown option.*did you mean 'alpha'"),
]


@pytest.mark.parametrize(("make", "options", "message"), ATTACKS)
def test_a_refused_option_leaves_an_attack_as_it_was(
    plain: RecognizerEstimator, make: Attack, options: dict[str, Any], message: str
) -> None:
    attack = make(plain)
    before = dict(vars(attack))
    with pytest.raises(OptionError, match=message):
        attack.set_params(**options)
    assert vars(attack) == before


def test_an_attack_takes_other_options(plain: RecognizerEstimator) -> None:
    attack = PGD(plain, eps=0.5, max_iter=2)
    attack.set_params(norm="linf", eps=0.01, max_iter=1, step_fraction=1.0)
    assert np.abs(attack.generate(X) - X).max() == pytest.approx(0.01, rel=1e-3)


def test_an_adapter_s_window_is_the_one_that_it_was_given_last(plain: RecognizerEstimator) -> None:
    attack = adapters.ImperceptibleASRPyTorch(plain)
    attack.set_params(n_fft=512, win_length=512, hop_length=128)
    assert (attack.window, attack.hop) == (512, 128)


def test_refused_defences_are_not_in_force(plain: RecognizerEstimator, melgan: Any) -> None:
    plain.set_params(preprocessing_defences=[RandomizedSmoothing(0, passes=1, **CPU)])
    plain.preprocessing_defences[0].rewind()
    before = plain.defended(X)
    with pytest.raises(OptionError, match="audio at 8000 Hz"):
        plain.set_params(preprocessing_defences=[MelResynth(melgan, sample_rate_hz=8000, **CPU)])
    plain.preprocessing_defences[0].rewind()
    np.testing.assert_array_equal(plain.defended(X), before)


@pytest.mark.parametrize("options", [{"snr_db": 3.0}, {"snr": 3.0}])
def test_a_defence_takes_no_option_without_a_word(options: dict[str, float]) -> None:
    defence = RandomizedSmoothing(**CPU)
    with pytest.raises(OptionError, match=r"RandomizedSmoothing: 'snr.*' is fixed when a defence is made"):
        defence.set_params(**options)
    assert defence.snr_db == 15
