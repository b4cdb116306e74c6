"""1-D convolutions for a CPU: it is faster with the channels of a sample side by side, which torch's own undo."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def channels_last(x: Tensor) -> Tensor:
    """The same numbers, the channels of a sample side by side in memory. Shape: (N, C, H, W) -> same."""
    return x.contiguous(memory_format=torch.channels_last)


def as_image(x: Tensor) -> Tensor:
    """(N, T, C) -> (N, C, 1, T), channels last."""
    return x.transpose(1, 2)[:, :, None]


def as_frames(x: Tensor) -> Tensor:
    """Inverse of :func:`as_image`."""
    return x[:, :, 0].transpose(1, 2).contiguous()


def convolve(layer: Any, x: Tensor) -> Tensor:
    """A 1-D convolution of (N, C, T), or of (N, C, 1, T) in the memory format of x. Zeros at the ends."""
    if x.dim() == 3:
        return layer(x)
    weight = channels_last(layer.weight[:, :, None])
    stride, padding, dilation = (1, *layer.stride), (0, *layer.padding), (1, *layer.dilation)
    if isinstance(layer, nn.ConvTranspose1d):
        more = (0, *layer.output_padding)
        return nn.functional.conv_transpose2d(x, weight, layer.bias, stride, padding, more, 1, dilation)
    return nn.functional.conv2d(x, weight, layer.bias, stride, padding, dilation)
