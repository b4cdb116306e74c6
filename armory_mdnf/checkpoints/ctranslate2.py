"""Whisper in CTranslate2's format, as a folder that Hugging Face's transformers and this package read.

``model.bin`` is little endian: version, name and revision of the specification, then variables (name, dimensions, type,
data) and aliases. Nothing in it can be executed. Source: CTranslate2's ``python/ctranslate2/specs/model_spec.py``
(version 6 of the file) and its converter for Whisper, whose mapping of names is inverted here.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.atomic import replacing, write_text
from armory_mdnf.errors import BundleError, quoted

VERSION = 6
SPECIFICATION = "WhisperSpec"
# CTranslate2's DataType: only what a Whisper that computes in floating point holds.
DTYPES = {code: np.dtype(name) for code, name in enumerate(("<f4", "i1", "<i2", "<i4", "<f2"))}
MAX_VARIABLES, MAX_NAME, MAX_RANK = 4096, 256, 4


class _Reader:
    """Reads a file front to back; whatever is missing is named with its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = np.memmap(path, dtype=np.uint8, mode="r")
        self.at = 0

    def take(self, size: int, what: str) -> memoryview:
        if size > len(self.data) - self.at:
            raise BundleError(
                f"{self.path}: ends at byte {len(self.data)}, in {what}, which has {size} bytes from byte {self.at} on "
                "(truncated?)"
            )
        piece = memoryview(self.data[self.at : self.at + size])  # type: ignore[arg-type]
        self.at += size
        return piece

    def number(self, form: str, what: str) -> int:
        return int(struct.unpack("<" + form, self.take(struct.calcsize("<" + form), what))[0])

    def text(self, what: str) -> str:
        size = self.number("H", what)
        raw = bytes(self.take(min(size, MAX_NAME + 1), what))
        if not 0 < size <= MAX_NAME or raw[-1] != 0 or not raw[:-1].isascii():
            raise BundleError(f"{self.path}: expected {what} as text of at most {MAX_NAME} letters at byte {self.at}")
        return raw[:-1].decode("ascii")


def is_ctranslate2(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as CTranslate2's Whisper does."""
    name = SPECIFICATION.encode() + b"\0"
    with Path(path).open("rb") as f:
        return f.read(6 + len(name))[4:] == struct.pack("<H", len(name)) + name


def read_variables(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The variables of a ``model.bin``, floating point ones as float32, by name.

    Raises :class:`BundleError` naming the file and what was expected and found.
    """
    reader = _Reader(Path(path))
    version = reader.number("I", "the version")
    found = reader.text("the name of the specification")
    reader.number("I", "the revision")
    if version != VERSION or found != SPECIFICATION:
        raise BundleError(
            f"{path}: expected version {VERSION} of {SPECIFICATION}, found version {version} of {quoted(found)}"
        )
    count = reader.number("I", "the number of variables")
    if count > MAX_VARIABLES:
        raise BundleError(f"{path}: expected at most {MAX_VARIABLES} variables, found {count}")
    variables: dict[str, Tensor] = {}
    for k in range(count):
        name = reader.text(f"the name of variable {k}")
        rank = reader.number("B", f"the rank of {name}")
        if rank > MAX_RANK:
            raise BundleError(f"{path}: expected {quoted(name)} to have at most {MAX_RANK} dimensions, found {rank}")
        shape = [reader.number("I", f"the shape of {name}") for _ in range(rank)]
        kind = reader.number("B", f"the type of {name}")
        size = reader.number("I", f"the size of {name}")
        if kind not in DTYPES:
            raise BundleError(f"{path}: {quoted(name)} has type {kind}, expected one of {', '.join(map(str, DTYPES))}")
        dtype = DTYPES[kind]
        if size != math.prod(shape) * dtype.itemsize:
            raise BundleError(f"{path}: {quoted(name)} of shape {tuple(shape)}, type {dtype}, has {size} bytes")
        values = np.frombuffer(reader.take(size, f"the values of {name}"), dtype).reshape(shape)
        if name in variables:
            raise BundleError(f"{path}: {quoted(name)} is there twice")
        variables[name] = torch.from_numpy(values.astype(np.float32 if dtype.kind == "f" else dtype))
    for _ in range(reader.number("I", "the number of aliases")):
        alias, name = reader.text("an alias"), reader.text("what an alias stands for")
        if name not in variables:
            raise BundleError(f"{path}: alias {quoted(alias)} stands for {quoted(name)}, which is not there")
        variables[alias] = variables[name]
    if reader.at != len(reader.data):
        raise BundleError(f"{path}: {len(reader.data) - reader.at} bytes are left after the last alias")
    return variables


@dataclass
class _Names:
    """Takes variables under CTranslate2's names, and complains of those that are missing or left."""

    path: Path
    variables: dict[str, Tensor]

    def take(self, name: str) -> Tensor:
        if name not in self.variables:
            raise BundleError(f"{self.path}: variable {quoted(name)} is missing")
        tensor = self.variables.pop(name)
        if not tensor.is_floating_point():
            raise BundleError(
                f"{self.path}: {quoted(name)} is quantised ({tensor.dtype}), expected float16 or float32 weights"
            )
        return tensor


def to_huggingface(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a Whisper as transformers names them, from a ``model.bin``.

    Raises :class:`BundleError` for a file that is damaged, quantised, or no Whisper.
    """
    path = Path(path)
    names = _Names(path, {k: v for k, v in read_variables(path).items() if k != "decoder/projection/weight"})
    state: dict[str, Tensor] = {}

    def layer_norm(source: str, target: str) -> None:
        state[f"{target}.weight"] = names.take(f"{source}/gamma")
        state[f"{target}.bias"] = names.take(f"{source}/beta")

    def linear(source: str, *targets: str, biasless: str = "") -> None:
        weights = names.take(f"{source}/weight").chunk(len(targets))
        biases = names.take(f"{source}/bias").chunk(len(targets))
        for target, weight, bias in zip(targets, weights, biases, strict=True):
            state[f"{target}.weight"] = weight.contiguous()
            if target != biasless:
                state[f"{target}.bias"] = bias.contiguous()

    def attention(source: str, target: str, norm: str, crossed: bool = False) -> None:
        layer_norm(f"{source}/layer_norm", norm)
        q, k, v, out = (f"{target}.{part}_proj" for part in ("q", "k", "v", "out"))
        if crossed:
            linear(f"{source}/linear_0", q)
            linear(f"{source}/linear_1", k, v, biasless=k)
            linear(f"{source}/linear_2", out)
        else:
            linear(f"{source}/linear_0", q, k, v, biasless=k)
            linear(f"{source}/linear_1", out)

    layers = {}
    for side in ("encoder", "decoder"):
        count = 0
        while f"{side}/layer_{count}/ffn/layer_norm/gamma" in names.variables:
            source, target = f"{side}/layer_{count}", f"model.{side}.layers.{count}"
            attention(f"{source}/self_attention", f"{target}.self_attn", f"{target}.self_attn_layer_norm")
            if side == "decoder":
                cross = f"{target}.encoder_attn"
                attention(f"{source}/attention", cross, f"{cross}_layer_norm", crossed=True)
            layer_norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
            linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            linear(f"{source}/ffn/linear_1", f"{target}.fc2")
            count += 1
        layers[side] = count
        layer_norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        state[f"model.{side}.embed_positions.weight"] = names.take(f"{side}/position_encodings/encodings")
    for conv in ("conv1", "conv2"):
        state[f"model.encoder.{conv}.weight"] = names.take(f"encoder/{conv}/weight")
        state[f"model.encoder.{conv}.bias"] = names.take(f"encoder/{conv}/bias")
    state["model.decoder.embed_tokens.weight"] = names.take("decoder/embeddings/weight")
    return _config(names, state, layers), state


def _config(names: _Names, state: Mapping[str, Tensor], layers: Mapping[str, int]) -> dict[str, Any]:
    """transformers' ``config.json``, its sizes read from the weights and from what CTranslate2 says beside them."""
    vocabulary, d_model = state["model.decoder.embed_tokens.weight"].shape
    heads = {side: int(names.variables[f"{side}/num_heads"]) for side in ("encoder", "decoder")}
    if not layers["encoder"] or not layers["decoder"]:
        raise BundleError(f"{names.path}: expected layers of an encoder and a decoder, found {dict(layers)}")
    english = vocabulary == 51864
    end = 50256 if english else 50257
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "vocab_size": vocabulary,
        "num_mel_bins": state["model.encoder.conv1.weight"].shape[1],
        "d_model": d_model,
        "encoder_layers": layers["encoder"],
        "decoder_layers": layers["decoder"],
        "encoder_attention_heads": heads["encoder"],
        "decoder_attention_heads": heads["decoder"],
        "encoder_ffn_dim": state["model.encoder.layers.0.fc1.weight"].shape[0],
        "decoder_ffn_dim": state["model.decoder.layers.0.fc1.weight"].shape[0],
        "max_source_positions": state["model.encoder.embed_positions.weight"].shape[0],
        "max_target_positions": state["model.decoder.embed_positions.weight"].shape[0],
        "activation_function": "gelu",
        "scale_embedding": False,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": end + 1,
    }


def convert_folder(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> list[str]:
    """Write ``out`` with config.json, generation_config.json, tokenizer.json and model.safetensors.

    ``folder`` holds CTranslate2's model.bin, config.json and tokenizer.json, or is the path of that model.bin.
    Returns the names of the files written. Raises :class:`BundleError` naming a file that is missing or damaged.
    """
    from safetensors.torch import save_file

    folder, out = Path(folder), Path(out)
    folder = folder.parent if folder.name == "model.bin" else folder
    for name in ("model.bin", "config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise BundleError(f"no {name} in {folder}: CTranslate2 keeps it beside the weights")
    config, state = to_huggingface(folder / "model.bin")
    try:
        beside = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        suppressed = {key: [int(i) for i in beside[key]] for key in ("suppress_ids", "suppress_ids_begin")}
        alignment = [[int(i) for i in pair] for pair in beside["alignment_heads"]]
        tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
        tokens = {token["content"]: token["id"] for token in json.loads(tokenizer)["added_tokens"]}
        without_times = tokens["<|notimestamps|>"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder}: config.json or tokenizer.json is not CTranslate2's: {error!r:.200}") from error
    start = config["decoder_start_token_id"]
    generation = {
        **{key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")},
        "suppress_tokens": suppressed["suppress_ids"],
        "begin_suppress_tokens": suppressed["suppress_ids_begin"],
        "alignment_heads": alignment,
        "no_timestamps_token_id": without_times,
        "is_multilingual": config["vocab_size"] != 51864,
        "max_length": config["max_target_positions"],
        "prev_sot_token_id": tokens.get("<|startofprev|>", start),
        "return_timestamps": False,
    }
    if generation["is_multilingual"]:
        generation["lang_to_id"] = {name: i for name, i in tokens.items() if i in set(beside.get("lang_ids", ()))}
        generation["task_to_id"] = {"transcribe": tokens["<|transcribe|>"], "translate": tokens["<|translate|>"]}
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "model.safetensors") as partial:
        save_file(state, str(partial), metadata={"format": "pt"})
    write_text(out / "tokenizer.json", tokenizer)
    write_text(out / "generation_config.json", json.dumps(generation, indent=2) + "\n")
    write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
    return ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"]
