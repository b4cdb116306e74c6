"""The attack that follows the published gradient, against ART's own code path; and noise, the control of an attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import ragged_array, speechlike, tiny_recognizer

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD, CarliniWagner, RandomNoise
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audio.noise import Key
from armory_mdnf.defenses import MDNF
from armory_mdnf.defenses.base import WaveformDefense
from armory_mdnf.errors import AttackError, OptionError

X = speechlike(6400)
TEXT = "AB C"
EPS, STEP = 0.5, 0.2
INDEX = 3


class Scripted(MDNF):
    """MDNF that ART evaluates twice, once each way, as the authors' files are; the draws are those of a list."""

    script: list[Key]

    def draw(self, n: int, keys: Any = None) -> list[torch.Generator]:
        return super().draw(n, keys or [self.script.pop(0) for _ in range(n)])

    def estimate_forward(self, x: torch.Tensor, y: Any = None) -> torch.Tensor:
        return self.forward(x, y)[0]


def estimator(*defences: Any) -> RecognizerEstimator:
    return RecognizerEstimator(tiny_recognizer(), preprocessing_defences=list(defences) or None, device_type="cpu")


def noisy(vocoder: Any) -> MDNF:
    return MDNF(vocoder, 40.0, None, seed=5, device_type="cpu")


def arts_gradient(melgan: Any, there: Key, back: Key) -> np.ndarray:
    """ART's defences, then the loss, then ART's defences again, at two draws. Shape: (T,)."""
    defence = Scripted(melgan, 40.0, None, seed=5, device_type="cpu")
    defence.script = [there, back]
    model = estimator(defence)
    x = torch.from_numpy(X)[None]
    with torch.no_grad():
        heard, _ = model._apply_preprocessing(x, None, fit=False)
    leaf = heard.detach().requires_grad_()
    loss = model.model.losses(leaf, torch.tensor([len(X)]), model.encode([TEXT], 1)).sum()
    (outer,) = torch.autograd.grad(loss, leaf)
    found = np.asarray(model._apply_preprocessing_gradient(x, outer.numpy()))[0]
    assert not defence.script
    return found


def direction(a: np.ndarray) -> np.ndarray:
    return a / np.linalg.norm(a)


@pytest.mark.parametrize("draws", [1, 3])
def test_a_published_step_is_arts_code_path_at_the_same_draws(draws: int, melgan: Any) -> None:
    """One pair of draws, or the mean of so many."""
    purposes = (Purpose.ATTACK, Purpose.BACKWARD)
    pairs = [[(INDEX, purpose, 0, 0, draw) for purpose in purposes] for draw in range(draws)]
    mean = np.mean([arts_gradient(melgan, *pair) for pair in pairs], axis=0)

    def step(gradient: str) -> np.ndarray:
        attack = PGD(
            estimator(noisy(melgan)), eps=EPS, eps_step=STEP, max_iter=1, eot_draws=draws, gradient=gradient, seed=9
        )
        return np.asarray(attack.generate(X, [TEXT], indices=[INDEX])) - X

    published = step("published")
    assert np.linalg.norm(published) == pytest.approx(STEP, rel=1e-4)
    assert float(direction(published) @ direction(mean)) > 0.999
    # Another draw gives another step, so that the agreement says something.
    assert float(direction(step("exact")) @ direction(mean)) < 0.99


def test_carlini_and_wagners_step_follows_the_same_gradients(melgan: Any) -> None:
    pairs = [[(INDEX, purpose, 0, 1, draw) for purpose in (Purpose.ATTACK, Purpose.BACKWARD)] for draw in range(2)]
    mean = np.mean([arts_gradient(melgan, *pair) for pair in pairs], axis=0)
    sure = np.abs(mean) > 0.05 * np.abs(mean).max()  # nearer to zero, rounding decides the sign

    def agreement(**options: Any) -> float:
        attack = CarliniWagner(estimator(noisy(melgan)), learning_rate=1e-3, max_iter=1, **options)
        moved = np.asarray(attack.generate(X, [TEXT], indices=[INDEX])) - X
        return float((np.sign(moved) == -np.sign(mean))[sure].mean())

    assert agreement(eot_draws=2, gradient="published") > 0.99
    assert agreement(eot_draws=2) < 0.95
    assert agreement(gradient="published") < 0.99


def test_without_noise_both_gradients_give_the_same_attack() -> None:
    found = [PGD(estimator(), eps=EPS, max_iter=2, gradient=g).generate(X, [TEXT]) for g in ("exact", "published")]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3 * EPS)


@pytest.mark.parametrize("value", ["exakt", None, True])
def test_an_attack_refuses_another_gradient(value: Any) -> None:
    with pytest.raises(OptionError, match=r"unknown gradient .*expected one of exact, published"):
        PGD(estimator(), eps=EPS, gradient=value)
    with pytest.raises(OptionError, match="unknown gradient"):
        PGD(estimator(), eps=EPS).set_params(gradient=value)
    with pytest.raises(OptionError, match=r"unknown gradient .*expected one of exact, published"):
        CarliniWagner(estimator(), gradient=value)


# Noise.


def changed(audio: np.ndarray, **options: Any) -> np.ndarray:
    indices = options.pop("indices", [0])
    return np.asarray(RandomNoise(estimator(), **options).generate(audio, indices=indices), dtype=np.float64) - audio


def test_noise_is_as_large_as_the_bound() -> None:
    rounding = 1e-4
    assert np.linalg.norm(changed(X, norm="l2", eps=1.5)) == pytest.approx(1.5, rel=rounding)
    noise = changed(X, norm="snr", snr_db=20.0)
    assert 20 * np.log10(np.linalg.norm(X) / np.linalg.norm(noise)) == pytest.approx(20.0, abs=1e-3)
    noise = changed(X, norm="linf", eps=0.01)
    np.testing.assert_allclose(np.abs(noise), 0.01, rtol=rounding)
    assert 0.4 < float((noise > 0).mean()) < 0.6


def test_silence_has_no_power_to_measure_an_snr_by() -> None:
    silence = np.zeros(4000, dtype=np.float32)
    assert not changed(silence, norm="snr", snr_db=20.0).any()
    assert np.linalg.norm(changed(silence, norm="l2", eps=1.5)) == pytest.approx(1.5, rel=1e-4)


def test_loud_audio_stays_within_full_scale() -> None:
    loud = np.where(np.arange(4000) % 50 < 25, 1.0, -1.0).astype(np.float32)
    found = loud + changed(loud, norm="linf", eps=0.1)
    assert np.abs(found).max() <= 1
    np.testing.assert_allclose(np.abs(found).min(), 0.9, rtol=1e-5)


@pytest.mark.parametrize("bound", [{"norm": "l2", "eps": 1.5}, {"norm": "linf", "eps": 0.01}])
def test_noise_of_one_does_not_hang_on_the_others(bound: dict[str, Any], utterances: list[np.ndarray]) -> None:
    attack = RandomNoise(estimator(), **bound)
    together = attack.generate(ragged_array(utterances), indices=[4, 5, 6])
    for i, u in enumerate(utterances):
        np.testing.assert_allclose(attack.generate(u, indices=[4 + i]), together[i], atol=1e-6)


def test_the_seed_and_the_index_fix_the_noise() -> None:
    bound = {"norm": "l2", "eps": 1.5}
    first = changed(X, seed=1, indices=[2], **bound)
    np.testing.assert_array_equal(changed(X, seed=1, indices=[2], **bound), first)
    for other in (changed(X, seed=2, indices=[2], **bound), changed(X, seed=1, indices=[3], **bound)):
        assert abs(float(direction(other) @ direction(first))) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 1.0, "targeted": True}, "noise has no target"),
        ({"norm": "l2"}, "expected eps"),
        ({"norm": "snr", "eps": 1.0}, "expected snr_db"),
        ({"norm": "l3", "eps": 1.0}, "unknown norm"),
        ({"eps": -1.0}, "expected eps"),
    ],
)
def test_noise_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RandomNoise(estimator(), **options)


class Detached(WaveformDefense):
    """Gives back what it is given, and no gradient."""

    def __init__(self) -> None:
        super().__init__(0, False, True, "cpu")

    def defend(self, x: torch.Tensor, lengths: torch.Tensor, streams: Any) -> torch.Tensor:
        return x.detach()


@pytest.mark.parametrize("gradient", ["exact", "published"])
def test_a_defence_that_passes_no_gradient_on_is_told(gradient: str) -> None:
    attack = PGD(estimator(Detached()), eps=EPS, max_iter=1, gradient=gradient)
    with pytest.raises(AttackError, match=r"^no gradient reaches the audio: the defence or the recogniser detaches"):
        attack.generate([X])
