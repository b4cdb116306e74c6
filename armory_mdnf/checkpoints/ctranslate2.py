"""Whisper in CTranslate2's format, as a folder that Hugging Face's transformers and this package read.

``model.bin`` is little endian: version, name and revision of the specification, then variables (name, dimensions, type,
data) and aliases. Nothing in it can be executed. Source: CTranslate2's ``python/ctranslate2/specs/model_spec.py``
(version 6 of the file) and its converter for Whisper, whose mapping of names is inverted here.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.errors import BundleError, cause, quoted
from armory_mdnf.files import strict_json
from armory_mdnf.files.atomic import write_text
from armory_mdnf.files.bundles import save_tensors
from armory_mdnf.files.foreign import Imported

FORMAT = "CTranslate2 Whisper"
VERSION = 6
SPECIFICATION = "WhisperSpec"
# CTranslate2's DataType: only what a Whisper that computes in floating point holds.
DTYPES = {code: np.dtype(name) for code, name in enumerate(("<f4", "i1", "<i2", "<i4", "<f2"))}
MAX_VARIABLES, MAX_NAME, MAX_RANK = 4096, 256, 4
MAX_JSON_BYTES = 16 << 20  # of a tokenizer, which has some two million
ENGLISH_VOCABULARY = 51864
# What may be said beside the weights, and has one value in a Whisper: GELU, normalised before, no other positions.
ONLY = {"activation": 3, "pre_norm": 1, "alibi": 0, "scale_embeddings": 0}


class _Reader:
    """Reads a file front to back; whatever is missing is named with its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # A map of nothing is an error of its own.
        empty = not path.stat().st_size
        self.data = np.zeros(0, np.uint8) if empty else np.memmap(path, dtype=np.uint8, mode="r")
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
        name = raw[:-1].decode("latin-1")
        if not 0 < size <= MAX_NAME or raw[-1] != 0 or not name.isascii() or not name.isprintable():
            raise BundleError(f"{self.path}: expected {what} as text of at most {MAX_NAME} letters at byte {self.at}")
        return name


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
        # An empty variable may not have sizes beside its zero that no memory could hold either.
        if size != math.prod(shape) * dtype.itemsize or math.prod(n or 1 for n in shape) > len(reader.data):
            raise BundleError(f"{path}: {quoted(name)} of shape {tuple(shape)}, type {dtype}, has {size} bytes")
        values = np.frombuffer(reader.take(size, f"the values of {name}"), dtype).reshape(shape)
        if name in variables:
            raise BundleError(f"{path}: {quoted(name)} is there twice")
        variables[name] = torch.from_numpy(values.astype(np.float32 if dtype.kind == "f" else dtype.newbyteorder("=")))
    for _ in range(reader.number("I", "the number of aliases")):
        alias, name = reader.text("an alias"), reader.text("what an alias stands for")
        if alias in variables:
            raise BundleError(f"{path}: {quoted(alias)} is there twice")
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
        if not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{self.path}: expected finite numbers in {quoted(name)}, found NaN or infinity")
        return tensor

    def parts(self, name: str, count: int) -> tuple[Tensor, ...]:
        """A variable that holds several, one below the other."""
        tensor = self.take(name)
        if not tensor.dim() or tensor.shape[0] % count:
            raise BundleError(f"{self.path}: {quoted(name)} of shape {tuple(tensor.shape)} is no {count} of one size")
        return tensor.chunk(count) if tensor.shape[0] else (tensor,) * count

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number that CTranslate2 keeps beside the weights."""
        tensor = self.variables.pop(name, None)
        if tensor is None and default is not None:
            return default
        if tensor is None or tensor.numel() != 1 or tensor.is_floating_point():
            found = "none" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            raise BundleError(f"{self.path}: expected a whole number as {quoted(name)}, found {found}")
        return int(tensor)


def to_huggingface(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a Whisper as transformers names them, from a ``model.bin``.

    Raises :class:`BundleError` for a file that is damaged, quantised, or no Whisper.
    """
    path = Path(path)
    names = _Names(path, read_variables(path))
    state: dict[str, Tensor] = {}

    def layer_norm(source: str, target: str) -> None:
        state[f"{target}.weight"] = names.take(f"{source}/gamma")
        state[f"{target}.bias"] = names.take(f"{source}/beta")

    def linear(source: str, *targets: str, biasless: str = "") -> None:
        weights = names.parts(f"{source}/weight", len(targets))
        biases = names.parts(f"{source}/bias", len(targets))
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
    state["model.decoder.embed_tokens.weight"] = tokens = names.take("decoder/embeddings/weight")
    if "decoder/projection/weight" in names.variables:
        projection = names.take("decoder/projection/weight")
        if projection is not tokens and not torch.equal(projection, tokens):
            raise BundleError(f"{path}: expected a projection that is the embeddings again, found another")
    if not layers["encoder"] or not layers["decoder"]:
        raise BundleError(f"{path}: expected layers of an encoder and a decoder, found {layers}")
    config = _config(names, state, layers)
    _check_shapes(path, state, config)
    if left := [name for name, tensor in names.variables.items() if tensor.is_floating_point()]:
        raise BundleError(f"{path}: found variable {quoted(left[0])}, which no Whisper has")
    return config, state


# What weights are called at their end, and their shape in sizes of the configuration.
SHAPES: tuple[tuple[str, tuple[str | int, ...]], ...] = (
    (r"_proj\.weight", ("d_model", "d_model")),
    (r"fc1\.weight", ("ffn", "d_model")),
    (r"fc1\.bias", ("ffn",)),
    (r"fc2\.weight", ("d_model", "ffn")),
    (r"conv1\.weight", ("d_model", "num_mel_bins", 3)),
    (r"conv2\.weight", ("d_model", "d_model", 3)),
    (r"encoder\.embed_positions\.weight", ("max_source_positions", "d_model")),
    (r"decoder\.embed_positions\.weight", ("max_target_positions", "d_model")),
    (r"embed_tokens\.weight", ("vocab_size", "d_model")),
    (r"(bias|layer_norm\.weight)", ("d_model",)),
)


def _check_shapes(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    for key, tensor in state.items():
        names = next(shape for ending, shape in SHAPES if re.search(f"{ending}$", key))
        sizes = {**config, "ffn": config["encoder_ffn_dim" if ".encoder." in key else "decoder_ffn_dim"]}
        expected = tuple(sizes[name] if isinstance(name, str) else name for name in names)
        if tensor.shape != expected or not tensor.numel():
            raise BundleError(f"{path}: expected weight {quoted(key)} of shape {expected}, found {tuple(tensor.shape)}")


def _first(tensor: Tensor, axis: int = 0) -> int:
    return tensor.shape[axis] if tensor.dim() > axis else 0


def _config(names: _Names, state: Mapping[str, Tensor], layers: Mapping[str, int]) -> dict[str, Any]:
    """transformers' ``config.json``, its sizes read from the weights and from what CTranslate2 says beside them."""
    vocabulary = _first(state["model.decoder.embed_tokens.weight"])
    d_model = _first(state["model.decoder.embed_tokens.weight"], 1)
    heads = {side: names.number(f"{side}/num_heads") for side in ("encoder", "decoder")}
    if any(n < 1 or d_model % n for n in heads.values()):
        raise BundleError(f"{names.path}: expected heads that divide {d_model} channels, found {heads}")
    for side in ("encoder", "decoder"):
        for name, only in ONLY.items():
            if (found := names.number(f"{side}/{name}", only)) != only:
                raise BundleError(f"{names.path}: expected {side}/{name} {only}, as Whisper has, found {found}")
    english = vocabulary == ENGLISH_VOCABULARY
    end = 50256 if english else 50257
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "vocab_size": vocabulary,
        "num_mel_bins": _first(state["model.encoder.conv1.weight"], 1),
        "d_model": d_model,
        "encoder_layers": layers["encoder"],
        "decoder_layers": layers["decoder"],
        "encoder_attention_heads": heads["encoder"],
        "decoder_attention_heads": heads["decoder"],
        "encoder_ffn_dim": _first(state["model.encoder.layers.0.fc1.weight"]),
        "decoder_ffn_dim": _first(state["model.decoder.layers.0.fc1.weight"]),
        "max_source_positions": _first(state["model.encoder.embed_positions.weight"]),
        "max_target_positions": _first(state["model.decoder.embed_positions.weight"]),
        "activation_function": "gelu",
        "scale_embedding": False,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": end + 1,
    }


@dataclass(frozen=True)
class WhisperFolder:
    """A Whisper as Hugging Face's transformers keep it: a folder."""

    source: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]

    def facts(self) -> dict[str, str]:
        """What it is, for a reader."""
        sizes = self.config
        language = "English" if sizes["vocab_size"] == ENGLISH_VOCABULARY else "many languages"
        return {
            "holds": "recogniser, Whisper",
            "layers": f"{sizes['encoder_layers']} and {sizes['decoder_layers']} x {sizes['d_model']}, "
            f"{sizes['encoder_attention_heads']} heads",
            "alphabet": f"{sizes['vocab_size']} tokens, {language}",
            "audio": f"16000 Hz, log mel of {sizes['num_mel_bins']} bins",
            "parameters": f"{sum(weight.numel() for weight in self.weights.values()):,}",
        }

    def save(self, out: Path) -> list[str]:
        """Write config.json, generation_config.json, tokenizer.json and model.safetensors. Returns their names.

        CTranslate2's config.json and tokenizer.json lie beside the checkpoint. Raises :class:`BundleError` naming one
        that is missing or not CTranslate2's.
        """
        generation, tokenizer = self._beside()
        texts = {
            "tokenizer.json": tokenizer,
            "generation_config.json": strict_json.dumps(generation, indent=2) + "\n",
            "config.json": strict_json.dumps(self.config, indent=2) + "\n",
        }
        save_tensors(out / "model.safetensors", self.weights, {"format": "pt"})
        for name, text in texts.items():
            write_text(out / name, text)
        return [*texts, "model.safetensors"]

    def _beside(self) -> tuple[dict[str, Any], str]:
        """transformers' generation_config.json, and the tokenizer's text."""
        folder, config = self.source.parent, self.config
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise BundleError(f"no {name} in {folder}: CTranslate2 keeps it beside the weights")
        beside = strict_json.read_json(folder / "config.json", max_bytes=MAX_JSON_BYTES)
        tokenizer = strict_json.read_json(folder / "tokenizer.json", max_bytes=MAX_JSON_BYTES)
        try:
            suppressed = {key: _whole(beside[key]) for key in ("suppress_ids", "suppress_ids_begin")}
            alignment = [_whole(pair) for pair in beside["alignment_heads"]]
            tokens = {token["content"]: _whole([token["id"]])[0] for token in tokenizer["added_tokens"]}
            languages = set(_whole(beside.get("lang_ids", [])))
            start = config["decoder_start_token_id"]
            generation = {
                **{key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
                "decoder_start_token_id": start,
                "suppress_tokens": suppressed["suppress_ids"],
                "begin_suppress_tokens": suppressed["suppress_ids_begin"],
                "alignment_heads": alignment,
                "no_timestamps_token_id": tokens["<|notimestamps|>"],
                "is_multilingual": config["vocab_size"] != ENGLISH_VOCABULARY,
                "max_length": config["max_target_positions"],
                "prev_sot_token_id": tokens.get("<|startofprev|>", start),
                "return_timestamps": False,
            }
            if generation["is_multilingual"]:
                generation["lang_to_id"] = {name: i for name, i in tokens.items() if i in languages}
                generation["task_to_id"] = {
                    "transcribe": tokens["<|transcribe|>"],
                    "translate": tokens["<|translate|>"],
                }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(
                f"{folder}: config.json or tokenizer.json is not CTranslate2's: {cause(error)}"
            ) from error
        return generation, (folder / "tokenizer.json").read_text(encoding="utf-8")


def _whole(values: Any) -> list[int]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise ValueError(f"expected a list of whole numbers, found {quoted(values)}")
    return values


def import_whisper(path: str | os.PathLike[str]) -> Imported[WhisperFolder]:
    """The Whisper of a ``model.bin``. Raises as :func:`to_huggingface`."""
    config, weights = to_huggingface(path)
    mapped = (f"{len(weights)} weights, under the names of transformers", "sizes, from the weights")
    return Imported(WhisperFolder(Path(path), config, weights), FORMAT, mapped, ())
