"""A strided convolution for a CPU, whose kernels are slow with one channel; cuDNN's are not."""

from __future__ import annotations

from torch import Tensor, nn


def phase_conv2d(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """A strided convolution as one of stride 1 over the input's phases: the same sums, with stride² times the channels.

    Shape: (N, C, H, W) -> what ``layer`` gives, to rounding. ``layer`` pads with zeros and has neither groups nor
    dilation.
    """
    w, bias = layer.weight, layer.bias
    kernel, stride, padding = w.shape[2:], layer.stride, [int(p) for p in layer.padding]
    out = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[2:], padding, kernel, stride, strict=True)]
    # Zeros before the kernel make the padding a multiple of the stride, zeros after it the kernel.
    before = [-p % s for p, s in zip(padding, stride, strict=True)]
    after = [-(k + b) % s for k, b, s in zip(kernel, before, stride, strict=True)]
    w = _phases(nn.functional.pad(w, (before[1], after[1], before[0], after[0])), stride)
    margins = []
    for n, p, b, s, o, k in zip(x.shape[2:], padding, before, stride, out, w.shape[2:], strict=True):
        margins.append((p + b, (o + k - 1) * s - n - p - b))
    x = nn.functional.pad(x, (*margins[1], *margins[0]))
    return nn.functional.conv2d(_phases(x, stride), w, bias)


def _phases(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Every stride-th row and column as channels of their own. Shape: (N, C, H s, W t) -> (N, C s t, H, W)."""
    n, c, h, w = x.shape
    s, t = stride
    return x.reshape(n, c, h // s, s, w // t, t).permute(0, 1, 3, 5, 2, 4).reshape(n, c * s * t, h // s, w // t)
