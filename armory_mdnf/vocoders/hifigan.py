"""HiFi-GAN (Kong et al. 2020), parallel-wavegan's generator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.errors import refuse_unknown
from armory_mdnf.vocoders._parallel_wavegan import HiFiGANGenerator
from armory_mdnf.vocoders.base import Vocoder

# Arguments of the generator that a bundle may set, with parallel-wavegan's own defaults: HiFi-GAN V1.
HIFIGAN_DEFAULTS: dict[str, Any] = {
    "in_channels": 80,
    "channels": 512,
    "kernel_size": 7,
    "upsample_scales": [8, 8, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4],
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilations": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "use_additional_convs": True,
    "bias": True,
}


class HiFiGAN(Vocoder):
    """Transposed convolutions, each followed by residual blocks of several widths, with zeros beyond the ends."""

    kind = "hifigan"
    needs_noise = False

    @staticmethod
    def build_generator(config: dict[str, Any]) -> nn.Module:
        return HiFiGANGenerator(**config, use_weight_norm=False)

    @staticmethod
    def layout(config: Mapping[str, Any]) -> tuple[int, int]:
        refuse_unknown(config, HIFIGAN_DEFAULTS, "a HiFi-GAN generator")
        full = HIFIGAN_DEFAULTS | dict(config)
        return full["in_channels"], math.prod(full["upsample_scales"])

    @property
    def min_frames(self) -> int:
        return 1

    def generate(self, log_mel: Tensor, noise: Tensor | None) -> Tensor:
        return self.generator(log_mel)

    def generate_ragged(self, log_mel: Tensor, frames: Tensor, noise: Tensor | None) -> Tensor:
        net: Any = self.generator
        lengths = frames
        x = net.input_conv(ragged.zero_beyond(log_mel, lengths))
        for i, upsample in enumerate(net.upsamples):
            x = upsample(ragged.zero_beyond(x, lengths))
            lengths = lengths * upsample[1].stride[0]
            blocks = net.blocks[i * net.num_blocks : (i + 1) * net.num_blocks]
            x = sum(_walk_block(block, x, lengths) for block in blocks) / net.num_blocks
        return net.output_conv(ragged.zero_beyond(x, lengths))


def _walk_block(block: Any, x: Tensor, lengths: Tensor) -> Tensor:
    """A residual block, each of its convolutions seeing zeros beyond the ends. Shape: (N, C, T), (N,) -> (N, C, T)."""
    for i, first in enumerate(block.convs1):
        y = first(ragged.zero_beyond(x, lengths))
        if block.use_additional_convs:
            y = block.convs2[i](ragged.zero_beyond(y, lengths))
        x = y + x
    return x
