"""MelGAN's residual stack for a CPU and weights that stay as they are.

Autograd keeps five tensors of a stack's size for backward; without gradients for weights, two do. That halves the
memory of a step, and what is not written need not be read again.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from armory_mdnf.cpu.channels import as_frames, as_image, channels_last
from armory_mdnf.cpu.switch import fast, frozen

aten = torch.ops.aten


def applies(stack: nn.Module, x: Tensor) -> bool:
    """Whether :func:`frozen_stack` gives all that is asked for."""
    return fast(x) and frozen(stack)


def frozen_stack(stack: nn.Module, x: Tensor) -> Tensor:
    """What a ``ResidualStack`` of parallel-wavegan gives for a uniform batch; differentiable once, in ``x`` only.

    Shape: (N, C, T) -> (N, C, T), both with the channels of a sample side by side in memory.
    """
    activation, _, dilated, _, pointwise = cast(Any, stack.stack)
    skip: Any = stack.skip_layer
    bias = None if skip.bias is None else skip.bias + pointwise.bias
    weights = (dilated.weight, dilated.bias, pointwise.weight[:, :, 0], skip.weight[:, :, 0], bias)
    found = _FrozenStack.apply(x.transpose(1, 2), *weights, dilated.dilation[0], activation.negative_slope)
    return cast(Tensor, found).transpose(1, 2)


class _FrozenStack(torch.autograd.Function):
    """Shape: (N, T, C) -> (N, T, C). The dilated kernel has three taps or another odd number of them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dilated: Tensor,
        dilated_bias: Tensor | None,
        pointwise: Tensor,
        skip: Tensor,
        bias: Tensor | None,
        dilation: int,
        slope: float,
    ) -> Tensor:
        x = x.contiguous()
        margin = (dilated.shape[-1] - 1) // 2 * dilation
        padded = x.new_empty(x.shape[0], x.shape[1] + 2 * margin, x.shape[2])
        inner, before, after = _split(padded, margin)
        aten.leaky_relu.out(x, slope, out=inner)
        before.copy_(inner[:, 1 : margin + 1].flip(1))
        after.copy_(inner[:, -margin - 1 : -1].flip(1))
        dilated = channels_last(dilated[:, :, None])
        hidden = nn.functional.conv2d(as_image(padded), dilated, dilated_bias, dilation=(1, dilation))
        hidden = as_frames(hidden)
        aten.leaky_relu_(hidden, slope)
        flat = x.flatten(0, 1)
        out = flat @ skip.T if bias is None else torch.addmm(bias, flat, skip.T)
        out.addmm_(hidden.flatten(0, 1), pointwise.T)
        ctx.save_for_backward(x, hidden, dilated, pointwise, skip)
        ctx.margin, ctx.dilation, ctx.slope = margin, dilation, slope
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, dilated, pointwise, skip = ctx.saved_tensors
        flat = grads[0].contiguous().flatten(0, 1)
        inside = (flat @ pointwise).view(x.shape)
        aten.leaky_relu_backward.grad_input(inside, hidden, ctx.slope, True, grad_input=inside)
        padded = as_frames(nn.functional.conv_transpose2d(as_image(inside), dilated, dilation=(1, ctx.dilation)))
        found, before, after = _split(padded, ctx.margin)
        found[:, 1 : ctx.margin + 1] += before.flip(1)
        found[:, -ctx.margin - 1 : -1] += after.flip(1)
        result = torch.empty_like(x)
        aten.leaky_relu_backward.grad_input(found, x, ctx.slope, False, grad_input=result)
        result.view(flat.shape).addmm_(flat, skip)
        return result, None, None, None, None, None, None, None


def _split(padded: Tensor, margin: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the inside, what is before it, and what is after it. Shape: (N, margin + T + margin, C)."""
    end = padded.shape[1] - margin
    return padded[:, margin:end], padded[:, :margin], padded[:, end:]
