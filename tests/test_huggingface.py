"""Recognisers of Hugging Face, held against transformers itself on small models with random weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentNumpy
from conftest import ragged_array, speechlike
from runner_folder import CONFIGS, INDEX, lines

from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import load_recognizer, recognizer_checksum
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.huggingface.folders import find_folder, is_huggingface
from armory_mdnf.asr.huggingface.vocabulary import TokenVocabulary
from armory_mdnf.asr.huggingface.whisper import words
from armory_mdnf.asr.voting import vote
from armory_mdnf.attacks import PGD
from armory_mdnf.audio import ragged
from armory_mdnf.cpu.switch import VARIABLE
from armory_mdnf.defenses import RandomizedSmoothing
from armory_mdnf.errors import AudioError, BundleError, OptionError, TranscriptError

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 4, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 3,
    "vocab_size": 32,
    "pad_token_id": 0,
}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2ForCTC", {"feat_extract_norm": "group"}),
    "wav2vec2_layer": ("Wav2Vec2Config", "Wav2Vec2ForCTC", LAYER),
    "hubert": ("HubertConfig", "HubertForCTC", LAYER),
    "wavlm": ("WavLMConfig", "WavLMForCTC", LAYER),
    "unispeech": ("UniSpeechConfig", "UniSpeechForCTC", {"feat_extract_norm": "layer"}),
    "data2vec": ("Data2VecAudioConfig", "Data2VecAudioForCTC", {"conv_pos_kernel_size": 5}),
    "sew": ("SEWConfig", "SEWForCTC", {"feat_extract_norm": "layer", "squeeze_factor": 2}),
}
LETTERS = list("ETAONIHSRDLUMWCFGYPBVK'XJQZ")


def save_ctc(folder: Path, family: str) -> Path:
    """A model of a family with random weights, its tokenizer and feature extractor, saved by transformers."""
    config_name, model_name, options = FAMILIES[family]
    torch.manual_seed(3)
    config = getattr(transformers, config_name)(**{**SMALL, **options})
    model = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():  # as they are made, they write one class only
        model.lm_head.weight.normal_(std=1.0)
    model.save_pretrained(folder)
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        return_attention_mask=options.get("feat_extract_norm") == "layer", do_normalize=True
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hf")
    return {family: save_ctc(root / family, family) for family in FAMILIES}


AUDIO = [speechlike(n, n) for n in (4000, 6400, 5237)]


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


@pytest.mark.parametrize("family", [*FAMILIES, "whisper"])
def test_arts_attack_and_ours_raise_the_loss(folders: dict[str, Path], whisper: Path, family: str) -> None:
    estimator = RecognizerEstimator((folders | {"whisper": whisper})[family], device_type="cpu")
    texts = np.array(["HELLO"])
    clean = AUDIO[0][None]
    before = float(estimator.compute_loss(clean, texts)[0])
    attacks = [
        ProjectedGradientDescentNumpy(estimator, norm=2, eps=1.0, eps_step=0.3, max_iter=4, verbose=False),
        PGD(estimator, norm="l2", eps=1.0, eps_step=0.3, max_iter=4),
    ]
    for attack in attacks:
        found = attack.generate(clean, texts)
        # A Whisper hears 30 s of which these are a part: its loss hardly moves, yet beyond rounding.
        gain = 1e-6 * before if family == "whisper" else 0.1
        assert float(estimator.compute_loss(found, texts)[0]) > before + gain
        assert np.linalg.norm(found - clean) <= 1.0 + 1e-4


@pytest.mark.parametrize("family", [*FAMILIES, "whisper"])
@pytest.mark.parametrize("published", [False, True])
def test_an_attack_spends_nothing_beyond_the_end_of_an_utterance(
    folders: dict[str, Path], whisper: Path, family: str, published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whisper hears silence there, whose gradient is not zero: an attack would put a part of its bound into it."""
    monkeypatch.setenv(VARIABLE, "plain")  # as a GPU, whose batch is not parted
    estimator = RecognizerEstimator((folders | {"whisper": whisper})[family], device_type="cpu")
    audio = list(AUDIO[:2])
    x, lengths = ragged.pad([torch.from_numpy(u) for u in audio])
    keys = [(i, 0) for i in range(2)]
    back = [keys] if published else []
    gradient = estimator.gradients(x, lengths, estimator.encode(["HELLO", "HELLO"], 2), keys, *back)
    assert not gradient[0, 4000:].any()
    assert gradient[0, :4000].any()
    found = PGD(estimator, eps=0.5, eps_step=0.3, max_iter=2).generate(ragged_array(audio), ["HELLO", "HELLO"])
    alone = PGD(estimator, eps=0.5, eps_step=0.3, max_iter=2).generate(audio[0][None], ["HELLO"])[0]
    assert abs(np.linalg.norm(found[0] - audio[0]) - np.linalg.norm(alone - audio[0])) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"eot_draws": 2},
        {"gradient": "published", "keep": "best", "selection_draws": 2},
        {"random_start": True, "restarts": 2, "targeted": True, "stop_on_success": True},
    ],
)
def test_weights_of_double_precision_are_attacked(folders: dict[str, Path], options: dict[str, Any]) -> None:
    recognizer = load_recognizer(folders["hubert"]).double()
    estimator = RecognizerEstimator(recognizer, RandomizedSmoothing(15.0, device_type="cpu"), device_type="cpu")
    audio = ragged_array(AUDIO[:2])
    found = PGD(estimator, eps=0.5, max_iter=1, **options).generate(audio, ["HELLO", "HELLO"])
    assert [u.dtype for u in found] == [np.float32] * 2
    assert all(np.abs(u - before).max() > 0 for u, before in zip(found, audio, strict=True))


def test_what_attacks_get_is_of_the_dtype_that_they_give(folders: dict[str, Path]) -> None:
    estimator = RecognizerEstimator(load_recognizer(folders["hubert"]).double(), device_type="cpu")
    x, lengths = ragged.pad([torch.from_numpy(audio) for audio in AUDIO])
    targets, keys = estimator.encode(["HELLO"] * 3, 3), [(i, 0) for i in range(3)]
    gradient = estimator.gradients(x, lengths, targets, keys)
    leaf = x.clone().requires_grad_()
    losses = estimator.losses(leaf, lengths, targets, keys)
    losses.sum().backward()
    assert gradient.dtype == losses.dtype == leaf.grad.dtype == torch.float32
    theirs = ragged.zero_beyond(leaf.grad, lengths)
    torch.testing.assert_close(gradient, theirs, rtol=1e-5, atol=1e-6 * float(theirs.abs().max()))
    exact = estimator.gradients(x.double(), lengths, targets, keys)
    torch.testing.assert_close(gradient, exact.float())
    assert estimator.transcribe(x, lengths, keys) == estimator.predict(ragged_array(AUDIO)).tolist()


def test_smoothing_averages_probabilities_or_lets_transcripts_vote(folders: dict[str, Path], whisper: Path) -> None:
    for folder in (folders["hubert"], whisper):
        defence = RandomizedSmoothing(snr_db=15.0, passes=3, device_type="cpu")
        estimator = RecognizerEstimator(folder, preprocessing_defences=defence, device_type="cpu")
        assert isinstance(estimator.predict(AUDIO[0][None])[0], str)
    with pytest.raises(OptionError, match="no probabilities per frame"):
        estimator.predict(AUDIO[0][None], transcription_output=False)


def test_the_vote_takes_the_transcript_nearest_to_all_and_the_earliest_of_equals() -> None:
    assert vote(["A X Y", "A B", "A B C"]) == "A B"
    assert [vote(["A", "B"]), vote(["B", "A"])] == ["A", "B"]


def save_whisper(folder: Path, multilingual: bool, **changes: Any) -> Path:
    """A Whisper of two layers with random weights, and a tokenizer of bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    byte_tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(byte_tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("endoftext", "startoftranscript", "en", "transcribe", "translate", "notimestamps")
    special = [f"<|{name}|>" for name in names]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    ids = {token: tokenizer.token_to_id(token) for token in special}
    torch.manual_seed(5)
    config = transformers.WhisperConfig(
        **{"num_mel_bins": 80} | changes,
        vocab_size=len(byte_tokens) + len(special), d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_target_positions=24, bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"], decoder_start_token_id=ids["<|startoftranscript|>"],
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    generation = model.generation_config
    generation.update(
        is_multilingual=multilingual,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        max_length=24,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        lang_to_id={"<|en|>": ids["<|en|>"]} if multilingual else None,
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]} if multilingual else None,
    )
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["english", "multilingual"])
def whisper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"), request.param)


def test_a_configuration_that_names_a_folder_runs_natively(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((CONFIGS / "none_benign.json").read_text())
    config["model"]["model_kwargs"]["weights"] = str(folders["hubert"])
    config["dataset"]["index"] = INDEX[:2]
    (tmp_path / "hf.json").write_text(json.dumps(config))
    assert cli.main(["run", str(tmp_path / "hf.json"), "--output-dir", str(tmp_path / "out")]) == 0, capsys.readouterr()
    (folder,) = (tmp_path / "out").iterdir()
    assert set(lines(folder)) == set(INDEX[:2])
    weights = json.loads((folder / "run.json").read_text())["weights"]
    assert weights == {str(folders["hubert"]): recognizer_checksum(folders["hubert"])}


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


def test_lower_case_vocabularies_take_and_give_upper_case() -> None:
    vocabulary = TokenVocabulary({"<pad>": 0, "|": 1, "a": 2, "b": 3, "<s>": 4}, 0, "|", frozenset({"<s>"}))
    assert vocabulary.encode("AB A") == [2, 3, 1, 2]
    assert vocabulary.decode([4, 2, 3, 1, 1, 2, 0]) == "AB A"
    with pytest.raises(TranscriptError, match="'C'"):
        vocabulary.encode("AC")


def test_what_cannot_be_loaded_says_why(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not in Hugging Face's cache .* checkpoint download hf:no/such"):
        load_recognizer("hf:no/such")
    with pytest.raises(OptionError, match="expected a model of the Hugging Face hub"):
        load_recognizer("hf:../../etc")
    assert find_folder(f"hf:{folders['sew']}") == folders["sew"]
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BundleError, match="unknown model_type of a recogniser 'bert'"):
        load_recognizer(tmp_path)
    (tmp_path / "config.json").write_text((folders["hubert"] / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"expected model\.safetensors, found none; pytorch_model\.bin is a pickle"):
        load_recognizer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folders["hubert"] / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(BundleError, match=str(tmp_path)):
        load_recognizer(tmp_path)


@pytest.mark.parametrize("name", ["a--b/c", "a/b--c", "a/b.git", "a/b-", "a/b.", "añ/x", "a/b²", "a/b/c", "-a/b"])
def test_what_the_hub_takes_for_no_name_is_refused(name: str) -> None:
    for download in (False, True):
        with pytest.raises(OptionError, match="expected a model of the Hugging Face hub"):
            find_folder(f"hf:{name}", download)


def refusal(kind: str, message: str) -> Exception:
    """As the hub answers, whatever library the request was made with."""
    errors = pytest.importorskip("huggingface_hub.errors")
    response = SimpleNamespace(headers={}, request=None, status_code=401)
    return getattr(errors, kind)(message, response=response)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["RepositoryNotFoundError", "GatedRepoError", "HfHubHTTPError"])
def test_a_download_that_the_hub_refuses_says_what_it_said(
    monkeypatch: pytest.MonkeyPatch, kind: str, wrapped: bool
) -> None:
    import huggingface_hub

    def refuse(name: str, **options: Any) -> str:
        said = refusal(kind, "401 Client Error.\n\nAccess to model a/b is restricted.")
        if wrapped:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache") from said
        raise said

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(BundleError, match=r"cannot be downloaded: the hub answered .*Access to model a/b is") as caught:
        find_folder("hf:a/b", download=True)
    assert "offline" not in str(caught.value)
    assert f"{kind}: 401 Client Error. Access" in str(caught.value)


@pytest.mark.parametrize("error", [ConnectionError("no route"), RuntimeError("of some HTTP library")])
def test_a_download_that_reaches_no_hub_asks_whether_there_is_a_network(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import huggingface_hub

    def fail(name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(BundleError, match=f"cannot be downloaded: .*{error}.*; is this machine offline"):
        find_folder("hf:a/b", download=True)


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


@pytest.mark.parametrize("settings", [{}, {"sampling_rate": 8000}])
def test_a_rate_is_the_models_own(folders: dict[str, Path], tmp_path: Path, settings: dict[str, Any]) -> None:
    shutil.copytree(folders["hubert"], tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_recognizer(tmp_path / "m").sample_rate_hz == settings.get("sampling_rate", 16000)


def test_a_tokenizer_that_needs_another_package_names_it(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **options: object) -> None:
        raise ImportError("requires the phonemizer library")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(BundleError, match=r"hubert does not hold a CTC model .* requires the phonemizer library"):
        load_recognizer(folders["hubert"])


def test_a_folder_is_found_among_armorys_saved_models(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its path below them, and as the hub's model of that name."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    below = tmp_path / ".armory" / "saved_models" / "somebody" / "sew-tiny"
    assert not is_huggingface("somebody/sew-tiny")
    shutil.copytree(folders["sew"], below)
    assert is_huggingface("somebody/sew-tiny")
    for name in ("somebody/sew-tiny", "hf:somebody/sew-tiny"):
        assert find_folder(name) == below
        assert recognizer_checksum(name) == recognizer_checksum(folders["sew"])
    assert not is_huggingface("../saved_models/somebody/sew-tiny")


def test_an_utterance_that_gives_no_frame_is_refused(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        recognizer = load_recognizer(folder)
        n = recognizer.min_samples
        with torch.no_grad():
            assert recognizer(torch.randn(1, n), torch.tensor([n]))[0].shape[1] >= 1
        with pytest.raises(AudioError, match=f"expected at least {n}"):
            recognizer(torch.randn(1, n - 1), torch.tensor([n - 1]))
