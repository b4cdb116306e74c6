"""Parallel WaveGAN (Yamamoto et al. 2020), parallel-wavegan's generator."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.cpu.channels import as_frames, as_image, channels_last, convolve
from armory_mdnf.cpu.frozen_wavenet import frozen_wavenet
from armory_mdnf.cpu.switch import fast, frozen
from armory_mdnf.errors import OptionError, choices, refuse_unknown
from armory_mdnf.vocoders._parallel_wavegan import ParallelWaveGANGenerator
from armory_mdnf.vocoders.base import Vocoder, check_blocks
from armory_mdnf.vocoders.melgan import MELGAN_DEFAULTS, melgan_min_frames
from armory_mdnf.vocoders.melgan_generator import walk_melgan

# Arguments of the generator that a bundle may set, with parallel-wavegan's own defaults.
PARALLEL_WAVEGAN_DEFAULTS: dict[str, Any] = {
    "kernel_size": 3,
    "layers": 30,
    "stacks": 3,
    "residual_channels": 64,
    "gate_channels": 128,
    "skip_channels": 64,
    "aux_channels": 80,
    "aux_context_window": 2,
    "bias": True,
    "upsample_net": "ConvInUpsampleNetwork",
    "upsample_params": {"upsample_scales": [4, 4, 4, 4]},
}


class ParallelWaveGAN(Vocoder):
    """A non-autoregressive WaveNet that shapes white noise; zeros beyond the ends, context frames repeated.

    Its conditioning is stretched and smoothed mel frames, or (``upsample_net``) the features of a MelGAN generator.
    """

    kind = "parallel_wavegan"
    needs_noise = True

    @staticmethod
    def build_generator(config: dict[str, Any]) -> nn.Module:
        arguments = copy.deepcopy(PARALLEL_WAVEGAN_DEFAULTS | config)  # the constructor adds to the dict
        return ParallelWaveGANGenerator(**arguments, use_weight_norm=False)

    @staticmethod
    def layout(config: Mapping[str, Any]) -> tuple[int, int]:
        refuse_unknown(config, PARALLEL_WAVEGAN_DEFAULTS, "a Parallel WaveGAN generator")
        mels, scales = _conditioning(PARALLEL_WAVEGAN_DEFAULTS | dict(config))
        return mels, math.prod(scales)

    @property
    def min_frames(self) -> int:
        net: Any = self.generator.upsample_net
        return melgan_min_frames(self.generator_config["upsample_params"]) if hasattr(net, "melgan") else 1

    def generate(self, log_mel: Tensor, noise: Tensor | None) -> Tensor:
        net: Any = self.generator
        assert noise is not None  # synthesize has checked
        # The frozen blocks have a gradient in the log mel alone.
        if fast(log_mel) and frozen(net) and not noise.requires_grad:
            return _generate_frozen(net, log_mel, noise)
        context = net.aux_context_window
        if context:
            log_mel = nn.functional.pad(log_mel, (context, context), mode="replicate")
        return net(noise, log_mel)

    def generate_ragged(self, log_mel: Tensor, frames: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None  # synthesize has checked
        net: Any = self.generator
        frames = frames.cpu()
        condition = _upsample(net, log_mel, frames)
        x, skips = net.first_conv(noise), 0.0
        past = ragged.beyond(x, frames * self.recipe.hop)
        for block in net.conv_layers:
            x, skip = block(ragged.zero(x, past), condition)
            skips = skips + skip
        x = skips * math.sqrt(1.0 / len(net.conv_layers))
        for layer in net.last_conv_layers:
            x = layer(x)
        return x


def _generate_frozen(net: Any, log_mel: Tensor, noise: Tensor) -> Tensor:
    """A uniform batch on a CPU, by weights that stay as they are. Shape: (N, n_mels, F), (N, 1, T) -> (N, 1, T)."""
    frames = torch.full(log_mel.shape[:1], log_mel.shape[-1])
    if hasattr(net.upsample_net, "melgan"):
        condition = as_frames(_upsample(net, channels_last(log_mel[:, :, None]), frames))
    else:
        condition = _upsample(net, log_mel, frames).transpose(1, 2)
    x = net.first_conv(noise).transpose(1, 2).contiguous()
    x = as_image(frozen_wavenet(net.conv_layers, x, condition)) * math.sqrt(1.0 / len(net.conv_layers))
    for layer in net.last_conv_layers:
        x = convolve(layer, x) if isinstance(layer, nn.Conv1d) else layer(x)
    return x[:, :, 0]


def _conditioning(full: Mapping[str, Any]) -> tuple[int, list[int]]:
    """Mel bins and upsampling of the conditioning network; refuses options that it does not have."""
    net, options = full["upsample_net"], full["upsample_params"]
    if net == "ConvInUpsampleNetwork":
        refuse_unknown(options, ["upsample_scales", "freq_axis_kernel_size"], "upsample_params")
        return full["aux_channels"], options["upsample_scales"]
    if net != "MelGANGenerator":
        raise OptionError(choices(net, ["ConvInUpsampleNetwork", "MelGANGenerator"], "upsample_net"))
    known = [name for name in MELGAN_DEFAULTS if name not in ("use_final_nonlinear_activation", "pqmf_params")]
    refuse_unknown(options, known, "upsample_params")
    if options.get("out_channels", 1) != full["aux_channels"] or full["aux_context_window"]:
        raise OptionError(
            "a MelGAN conditioning network expects aux_context_window 0 and as many out_channels as aux_channels, got "
            f"{full['aux_context_window']!r}, {options.get('out_channels', 1)!r} and {full['aux_channels']!r}"
        )
    options = MELGAN_DEFAULTS | options
    check_blocks(len(options["upsample_scales"]) * options["stacks"])
    return options["in_channels"], options["upsample_scales"]


def _upsample(net: Any, log_mel: Tensor, frames: Tensor) -> Tensor:
    """The conditioning network, a MelGAN's in the memory format of the log mel.

    Shape: (N, n_mels, F), (N,) -> (N, aux_channels, F * hop).
    """
    if hasattr(net.upsample_net, "melgan"):
        return walk_melgan(net.upsample_net.melgan, log_mel, frames)
    c = net.upsample_net.conv_in(_replicate(log_mel, frames, net.aux_context_window))[:, None]
    lengths = frames
    for layer in net.upsample_net.upsample.up_layers:
        if isinstance(layer, nn.Conv2d):  # pads with zeros in time
            c = layer(ragged.zero_beyond(c, lengths))
        elif hasattr(layer, "x_scale"):
            c = layer(c)
            lengths = lengths * layer.x_scale
        else:
            c = layer(c)
    return c[:, 0]


def _replicate(x: Tensor, lengths: Tensor, context: int) -> Tensor:
    """Repeat each utterance's first and last frame. Shape: (N, C, F) -> (N, C, F + 2 * context)."""
    if not context:
        return x
    position = torch.arange(-context, x.shape[-1] + context, device=x.device)
    index = torch.minimum(position.clamp(min=0), (ragged.beside(lengths, x) - 1)[:, None])
    return x.gather(-1, index[:, None].expand(-1, x.shape[1], -1))
