"""Whisper in CTranslate2's format: a small model, written here as its converter writes it, becomes a folder."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import within
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from armory_mdnf.checkpoints.ctranslate2 import is_ctranslate2, read_variables, to_huggingface
from armory_mdnf.cli import main
from armory_mdnf.errors import BundleError

D, FFN, MELS, VOCABULARY, LAYERS = 4, 6, 5, 7, {"encoder": 1, "decoder": 2}
CODES = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.int16): 2, np.dtype(np.float16): 4}
Variables = dict[str, np.ndarray[Any, Any]]


def variables() -> Variables:
    """Random weights under CTranslate2's names; the aliases are not among them."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape).astype(np.float32)

    made: Variables = {
        "decoder/embeddings/weight": weights(VOCABULARY, D),
        "decoder/position_encodings/encodings": weights(8, D),
        "encoder/position_encodings/encodings": weights(10, D),
        "encoder/conv1/weight": weights(D, MELS, 3),
        "encoder/conv1/bias": weights(D),
        "encoder/conv2/weight": weights(D, D, 3),
        "encoder/conv2/bias": weights(D),
        "decoder/pre_norm": np.array(1, np.int8),
        "decoder/activation": np.array(3, np.int8),
        "decoder/alignment_heads": np.array(1, np.int16),
    }

    def norm(name: str) -> None:
        made[f"{name}/gamma"], made[f"{name}/beta"] = weights(D), weights(D)

    def linear(name: str, rows: int, columns: int) -> None:
        made[f"{name}/weight"], made[f"{name}/bias"] = weights(rows, columns), weights(rows)

    for side, count in LAYERS.items():
        made[f"{side}/num_heads"] = np.array(2, np.int16)
        norm(f"{side}/layer_norm")
        for i in range(count):
            layer = f"{side}/layer_{i}"
            norm(f"{layer}/self_attention/layer_norm")
            linear(f"{layer}/self_attention/linear_0", 3 * D, D)
            linear(f"{layer}/self_attention/linear_1", D, D)
            if side == "decoder":
                norm(f"{layer}/attention/layer_norm")
                linear(f"{layer}/attention/linear_0", D, D)
                linear(f"{layer}/attention/linear_1", 2 * D, D)
                linear(f"{layer}/attention/linear_2", D, D)
            norm(f"{layer}/ffn/layer_norm")
            linear(f"{layer}/ffn/linear_0", FFN, D)
            linear(f"{layer}/ffn/linear_1", D, FFN)
    return made


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def model_bin(
    made: Variables, version: int = 6, name: str = "WhisperSpec", aliases: tuple[tuple[str, str], ...] | None = None
) -> bytes:
    """The bytes of a ``model.bin``."""
    written = [struct.pack("<I", version), text(name), struct.pack("<II", 3, len(made))]
    for key, value in made.items():
        written.append(text(key) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape))
        written.append(struct.pack("<BI", CODES[value.dtype], value.nbytes) + value.tobytes())
    aliases = (("decoder/projection/weight", "decoder/embeddings/weight"),) if aliases is None else aliases
    written.append(struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases))
    return b"".join(written)


TOKENS = ["<|startoftranscript|>", "<|notimestamps|>", "<|transcribe|>", "<|translate|>", "<|en|>"]
CONFIG = {"suppress_ids": [1, 2], "suppress_ids_begin": [3], "alignment_heads": [[1, 0]], "lang_ids": [4]}
TOKENIZER = {"added_tokens": [{"content": token, "id": i} for i, token in enumerate(TOKENS)], "model": {"é": 1}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ct2").mkdir()
    (tmp_path / "ct2" / "model.bin").write_bytes(model_bin(variables()))
    (tmp_path / "ct2" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "ct2" / "tokenizer.json").write_text(json.dumps(TOKENIZER, indent=1))
    return tmp_path / "ct2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def test_names_and_values_come_through(folder: Path) -> None:
    made = {key: torch.from_numpy(value) for key, value in variables().items()}
    config, state = to_huggingface(folder / "model.bin")
    assert (config["d_model"], config["num_mel_bins"], config["vocab_size"]) == (D, MELS, VOCABULARY)
    assert (config["encoder_layers"], config["decoder_layers"]) == (1, 2)
    assert (config["encoder_attention_heads"], config["decoder_attention_heads"]) == (2, 2)
    assert (config["max_source_positions"], config["max_target_positions"]) == (10, 8)
    for source, target in (
        ("decoder/embeddings/weight", "model.decoder.embed_tokens.weight"),
        ("encoder/conv2/weight", "model.encoder.conv2.weight"),
        ("encoder/layer_norm/gamma", "model.encoder.layer_norm.weight"),
        ("decoder/layer_1/ffn/layer_norm/beta", "model.decoder.layers.1.final_layer_norm.bias"),
        ("decoder/layer_1/ffn/linear_0/weight", "model.decoder.layers.1.fc1.weight"),
        ("decoder/layer_0/attention/linear_2/bias", "model.decoder.layers.0.encoder_attn.out_proj.bias"),
    ):
        assert torch.equal(state[target], made[source])
    joined = made["encoder/layer_0/self_attention/linear_0/weight"]
    for part, expected in zip("qkv", joined.chunk(3), strict=True):
        assert torch.equal(state[f"model.encoder.layers.0.self_attn.{part}_proj.weight"], expected)
    crossed = made["decoder/layer_1/attention/linear_1/bias"]
    assert torch.equal(state["model.decoder.layers.1.encoder_attn.v_proj.bias"], crossed[D:])
    assert not any("k_proj.bias" in key for key in state)  # Whisper's keys have none


def test_transformers_takes_every_weight(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
    assert main(["checkpoint", "convert", str(folder / "model.bin"), str(tmp_path / "out")]) == 0
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    # Whisper's own tokens are beyond the seven of this model.
    config = transformers.WhisperConfig(**{k: 0 if k.endswith("token_id") else v for k, v in values.items()})
    missing, unexpected = transformers.WhisperForConditionalGeneration(config).load_state_dict(
        load_file(tmp_path / "out" / "model.safetensors"), strict=False
    )
    assert unexpected == []
    assert missing == ["proj_out.weight"]  # tied to the embeddings


def test_half_precision_is_read_as_single(path: Path) -> None:
    half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in variables().items()}
    path.write_bytes(model_bin(half))
    _, state = to_huggingface(path)
    expected = torch.from_numpy(half["encoder/conv1/bias"].astype(np.float32))
    assert state["model.encoder.conv1.bias"].dtype == torch.float32
    assert torch.equal(state["model.encoder.conv1.bias"], expected)


def test_convert_writes_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["checkpoint", "convert", str(folder / "model.bin"), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "format: CTranslate2 Whisper" in printed
    names = {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}
    assert {p.name for p in out.iterdir()} == names
    assert all(f"written: {name}" in printed for name in names)
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["no_timestamps_token_id"] == 1
    assert generation["suppress_tokens"] == [1, 2]
    assert generation["lang_to_id"] == {"<|en|>": 4}
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert set(load_file(out / "model.safetensors")) == set(to_huggingface(folder / "model.bin")[1])


def test_inspect_says_what_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "inspect", str(folder / "model.bin")]) == 0
    printed = capsys.readouterr().out
    for fact in ("recogniser, Whisper", "1 and 2 x 4, 2 heads", "7 tokens, many languages", "log mel of 5 bins"):
        assert fact in printed
    assert main(["checkpoint", "inspect", str(folder / "model.bin"), "--stats", "none"]) == 2
    assert "which has no use for --stats none" in capsys.readouterr().err


def test_targets_that_do_not_fit_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for out, message in (
        (tmp_path / "x.safetensors", "becomes a folder: expected one"),
        (folder, "is the checkpoint's own folder"),
        (folder / "model.bin", "is the checkpoint itself"),
        (tmp_path / "file", "cannot write to the folder"),
        (tmp_path / "file" / "below", "cannot write to the folder"),
    ):
        before = sorted(p.name for p in folder.iterdir())
        assert main(["checkpoint", "convert", str(folder / "model.bin"), str(out)]) == 2
        assert message in capsys.readouterr().err
        assert sorted(p.name for p in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "no config.json in .*ct2: CTranslate2 keeps it beside the weights"),
        ("tokenizer.json", None, "no tokenizer.json in"),
        ("config.json", "[1]", "is not CTranslate2's: TypeError"),
        ("config.json", "{}", "is not CTranslate2's: KeyError"),
        ("config.json", json.dumps(CONFIG | {"suppress_ids": ["1"]}), r"whole numbers, found \['1'\]"),
        ("config.json", json.dumps(CONFIG | {"alignment_heads": [3]}), "whole numbers, found 3"),
        ("config.json", "[" * 10**5, "levels of nesting"),
        ("config.json", '{"suppress_ids": NaN}', "NaN is no number of JSON"),
        ("tokenizer.json", '{"added_tokens": []}', "is not CTranslate2's: KeyError"),
        ("tokenizer.json", '{"added_tokens": [3]}', "is not CTranslate2's: TypeError"),
        ("tokenizer.json", json.dumps({"added_tokens": [{"content": [], "id": 1}]}), "is not CTranslate2's: TypeError"),
    ],
)
def test_what_lies_beside_is_checked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, message: str
) -> None:
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    assert main(["checkpoint", "convert", str(folder / "model.bin"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(error) < 700
    assert re.search(message, error)
    assert not list((tmp_path / "out").iterdir())


def test_every_truncation_is_refused(path: Path) -> None:
    small = {key: value for key, value in variables().items() if "conv1" in key or "num_heads" in key}
    path.write_bytes(model_bin(small, aliases=(("alias", "encoder/conv1/bias"),)))
    assert set(read_variables(path)) == {*small, "alias"}
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(BundleError, match=r"model\.bin: ") as refused:
            read_variables(path)
        assert len(str(refused.value)) < 500


def test_more_than_the_file_says_is_refused(path: Path) -> None:
    path.write_bytes(model_bin(variables()) + b"\0")
    with pytest.raises(BundleError, match="1 bytes are left after the last alias"):
        read_variables(path)


def test_the_beginning_says_what_it_is(path: Path) -> None:
    path.write_bytes(model_bin({}))
    assert is_ctranslate2(path)
    for content in (b"", b"PK", model_bin({}, name="TransformerSpec"), b"\x80\x02}."):
        path.write_bytes(content)
        assert not is_ctranslate2(path)
    for written, message in (
        (model_bin({}, version=5), "found version 5 of 'WhisperSpec'"),
        (model_bin({}, name="TransformerSpec"), "found version 6 of 'TransformerSpec'"),
    ):
        path.write_bytes(written)
        with pytest.raises(BundleError, match=message):
            read_variables(path)


def drop(name: str) -> Callable[[Variables], object]:
    return lambda made: made.pop(name)


def put(name: str, value: Any) -> Callable[[Variables], object]:
    return lambda made: made.update({name: value})


ONES = np.ones((D, D), np.float32)
WRONG: dict[str, tuple[Callable[[Variables], object], str]] = {
    "a missing weight": (drop("encoder/conv1/bias"), "variable 'encoder/conv1/bias' is missing"),
    "a missing norm": (drop("decoder/layer_1/ffn/linear_1/bias"), "'decoder/layer_1/ffn/linear_1/bias' is missing"),
    "no layers": (drop("encoder/layer_0/ffn/layer_norm/gamma"), "expected layers of an encoder and a decoder"),
    "no heads": (drop("decoder/num_heads"), "a whole number as 'decoder/num_heads', found none"),
    "heads in floating point": (put("decoder/num_heads", np.array(2, np.float32)), "found torch.float32"),
    "several heads": (put("decoder/num_heads", np.array([2, 2], np.int16)), r"found torch.int16 of shape \(2,\)"),
    "heads that do not divide": (put("encoder/num_heads", np.array(3, np.int16)), "heads that divide 4 channels"),
    "heads of none": (put("encoder/num_heads", np.array(0, np.int16)), "heads that divide 4 channels"),
    "quantised": (put("encoder/conv1/weight", np.ones((D, MELS, 3), np.int8)), r"is quantised \(torch.int8\)"),
    "not finite": (put("encoder/conv1/bias", np.full(D, np.nan, np.float32)), "finite numbers in 'encoder/conv1/bias'"),
    "a wrong shape": (put("encoder/conv2/weight", ONES), r"conv2.weight' of shape \(4, 4, 3\), found \(4, 4\)"),
    "a number for a weight": (put("encoder/conv1/weight", np.array(1, np.float32)), "conv1.weight' of shape"),
    "a third of nothing": (put("encoder/layer_0/self_attention/linear_0/weight", ONES), "is no 3 of one size"),
    "no axes": (put("encoder/layer_0/self_attention/linear_0/bias", np.array(1, np.float32)), "is no 3 of one size"),
    "no embeddings": (put("decoder/embeddings/weight", np.ones((0, D), np.float32)), "embed_tokens.weight' of shape"),
    "another activation": (put("decoder/activation", np.array(0, np.int8)), "decoder/activation 3, as Whisper has"),
    "scaled embeddings": (put("decoder/scale_embeddings", np.array(1, np.int8)), "scale_embeddings 0, as Whisper has"),
    "one too many": (put("encoder/extra/weight", ONES), "found variable 'encoder/extra/weight', which no Whisper has"),
}


@pytest.mark.parametrize("name", WRONG)
def test_variables_that_do_not_fit_are_named(path: Path, name: str) -> None:
    change, message = WRONG[name]
    made = variables()
    change(made)
    path.write_bytes(model_bin(made))
    with pytest.raises(BundleError, match=rf"model\.bin: .*{message}"):
        to_huggingface(path)


def test_a_projection_of_its_own_is_refused(path: Path) -> None:
    own = {"decoder/projection/weight": np.ones((VOCABULARY, D), np.float32)}
    path.write_bytes(model_bin(variables() | own, aliases=()))
    with pytest.raises(BundleError, match="a projection that is the embeddings again"):
        to_huggingface(path)


NAME = b"encoder/conv1/bias\0"
BIAS = variables()["encoder/conv1/bias"].tobytes()
EMPTY = b"\x04" + bytes(4) + b"\xff" * 12 + b"\0" + bytes(4)
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "an unknown type": (lambda b: b.replace(NAME + b"\x01\4\0\0\0\0", NAME + b"\x01\4\0\0\0\x09"), "has type 9"),
    "many axes": (lambda b: b.replace(NAME + b"\x01", NAME + b"\xff"), "at most 4 dimensions, found 255"),
    "another size": (
        lambda b: b.replace(NAME + b"\x01\4", NAME + b"\x01\5"),
        r"shape \(5,\), type float32, has 16 bytes",
    ),
    "billions of axes' worth": (
        lambda b: b.replace(NAME + b"\x01\4\0\0\0", NAME + b"\x01\xff\xff\xff\xff"),
        "has 16 bytes",
    ),
    "an empty one of more axes than memory": (
        lambda b: b.replace(NAME + b"\x01\4\0\0\0\0\x10\0\0\0" + BIAS, NAME + EMPTY),
        r"shape \(0, 4294967295, 4294967295, 4294967295\), type float32, has 0 bytes",
    ),
    "a name that is none": (lambda b: b.replace(b"encoder/conv1/bias", b"encoder/\x1b[2J1/bias"), "text of at most"),
    "a name without an end": (lambda b: b.replace(NAME, NAME[:-1] + b"x"), "text of at most"),
    "a name of no letters": (lambda b: b.replace(b"\x13\0" + NAME, b"\0\0" + NAME), "text of at most"),
    "twice": (lambda b: b.replace(b"encoder/conv2/bias", b"encoder/conv1/bias"), "is there twice"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(path: Path, name: str) -> None:
    change, message = DAMAGE[name]
    whole = model_bin(variables())
    damaged = change(whole)
    assert damaged != whole
    path.write_bytes(damaged)
    with pytest.raises(BundleError, match=message) as refused:
        read_variables(path)
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ((("a", "b"),), "alias 'a' stands for 'b', which is not there"),
        ((("encoder/conv1/bias", "encoder/conv2/bias"),), "'encoder/conv1/bias' is there twice"),
        ((("a", "encoder/conv2/bias"),) * 2, "'a' is there twice"),
    ],
)
def test_aliases_that_do_not_fit_are_refused(path: Path, aliases: Any, message: str) -> None:
    path.write_bytes(model_bin(variables(), aliases=aliases))
    with pytest.raises(BundleError, match=message):
        read_variables(path)


def test_a_number_of_variables_that_none_has(path: Path) -> None:
    path.write_bytes(struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 2**32 - 1))
    with pytest.raises(BundleError, match="at most 4096 variables, found 4294967295"):
        read_variables(path)


@given(data=st.data())
def test_any_damage_is_a_refusal_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.bin"
    path.write_bytes(content)
    said = ""
    try:
        with within(20):
            to_huggingface(path)
    except BundleError as error:
        said = str(error)
    assert len(said) < 500


WHOLE = model_bin(variables())
