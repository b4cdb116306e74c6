"""HiFi-GAN (Kong et al. 2020), parallel-wavegan's generator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.cpu import frozen_block
from armory_mdnf.cpu.channels import channels_last, convolve
from armory_mdnf.cpu.switch import fast
from armory_mdnf.errors import refuse_unknown
from armory_mdnf.vocoders._parallel_wavegan import HiFiGANGenerator
from armory_mdnf.vocoders.base import Vocoder, check_blocks

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
        check_blocks(len(full["upsample_scales"]) * sum(map(len, full["resblock_dilations"])))
        return full["in_channels"], math.prod(full["upsample_scales"])

    @property
    def min_frames(self) -> int:
        return 1

    def generate(self, log_mel: Tensor, noise: Tensor | None) -> Tensor:
        if not fast(log_mel):
            return self.generator(log_mel)
        return self._walk(channels_last(log_mel[:, :, None]), None)[:, :, 0]

    def generate_ragged(self, log_mel: Tensor, frames: Tensor, noise: Tensor | None) -> Tensor:
        return self._walk(log_mel, frames.cpu())

    def _walk(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The generator in the memory format of x; with ``lengths``, each utterance sees zeros beyond its own end.

        Shape: (N, C, F), or (N, C, 1, F) without lengths -> (N, 1, F * hop), (N, 1, 1, F * hop).
        """
        net: Any = self.generator
        past = None if lengths is None else ragged.beyond(x, lengths)
        x = _walk_layers([net.input_conv], x, past)
        for i, upsample in enumerate(net.upsamples):
            x = _walk_layers(upsample, x, past)
            if lengths is not None:
                lengths = lengths * upsample[1].stride[0]
                past = ragged.beyond(x, lengths)
            blocks = net.blocks[i * net.num_blocks : (i + 1) * net.num_blocks]
            x = reduce(torch.add, (_walk_block(block, x, past) for block in blocks)) / net.num_blocks
        return _walk_layers(net.output_conv, x, past)


def _walk_block(block: Any, x: Tensor, past: Tensor | None) -> Tensor:
    """A residual block of two or of one convolution a dilation. Shape: as x."""
    if past is None and frozen_block.applies(block, x):
        return frozen_block.frozen_block(block, x)
    for i, first in enumerate(block.convs1):
        y = _walk_layers(first, x, past)
        if block.use_additional_convs:
            y = _walk_layers(block.convs2[i], y, past)
        x = y + x
    return x


def _walk_layers(layers: Iterable[nn.Module], x: Tensor, past: Tensor | None) -> Tensor:
    """Activations, of which 0 stays 0, and at most one convolution, with zeros where ``past`` says so."""
    x = ragged.zero(x, past)
    for layer in layers:
        x = convolve(layer, x) if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)) else layer(x)
    return x
