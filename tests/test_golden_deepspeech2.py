"""Parity with deepspeech.pytorch's V3 models under ART's own estimator (tests/data/deepspeech2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ragged_array

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.asr.decoding import greedy_decode
from armory_mdnf.asr.deepspeech2.checkpoints import read_recognizer
from armory_mdnf.asr.estimator import RecognizerEstimator

DATA = Path(__file__).parent / "data" / "deepspeech2"
ATOL = 1e-4  # of a probability: float32 through the recurrent layers, whose sums each processor orders in its own way


@pytest.fixture(scope="module")
def audio() -> list[np.ndarray]:
    with np.load(DATA / "audio.npz") as f:
        return [(f[f"audio{i}"] / 32768).astype(np.float32) for i in range(3)]


@pytest.fixture(scope="module", params=["bilstm", "bigru", "unilstm"])
def golden(request: pytest.FixtureRequest) -> tuple[RecognizerEstimator, dict[str, np.ndarray]]:
    name = request.param
    checkpoint = DATA / f"{name}.ckpt"
    bundle = DATA / f"{name}.safetensors"
    model = load_recognizer(bundle) if bundle.exists() else read_recognizer(checkpoint)
    with np.load(DATA / f"{name}.npz") as f:
        return RecognizerEstimator(model, device_type="cpu"), dict(f)


def test_probabilities_of_the_batch(golden, audio):
    estimator, expected = golden
    probabilities, frames = estimator.predict(ragged_array(audio), transcription_output=False)
    assert frames.tolist() == expected["sizes"].tolist()
    for ours, theirs, n in zip(probabilities, expected["probs"], frames, strict=True):
        np.testing.assert_allclose(ours[:n], theirs[:n], atol=ATOL, rtol=0)
        assert not ours[n:].any()


def test_probabilities_one_at_a_time(golden, audio):
    estimator, expected = golden
    for i, x in enumerate(audio):
        probabilities, frames = estimator.predict(x[None], transcription_output=False)
        assert frames.tolist() == [expected["sizes"][i]]
        np.testing.assert_allclose(probabilities[0], expected["probs"][i, : frames[0]], atol=ATOL, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_transcripts(golden, audio, batch_size):
    """Decoding is held to the letter: against the original's probabilities, and against our own.

    Between the two, a letter is held where the original's best two probabilities are further apart than our error: of
    these random weights some are not, and which is larger there hangs on the processor.
    """
    estimator, expected = golden
    alphabet, frames = estimator.model.alphabet, torch.from_numpy(expected["sizes"])
    assert greedy_decode(torch.from_numpy(expected["probs"]), frames, alphabet) == expected["transcripts"].tolist()
    x = ragged_array(audio)
    found, _ = estimator.predict(x, batch_size, transcription_output=False)
    assert estimator.predict(x, batch_size).tolist() == greedy_decode(torch.from_numpy(found), frames, alphabet)
    for ours, theirs, n in zip(found, expected["probs"], expected["sizes"], strict=True):
        second, first = np.sort(theirs[:n])[:, -2:].T
        clear = first - second > 2 * ATOL
        assert clear.mean() > 0.5
        assert (ours[:n].argmax(-1) == theirs[:n].argmax(-1))[clear].all()


@pytest.mark.parametrize("batch_mode", [True, False])
def test_audio_gradients(golden, audio, batch_mode):
    estimator, expected = golden
    gradients = estimator.loss_gradient(ragged_array(audio), expected["targets"], batch_mode=batch_mode)
    for i, ours in enumerate(gradients):
        theirs = expected[f"grad{i}"] * expected[f"grad{i}_scale"]
        norm = np.linalg.norm(theirs)
        assert float(ours @ theirs) / (np.linalg.norm(ours) * norm) > 0.9999
        assert np.linalg.norm(ours) == pytest.approx(norm, rel=1e-3)


def test_a_bundle_keeps_a_checkpoint(tmp_path, audio):
    original = RecognizerEstimator(read_recognizer(DATA / "unilstm.ckpt"), device_type="cpu")
    original.save("copy", str(tmp_path))
    copy = RecognizerEstimator(tmp_path / "copy.safetensors", device_type="cpu")
    expected, _ = original.predict(audio[1], transcription_output=False)
    found, _ = copy.predict(audio[1], transcription_output=False)
    np.testing.assert_array_equal(found, expected)
