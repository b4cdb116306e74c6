"""MelGAN's generator in parallel-wavegan's module layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from armory_mdnf.vocoders._parallel_wavegan import PQMF, ResidualStack


class MelGANLayers(nn.Module):
    """parallel-wavegan's ``MelGANGenerator``, the same weights under the same names, without weight norm.

    Two things are different: it may have fewer channels than samples a frame, as descript's small models do, and with
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
        return self.join_bands(self.melgan(log_mel))

    def join_bands(self, x: Tensor) -> Tensor:
        """The wave of the sub-bands, if there are several. Shape: (N, bands, T) -> (N, 1, T * bands)."""
        return x if self.pqmf is None else self.pqmf.synthesis(x)
