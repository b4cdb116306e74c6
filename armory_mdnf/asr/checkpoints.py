"""Weights of recognisers: our safetensors bundles, and deepspeech.pytorch's checkpoints."""

from __future__ import annotations

import os
import pickle
import types
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
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


class Inert:
    """Stands in for every class that a pickle names and we do not know: it keeps the values and does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """Pickled list items; kept out, nothing here needs them."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Pickled dictionary items; likewise."""


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        # A fresh class each time: a pickle can set attributes on what it gets, and must not reach others through it.
        return known if known is not None else type(f"Inert_{name}", (Inert,), {})


_inert_pickle = types.ModuleType("inert_pickle")
_inert_pickle.Unpickler = _InertUnpickler  # type: ignore[attr-defined]
_inert_pickle.load = lambda file, **options: _InertUnpickler(file, **options).load()  # type: ignore[attr-defined]


def _plain(value: Any) -> Any:
    """Values of an OmegaConf container or enum that was read as :class:`Inert`."""
    if not isinstance(value, Inert):
        return value
    state = value.state
    if isinstance(state, tuple):
        state = next((part for part in state if isinstance(part, dict)), {})
    if isinstance(state, dict) and "_content" in state:
        content = state["_content"]
        return {k: _plain(v) for k, v in content.items()} if isinstance(content, dict) else content
    if isinstance(state, dict) and "_val" in state:
        return _plain(state["_val"])
    return value.args[0] if len(value.args) == 1 else None


def read_lightning_checkpoint(path: str | os.PathLike[str]) -> Recognizer:
    """Read a deepspeech.pytorch V3 ``.ckpt`` without executing anything that the pickle names.

    Raises :class:`BundleError` if the file is missing, no checkpoint, or its sizes do not fit its weights.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", pickle_module=_inert_pickle, weights_only=False)
    except Exception as error:  # whatever a damaged pickle raises, the user needs the file's name
        raise BundleError(f"{path} is not a readable checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise BundleError(f"{path}: expected a Lightning checkpoint with 'state_dict' and 'hyper_parameters'")
    hyper = {k: _plain(v) for k, v in content.get("hyper_parameters", {}).items()}
    weights = {k: v for k, v in content["state_dict"].items() if isinstance(v, Tensor)}
    try:
        recognizer = Recognizer(_config(hyper, weights))
    except (KeyError, TypeError, AttributeError, OptionError) as error:
        raise BundleError(f"{path}: hyper_parameters are not those of a V3 checkpoint: {error!r}") from error
    fill(recognizer.network, weights, str(path))
    return recognizer.eval().requires_grad_(False)


def _config(hyper: Mapping[str, Any], weights: Mapping[str, Tensor]) -> DeepSpeech2Config:
    model, spectrogram = hyper["model_cfg"], hyper["spect_cfg"]
    gates = weights["rnns.0.rnn.weight_ih_l0"].shape[0] // weights["rnns.0.rnn.weight_hh_l0"].shape[1]
    bidirectional = "rnns.0.rnn.weight_ih_l0_reverse" in weights
    window = spectrogram.get("window")
    return DeepSpeech2Config(
        hidden_size=model["hidden_size"],
        hidden_layers=model["hidden_layers"],
        rnn_type={4: "lstm", 3: "gru"}[gates],
        bidirectional=bidirectional,
        lookahead_context=20 if bidirectional else weights["lookahead.0.conv.weight"].shape[-1],
        conv_channels=weights["conv.seq_module.0.weight"].shape[0],
        labels="".join(hyper["labels"]),
        sample_rate_hz=spectrogram["sample_rate"],
        window_s=spectrogram["window_size"],
        stride_s=spectrogram["window_stride"],
        window=window if isinstance(window, str) else "hamming",
    )
