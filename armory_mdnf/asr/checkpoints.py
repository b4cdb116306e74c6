"""Weights of recognisers as safetensors bundles."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from armory_mdnf.asr.bundled import BundledRecognizer
from armory_mdnf.asr.contract import SpeechRecognizer
from armory_mdnf.asr.deepspeech2.model import DeepSpeech2Recognizer
from armory_mdnf.asr.huggingface.folders import find_folder, is_huggingface, weight_files
from armory_mdnf.asr.whisper.ctc import WhisperCTC
from armory_mdnf.errors import BundleError, OptionError, cause, choices, quoted
from armory_mdnf.files import bundles
from armory_mdnf.files.provenance import of_files, sha256_of

KINDS: dict[str, Any] = {model.kind: model for model in (DeepSpeech2Recognizer, WhisperCTC)}
"""Recognisers that bundles hold, by the kind of bundle."""


def build_recognizer(kind: str, config: Mapping[str, Any]) -> BundledRecognizer:
    """A recogniser with random weights. Raises :class:`OptionError` for a kind or sizes that do not exist."""
    if kind not in KINDS:
        raise OptionError(choices(kind, KINDS, "kind of recogniser"))
    return KINDS[kind](KINDS[kind].config_class.from_dict(config))


def kind_of(recognizer: BundledRecognizer) -> str:
    """The kind of bundle that a recogniser is saved in. Raises :class:`OptionError` if there is none."""
    if type(recognizer) not in KINDS.values():
        raise OptionError(f"{type(recognizer).__name__} is of no kind that a bundle holds: {', '.join(KINDS)}")
    return recognizer.kind


@torch.inference_mode(False)  # what is loaded in it would refuse gradients for ever
def load_recognizer(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu") -> SpeechRecognizer:
    """A recogniser in evaluation mode, its weights needing no gradient.

    From a bundle by name or path, or a model of Hugging Face by ``hf:NAME`` or the path of its folder.
    Raises :class:`BundleError` naming the file and the key, the expected and the found.
    """
    if is_huggingface(name_or_path):
        from armory_mdnf.asr.huggingface.load import load_huggingface

        return load_huggingface(name_or_path).eval().requires_grad_(False).to(device)
    return load_bundle(name_or_path, device)


@torch.inference_mode(False)
def load_bundle(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu") -> BundledRecognizer:
    """The recogniser of a bundle. Raises as :func:`load_recognizer`."""
    kind, config, tensors = bundles.load_any(name_or_path, KINDS)
    sizes = config.get("model", {})
    with _describing(name_or_path):
        layers = max((sizes.get(key, 0) for key in ("hidden_layers", "layers")), default=0)
        if layers > len(tensors) or not isinstance(sizes.get("labels", ""), str):
            raise OptionError(f"expected a layer per weight at most and labels as a string, got {quoted(sizes)}")
        with torch.device("meta"):  # shapes only: what the sizes claim is not allocated before the weights have it
            described = KINDS[kind].network_class(KINDS[kind].config_class.from_dict(sizes))
    bundles.check_fit(described, tensors, str(name_or_path))
    with _describing(name_or_path):
        recognizer = build_recognizer(kind, sizes)
    bundles.fill(recognizer.network, tensors, str(name_or_path))
    return recognizer.eval().requires_grad_(False).to(device)


def recognizer_checksum(name_or_path: str | os.PathLike[str]) -> str:
    """SHA-256 of what :func:`load_recognizer` reads: of a bundle, or of all such files of a Hugging Face folder."""
    if is_huggingface(name_or_path):
        return of_files(weight_files(find_folder(name_or_path)))
    return sha256_of(bundles.resolve(name_or_path))


@contextmanager
def _describing(name_or_path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what a configuration that is none raises into a :class:`BundleError` naming the file."""
    try:
        yield
    except (AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise BundleError(f"{name_or_path}: its configuration describes no recogniser: {cause(error)}") from error


def save_recognizer(
    path: str | os.PathLike[str], recognizer: BundledRecognizer, recipe: Mapping[str, Any], half: bool = False
) -> None:
    """Write a bundle: the configuration, how the weights came about, and the weights.

    ``half`` stores the weight matrices in half precision, for files that are shipped; computation stays in float32.
    """
    config = {"model": recognizer.config.as_dict(), "recipe": dict(recipe)}
    tensors = recognizer.network.state_dict()
    if half:
        tensors = {key: value.half() if value.dim() > 1 else value for key, value in tensors.items()}
    bundles.save(path, kind_of(recognizer), config, tensors)
