"""Parity with deepspeech.pytorch's V3 models under ART's own estimator (tests/data/deepspeech2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ragged_array

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.asr.deepspeech_pytorch import read_recognizer
from armory_mdnf.asr.estimator import DeepSpeech2Estimator

DATA = Path(__file__).parent / "data" / "deepspeech2"


@pytest.fixture(scope="module")
def audio() -> list[np.ndarray]:
    with np.load(DATA / "audio.npz") as f:
        return [(f[f"audio{i}"] / 32768).astype(np.float32) for i in range(3)]


@pytest.fixture(scope="module", params=["bilstm", "bigru", "unilstm"])
def golden(request: pytest.FixtureRequest) -> tuple[DeepSpeech2Estimator, dict[str, np.ndarray]]:
    name = request.param
    checkpoint = DATA / f"{name}.ckpt"
    bundle = DATA / f"{name}.safetensors"
    model = load_recognizer(bundle) if bundle.exists() else read_recognizer(checkpoint)
    with np.load(DATA / f"{name}.npz") as f:
        return DeepSpeech2Estimator(model, device_type="cpu"), dict(f)


def test_probabilities_of_the_batch(golden, audio):
    estimator, expected = golden
    probabilities, frames = estimator.predict(ragged_array(audio), transcription_output=False)
    assert frames.tolist() == expected["sizes"].tolist()
    for ours, theirs, n in zip(probabilities, expected["probs"], frames, strict=True):
        np.testing.assert_allclose(ours[:n], theirs[:n], atol=1e-4, rtol=0)
        assert not ours[n:].any()


def test_probabilities_one_at_a_time(golden, audio):
    estimator, expected = golden
    for i, x in enumerate(audio):
        probabilities, frames = estimator.predict(x[None], transcription_output=False)
        assert frames.tolist() == [expected["sizes"][i]]
        np.testing.assert_allclose(probabilities[0], expected["probs"][i, : frames[0]], atol=1e-4, rtol=0)


def test_transcripts(golden, audio):
    estimator, expected = golden
    assert estimator.predict(ragged_array(audio)).tolist() == expected["transcripts"].tolist()
    assert estimator.predict(ragged_array(audio), batch_size=2).tolist() == expected["transcripts"].tolist()


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
    original = DeepSpeech2Estimator(read_recognizer(DATA / "unilstm.ckpt"), device_type="cpu")
    original.save("copy", str(tmp_path))
    copy = DeepSpeech2Estimator(tmp_path / "copy.safetensors", device_type="cpu")
    expected, _ = original.predict(audio[1], transcription_output=False)
    found, _ = copy.predict(audio[1], transcription_output=False)
    np.testing.assert_array_equal(found, expected)
