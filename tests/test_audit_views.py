"""What the attacks of an audit see: the recogniser behind its defences, without them, or past them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from audit_trials import AUDIO, INDICES, PLAN, REFERENCES, estimator, smoothing, trials

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audit import views
from armory_mdnf.audit.differences import check_gradient
from armory_mdnf.audit.findings import PASS, WARN
from armory_mdnf.audit.trials import Trials
from armory_mdnf.audit.views import View
from armory_mdnf.defenses import MDNF, MelResynth


def test_undefended_is_the_recogniser_alone() -> None:
    tried, plain = trials(smoothing()), estimator()
    keys = tried.keys(Purpose.ATTACK, 0)
    batch = tried.batch
    args = (batch.x, batch.lengths, batch.targets, keys)
    torch.testing.assert_close(views.undefended(tried.white_box).gradients(*args), plain.gradients(*args))


def test_the_identity_passes_the_recognisers_own_gradient(melgan: Any) -> None:
    tried = trials(MDNF(melgan, 40.0, None, device_type="cpu"))
    batch, keys = tried.batch, tried.keys(Purpose.ATTACK, 0)
    view = views.straight_through(tried.white_box)
    heard = tried.white_box.heard(batch.x, batch.lengths, keys)
    expected = estimator().gradients(heard, batch.lengths, batch.targets, keys)
    found = view.gradients(batch.x, batch.lengths, batch.targets, keys)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert view.transcribe(batch.x, batch.lengths, keys) == tried.white_box.transcribe(batch.x, batch.lengths, keys)


def test_without_its_noise_mdnf_is_resynthesis_and_smoothing_nothing(melgan: Any) -> None:
    for defence, still in (
        (MDNF(melgan, 40.0, None, device_type="cpu"), MelResynth(melgan, device_type="cpu")),
        (smoothing(), None),
    ):
        tried = trials(defence)
        view = views.without_noise(tried.white_box)
        assert view is not None
        keys = tried.keys(Purpose.ATTACK, 0)
        expected = View(estimator(*([still] if still else []))).heard(tried.batch.x, tried.batch.lengths, keys)
        torch.testing.assert_close(view.heard(tried.batch.x, tried.batch.lengths, keys), expected)
        assert not torch.allclose(tried.white_box.heard(tried.batch.x, tried.batch.lengths, keys), expected)
    assert views.without_noise(View(estimator(MelResynth(melgan, device_type="cpu")))) is None


def test_a_vocoder_that_has_to_have_noise_gets_the_same_at_every_draw(pwg: Any) -> None:
    tried = trials(MDNF(pwg, 40.0, None, device_type="cpu"))
    still = views.without_noise(tried.white_box)
    assert still is not None
    first, second = (tried.keys(Purpose.ATTACK, step) for step in (0, 1))
    x, lengths = tried.batch.x, tried.batch.lengths
    assert torch.equal(still.heard(x, lengths, first), still.heard(x, lengths, second))
    assert not torch.equal(tried.white_box.heard(x, lengths, first), tried.white_box.heard(x, lengths, second))
    assert views.without_noise(View(estimator(MelResynth(pwg, device_type="cpu")))) is not None


def test_another_seed_is_another_draw_and_leaves_the_defence() -> None:
    tried = trials(smoothing())
    batch, keys = tried.batch, tried.keys(Purpose.ATTACK, 0)
    before = tried.white_box.heard(batch.x, batch.lengths, keys)
    assert not torch.allclose(views.reseeded(tried.white_box).heard(batch.x, batch.lengths, keys), before)
    torch.testing.assert_close(tried.white_box.heard(batch.x, batch.lengths, keys), before)


class _Noisy(PreprocessorPyTorch):
    """Noise of torch's own generator, as a preprocessor of others has it."""

    def __init__(self) -> None:
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=False, apply_predict=True)

    def forward(self, x: torch.Tensor, y: Any = None) -> tuple[torch.Tensor, Any]:
        return x + 0.1 * torch.randn_like(x), y


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_views_have_the_noise_of_the_whole_and_another_seed_has_other(seed: int) -> None:
    """Of a preprocessor of others too, whatever the seed of the run."""
    tried = trials(_Noisy(), seed=seed)
    whole, keys = tried.white_box, tried.keys(Purpose.ATTACK, 0)

    def heard(view: View) -> torch.Tensor:
        return view.heard(tried.batch.x, tried.batch.lengths, keys)

    assert torch.equal(heard(views.straight_through(whole)), heard(whole))
    assert not torch.allclose(heard(views.reseeded(whole)), heard(whole))
    assert not torch.allclose(heard(views.reseeded(whole, 2)), heard(views.reseeded(whole)))
    assert views.straight_through(whole).stochastic
    assert views.reseeded(whole).stochastic


@pytest.mark.parametrize("defence", [smoothing(), _Noisy()], ids=["ours", "theirs"])
def test_a_recogniser_of_double_precision_is_audited_as_it_is_run(defence: Any) -> None:
    """Its audio comes in single precision, and what is found of it goes out so."""
    model = RecognizerEstimator(
        load_recognizer("ds2_base").double(), preprocessing_defences=[defence], device_type="cpu"
    )
    tried = Trials.of(model, AUDIO[1:2], REFERENCES[1:2], INDICES[1:2], replace(PLAN, iterations=1))
    batch, view, keys = tried.batch, tried.white_box, tried.keys(Purpose.ATTACK, 0)
    args = (batch.x, batch.lengths, batch.targets, keys)
    assert batch.x.dtype == torch.float32
    for found in (view.losses(*args), view.gradients(*args), view.heard(batch.x, batch.lengths, keys)):
        assert found.dtype == torch.float32
    if view.keyed:
        assert torch.equal(view.losses(*args), model.losses(*args))
        assert torch.equal(view.gradients(*args), model.gradients(*args))
        assert view.transcribe(batch.x, batch.lengths, keys) == model.transcribe(batch.x, batch.lengths, keys)
    assert check_gradient(tried).verdict in (PASS, WARN)


@pytest.mark.parametrize("vocoder", [False, True], ids=["smoothing", "vocoder"])
def test_without_noise_every_draw_is_the_same_and_one_is_taken(
    vocoder: bool, pwg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    defence = MelResynth(pwg, device_type="cpu") if vocoder else smoothing()
    tried = trials(defence, plan=replace(PLAN, draws=5, iterations=1))
    view = views.without_noise(tried.white_box)
    assert view is not None
    rows, real = [], view.gradients

    def watch(x: torch.Tensor, *args: Any) -> torch.Tensor:
        rows.append(len(x))
        return real(x, *args)

    monkeypatch.setattr(view, "gradients", watch)
    tried.run(tried.plan, view)
    assert rows == [len(AUDIO)]


def test_noise_of_others_goes_on_without_that_of_this_package() -> None:
    view = views.without_noise(trials(smoothing(), _Noisy()).white_box)
    assert view is not None
    assert view.stochastic


def test_seeding_leaves_the_global_generators_as_they_were() -> None:
    def draws() -> list[float]:
        return [random.random(), float(np.random.random()), float(torch.rand(()))]

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draws()
    seed()
    with views.seeded(3, 4):
        first = draws()
    assert draws() == expected
    with views.seeded(3, 4):
        assert draws() == first
    with views.seeded(3, 5):
        assert draws() != first
