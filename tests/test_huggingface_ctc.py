"""CTC models of Hugging Face, held against transformers itself on small ones with random weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ragged_array
from huggingface_models import AUDIO, FAMILIES

from armory_mdnf.asr.checkpoints import load_recognizer, recognizer_checksum
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.huggingface.vocabulary import TokenVocabulary
from armory_mdnf.audio import ragged
from armory_mdnf.errors import AudioError, BundleError, TranscriptError

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_losses_and_transcripts_are_those_of_transformers(folders: dict[str, Path], family: str) -> None:
    recognizer = load_recognizer(folders[family])
    processor = transformers.Wav2Vec2Processor.from_pretrained(folders[family])
    model = transformers.AutoModelForCTC.from_pretrained(folders[family]).eval()
    for audio in AUDIO:
        inputs = processor(audio, sampling_rate=16000, return_tensors="pt")
        labels = processor.tokenizer("HELLO WORLD", return_tensors="pt").input_ids
        x, lengths = ragged.pad([torch.from_numpy(audio)])
        with torch.no_grad():
            theirs = model(inputs.input_values, labels=labels)
            logits, frames = recognizer(x, lengths)
            loss = recognizer.losses(x, lengths, [recognizer.encode("HELLO WORLD")])
        torch.testing.assert_close(logits, theirs.logits, atol=1e-4, rtol=1e-4)
        assert frames.tolist() == [theirs.logits.shape[1]]
        # transformers' default is the sum over the characters, too
        expected = theirs.loss * (1 if model.config.ctc_loss_reduction == "sum" else labels.numel())
        torch.testing.assert_close(loss[0], expected, rtol=1e-4, atol=1e-3)
        # transformers writes special tokens out, or leaves them out before it merges repeats
        decoded = re.sub("</?[a-z]+>", "", processor.batch_decode(theirs.logits.argmax(-1))[0])
        assert recognizer.transcripts(x, lengths) == [" ".join(decoded.split())]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_what_its_utterances_give(folders: dict[str, Path], family: str) -> None:
    estimator = RecognizerEstimator(folders[family], device_type="cpu")
    batch = ragged_array(AUDIO)
    texts = np.array(["HELLO", "A LONGER ONE", "YES"])
    together = estimator.loss_gradient(batch, texts)
    losses = estimator.compute_loss(batch, texts)
    for i, audio in enumerate(AUDIO):
        alone = estimator.loss_gradient(ragged_array([audio]), texts[i : i + 1])[0]
        np.testing.assert_allclose(together[i], alone, atol=1e-3 * np.abs(alone).max())
        loss = estimator.compute_loss(ragged_array([audio]), texts[i : i + 1])[0]
        np.testing.assert_allclose(losses[i], loss, rtol=1e-4)
    x, lengths = ragged.pad([torch.from_numpy(audio) for audio in AUDIO])
    summed, decoded = estimator.compute_loss_and_decoded_output(x, texts, lengths.numpy())
    np.testing.assert_allclose(summed.item(), losses.sum(), rtol=1e-4)
    found = [str(text) for text in estimator.predict(batch)]
    assert decoded.tolist() == found == [str(estimator.predict(ragged_array([audio]))[0]) for audio in AUDIO]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_finite_differences(folders: dict[str, Path], family: str) -> None:
    recognizer = load_recognizer(folders[family]).double()
    x, lengths = ragged.pad([torch.from_numpy(AUDIO[0]).double()])
    target = [recognizer.encode("HELLO")]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(recognizer.losses(leaf, lengths, target).sum(), leaf)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-6 * direction
    with torch.no_grad():
        ahead = recognizer.losses(x + step, lengths, target)
        behind = recognizer.losses(x - step, lengths, target)
    torch.testing.assert_close((ahead - behind)[0] / 2e-6, (gradient * direction).sum(), rtol=1e-4, atol=1e-4)


def test_lower_case_vocabularies_take_and_give_upper_case() -> None:
    vocabulary = TokenVocabulary({"<pad>": 0, "|": 1, "a": 2, "b": 3, "<s>": 4}, 0, "|", frozenset({"<s>"}))
    assert vocabulary.encode("AB A") == [2, 3, 1, 2]
    assert vocabulary.decode([4, 2, 3, 1, 1, 2, 0]) == "AB A"
    with pytest.raises(TranscriptError, match="'C'"):
        vocabulary.encode("AC")


@pytest.mark.parametrize(
    "settings",
    [{"sampling_rate": value} for value in (None, "16k", 0, -1, 16000.5, True, [])] + [{"do_normalize": "no"}],
)
def test_settings_of_the_audio_that_are_none_are_named(
    folders: dict[str, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    shutil.copytree(folders["hubert"], tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(BundleError, match=rf"preprocessor_config\.json: {next(iter(settings))}: expected "):
        load_recognizer(tmp_path / "m")


def test_a_processors_file_says_what_a_model_hears(folders: dict[str, Path], tmp_path: Path) -> None:
    """As ``save_pretrained`` of transformers 5 writes it, and no other; an older file beside it does not count."""
    source, folder = folders["hubert"], tmp_path / "m"
    transformers.AutoModelForCTC.from_pretrained(source).save_pretrained(folder)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(source / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=False)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    joint = folder / "processor_config.json"
    if not joint.is_file() or "feature_extractor" not in json.loads(joint.read_text()):
        pytest.skip(f"transformers {transformers.__version__} writes preprocessor_config.json")
    for _ in range(2):
        recognizer = load_recognizer(folder)
        assert (recognizer.sample_rate_hz, recognizer.normalise) == (8000, False)
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)  # after the first look
    checksum = recognizer_checksum(folder)
    content = json.loads(joint.read_text())
    content["feature_extractor"]["do_normalize"] = True
    joint.write_text(json.dumps(content))
    assert load_recognizer(folder).normalise
    assert recognizer_checksum(folder) != checksum
    joint.write_text(json.dumps({"processor_class": "Wav2Vec2Processor"}))  # as older versions write it
    assert load_recognizer(folder).sample_rate_hz == 16000
    no_object = r"feature_extractor: expected an object, found \[\]"
    for wrong, message in (([], no_object), ({"do_normalize": 1}, "do_normalize: expected .* found 1")):
        joint.write_text(json.dumps({"feature_extractor": wrong}))
        with pytest.raises(BundleError, match=rf"processor_config\.json: .*{message}"):
            load_recognizer(folder)


def test_what_a_model_hears_is_not_guessed(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["hubert"], tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").unlink()
    with pytest.raises(BundleError, match=r"processor_config\.json .* or preprocessor_config\.json, found neither"):
        load_recognizer(tmp_path / "m")


@pytest.mark.parametrize("settings", [{}, {"sampling_rate": 8000}])
def test_a_rate_is_the_models_own(folders: dict[str, Path], tmp_path: Path, settings: dict[str, Any]) -> None:
    shutil.copytree(folders["hubert"], tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_recognizer(tmp_path / "m").sample_rate_hz == settings.get("sampling_rate", 16000)


def test_a_tokenizer_of_another_kind_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    shutil.copytree(folders["hubert"], tmp_path / "m")
    for name in ("vocab.json", "tokenizer_config.json"):
        (tmp_path / "m" / name).unlink()
    vocabulary = json.loads((folders["hubert"] / "vocab.json").read_text())
    rust = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=rust, pad_token="<pad>").save_pretrained(tmp_path / "m")
    with pytest.raises(BundleError, match=r"m: expected a Wav2Vec2CTCTokenizer, found \w+"):
        load_recognizer(tmp_path / "m")


def test_a_tokenizer_of_phonemes_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    """It writes tokens of several letters, which an attack would encode as others than the model heard."""
    shutil.copytree(folders["hubert"], tmp_path / "m")
    vocabulary = str(folders["hubert"] / "vocab.json")
    transformers.Wav2Vec2PhonemeCTCTokenizer(vocabulary, do_phonemize=False).save_pretrained(tmp_path / "m")
    with pytest.raises(BundleError, match="m: expected a Wav2Vec2CTCTokenizer, found Wav2Vec2PhonemeCTCTokenizer"):
        load_recognizer(tmp_path / "m")


def test_code_of_the_hub_is_refused_by_its_key(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["hubert"], tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_implementation": "some/kernel"}))
    with pytest.raises(BundleError, match=r"config\.json: attn_implementation: expected eager or sdpa, found 'some/k"):
        load_recognizer(tmp_path / "m")


def test_a_tokenizer_that_needs_another_package_names_it(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **options: object) -> None:
        raise ImportError("requires the phonemizer library")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(BundleError, match=r"hubert does not hold a CTC model .* requires the phonemizer library"):
        load_recognizer(folders["hubert"])


def test_an_utterance_that_gives_no_frame_is_refused(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        recognizer = load_recognizer(folder)
        n = recognizer.min_samples
        with torch.no_grad():
            assert recognizer(torch.randn(1, n), torch.tensor([n]))[0].shape[1] >= 1
        with pytest.raises(AudioError, match=f"expected at least {n}"):
            recognizer(torch.randn(1, n - 1), torch.tensor([n - 1]))
