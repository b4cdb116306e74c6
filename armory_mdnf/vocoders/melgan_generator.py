"""MelGAN's generator in parallel-wavegan's module layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.cpu import frozen_stack
from armory_mdnf.cpu.channels import channels_last, convolve
from armory_mdnf.cpu.switch import fast
from armory_mdnf.vocoders._parallel_wavegan import PQMF, ResidualStack


class MelGANLayers(nn.Module):
    """parallel-wavegan's ``MelGANGenerator``, the same weights under the same names, without weight norm.

    Two things are different: it may have fewer channels than samples per frame, as descript's small models do, and with
    more than one output channel it is a multi-band MelGAN, whose synthesis filters (``pqmf_params``: taps,
    cutoff_ratio, beta) belong to it.

    Shape: (N, in_channels, F) -> (N, 1, F * hop) with hop = prod(upsample_scales) * out_channels.
    """

    def __init__(
        self,
        in_channels: int = 80,
        out_channels: int = 1,
        kernel_size: int = 7,
        channels: int = 512,
        bias: bool = True,
        upsample_scales: Sequence[int] = (8, 8, 2, 2),
        stack_kernel_size: int = 3,
        stacks: int = 3,
        use_final_nonlinear_activation: bool = True,
        pqmf_params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if channels < 1 or channels % 2 ** len(upsample_scales):
            raise ValueError(f"expected channels to halve {len(upsample_scales)} times, got {channels!r}")
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel_size, got {kernel_size!r}")
        half = (kernel_size - 1) // 2
        layers: list[nn.Module] = [nn.ReflectionPad1d(half), nn.Conv1d(in_channels, channels, kernel_size, bias=bias)]
        for scale in upsample_scales:
            odd = scale % 2
            layers += [
                nn.LeakyReLU(0.2),
                nn.ConvTranspose1d(
                    channels, channels // 2, 2 * scale, scale, scale // 2 + odd, output_padding=odd, bias=bias
                ),
            ]
            channels //= 2
            layers += [
                ResidualStack(
                    kernel_size=stack_kernel_size, channels=channels, dilation=stack_kernel_size**j, bias=bias
                )
                for j in range(stacks)
            ]
        layers += [
            nn.LeakyReLU(0.2),
            nn.ReflectionPad1d(half),
            nn.Conv1d(channels, out_channels, kernel_size, bias=bias),
        ]
        if use_final_nonlinear_activation:
            layers.append(nn.Tanh())
        self.melgan = nn.Sequential(*layers)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
                nn.init.normal_(layer.weight, 0.0, 0.02)
        self.pqmf = None if out_channels == 1 else PQMF(subbands=out_channels, **(pqmf_params or {}))

    def forward(self, log_mel: Tensor) -> Tensor:
        if not fast(log_mel):
            return self.join_bands(self.melgan(log_mel))
        x = channels_last(log_mel[:, :, None])
        frames = torch.full(log_mel.shape[:1], log_mel.shape[-1])
        return self.join_bands(walk_melgan(self.melgan, x, frames)[:, :, 0])

    def join_bands(self, x: Tensor) -> Tensor:
        """The wave of the sub-bands, if there are several. Shape: (N, bands, T) -> (N, 1, T * bands)."""
        return x if self.pqmf is None else self.pqmf.synthesis(x)


def walk_melgan(layers: Iterable[nn.Module], x: Tensor, lengths: Tensor) -> Tensor:
    """The layers in turn, reflecting each utterance about its own end and feeding transposed convolutions zeros there.

    Shape: (N, C, T) or (N, C, 1, T), (N,) lengths of this layer's input -> likewise.
    """
    for layer in layers:
        if isinstance(layer, nn.ReflectionPad1d):
            left, right = layer.padding
            x = ragged.reflect_pad(x, lengths, left, right)
        elif isinstance(layer, nn.ConvTranspose1d):
            x = convolve(layer, ragged.zero_beyond(x, lengths))
            lengths = lengths * layer.stride[0]
        elif isinstance(layer, nn.Conv1d):
            x = convolve(layer, x)
        elif isinstance(layer, ResidualStack) and x.dim() == 4 and frozen_stack.applies(layer, x):
            x = frozen_stack.frozen_stack(layer, x[:, :, 0])[:, :, None]
        elif isinstance(layer, ResidualStack):
            x = walk_melgan(layer.stack, x, lengths) + convolve(layer.skip_layer, x)
        else:
            x = layer(x)
    return x
