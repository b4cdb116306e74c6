"""Checkpoints of deepspeech.pytorch: V3 (Lightning's ``.ckpt``) and V2 (a ``.pth`` package).

Both keep the weights under the module names of :mod:`armory_mdnf.asr.deepspeech2.model`, and the configuration beside
them: V3 in ``hyper_parameters``, V2 at the top. What can be seen in the weights is taken from there and held against
what the configuration says, so that a wrong or hostile number cannot make a network that the weights do not fill. The
CTC blank is the label ``_``, wherever it stands; here it comes first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from armory_mdnf.asr.deepspeech2.model import DeepSpeech2Config, DeepSpeech2Recognizer, MaskedConvolutions
from armory_mdnf.errors import BundleError, cause, quoted, shown
from armory_mdnf.files import bundles
from armory_mdnf.files.bounds import check_small
from armory_mdnf.files.foreign import Imported, plain, read_checkpoint

V2, V3 = "deepspeech.pytorch V2 package", "deepspeech.pytorch V3 Lightning checkpoint"
NETWORK = ("conv.", "rnns.", "lookahead.", "fc.")
BLANK_ROWS = "fc.0.module.1.weight"  # of the output layer, a row per class
MAX_LAYERS, MAX_LABELS = 100, 1 << 16
# What V2 keeps at the top besides the weights.
V2_MAPPED = ("hidden_size", "hidden_layers", "rnn_type", "bidirectional", "labels", "audio_conf", "state_dict")


def read_recognizer(path: str | os.PathLike[str]) -> DeepSpeech2Recognizer:
    """The recogniser of a V2 or V3 checkpoint, in evaluation mode, its weights needing no gradient.

    Raises :class:`BundleError` if the file is missing, no checkpoint, or its sizes do not fit its weights.
    """
    return import_recognizer(read_checkpoint(path), str(path)).module


def is_deepspeech(content: Any) -> bool:
    """Whether what a checkpoint holds looks like V2 or V3."""
    return isinstance(content, dict) and bool({"audio_conf", "hyper_parameters"} & set(content))


def import_recognizer(content: Any, origin: str) -> Imported[DeepSpeech2Recognizer]:
    """The recogniser of what :func:`~armory_mdnf.files.foreign.read_checkpoint` found in ``origin``.

    Raises :class:`BundleError` naming ``origin``, the key, and what was expected and found.
    """
    if not is_deepspeech(content):
        raise BundleError(
            f"{origin}: expected 'state_dict' with 'hyper_parameters' (deepspeech.pytorch V3) or with 'audio_conf' (V2)"
        )
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise BundleError(f"{origin}: expected a dictionary under 'state_dict', found {type(state).__name__}")
    weights = _without_prefix({k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)})
    network = {k: v for k, v in weights.items() if k.startswith(NETWORK)}
    if any(re.match(r"conv\.\d", key) for key in network):
        raise BundleError(
            f"{origin}: its weights are named as deepspeech.pytorch V1 named them ('conv.0.weight', expected "
            "'conv.seq_module.0.weight'); V1 computes otherwise and is not read: take the V2 or V3 release of the model"
        )
    version = V3 if "hyper_parameters" in content else V2
    try:
        model, audio, labels = _v3_sections(content) if version == V3 else _v2_sections(content)
        blank = _blank(labels)
        order = [blank, *(i for i in range(len(labels)) if i != blank)]
        if blank and BLANK_ROWS in network and network[BLANK_ROWS].shape[:1] == (len(labels),):
            network[BLANK_ROWS] = network[BLANK_ROWS][order]
        config = _config(network, model, audio, "".join(labels[i] for i in order))
        with torch.device("meta"):  # shapes only: what the sizes claim is not allocated before the weights have it
            described = DeepSpeech2Recognizer(config)
    except BundleError as error:
        raise BundleError(f"{origin}: {error}") from error
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise BundleError(f"{origin}: its configuration is not that of a {version}: {cause(error)}") from error
    bundles.check_fit(described.network, network, origin)
    recognizer = DeepSpeech2Recognizer(config)
    bundles.fill(recognizer.network, network, origin)
    kept = V2_MAPPED if version == V2 else ("hyper_parameters", "state_dict")
    left = [shown(k) for k in content if k not in kept]
    left += [f"state_dict: {shown(k)}" for k in state if k not in weights or k not in network]
    if version == V3:
        hyper = content["hyper_parameters"]
        left += [f"hyper_parameters: {shown(k)}" for k in hyper if k not in ("model_cfg", "spect_cfg", "labels")]
    moved = f", its blank '_' moved from class {blank} to the front" if blank else ""
    mapped = (
        f"{len(network)} weights, under the same names",
        "sizes, checked against the weights",
        f"alphabet of {len(recognizer.config.labels)} characters{moved}",
        "audio configuration",
    )
    return Imported(recognizer.eval().requires_grad_(False), version, mapped, tuple(left))


def _blank(labels: Any) -> int:
    """The class of the CTC blank, which deepspeech.pytorch looks for as ``labels.index("_")``."""
    if not isinstance(labels, (str, list)) or not all(isinstance(c, str) and len(c) == 1 for c in labels):
        raise BundleError(f"expected an alphabet of characters under 'labels', found {quoted(labels)}")
    if (count := list(labels).count("_")) != 1:
        raise BundleError(f"expected the blank '_' once in the alphabet {quoted(labels)}, found it {count} times")
    return labels.index("_")


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the ``module.`` that data-parallel training puts before all of them."""
    if weights and all(key.startswith("module.") for key in weights):
        return {key.removeprefix("module."): value for key, value in weights.items()}
    return weights


Sections = tuple[Mapping[str, Any], Mapping[str, Any], Any]


def _v3_sections(content: Mapping[str, Any]) -> Sections:
    hyper = content["hyper_parameters"]
    if not isinstance(hyper, dict):
        raise BundleError(f"expected a dictionary under 'hyper_parameters', found {type(hyper).__name__}")
    model, audio, labels = (_small(plain(hyper.get(key)), key) for key in ("model_cfg", "spect_cfg", "labels"))
    for key, value in (("model_cfg", model), ("spect_cfg", audio)):
        if not isinstance(value, dict):
            raise BundleError(f"expected sizes under 'hyper_parameters' {key!r}, found {quoted(value)}")
    return model, audio, labels


def _v2_sections(content: Mapping[str, Any]) -> Sections:
    audio = content["audio_conf"]
    if not isinstance(audio, dict):
        raise BundleError(f"expected a dictionary under 'audio_conf', found {type(audio).__name__}")
    return content, _small(audio, "audio_conf"), _small(content.get("labels"), "labels")


def _small(value: Any, key: str) -> Any:
    check_small(value, repr(key), MAX_LABELS)
    return value


def _config(
    weights: Mapping[str, Tensor], model: Mapping[str, Any], audio: Mapping[str, Any], labels: str
) -> DeepSpeech2Config:
    """Sizes from the weights, audio and alphabet from the configuration.

    Raises :class:`BundleError` where the two disagree.
    """
    first, inner = (_matrix(weights, f"rnns.0.rnn.weight_{name}_l0") for name in ("ih", "hh"))
    hidden = inner.shape[1]
    gates = inner.shape[0] / hidden if hidden else 0
    if gates not in (3, 4):
        raise BundleError(
            f"expected 3 (GRU) or 4 (LSTM) gates in 'rnns.0.rnn.weight_hh_l0', found shape {tuple(inner.shape)}"
        )
    bidirectional = "rnns.0.rnn.weight_ih_l0_reverse" in weights
    context = 20
    if not bidirectional:
        context = int(_weight(weights, "lookahead.0.conv.weight").shape[-1])
    numbers = {int(found[1]) for key in weights if (found := re.match(r"rnns\.(\d{1,9})\.", key))}
    if len(numbers) > MAX_LAYERS:
        raise BundleError(f"expected at most {MAX_LAYERS} recurrent layers, found {len(numbers)}")
    for n in range(len(numbers)):
        if (shape := _matrix(weights, f"rnns.{n}.rnn.weight_hh_l0").shape) != inner.shape:
            raise BundleError(
                f"weight 'rnns.{n}.rnn.weight_hh_l0' has shape {tuple(shape)}, expected {tuple(inner.shape)}"
            )
    convolution = _weight(weights, "conv.seq_module.0.weight")
    sizes: dict[str, Any] = {
        "hidden_size": hidden,
        "hidden_layers": len(numbers),
        "rnn_type": "lstm" if gates == 4 else "gru",
        "bidirectional": bidirectional,
        "lookahead_context": context,
    }
    for key, size in sizes.items():
        stated = plain(model.get(key))
        # V2 may name the class of the recurrent layer, which is inert here.
        if stated is not None and not isinstance(stated, type) and (type(stated) is not type(size) or stated != size):
            raise BundleError(f"its configuration says {key} {quoted(stated)}, its weights {size!r}")
    rate_hz, window_s, stride_s = (_number(audio, key) for key in ("sample_rate", "window_size", "window_stride"))
    bins = int(rate_hz * window_s) // 2 + 1
    inputs = convolution.shape[0] * MaskedConvolutions.out_bins(bins)
    if inputs != first.shape[1] or int(rate_hz * stride_s) < 1 or rate_hz != int(rate_hz):
        raise BundleError(
            f"its audio configuration ({rate_hz:g} Hz, window {window_s:g} s, stride {stride_s:g} s) gives {inputs} "
            f"inputs, 'rnns.0.rnn.weight_ih_l0' has {first.shape[1]}"
        )
    return DeepSpeech2Config(
        **sizes,
        conv_channels=convolution.shape[0],
        labels=labels,
        sample_rate_hz=int(rate_hz),
        window_s=window_s,
        stride_s=stride_s,
        window=plain(audio.get("window", "hamming")),
    )


def _number(audio: Mapping[str, Any], key: str) -> float:
    if type(value := plain(audio[key])) not in (int, float) or not 0 <= value < 1e12:
        raise BundleError(f"expected a number as its audio configuration's {key}, found {quoted(value)}")
    return value


def _weight(weights: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in weights:
        raise BundleError(f"weight {key!r} is missing")
    return weights[key]


def _matrix(weights: Mapping[str, Tensor], key: str) -> Tensor:
    weight = _weight(weights, key)
    if weight.dim() != 2:
        raise BundleError(f"weight {key!r} has shape {tuple(weight.shape)}, expected two dimensions")
    return weight
