"""The published gradient: the loss at one draw of a defence's noise, pulled back through another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import ragged_array, speechlike, tiny_recognizer

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.audio import ragged
from armory_mdnf.defenses import MDNF, MelResynth
from armory_mdnf.errors import OptionError

X = speechlike(6400)


class Redrawn:
    """A defence as the authors' files have it: the way back draws noise of its own."""

    def estimate_forward(self, x: torch.Tensor, y: Any = None) -> torch.Tensor:
        return self.forward(x, y)[0]  # type: ignore[attr-defined]


class RedrawnMDNF(Redrawn, MDNF):
    pass


class RedrawnResynth(Redrawn, MelResynth):
    pass


def arts_gradient(estimator: RecognizerEstimator, text: str) -> np.ndarray:
    """What ART's ``PyTorchDeepSpeech.loss_gradient`` computes: the defences, then the loss, then the defences again."""
    x = torch.from_numpy(X)[None]
    with torch.no_grad():
        heard, _ = estimator._apply_preprocessing(x, None, fit=False)
    leaf = heard.detach().requires_grad_()
    loss = estimator.model.losses(leaf, torch.tensor([len(X)]), estimator.encode([text], 1)).sum()
    (outer,) = torch.autograd.grad(loss, leaf)
    return np.asarray(estimator._apply_preprocessing_gradient(x, outer.numpy()))[0]


def estimator(defence: Any, **options: Any) -> RecognizerEstimator:
    return RecognizerEstimator(tiny_recognizer(), preprocessing_defences=defence, device_type="cpu", **options)


@pytest.mark.parametrize(
    ("kinds", "vocoder"),
    [
        ((RedrawnMDNF, MDNF), "melgan"),
        ((RedrawnMDNF, MDNF), "pwg"),
        ((RedrawnMDNF, MDNF), "hifigan"),
        ((RedrawnResynth, MelResynth), "pwg"),  # it draws noise of its own
    ],
)
def test_it_is_that_of_arts_own_code_path_at_the_same_draws(kinds: Any, vocoder: str, request: Any) -> None:
    def made(kind: Any) -> Any:
        noise = {"noise_level": 40.0, "curve": None} if issubclass(kind, MDNF) else {}
        return kind(request.getfixturevalue(vocoder), **noise, seed=3, device_type="cpu")

    redrawn, kind = kinds
    expected = arts_gradient(estimator(made(redrawn)), "AB C")
    found = estimator(made(kind), gradient="published").loss_gradient(X[None], ["AB C"])[0]
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    exact = estimator(made(kind)).loss_gradient(X[None], ["AB C"])[0]
    assert np.abs(exact - found).max() > 0.05 * np.abs(exact).max()


def test_with_equal_draws_or_without_noise_it_is_the_exact_one(melgan: Any) -> None:
    x, lengths = ragged.pad([torch.from_numpy(X), torch.from_numpy(X[:5000])])
    keys = [(0, 1), (1, 1)]
    noisy = estimator(MDNF(melgan, 40.0, None, device_type="cpu"))
    targets = noisy.encode(["AB", "C"], 2)
    exact = noisy.gradients(x, lengths, targets, keys)
    torch.testing.assert_close(noisy.gradients(x, lengths, targets, keys, keys), exact, rtol=1e-4, atol=1e-6)
    still = estimator(MelResynth(melgan, device_type="cpu"))
    exact = still.gradients(x, lengths, targets, keys)
    torch.testing.assert_close(
        still.gradients(x, lengths, targets, keys, [(0, 2), (1, 2)]), exact, rtol=1e-4, atol=1e-6
    )


def test_a_batch_gives_what_its_utterances_give(melgan: Any) -> None:
    audio, texts = [X, X[:5000]], np.array(["AB", "C"])
    together = estimator(MDNF(melgan, 40.0, None, device_type="cpu"), gradient="published")
    alone = estimator(MDNF(melgan, 40.0, None, device_type="cpu"), gradient="published")
    expected = alone.loss_gradient(ragged_array(audio), texts, batch_mode=False)
    for found, one in zip(together.loss_gradient(ragged_array(audio), texts), expected, strict=True):
        np.testing.assert_allclose(found, one, atol=1e-3 * np.abs(one).max())


def test_another_gradient_is_refused(melgan: Any) -> None:
    with pytest.raises(OptionError, match=r"unknown gradient 'exakt'.*did you mean 'exact'"):
        estimator(None, gradient="exakt")
    with pytest.raises(OptionError, match="unknown gradient"):
        estimator(None).set_params(gradient=None)
