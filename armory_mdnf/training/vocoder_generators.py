"""The generators that are trained, and how one starts from another."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.vocoders import Vocoder
from armory_mdnf.vocoders._parallel_wavegan import MelGANGenerator, ParallelWaveGANGenerator

RECIPE = MelRecipe(16000, 1024, 256, 1024, 80, 0.0, 8000.0, "centered", 1e-5)
"""The mel of every vocoder that is trained here."""

GENERATORS: dict[str, dict[str, Any]] = {
    "melgan": {"in_channels": 80, "channels": 256, "upsample_scales": [8, 8, 2, 2], "stacks": 3},
    "parallel_wavegan": {
        "layers": 10,
        "stacks": 1,
        "residual_channels": 24,
        "gate_channels": 48,
        "skip_channels": 24,
        "aux_channels": 80,
        "aux_context_window": 0,
        "upsample_params": {"upsample_scales": [4, 4, 4, 4]},
    },
    # On a trained MelGAN's features: cheaper (16 channels at the audio's rate, not 80) and quicker to learn.
    "parallel_wavegan_on_melgan": {
        "layers": 10,
        "stacks": 1,
        "residual_channels": 24,
        "gate_channels": 48,
        "skip_channels": 24,
        "aux_channels": 16,
        "aux_context_window": 0,
        "upsample_net": "MelGANGenerator",
        "upsample_params": {
            "in_channels": 80,
            "channels": 256,
            "upsample_scales": [8, 8, 2, 2],
            "stacks": 3,
            "out_channels": 16,
        },
    },
}


def build(kind: str) -> nn.Module:
    """A generator with weight norm, as it is trained."""
    arguments = json.loads(json.dumps(GENERATORS[kind]))  # the constructors change the dicts they are given
    if kind == "melgan":
        return MelGANGenerator(**arguments)
    generator = ParallelWaveGANGenerator(**arguments)
    if kind == "parallel_wavegan_on_melgan":  # it stays as it was trained
        generator.upsample_net.remove_weight_norm()
        generator.upsample_net.requires_grad_(False)
    return generator


def begin_with(generator: Any, trained: Vocoder) -> None:
    """Give a generator with weight norm the weights of a trained one, which has none (any more).

    Raises ``RuntimeError`` if they do not fit.
    """
    generator.remove_weight_norm()
    generator.load_state_dict(trained.generator.state_dict())
    generator.apply_weight_norm()


def condition_on(generator: Any, melgan: Vocoder) -> None:
    """Give the conditioning network a MelGAN's weights.

    Its last layer had one channel, the waveform before tanh: that stays channel 0, five times louder (speech is quiet
    beside noise of standard deviation 1), and the others pass hidden channels on.
    """
    state = melgan.generator.state_dict()
    own = generator.upsample_net.state_dict()
    last = max((key for key in state if key.endswith(".weight")), key=lambda key: int(key.split(".")[1]))
    for key, value in own.items():
        if not key.startswith(last.removesuffix("weight")):
            value.copy_(state[key])
    last_bias = last.removesuffix("weight") + "bias"
    weight, bias = own[last], own[last_bias]
    bias.zero_()
    weight.zero_()
    weight[0], bias[0] = 5 * state[last][0], 5 * state[last_bias][0]
    for channel in range(1, weight.shape[0]):
        weight[channel, channel, weight.shape[2] // 2] = 1.0
