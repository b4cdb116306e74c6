"""Other people's preprocessors in front of the recogniser: what they give is checked, and named where it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from art.defences.preprocessor import FeatureSqueezing, GaussianAugmentation
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from conftest import ragged_array

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.preprocessing import Chain
from armory_mdnf.attacks import PGD
from armory_mdnf.audio import ragged
from armory_mdnf.defenses import MelResynth, RandomizedSmoothing
from armory_mdnf.errors import AudioError

CPU = {"device_type": "cpu"}
TEXTS = ["A", "BE", "THE CAT"]
Change = Callable[[Any], Any]


class InNumpy(Preprocessor):
    """Does something to audio in NumPy; the gradient passes as it is, or changed too."""

    def __init__(self, change: Change, gradient: Change = lambda g: g) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.change, self.gradient = change, gradient

    def __call__(self, x: Any, y: Any = None) -> Any:
        return self.change(x), y

    def estimate_gradient(self, x: Any, grad: Any) -> Any:
        return self.gradient(grad)


class InTorch(PreprocessorPyTorch):
    """Does something to audio in torch."""

    def __init__(self, change: Change) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True, device_type="cpu")
        self.change = change

    def forward(self, x: Any, y: Any = None) -> Any:
        return self.change(x), y


class InTheGraph(RandomizedSmoothing):
    """Has the methods of a defence of this package."""

    def __init__(self, change: Change) -> None:
        super().__init__(passes=1, **CPU)
        self.change = change

    def transform(self, x: Any, lengths: Any, streams: Any = None) -> Any:
        return self.change(x)


def estimator(recognizer: Any, *defences: Any) -> RecognizerEstimator:
    return RecognizerEstimator(recognizer, list(defences), **CPU)


WRONG = {
    "nan": (lambda x: x * float("nan"), "expected finite samples, got nan at sample 0"),
    "infinite": (lambda x: x + float("inf"), "expected finite samples, got inf at sample 0"),
    "shorter": (lambda x: x[:, 5:], "6396"),
    "twice": (lambda x: x.repeat(1, 2) if isinstance(x, torch.Tensor) else np.tile(x, 2), "12802"),
    "int16": (
        lambda x: (32767 * x).to(torch.int16) if isinstance(x, torch.Tensor) else (32767 * x).astype(np.int16),
        "float samples, got .*int16",
    ),
    "none": (lambda x: None, "NoneType"),
    "text": (lambda x: "heard", "heard|str"),
}


@pytest.mark.parametrize("kind", [InNumpy, InTorch, InTheGraph])
@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_output_is_refused_in_its_class_name(
    recognizer: Any, utterances: Any, kind: Any, change: Change, message: str
) -> None:
    made = estimator(recognizer, kind(change))
    x = utterances[0][None]
    for call in (made.predict, lambda x: made.compute_loss(x, ["A"]), lambda x: made.loss_gradient(x, ["A"])):
        with pytest.raises(AudioError, match=f"^{kind.__name__}: .*{message}"):
            call(x)


def test_one_of_several_is_enough(recognizer: Any, utterances: Any) -> None:
    made = estimator(recognizer, InNumpy(lambda x: x * np.nan if x.shape[1] == 3333 else x))
    with pytest.raises(AudioError, match=r"^InNumpy: expected finite samples"):
        made.predict(ragged_array(utterances))
    assert len(made.predict(ragged_array([utterances[0], utterances[2]]))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g * np.nan, "expected finite samples, got nan"),
        (lambda g: g[:, 1:], "expected 6401 samples for as many"),
        (lambda g: np.concatenate([g, g]), "expected one utterance for one"),
    ],
)
def test_a_wrong_gradient_is_refused_in_its_class_name(
    recognizer: Any, utterances: Any, change: Change, message: str
) -> None:
    made = estimator(recognizer, InNumpy(lambda x: x, change))
    with pytest.raises(AudioError, match=rf"^InNumpy\.estimate_gradient: {message}"):
        made.loss_gradient(utterances[0][None], ["A"])
    with pytest.raises(AudioError, match=rf"^InNumpy\.estimate_gradient: {message}"):
        PGD(made, eps=0.1, max_iter=1).generate(utterances[0][None])


def test_a_wrong_estimate_of_the_forward_pass_likewise(recognizer: Any, utterances: Any) -> None:
    class Estimating(InTorch):
        def estimate_forward(self, x: Any, y: Any = None) -> Any:
            return x * torch.nan

    made = estimator(recognizer, Estimating(lambda x: x))
    assert len(made.predict(utterances[0][None])) == 1
    with pytest.raises(AudioError, match=r"^Estimating\.estimate_forward: expected finite samples, got nan"):
        made.loss_gradient(utterances[0][None], ["A"])


def test_arts_squeezing_of_features_is_heard(recognizer: Any, utterances: Any) -> None:
    """It squeezes the samples, and passes the gradient as it is."""
    squeezing = FeatureSqueezing(clip_values=(-1, 1), bit_depth=4)
    made, plain = estimator(recognizer, squeezing), estimator(recognizer)
    coarse = [np.rint((u + 1) / 2 * 15) / 15 * 2 - 1 for u in utterances]
    losses, expected = made.compute_loss(utterances, TEXTS), plain.compute_loss(coarse, TEXTS)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert not np.allclose(losses, plain.compute_loss(utterances, TEXTS), rtol=1e-2)
    found, passed = made.loss_gradient(utterances, TEXTS), plain.loss_gradient(coarse, TEXTS)
    for ours, inner in zip(found, passed, strict=True):
        np.testing.assert_allclose(ours, inner, rtol=1e-3, atol=1e-3 * np.abs(inner).max())


def test_arts_gaussian_noise_differs_from_sample_to_sample(recognizer: Any, utterances: Any) -> None:
    """On an array of objects it drew one number for a whole utterance."""
    noise = GaussianAugmentation(sigma=0.01, augmentation=False, apply_fit=False, apply_predict=True)
    chain = estimator(recognizer, noise)._pipeline().chain
    x, lengths = ragged.pad([torch.tensor(u) for u in utterances])
    added = chain(x, lengths, chain.draw(3))[0] - x
    for row, n in zip(added, lengths.tolist(), strict=True):
        assert float(row[:n].std()) == pytest.approx(0.01, rel=0.1)
        assert not row[n:].any()


@pytest.mark.parametrize("keys", [None, [(3, 0), (4, 0)]])
def test_defences_of_one_seed_draw_independently(keys: Any) -> None:
    chain = Chain([MelResynth("melgan"), RandomizedSmoothing(15), RandomizedSmoothing(15)])
    draws = chain.draw(2, keys)
    first, second = ([torch.randn(4000, generator=g) for g in streams or ()] for streams in draws[1:])
    for a, b in zip(first, second, strict=True):
        assert abs(float(torch.nn.functional.cosine_similarity(a, b, dim=0))) < 0.1
    alone = RandomizedSmoothing(15).draw(2, keys)
    assert all(torch.equal(a, torch.randn(4000, generator=g)) for a, g in zip(first, alone, strict=True))
