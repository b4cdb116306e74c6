"""HiFi-GAN's residual block for a CPU and weights that stay as they are.

Autograd keeps four tensors of a block's size for each pair of convolutions; without gradients for weights, what the
activations gave is enough, and sums and the second activation need no room of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from armory_mdnf.cpu.channels import channels_last
from armory_mdnf.cpu.switch import fast, frozen

aten = torch.ops.aten


class Layer(NamedTuple):
    """A leaky rectifier and the convolution behind it, which keeps an utterance's length, of (N, C, 1, T)."""

    slope: float
    weight: Tensor
    bias: Tensor | None
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def convolve(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, self.bias, padding=self.padding, dilation=self.dilation)

    def back(self, outer: Tensor, activated: Tensor) -> Tensor:
        """Gradient of what is rectified, from that of what the convolution gives; room of its own."""
        inner = nn.functional.conv_transpose2d(outer, self.weight, padding=self.padding, dilation=self.dilation)
        return aten.leaky_relu_backward.grad_input(inner, activated, self.slope, True, grad_input=inner)


def applies(block: nn.Module, x: Tensor) -> bool:
    """Whether :func:`frozen_block` gives all that is asked for."""
    return x.dim() == 4 and fast(x) and frozen(block)


def frozen_block(block: nn.Module, x: Tensor) -> Tensor:
    """What a ``HiFiGANResidualBlock`` of parallel-wavegan gives for a uniform batch; differentiable once, in x only.

    Shape: (N, C, 1, T) -> same, the channels of a sample side by side in memory.
    """
    them: Any = block
    second = them.convs2 if them.use_additional_convs else [None] * len(them.convs1)
    pairs = [[_layer(each) for each in pair if each is not None] for pair in zip(them.convs1, second, strict=True)]
    return cast(Tensor, _FrozenBlock.apply(x, pairs))


def _layer(module: Any) -> Layer:
    activation, convolution = module
    weight = channels_last(convolution.weight[:, :, None])
    padding, dilation = (0, *convolution.padding), (1, *convolution.dilation)
    return Layer(activation.negative_slope, weight, convolution.bias, padding, dilation)


class _FrozenBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Sequence[Sequence[Layer]]) -> Tensor:
        kept: list[Tensor] = []
        for first, *more in pairs:
            activated = aten.leaky_relu(x, first.slope)
            if ctx.needs_input_grad[0]:
                kept.append(activated)
            y = first.convolve(activated)
            for layer in more:
                activated = aten.leaky_relu_(y, layer.slope)
                if ctx.needs_input_grad[0]:
                    kept.append(activated)
                y = layer.convolve(activated)
            x = y.add_(x)
        ctx.save_for_backward(*kept)
        ctx.pairs = pairs
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept = reversed(ctx.saved_tensors)
        outer = channels_last(grads[0])
        for pair in reversed(ctx.pairs):
            inner = outer
            for layer in reversed(pair):
                inner = layer.back(inner, next(kept))
            outer = inner.add_(outer)
        return outer, None
