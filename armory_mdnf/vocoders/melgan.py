"""MelGAN (Kumar et al. 2019), parallel-wavegan's generator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.vocoders._parallel_wavegan import MelGANGenerator, ResidualStack
from armory_mdnf.vocoders.base import Vocoder

# Arguments of the generator that a bundle may set, with parallel-wavegan's own defaults.
MELGAN_DEFAULTS: dict[str, Any] = {
    "in_channels": 80,
    "kernel_size": 7,
    "channels": 512,
    "bias": True,
    "upsample_scales": [8, 8, 2, 2],
    "stack_kernel_size": 3,
    "stacks": 3,
    "use_final_nonlinear_activation": True,
}


class MelGAN(Vocoder):
    """Transposed convolutions and dilated residual stacks, with reflection at the ends."""

    kind = "melgan"
    needs_noise = False

    @staticmethod
    def build_generator(config: dict[str, Any]) -> nn.Module:
        return MelGANGenerator(**config, use_weight_norm=False)

    @property
    def min_frames(self) -> int:
        return melgan_min_frames(self.generator_config)

    def _generate_uniform(self, log_mel: Tensor, noise: Tensor | None) -> Tensor:
        return self.generator(log_mel)

    def _generate_ragged(self, log_mel: Tensor, frames: Tensor, noise: Tensor | None) -> Tensor:
        return walk_melgan(self.generator.melgan, log_mel, frames)  # type: ignore[arg-type]


def melgan_min_frames(generator_config: dict[str, Any]) -> int:
    """Fewest frames that a MelGAN generator takes: every reflection must be shorter than what it reflects."""
    config = MELGAN_DEFAULTS | generator_config
    widest = config["stack_kernel_size"] ** (config["stacks"] - 1) * ((config["stack_kernel_size"] - 1) // 2)
    return max((config["kernel_size"] - 1) // 2, widest // config["upsample_scales"][0]) + 1


def walk_melgan(layers: Iterable[nn.Module], x: Tensor, lengths: Tensor) -> Tensor:
    """The layers in turn, reflecting each utterance about its own end and feeding transposed convolutions zeros there.

    Shape: (N, C, T), (N,) lengths of this layer's input -> (N, C', T').
    """
    for layer in layers:
        if isinstance(layer, nn.ReflectionPad1d):
            left, right = layer.padding
            x = ragged.reflect_pad(x, lengths, left, right)
        elif isinstance(layer, nn.ConvTranspose1d):
            x = layer(ragged.zero_beyond(x, lengths))
            lengths = lengths * layer.stride[0]
        elif isinstance(layer, ResidualStack):
            x = walk_melgan(layer.stack, x, lengths) + layer.skip_layer(x)
        else:
            x = layer(x)
    return x
