"""MelGAN (Kumar et al. 2019) and multi-band MelGAN (Yang et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.errors import OptionError, refuse_unknown
from armory_mdnf.vocoders.base import Vocoder, check_blocks
from armory_mdnf.vocoders.melgan_generator import MelGANLayers, walk_melgan

# Arguments of the generator that a bundle may set, with parallel-wavegan's own defaults.
MELGAN_DEFAULTS: dict[str, Any] = {
    "in_channels": 80,
    "out_channels": 1,
    "kernel_size": 7,
    "channels": 512,
    "bias": True,
    "upsample_scales": [8, 8, 2, 2],
    "stack_kernel_size": 3,
    "stacks": 3,
    "use_final_nonlinear_activation": True,
    "pqmf_params": None,
}
# What parallel-wavegan's synthesis filters for sub-bands take.
PQMF_PARAMS = ("taps", "cutoff_ratio", "beta")
MAX_TAPS = 1024
MAX_BANDS = 16


class MelGAN(Vocoder):
    """Transposed convolutions and dilated residual stacks, with reflection at the ends."""

    kind = "melgan"
    needs_noise = False

    @staticmethod
    def build_generator(config: dict[str, Any]) -> nn.Module:
        return MelGANLayers(**config)

    @staticmethod
    def layout(config: Mapping[str, Any]) -> tuple[int, int]:
        refuse_unknown(config, MELGAN_DEFAULTS, "a MelGAN generator")
        full = MELGAN_DEFAULTS | dict(config)
        bands, filters = full["out_channels"], full["pqmf_params"]
        if (bands == 1) != (filters is None) or (filters is not None and set(filters) != set(PQMF_PARAMS)):
            raise OptionError(
                f"expected pqmf_params ({', '.join(PQMF_PARAMS)}) with several out_channels and none with one, got "
                f"{filters!r} with {bands!r}"
            )
        if filters is not None and not (0 < filters["taps"] <= MAX_TAPS and 1 < bands <= MAX_BANDS):
            raise OptionError(
                f"expected between 1 and {MAX_TAPS} taps and 2 and {MAX_BANDS} out_channels, got {filters['taps']!r} "
                f"and {bands!r}"
            )
        check_blocks(len(full["upsample_scales"]) * full["stacks"])
        return full["in_channels"], math.prod(full["upsample_scales"]) * bands

    @property
    def min_frames(self) -> int:
        return melgan_min_frames(self.generator_config)

    def generate(self, log_mel: Tensor, noise: Tensor | None) -> Tensor:
        return self.generator(log_mel)

    def generate_ragged(self, log_mel: Tensor, frames: Tensor, noise: Tensor | None) -> Tensor:
        generator: Any = self.generator
        frames = frames.cpu()
        bands = walk_melgan(generator.melgan, log_mel, frames)
        if generator.pqmf is None:
            return bands
        # The filters reach over an utterance's end, where alone there would be zeros.
        lengths = frames * self.recipe.hop // bands.shape[1]
        return generator.join_bands(ragged.zero_beyond(bands, lengths))


def melgan_min_frames(generator_config: Mapping[str, Any]) -> int:
    """Fewest frames that a MelGAN generator takes: every reflection must be shorter than what it reflects."""
    config = MELGAN_DEFAULTS | dict(generator_config)
    widest = config["stack_kernel_size"] ** (config["stacks"] - 1) * ((config["stack_kernel_size"] - 1) // 2)
    return max((config["kernel_size"] - 1) // 2, widest // config["upsample_scales"][0]) + 1
