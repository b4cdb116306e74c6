"""Parallel WaveGAN's residual blocks for a CPU and weights that stay as they are.

With the channels of a sample side by side, what is 1 x 1 is a product of matrices, and sums are taken in place. The two
halves of a gate are convolved apart: half of a sample's channels is slow to read. Two tensors a block are kept for
backward, tanh and sigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from armory_mdnf.cpu.channels import as_frames, as_image, channels_last

aten = torch.ops.aten
RESIDUAL = math.sqrt(0.5)


def frozen_wavenet(blocks: Sequence[nn.Module], x: Tensor, condition: Tensor) -> Tensor:
    """The sum of what ``WaveNetResidualBlock``s of parallel-wavegan skip, one after another, zeros beyond the ends.

    Differentiable once, in the condition only. Shape: (N, T, C), (N, T, A) -> (N, T, S).
    """
    return cast(Tensor, _FrozenWaveNet.apply(x, condition, [_Block(block) for block in blocks]))


class _Block:
    """Weights of a block as they are multiplied: those of the gate's two halves by themselves."""

    def __init__(self, block: Any) -> None:
        dilated = block.conv
        self.dilation = int(dilated.dilation[0])
        self.padding = int(dilated.padding[0])
        self.dilated = [channels_last(w[:, :, None]) for w in dilated.weight.chunk(2)]
        self.biases = [None, None] if dilated.bias is None else dilated.bias.chunk(2)
        self.aux = block.conv1x1_aux.weight[:, :, 0].chunk(2)
        self.out, self.out_bias = block.conv1x1_out.weight[:, :, 0], block.conv1x1_out.bias
        self.skip, self.skip_bias = block.conv1x1_skip.weight[:, :, 0], block.conv1x1_skip.bias

    def gate(self, half: int, x: Tensor, condition: Tensor) -> Tensor:
        """What a half of the gate sees. Shape: (N, T, C), (N * T, A) -> (N * T, G)."""
        weight, bias, along = self.dilated[half], self.biases[half], (1, self.dilation)
        image = nn.functional.conv2d(as_image(x), weight, bias, padding=(0, self.padding), dilation=along)
        return as_frames(image).flatten(0, 1).addmm_(condition, self.aux[half].T)

    def back(self, gates: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """Gradient of x from those of the gate's halves. Shape: two of (N * T, G) -> (N * T, C)."""
        padding, along = (0, self.padding), (1, self.dilation)
        first, second = (
            as_frames(
                nn.functional.conv_transpose2d(as_image(gate.view(*shape, -1)), weight, padding=padding, dilation=along)
            )
            for gate, weight in zip(gates, self.dilated, strict=True)
        )
        return first.add_(second).flatten(0, 1)


class _FrozenWaveNet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, condition: Tensor, blocks: Sequence[_Block]) -> Tensor:
        shape = condition.shape[:2]
        flat = condition.contiguous().flatten(0, 1)
        kept: list[Tensor] = []
        total = flat.new_zeros(len(flat), len(blocks[0].skip))
        for block in blocks:
            first, second = aten.tanh_(block.gate(0, x, flat)), aten.sigmoid_(block.gate(1, x, flat))
            kept += [first, second] if ctx.needs_input_grad[1] else []
            gated = first * second
            total.addmm_(gated, block.skip.T)
            if block.skip_bias is not None:
                total.add_(block.skip_bias)
            out = gated @ block.out.T if block.out_bias is None else torch.addmm(block.out_bias, gated, block.out.T)
            x = out.view(*shape, -1).add_(x).mul_(RESIDUAL)
        ctx.save_for_backward(*kept)
        ctx.blocks, ctx.shape = blocks, shape
        return total.view(*shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, blocks, shape = ctx.saved_tensors, ctx.blocks, ctx.shape
        skipped = grads[0].contiguous().flatten(0, 1)
        condition = skipped.new_zeros(len(skipped), blocks[0].aux[0].shape[1])
        passed: Tensor | None = None  # of what a block gives to the next; the last one's goes nowhere
        for i in reversed(range(len(blocks))):
            block, (first, second) = blocks[i], kept[2 * i : 2 * i + 2]
            gated = skipped @ block.skip
            if passed is not None:
                gated.addmm_(passed.mul_(RESIDUAL), block.out)
            gates = aten.tanh_backward(gated * second, first), aten.sigmoid_backward(gated.mul_(first), second)
            for gate, aux in zip(gates, block.aux, strict=True):
                condition.addmm_(gate, aux)
            if i:  # what the first block gets depends on nothing
                found = block.back(gates, shape)
                passed = found if passed is None else found.add_(passed)
        return None, condition.view(*shape, -1), None
