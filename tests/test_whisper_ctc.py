"""Whisper's encoder with a CTC head: held against transformers' encoder, alone and in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ragged_array, speechlike
from foreign_files import within

from armory_mdnf.asr.checkpoints import load_recognizer, save_recognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.whisper.ctc import WhisperCTC, WhisperCTCConfig, start_from_whisper
from armory_mdnf.asr.whisper.encoder import Encoder, EncoderSizes, sinusoids
from armory_mdnf.asr.whisper.features import WhisperLogMel
from armory_mdnf.errors import AudioError, BundleError, OptionError
from armory_mdnf.training.recipe import Recipe
from armory_mdnf.training.start import init_checksum

SMALL = {"n_mels": 80, "d_model": 32, "layers": 2, "heads": 2, "ffn": 48}


def small(seed: int = 0) -> WhisperCTC:
    torch.manual_seed(seed)
    recognizer = WhisperCTC(WhisperCTCConfig(**SMALL)).eval()
    with torch.no_grad():  # as it is made, one class wins everywhere
        recognizer.head.weight.normal_()
    return recognizer


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_recognizer(tmp_path / "small.safetensors", small(), {})
    return tmp_path / "small.safetensors"


def test_the_encoder_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
    torch.manual_seed(1)
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, max_source_positions=60
    )
    theirs = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    ours = Encoder(EncoderSizes(**SMALL)).eval()
    state = theirs.state_dict()
    torch.testing.assert_close(sinusoids(60, 32), state.pop("embed_positions.weight"), atol=1e-5, rtol=0)
    ours.load_state_dict(state)
    log_mel = torch.randn(2, 80, 120)
    with torch.no_grad():
        found, frames = ours(log_mel, torch.tensor([120, 120]))
        torch.testing.assert_close(found, theirs(log_mel).last_hidden_state, atol=1e-5, rtol=1e-4)
    assert frames.tolist() == [60, 60]


def test_the_log_mel_of_a_tone_lies_at_its_frequency_and_is_bounded() -> None:
    t = torch.arange(16000) / 16000
    log_mel, frames = WhisperLogMel()(torch.sin(2 * torch.pi * 1000 * t)[None], torch.tensor([16000]))
    assert log_mel.shape == (1, 1, 80, 100)
    assert frames.tolist() == [100]
    centre_hz = 1000 / (8000 / 80)
    assert abs(int(log_mel[0, 0, :, 50].argmax()) - 26) < 3 + centre_hz / 10  # 1000 Hz is the 26th of 80 slaney bins
    assert float(log_mel.max() - log_mel.min()) <= 2 + 1e-6  # eight decades, a quarter each


@pytest.mark.parametrize("zeros", [0, 4000])
def test_gradients_are_finite_and_those_of_finite_differences(zeros: int) -> None:
    recognizer = small().double()
    x = torch.from_numpy(speechlike(8000, 4)).double()[None]
    x[:, 1000 : 1000 + zeros] = 0
    lengths, target = torch.tensor([8000]), [recognizer.encode("HELLO")]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(recognizer.losses(leaf, lengths, target).sum(), leaf)
    assert bool(gradient.isfinite().all())
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction[:, 1000 : 1000 + zeros] = 0  # there the floor of the logarithm has two slopes
    with torch.no_grad():
        ahead = recognizer.losses(x + 1e-7 * direction, lengths, target)
        behind = recognizer.losses(x - 1e-7 * direction, lengths, target)
    torch.testing.assert_close((ahead - behind)[0] / 2e-7, (gradient * direction).sum(), rtol=1e-3, atol=1e-4)


def test_digital_silence_gives_a_finite_loss_and_gradient() -> None:
    recognizer = small()
    leaf = torch.zeros(1, 8000, requires_grad=True)
    loss = recognizer.losses(leaf, torch.tensor([8000]), [recognizer.encode("A")])
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert bool(loss.isfinite().all())
    assert bool(gradient.isfinite().all())


def test_a_batch_gives_what_its_utterances_give(bundle: Path) -> None:
    estimator = RecognizerEstimator(bundle, device_type="cpu")
    audio = [speechlike(n, n) for n in (3000, 9000, 6117)]
    texts = np.array(["A", "HELLO", "GO ON"])
    gradients = estimator.loss_gradient(ragged_array(audio), texts)
    probabilities, frames = estimator.predict(ragged_array(audio), transcription_output=False)
    for i, u in enumerate(audio):
        alone = estimator.loss_gradient(ragged_array([u]), texts[i : i + 1])[0]
        np.testing.assert_allclose(gradients[i], alone, atol=1e-3 * np.abs(alone).max())
        single, (count,) = estimator.predict(ragged_array([u]), transcription_output=False)
        assert frames[i] == count == (len(u) // 160 + 1) // 2
        np.testing.assert_allclose(probabilities[i, :count], single[0], atol=1e-5)


def test_an_utterance_too_short_or_too_long_is_refused() -> None:
    recognizer = small()
    with pytest.raises(AudioError, match=r"200 samples is too short .* at least 201"):
        recognizer(torch.zeros(1, 200), torch.tensor([200]))
    n = 30 * 16000 + 1
    with pytest.raises(AudioError, match=r"30\.0 s is too long .* at most 30 s; cut it into pieces"):
        recognizer(torch.zeros(1, n), torch.tensor([n]))


@pytest.mark.parametrize(
    ("option", "value"),
    [("heads", 5), ("d_model", 33), ("d_model", 2), ("layers", 0), ("ffn", 1.5), ("n_mels", True), ("depth", 2)],
)
def test_sizes_that_no_encoder_has_are_refused(option: str, value: object) -> None:
    with pytest.raises(OptionError, match=option):
        WhisperCTCConfig.from_dict({**SMALL, option: value})


def test_a_bundle_brings_back_the_recogniser(bundle: Path) -> None:
    recognizer = load_recognizer(bundle)
    assert isinstance(recognizer, WhisperCTC)
    x = torch.from_numpy(speechlike(4000))[None]
    with torch.no_grad():
        assert torch.equal(recognizer(x, torch.tensor([4000]))[0], small()(x, torch.tensor([4000]))[0])


def test_a_whisper_of_other_sizes_is_refused() -> None:
    weights = {f"model.encoder.{k}": v for k, v in Encoder(EncoderSizes(**SMALL)).state_dict().items()}
    started = start_from_whisper(WhisperCTCConfig(**SMALL), weights, "w")
    assert torch.equal(started.network.encoder.conv1.weight, weights["model.encoder.conv1.weight"])
    with pytest.raises(BundleError, match=r"w: .*conv1"):
        start_from_whisper(WhisperCTCConfig(**{**SMALL, "d_model": 64}), weights, "w")
    widest = dict.fromkeys(("d_model", "ffn"), 1 << 14)  # 12 GB in the two layers, were they made
    with within(20), pytest.raises(BundleError, match=r"w: .*conv1.* of shape \(16384, "):
        start_from_whisper(WhisperCTCConfig(**{**SMALL, **widest}), weights, "w")
    with within(20), pytest.raises(BundleError, match=r"w: expected a weight per layer at least, found .* for 16384"):
        start_from_whisper(WhisperCTCConfig(**{**SMALL, "layers": 1 << 14}), weights, "w")


def test_a_whisper_that_training_starts_from_counts_with_its_configuration(tmp_path: Path) -> None:
    recipe = Recipe("t", {"human": (1, 1)}, steps=1, seed=1, kind="whisper_ctc", init="whisper")
    folder = tmp_path / "whisper"
    folder.mkdir()
    found = set()
    for name, content in (("config.json", "{}"), ("model.safetensors", "a"), ("config.json", '{"d_model": 32}')):
        (folder / "model.safetensors").touch()
        (folder / name).write_text(content)
        found.add(init_checksum(recipe, tmp_path))
    assert len(found) == 3
