"""Weights of recognisers as safetensors bundles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from armory_mdnf import bundles
from armory_mdnf.asr.model import DeepSpeech2Config, Recognizer
from armory_mdnf.errors import BundleError, OptionError

KIND = "deepspeech2"


def load_recognizer(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Recognizer:
    """Read a bundle and return its recogniser, in evaluation mode, its weights needing no gradient.

    Raises :class:`BundleError` naming the file and the key, the expected and the found.
    """
    config, tensors = bundles.load(name_or_path, KIND)
    try:
        recognizer = Recognizer(DeepSpeech2Config.from_dict(config.get("model", {})))
    except (OptionError, TypeError) as error:
        raise BundleError(f"{name_or_path}: {error}") from error
    fill(recognizer.network, tensors, str(name_or_path))
    return recognizer.eval().requires_grad_(False).to(device)


def save_recognizer(
    path: str | os.PathLike[str], recognizer: Recognizer, recipe: Mapping[str, Any], half: bool = False
) -> None:
    """Write a bundle: the configuration, how the weights came about, and the weights.

    ``half`` stores the weight matrices in half precision, for files that are shipped; computation stays in float32.
    """
    config = {"model": recognizer.config.as_dict(), "recipe": dict(recipe)}
    tensors = recognizer.network.state_dict()
    if half:
        tensors = {key: value.half() if value.dim() > 1 else value for key, value in tensors.items()}
    bundles.save(path, KIND, config, tensors)


def fill(network: torch.nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load ``tensors`` into ``network``. Raises :class:`BundleError` for the first key that does not fit."""
    expected = network.state_dict()
    for key in expected:
        if key not in tensors:
            if key.endswith("num_batches_tracked"):
                continue
            raise BundleError(f"{origin}: weight {key!r} is missing, expected shape {tuple(expected[key].shape)}")
        if tensors[key].shape != expected[key].shape:
            raise BundleError(
                f"{origin}: weight {key!r} has shape {tuple(tensors[key].shape)}, expected {tuple(expected[key].shape)}"
            )
        if tensors[key].is_floating_point() and not bool(torch.isfinite(tensors[key]).all()):
            raise BundleError(f"{origin}: weight {key!r} has values that are not finite")
    for key in tensors:
        if key not in expected:
            raise BundleError(f"{origin}: unexpected weight {key!r} of shape {tuple(tensors[key].shape)}")
    network.load_state_dict(dict(tensors), strict=False)
