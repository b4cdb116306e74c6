"""HiFi-GAN's residual block that a CPU takes where weights stay as they are: parallel-wavegan's own, to rounding."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import HIFIGAN, RECIPE
from torch import nn

from armory_mdnf.cpu import frozen_block
from armory_mdnf.cpu.channels import channels_last
from armory_mdnf.vocoders import make_vocoder
from armory_mdnf.vocoders._parallel_wavegan import HiFiGANGenerator

KINDS = list(itertools.product((3, 7), ((1,), (1, 3, 5)), (True, False), (True, False), (1, 3)))


def block(
    kernel: int = 3, dilations: tuple[int, ...] = (1, 3), bias: bool = True, additional: bool = True
) -> nn.Module:
    torch.manual_seed(0)
    generator = HiFiGANGenerator(
        in_channels=4,
        channels=8,
        upsample_scales=[2],
        upsample_kernel_sizes=[4],
        resblock_kernel_sizes=[kernel],
        resblock_dilations=[dilations],
        use_additional_convs=additional,
        bias=bias,
        use_weight_norm=False,
    )
    for weight in generator.parameters():
        weight.data.normal_(0, 0.3)
    return generator.blocks[0].requires_grad_(False).double()


def image(*shape: int) -> torch.Tensor:
    return channels_last(torch.randn(*shape, dtype=torch.float64)[:, :, None])


@pytest.mark.parametrize(("kernel", "dilations", "bias", "additional", "n"), KINDS)
def test_it_is_parallel_wavegans_block_and_so_is_its_gradient(
    kernel: int, dilations: tuple[int, ...], bias: bool, additional: bool, n: int
) -> None:
    them = block(kernel, dilations, bias, additional)
    x, weight = image(n, 4, 40).requires_grad_(), image(n, 4, 40)
    expected, found = them(x[:, :, 0])[:, :, None], frozen_block.frozen_block(them, x)
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), x) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_agrees_with_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda x: frozen_block.frozen_block(block(), x), image(1, 4, 12).requires_grad_())


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    x = image(1, 4, 12).requires_grad_()
    (first,) = torch.autograd.grad(frozen_block.frozen_block(block(), x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_the_input_and_the_outer_gradient_are_left_as_they_were() -> None:
    x, outer = image(2, 4, 30).requires_grad_(), image(2, 4, 30)
    before, outer_before = x.detach().clone(), outer.clone()
    torch.autograd.grad(frozen_block.frozen_block(block(), x), x, outer)
    assert torch.equal(x, before)
    assert torch.equal(outer, outer_before)


def test_half_as_much_is_kept_for_the_way_back() -> None:
    """Two tensors of a block's size for each pair of convolutions; autograd keeps four."""
    them, x = block(), image(1, 4, 64).requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        frozen_block.frozen_block(them, x)
    assert sum(n == x.numel() for n in kept) == 2 * 2
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(-1), t)[1], lambda t: t):
        frozen_block.frozen_block(them, x)
    assert -1 not in kept


def test_weights_that_are_trained_and_batches_of_several_lengths_take_the_usual_way() -> None:
    them = block()
    assert frozen_block.applies(them, image(1, 4, 12))
    assert not frozen_block.applies(them, image(1, 4, 12)[:, :, 0])
    assert not frozen_block.applies(them.requires_grad_(True), image(1, 4, 12))


def test_the_vocoder_takes_it_and_sounds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder = make_vocoder("hifigan", RECIPE, HIFIGAN).requires_grad_(False)
    log_mel, taken = torch.randn(1, 20, 12, requires_grad=True), []
    real = frozen_block.frozen_block
    monkeypatch.setattr(frozen_block, "frozen_block", lambda them, x: (taken.append(them), real(them, x))[1])
    found = vocoder.generate(log_mel, None)
    assert len(taken) == len(vocoder.generator.blocks) > 0
    monkeypatch.setattr(frozen_block, "applies", lambda them, x: False)
    expected = vocoder.generate(log_mel, None)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)
    (a,), (b,) = (torch.autograd.grad(y.square().sum(), log_mel) for y in (found, expected))
    torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()), rtol=1e-4)
