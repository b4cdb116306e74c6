"""Vocoders from other projects' checkpoints: what all formats share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.errors import BundleError, cause, quoted
from armory_mdnf.files import bundles, strict_json
from armory_mdnf.files.bounds import check_small
from armory_mdnf.vocoders.base import Vocoder
from armory_mdnf.vocoders.making import NO_VOCODER, make_vocoder
from armory_mdnf.vocoders.yaml_files import MAX_CONFIG_BYTES, read_yaml

NO_STATISTICS = "none"  # in place of a file of them
# Suffixes of a weight's direction and length under weight norm, in torch's older and newer way.
WEIGHT_NORM = (("weight_v", "weight_g"), ("parametrizations.weight.original1", "parametrizations.weight.original0"))


def refuse_unused(origin: Path, kind: str, given: Mapping[str, Any]) -> None:
    """Raise :class:`BundleError` for the first option that was given though a format has no use for it."""
    for option, value in given.items():
        if value is not None:
            raise BundleError(f"{origin} is a {kind}, which has no use for {option} {value}: leave it out")


def read_config(path: Path) -> dict[str, Any]:
    """A configuration in YAML (or JSON, which is a part of it): plain values, a tuple of Python's as a list.

    Raises :class:`BundleError` naming the file if it holds anything else, a key twice, or more than a configuration.
    """
    in_json = path.suffix == ".json"
    values = strict_json.read_json(path, max_bytes=MAX_CONFIG_BYTES) if in_json else read_yaml(path)
    if not isinstance(values, dict):
        raise BundleError(f"{path}: expected a mapping, found {type(values).__name__}")
    check_small(values, str(path))
    return values


def fold_weight_norm(state: Mapping[str, Any], origin: Path) -> dict[str, Tensor]:
    """Plain weights from a state dict that may carry weight norm: v * g / |v| over all axes but the first.

    Raises :class:`BundleError` naming a weight whose other half is missing or does not fit.
    """
    folded: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise BundleError(f"{origin}: expected a tensor under {quoted(key)}, found {type(value).__name__}")
        if not isinstance(key, str):
            raise BundleError(f"{origin}: expected weights with names, found {quoted(key)}")
        direction = next((pair for pair in WEIGHT_NORM if key.endswith(pair[0])), None)
        if direction is not None:
            stem = key.removesuffix(direction[0])
            length = state.get(stem + direction[1])
            expected = (value.shape[0], *[1] * (value.dim() - 1)) if value.dim() else ()
            if not isinstance(length, Tensor) or length.shape != expected:
                found = tuple(length.shape) if isinstance(length, Tensor) else "none"
                raise BundleError(
                    f"{origin}: expected {quoted(stem + direction[1])} of shape {expected}, found {found}"
                )
            folded[stem + "weight"] = torch._weight_norm(value.float(), length.float(), 0)
        elif not any(key.endswith(pair[1]) for pair in WEIGHT_NORM):
            folded[key] = value.float() if value.is_floating_point() else value
        elif not any(key.removesuffix(g) + v in state for v, g in WEIGHT_NORM if key.endswith(g)):
            raise BundleError(f"{origin}: {quoted(key)} is a weight's length, and its direction is missing")
    return folded


def build(
    kind: str,
    recipe: MelRecipe,
    generator_config: dict[str, Any],
    statistics: tuple[Tensor, Tensor] | None,
    weights: dict[str, Tensor],
    origin: Path,
) -> Vocoder:
    """A vocoder with these weights, for inference; ``statistics`` are mean and scale of the log mel.

    Raises :class:`BundleError` naming ``origin`` if the arguments describe no generator or the weights do not fit it.
    """
    try:
        vocoder = make_vocoder(kind, recipe, generator_config, *(statistics or ()), described_only=True)
    except NO_VOCODER as error:
        raise BundleError(f"{origin}: its configuration describes no vocoder: {cause(error)}") from error
    bundles.fill(vocoder.generator, weights, str(origin))
    return vocoder.requires_grad_(False)


def companion(
    origin: Path, given: str | os.PathLike[str] | None, names: tuple[str, ...], option: str, more: str = ""
) -> Path:
    """The file that belongs to a checkpoint. Raises :class:`BundleError` naming where it was looked for."""
    candidates = [Path(given)] if given is not None else [origin.parent / name for name in names]
    for path in candidates:
        if path.is_file():
            return path
    listed = " or ".join(map(str, candidates))
    hint = "" if given is not None else f"; say where it is with {option}"
    raise BundleError(f"{origin}: it needs {listed}, which is not there{hint}{more}")
