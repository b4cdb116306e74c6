"""The residual stack that a CPU takes where weights stay as they are: parallel-wavegan's own, to rounding."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from armory_mdnf.cpu import frozen_stack
from armory_mdnf.vocoders._parallel_wavegan import ResidualStack
from benchmarks.subjects import defence

SHAPES = list(itertools.product((3, 5), (1, 9), (True, False), (1, 3)))


def stack(kernel: int, dilation: int, bias: bool, dtype: torch.dtype = torch.float32) -> ResidualStack:
    torch.manual_seed(0)
    made = ResidualStack(kernel_size=kernel, channels=4, dilation=dilation, bias=bias)
    return made.requires_grad_(False).to(dtype)


@pytest.mark.parametrize(("kernel", "dilation", "bias", "n"), SHAPES)
def test_it_is_parallel_wavegans_stack_and_so_is_its_gradient(kernel: int, dilation: int, bias: bool, n: int) -> None:
    layer = stack(kernel, dilation, bias, torch.float64)
    x = torch.randn(n, 4, 40, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n, 4, 40, dtype=torch.float64)
    expected, found = layer(x), frozen_stack.frozen_stack(layer, x)
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), x) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_agrees_with_finite_differences() -> None:
    layer = stack(3, 3, True, torch.float64)
    x = torch.randn(1, 4, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda leaf: frozen_stack.frozen_stack(layer, leaf), x)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    x = torch.randn(1, 4, 12, requires_grad=True)
    (first,) = torch.autograd.grad(frozen_stack.frozen_stack(stack(3, 1, True), x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_the_input_is_left_as_it_was() -> None:
    x = torch.randn(2, 4, 30)
    before = x.clone()
    frozen_stack.frozen_stack(stack(3, 9, True), x)
    assert torch.equal(x, before)


def test_weights_that_are_trained_take_the_usual_way() -> None:
    layer = stack(3, 1, True)
    x = torch.randn(1, 4, 12)
    assert frozen_stack.applies(layer, x)
    assert not frozen_stack.applies(layer.requires_grad_(True), x)


def test_the_bundled_vocoder_takes_it_and_sounds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    (operation,) = defence("MG")
    generator: nn.Module = operation.vocoder.generator
    log_mel = torch.randn(1, 80, 30, requires_grad=True)
    taken = []
    real = frozen_stack.frozen_stack
    monkeypatch.setattr(frozen_stack, "frozen_stack", lambda layer, x: (taken.append(layer), real(layer, x))[1])
    found = generator(log_mel)
    assert len(taken) == sum(isinstance(layer, ResidualStack) for layer in generator.modules()) > 0
    monkeypatch.setattr(frozen_stack, "applies", lambda layer, x: False)
    expected = generator(log_mel)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    (a,), (b,) = (torch.autograd.grad(y.square().sum(), log_mel) for y in (found, expected))
    torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()), rtol=1e-4)
