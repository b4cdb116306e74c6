"""A vocoder of a kind from its generator's arguments and its mel recipe, with fresh weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.errors import OptionError, choices, quoted

if TYPE_CHECKING:
    from armory_mdnf.vocoders.base import Vocoder

KINDS = ("melgan", "parallel_wavegan", "hifigan")
# What a generator raises for arguments that describe none.
NO_VOCODER = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError)
# More than any vocoder has, and few enough to be described in a moment.
MAX_SIZE, MAX_LAYERS, MAX_LIST = 1 << 16, 256, 64


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
    mels, hop = factory.layout(config)
    if mels != recipe.n_mels or hop != recipe.hop:
        raise OptionError(
            f"generator of {mels} mel bins and {hop} samples per frame does not fit the mel recipe, which has "
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


def _factory(kind: str) -> type[Vocoder]:
    from armory_mdnf.vocoders.hifigan import HiFiGAN
    from armory_mdnf.vocoders.melgan import MelGAN
    from armory_mdnf.vocoders.pwg import ParallelWaveGAN

    factories: dict[str, type[Vocoder]] = {cls.kind: cls for cls in (MelGAN, ParallelWaveGAN, HiFiGAN)}
    if kind not in factories:
        raise OptionError(choices(kind, KINDS, "kind of vocoder"))
    return factories[kind]
