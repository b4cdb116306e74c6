"""Whisper as transformers has it, held against transformers itself on a small one with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_models import AUDIO, save_whisper

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.huggingface.whisper import words
from armory_mdnf.audio import ragged
from armory_mdnf.errors import AudioError, BundleError, TranscriptError

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


def changed(whisper: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a Whisper with another ``generation_config.json``."""
    shutil.copytree(whisper, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_new_tokens": 3},
        {"max_length": 5},
        {"max_time": 1e-9},
        {"return_dict_in_generate": True},
        {"forced_decoder_ids": [[1, 261]]},
    ],
)
def test_transcription_begins_where_the_loss_does_and_has_as_much_room(
    whisper: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load_recognizer(changed(whisper, tmp_path / "m", **changes))
    assert recognizer.prompt[-1] == 261
    heard: list[torch.Tensor] = []
    recognizer.model.model.decoder.register_forward_pre_hook(
        lambda module, args, options: heard.append(options["input_ids"]), with_kwargs=True
    )
    monkeypatch.setattr(recognizer.model.generation_config, "eos_token_id", None)  # it goes on to the last position
    x, lengths = ragged.pad([torch.from_numpy(AUDIO[0])])
    recognizer.transcripts(x, lengths)
    assert heard[0].tolist() == [recognizer.prompt]
    assert sum(tokens.shape[1] for tokens in heard) == 24 - 1


OLDER = {"is_multilingual": None, "forced_decoder_ids": [[1, 258], [2, 259], [3, 261]]}


@pytest.mark.parametrize(
    ("multilingual", "changes", "message"),
    [
        (False, OLDER, "is_multilingual: expected true or false, found None: take the file"),
        (True, OLDER, "is_multilingual: expected true or false, found None: take the file"),
        (False, {"_from_model_config": True}, "is_multilingual: expected true or false, found None"),
        (False, {"no_timestamps_token_id": None}, r"no_timestamps_token_id: expected 261, which is <\|notimestamps\|>"),
        (False, {"decoder_start_token_id": 256}, "decoder_start_token_id: expected 257, which is .* found 256"),
        (False, {"forced_decoder_ids": [[1, 258], [2, 259], [3, 261]]}, "forced_decoder_ids: expected none where"),
        (False, {"language": "en"}, "language: expected none where is_multilingual is false, found 'en'"),
        (False, {"eos_token_id": 5}, "eos_token_id: expected 256, as in config.json, found 5"),
        (False, {"eos_token_id": None}, "eos_token_id: expected 256, as in config.json, found None"),
        (True, {"lang_to_id": {"<|de|>": 258}}, r"lang_to_id\.<\|en\|>: expected 258, which is <\|en\|>, found None"),
        (True, {"task_to_id": None}, r"task_to_id\.transcribe: expected 259"),
    ],
)
def test_a_whisper_that_would_be_transcribed_in_another_state_than_attacked_is_refused(
    tmp_path: Path, multilingual: bool, changes: dict[str, Any], message: str
) -> None:
    folder = changed(save_whisper(tmp_path / "whole", multilingual), tmp_path / "m", **changes)
    with pytest.raises(BundleError, match=rf"generation_config\.json: {message}"):
        load_recognizer(folder)


def test_a_whisper_without_its_generation_configuration_is_refused(whisper: Path, tmp_path: Path) -> None:
    folder = changed(whisper, tmp_path / "m")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(BundleError, match=r"generation_config\.json is not JSON"):
        load_recognizer(folder)
    (folder / "generation_config.json").unlink()
    with pytest.raises(BundleError, match=r"expected generation_config\.json, found none: take the file"):
        load_recognizer(folder)


def test_marks_are_no_words(whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks of time are no special tokens in the hub's files, and in older ones none of them is."""
    shutil.copytree(whisper, tmp_path / "m")
    path = tmp_path / "m" / "tokenizer.json"
    content = json.loads(path.read_text())
    last = content["added_tokens"][-1]
    marks = [f"<|{seconds}|>" for seconds in ("0.00", "12.34", "30.00")]
    content["added_tokens"] += [
        last | {"id": last["id"] + 1 + i, "content": mark, "special": False} for i, mark in enumerate(marks)
    ]
    for special in (True, False):
        for token in content["added_tokens"][: -len(marks)]:
            token["special"] = special
        path.write_text(json.dumps(content))
        recognizer = load_recognizer(tmp_path / "m")
        ids = {mark: recognizer.tokenizer.token_to_id(mark) for mark in marks}
        said = [recognizer.tokenizer.encode(text, add_special_tokens=False).ids for text in (" press one", " now")]
        row = [*recognizer.prompt, ids["<|0.00|>"], *said[0], ids["<|12.34|>"], *said[1], ids["<|30.00|>"], 256]
        monkeypatch.setattr(recognizer.model, "generate", lambda *args, row=row, **options: torch.tensor([row]))
        x, lengths = ragged.pad([torch.from_numpy(AUDIO[0])])
        assert recognizer.transcripts(x, lengths) == ["PRESS ONE NOW"]
        assert recognizer.is_heard("PRESS ONE NOW", [*said[0], ids["<|12.34|>"], *said[1]])


@pytest.mark.parametrize("special", [False, True])
def test_a_tokenizer_in_parts_is_the_same(whisper: Path, tmp_path: Path, special: bool) -> None:
    """As transformers 4 saves that of a processor, which has no ``tokenizer.json``."""
    folder = tmp_path / "m"
    shutil.copytree(whisper, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"expected tokenizer\.json, or vocab\.json and merges\.txt, found neither"):
        load_recognizer(folder)
    (folder / "vocab.json").write_text(
        json.dumps(content["model"]["vocab"] | {"<|endoftext|>": added["<|endoftext|>"]})
    )
    with pytest.raises(BundleError, match=r"expected tokenizer\.json, or vocab\.json and merges\.txt, found neither"):
        load_recognizer(folder)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(BundleError, match=r"expected a tokenizer with the token <\|startoftranscript\|>, found none"):
        load_recognizer(folder)
    (folder / "added_tokens.json").write_text(json.dumps(added))
    if special:
        tokens = {token.pop("id"): token for token in content["added_tokens"]}
        (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens}))
    whole, parts = load_recognizer(whisper), load_recognizer(folder)
    x, lengths = ragged.pad([torch.from_numpy(audio) for audio in AUDIO])
    assert parts.prompt == whole.prompt
    assert parts.transcripts(x, lengths) == whole.transcripts(x, lengths)
    for text in ("GO ON", "Go on, it's 10.", ""):
        assert parts.encode(text) == whole.encode(text)
        assert parts.is_heard(words(text), whole.encode(text))


def test_a_damaged_tokenizer_is_named(whisper: Path, tmp_path: Path) -> None:
    shutil.copytree(whisper, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
        load_recognizer(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    (tmp_path / "m" / "vocab.json").write_text("[]")
    (tmp_path / "m" / "merges.txt").write_text("")
    with pytest.raises(BundleError, match=r"vocab\.json is not a tokenizer"):
        load_recognizer(tmp_path / "m")
