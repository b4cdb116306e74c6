"""MelGAN (Kumar et al. 2019) and multi-band MelGAN (Yang et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.errors import OptionError, refuse_unknown
from armory_mdnf.vocoders._parallel_wavegan import ResidualStack
from armory_mdnf.vocoders.base import Vocoder
from armory_mdnf.vocoders.melgan_generator import MelGANLayers

# Arguments of the generator that a bundle may set, with parallel-wavegan's own defaults.
MELGAN_DEFAULTS: dict[str, Any] = {
    "in_channels": 80,
    "out_channels": 1,
    "kernel_size": 7,
    "channels": 512,
    "bias": True,
    "upsample_scales": [8, 8, 2, 2],
    "stack_kernel_size": 3,
    "stacks": 3,
    "use_final_nonlinear_activation": True,
    "pqmf_params": None,
}
# What parallel-wavegan's synthesis filters for sub-bands take.
PQMF_PARAMS = ("taps", "cutoff_ratio", "beta")
MAX_TAPS = 1024
MAX_BANDS = 16


class MelGAN(Vocoder):
    """Transposed convolutions and dilated residual stacks, with reflection at the ends."""

    kind = "melgan"
    needs_noise = False

    @staticmethod
    def build_generator(config: dict[str, Any]) -> nn.Module:
        return MelGANLayers(**config)

    @staticmethod
    def layout(config: Mapping[str, Any]) -> tuple[int, int]:
        refuse_unknown(config, MELGAN_DEFAULTS, "a MelGAN generator")
        full = MELGAN_DEFAULTS | dict(config)
        bands, filters = full["out_channels"], full["pqmf_params"]
        if (bands == 1) != (filters is None) or (filters is not None and set(filters) != set(PQMF_PARAMS)):
            raise OptionError(
                f"expected pqmf_params ({', '.join(PQMF_PARAMS)}) with several out_channels and none with one, got "
                f"{filters!r} with {bands!r}"
            )
        if filters is not None and not (0 < filters["taps"] <= MAX_TAPS and 1 < bands <= MAX_BANDS):
            raise OptionError(
                f"expected between 1 and {MAX_TAPS} taps and 2 and {MAX_BANDS} out_channels, got {filters['taps']!r} "
                f"and {bands!r}"
            )
        return full["in_channels"], math.prod(full["upsample_scales"]) * bands

    @property
    def min_frames(self) -> int:
        return melgan_min_frames(self.generator_config)

    def _generate_uniform(self, log_mel: Tensor, noise: Tensor | None) -> Tensor:
        if log_mel.device.type != "cpu":
            return self.generator(log_mel)
        frames = torch.full(log_mel.shape[:1], log_mel.shape[-1])
        return self._generate_ragged(log_mel, frames, noise)

    def _generate_ragged(self, log_mel: Tensor, frames: Tensor, noise: Tensor | None) -> Tensor:
        generator: Any = self.generator
        bands = melgan_waves(generator.melgan, log_mel, frames)
        if generator.pqmf is None:
            return bands
        # The filters reach over an utterance's end, where alone there would be zeros.
        lengths = frames * self.recipe.hop // bands.shape[1]
        return generator.join_bands(ragged.zero_beyond(bands, lengths))


def melgan_min_frames(generator_config: Mapping[str, Any]) -> int:
    """Fewest frames that a MelGAN generator takes: every reflection must be shorter than what it reflects."""
    config = MELGAN_DEFAULTS | dict(generator_config)
    widest = config["stack_kernel_size"] ** (config["stacks"] - 1) * ((config["stack_kernel_size"] - 1) // 2)
    return max((config["kernel_size"] - 1) // 2, widest // config["upsample_scales"][0]) + 1


def melgan_waves(layers: Iterable[nn.Module], log_mel: Tensor, frames: Tensor) -> Tensor:
    """What the layers give, each utterance reflected about its own end and continued by zeros before upsampling.

    Shape: (N, n_mels, F), (N,) frames -> (N, C, T).
    """
    if log_mel.device.type != "cpu" or not ragged.is_uniform(frames, log_mel.shape[-1]):
        return walk_melgan(layers, log_mel, frames)
    # A CPU is faster with the channels of a sample side by side, which torch's 1-D convolutions undo; where utterances
    # end apart, gathering their reflections costs more than that saves.
    x = log_mel[:, :, None].contiguous(memory_format=torch.channels_last)
    return walk_melgan(layers, x, frames)[:, :, 0]


def walk_melgan(layers: Iterable[nn.Module], x: Tensor, lengths: Tensor) -> Tensor:
    """The layers in turn. Shape: (N, C, T) or (N, C, 1, T), (N,) lengths of this layer's input -> likewise."""
    for layer in layers:
        if isinstance(layer, nn.ReflectionPad1d):
            left, right = layer.padding
            x = ragged.reflect_pad(x, lengths, left, right)
        elif isinstance(layer, nn.ConvTranspose1d):
            x = convolve(layer, ragged.zero_beyond(x, lengths))
            lengths = lengths * layer.stride[0]
        elif isinstance(layer, nn.Conv1d):
            x = convolve(layer, x)
        elif isinstance(layer, ResidualStack):
            x = walk_melgan(layer.stack, x, lengths) + convolve(layer.skip_layer, x)
        else:
            x = layer(x)
    return x


def convolve(layer: Any, x: Tensor) -> Tensor:
    """A 1-D convolution of (N, C, T), or of (N, C, 1, T) in the memory format of x. Zeros at the ends."""
    if x.dim() == 3:
        return layer(x)
    weight = layer.weight[:, :, None].contiguous(memory_format=torch.channels_last)
    stride, padding, dilation = (1, *layer.stride), (0, *layer.padding), (1, *layer.dilation)
    if isinstance(layer, nn.ConvTranspose1d):
        more = (0, *layer.output_padding)
        return nn.functional.conv_transpose2d(x, weight, layer.bias, stride, padding, more, 1, dilation)
    return nn.functional.conv2d(x, weight, layer.bias, stride, padding, dilation)
