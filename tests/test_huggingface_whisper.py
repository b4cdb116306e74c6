"""Whisper as transformers has it, held against transformers itself on a small one with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_models import AUDIO, save_whisper

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.huggingface.whisper import words
from armory_mdnf.audio import ragged
from armory_mdnf.errors import AudioError, TranscriptError

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")


def test_whispers_features_loss_and_transcripts_are_those_of_transformers(whisper: Path) -> None:
    recognizer = load_recognizer(whisper)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(whisper)
    x, lengths = ragged.pad([torch.from_numpy(audio) for audio in AUDIO])
    features = extractor(AUDIO, sampling_rate=16000, return_tensors="pt").input_features
    # log10 near its floor multiplies what two FFTs differ by; the power is bounded
    ours = recognizer.log_mel(x, lengths)
    torch.testing.assert_close(10 ** (4 * ours - 4), 10 ** (4 * features - 4), rtol=1e-3, atol=1e-7)
    text = "go on"
    tokens = recognizer.tokenizer.encode(f" {text}").ids
    labels = torch.tensor([[*recognizer.prompt[1:], *tokens, model.config.eos_token_id]])
    for i in range(len(AUDIO)):
        with torch.no_grad():
            logits = model(features[i : i + 1], labels=labels).logits
            loss = recognizer.losses(x[i : i + 1], lengths[i : i + 1], [recognizer.encode("GO ON")])
        scored = slice(len(recognizer.prompt) - 1, None)
        entropy = torch.nn.functional.cross_entropy(logits[0, scored], labels[0, scored], reduction="sum")
        torch.testing.assert_close(loss[0], entropy, rtol=1e-3, atol=1e-3)
    options = {"language": "en", "task": "transcribe"} if len(recognizer.prompt) > 2 else {}
    generated = model.generate(features, do_sample=False, num_beams=1, **options)
    expected = [words(recognizer.tokenizer.decode(row.tolist(), skip_special_tokens=True)) for row in generated]
    assert recognizer.transcripts(x, lengths) == expected


def test_a_batch_of_whisper_gives_what_its_utterances_give(whisper: Path) -> None:
    recognizer = load_recognizer(whisper)
    x, lengths = ragged.pad([torch.from_numpy(audio) for audio in AUDIO])
    targets = [recognizer.encode(text) for text in ("HELLO", "", "A LONGER ONE")]
    with torch.no_grad():
        together = recognizer.losses(x, lengths, targets)
        for i, n in enumerate(lengths.tolist()):
            alone = recognizer.losses(x[i : i + 1, :n], lengths[i : i + 1], targets[i : i + 1])
            torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-4)


def test_whispers_gradient_is_that_of_finite_differences(whisper: Path) -> None:
    recognizer = load_recognizer(whisper).double()
    x, lengths = ragged.pad([torch.from_numpy(AUDIO[0]).double()])
    target = [recognizer.encode("HELLO")]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(recognizer.losses(leaf, lengths, target).sum(), leaf)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ahead = recognizer.losses(x + 1e-6 * direction, lengths, target)
        behind = recognizer.losses(x - 1e-6 * direction, lengths, target)
    torch.testing.assert_close((ahead - behind)[0] / 2e-6, (gradient * direction).sum(), rtol=1e-3, atol=1e-4)


def test_whisper_hears_a_target_however_it_is_written(whisper: Path) -> None:
    recognizer = load_recognizer(whisper)
    for said in ("HELLO", " HELLO", "Hello.", "hello"):
        assert recognizer.is_heard("HELLO", recognizer.encode(said)), said
    assert not recognizer.is_heard("HELL", recognizer.encode("HELLO"))


def test_whisper_writes_english_in_upper_case(whisper: Path) -> None:
    from armory_mdnf.runner.evaluate import check_reference

    estimator = RecognizerEstimator(str(whisper), device_type="cpu")
    for said in ("HELLO", "hello", "Hello", "IT'S A DOG'S", ""):
        check_reference(estimator, said)
    for said in ("HELLO.", "MR SMITH", "\u041f\u0420\u0418\u0412\u0415\u0422", "10"):
        with pytest.raises(TranscriptError, match="the recogniser cannot write its reference"):
            check_reference(estimator, said)


def test_whisper_refuses_what_it_cannot_hold(whisper: Path) -> None:
    recognizer = load_recognizer(whisper)
    with pytest.raises(TranscriptError, match=r"at most (19|21)"):
        recognizer.encode("A" * 40)
    x = torch.zeros(1, 31 * 16000)
    with pytest.raises(AudioError, match=r"31\.0 s is too long .* at most 30 s"):
        recognizer.losses(x, torch.tensor([x.shape[1]]), [[1]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Mr. Quilter's ''well-known'' book.", "MISTER QUILTER'S WELL KNOWN BOOK"),
        ("It\u2019s 10 o'clock -- 'go'!", "IT'S TEN O'CLOCK GO"),
        ("12,304 caf\u00e9s & 50%", "TWELVE THOUSAND THREE HUNDRED FOUR CAFES AND FIFTY PERCENT"),
        ("", ""),
    ],
)
def test_written_english_becomes_spoken_words(text: str, expected: str) -> None:
    assert words(text) == expected


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("seconds", [30, 15])
def test_a_whisper_hears_what_its_configuration_says(tmp_path: Path, mels: int, seconds: int) -> None:
    """Without the processor's files: what may differ between Whispers stands in ``config.json``."""
    folder = save_whisper(tmp_path / "m", False, num_mel_bins=mels, max_source_positions=50 * seconds)
    (folder / "preprocessor_config.json").unlink()
    recognizer = load_recognizer(folder)
    x, lengths = ragged.pad([torch.from_numpy(AUDIO[0])])
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds)
    expected = extractor(AUDIO[0], sampling_rate=16000, return_tensors="pt").input_features
    found = recognizer.log_mel(x, lengths)
    torch.testing.assert_close(10 ** (4 * found - 4), 10 ** (4 * expected - 4), rtol=1e-3, atol=1e-7)
