"""Whoever calls from ``torch.inference_mode`` gets what others get; what a recogniser gives is held to its contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import speechlike, tiny_recognizer

from armory_mdnf.asr.checkpoints import load_recognizer, save_recognizer
from armory_mdnf.asr.contract import SpeechRecognizer
from armory_mdnf.asr.decoding import greedy_decode
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks.evasion import PGD
from armory_mdnf.defenses import MDNF, MelResynth, RandomizedSmoothing
from armory_mdnf.errors import AudioError
from armory_mdnf.vocoders.storage import load_vocoder, save_vocoder

CPU = {"device_type": "cpu"}
X = [speechlike(5000, 0), speechlike(7000, 1)]
TEXTS = ["THE CAT", "A"]


@pytest.fixture(params=["none", "mg", "mdnf", "rs"])
def estimator(request, tmp_path, melgan):
    """What makes an estimator, all its parts from files."""
    weights, vocoder = tmp_path / "tiny.safetensors", tmp_path / "melgan.safetensors"
    save_recognizer(weights, tiny_recognizer(), {})
    save_vocoder(vocoder, melgan)
    defences = {
        "none": lambda: None,
        "mg": lambda: MelResynth(vocoder, **CPU),
        "mdnf": lambda: MDNF(vocoder, 10, None, **CPU),
        "rs": lambda: RandomizedSmoothing(15, 3, **CPU),
    }
    return lambda: RecognizerEstimator(load_recognizer(weights), defences[request.param](), **CPU)


@pytest.mark.parametrize("gradient", ["exact", "published"])
def test_an_attack_in_inference_mode_is_the_attack(estimator, gradient):
    def found():
        attacked = estimator()
        attack = PGD(attacked, eps=0.5, max_iter=2, gradient=gradient)
        adversarial = attack.generate(X, TEXTS)
        gradients = attacked.loss_gradient(X, TEXTS)
        return [*adversarial, *gradients, attacked.compute_loss(X, TEXTS)], attacked.predict(X).tolist()

    expected, expected_texts = found()
    with torch.inference_mode():
        made, texts = found()
        assert torch.is_inference_mode_enabled()
    for a, b in zip(made, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert texts == expected_texts


def test_what_is_made_in_inference_mode_can_be_attacked_afterwards(estimator):
    expected = estimator().loss_gradient(X, TEXTS)
    with torch.inference_mode():
        attacked = estimator()
        attacked.predict(X)
    for defence in attacked.preprocessing_defences or ():
        defence.rewind()
    for a, b in zip(attacked.loss_gradient(X, TEXTS), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_vocoder_that_is_loaded_in_inference_mode_has_gradients(tmp_path, melgan):
    save_vocoder(tmp_path / "melgan.safetensors", melgan)
    with torch.inference_mode():
        vocoder = load_vocoder(tmp_path / "melgan.safetensors")
    ones = [np.ones_like(u) for u in X]
    expected = MelResynth(melgan, **CPU).estimate_gradient(X, ones)
    for a, b in zip(MelResynth(vocoder, **CPU).estimate_gradient(X, ones), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_defence_has_its_gradient_in_inference_mode(melgan):
    defence = MelResynth(melgan, **CPU)
    expected = defence.estimate_gradient(X, [np.ones_like(u) for u in X])
    with torch.inference_mode():
        made = defence.estimate_gradient(X, [np.ones_like(u) for u in X])
    for a, b in zip(made, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_gradient_is_kept_where_the_caller_wants_none(estimator):
    attacked = estimator()
    x = torch.tensor(np.stack([X[0]]), requires_grad=True)
    with torch.no_grad():
        assert not attacked.losses(x, torch.tensor([5000]), attacked.encode(["A"], 1), [(0, 1)]).requires_grad
    assert attacked.losses(x, torch.tensor([5000]), attacked.encode(["A"], 1), [(0, 1)]).requires_grad


def unsure(recognizer, wrong):
    """The recogniser, one frame of whose scores is no number."""
    forward = recognizer.forward

    def broken(x, lengths):
        logits, frames = forward(x, lengths)
        return logits.index_fill(1, torch.tensor([wrong]), torch.nan), frames

    recognizer.forward = broken
    return recognizer


def test_scores_that_are_no_numbers_are_no_transcript():
    attacked = RecognizerEstimator(unsure(tiny_recognizer(), 3), **CPU)
    with pytest.raises(AudioError, match="expected scores that are numbers, got nan at frame 3"):
        attacked.predict(X)
    with pytest.raises(AudioError, match=r"DeepSpeech2Recognizer: expected a loss that is a number, got nan for utt"):
        attacked.compute_loss(X, TEXTS)


def test_scores_beyond_the_end_may_be_anything():
    scores = torch.zeros(2, 6, 29)
    scores[..., 5] = 1
    expected = greedy_decode(scores, torch.tensor([4, 6]), tiny_recognizer().alphabet)
    scores[0, 4:] = torch.nan
    assert greedy_decode(scores, torch.tensor([4, 6]), tiny_recognizer().alphabet) == expected


class Whole(SpeechRecognizer):
    """Gives what it is told to, of the whole batch."""

    sample_rate_hz, min_samples = 16000, 2

    def __init__(self, loss, texts):
        super().__init__()
        self.loss, self.texts = loss, texts

    def encode(self, transcript):
        return [1]

    def losses(self, x, lengths, targets):
        return self.loss(x)

    def transcripts(self, x, lengths):
        return self.texts


@pytest.mark.parametrize("loss", [lambda x: x.mean(), lambda x: x, lambda x: x.sum(1).repeat(2)])
def test_a_loss_of_the_whole_batch_is_refused(loss):
    attacked = RecognizerEstimator(Whole(loss, ["A", "B"]), **CPU)
    for use in (attacked.loss_gradient, attacked.compute_loss, PGD(attacked, eps=0.5, max_iter=1).generate):
        with pytest.raises(
            AudioError, match=r"Whole\.losses: expected a loss for each utterance, shape \([12],\), got"
        ):
            use(X, TEXTS)


@pytest.mark.parametrize("texts", [["A"], ["A", "B", "C"], ["A", None], "AB"])
def test_other_than_a_text_for_each_utterance_is_refused(texts):
    attacked = RecognizerEstimator(Whole(lambda x: x.sum(1), texts), **CPU)
    with pytest.raises(AudioError, match=r"Whole\.transcripts: expected 2 texts, one per utterance, got"):
        attacked.predict(X)
    with pytest.raises(AudioError, match=r"Whole\.transcripts: expected 2 texts"):
        attacked.compute_loss_and_decoded_output(torch.tensor(np.stack([X[0], X[0]])), TEXTS)
