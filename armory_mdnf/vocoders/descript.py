"""descript's MelGAN checkpoints (``multi_speaker.pt``, ``linda_johnson.pt``): a bare state dict with weight norm.

The layers are those of parallel-wavegan's generator, at the same positions under other names. The file has no
configuration: the sizes are seen in the weights, the front-end is the one that the published ones were trained with,
unless a configuration says otherwise under the names of descript's ``Audio2Mel``.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from armory_mdnf.audio.mel import MELGAN_DESCRIPT, MelRecipe
from armory_mdnf.errors import BundleError, OptionError, quoted, shown
from armory_mdnf.files.foreign import Imported
from armory_mdnf.vocoders.base import Vocoder
from armory_mdnf.vocoders.importing import build, companion, fold_weight_norm, read_config

FORMAT = "descript MelGAN state dict"
# Arguments of descript's Audio2Mel that its recipe is made of.
FRONT_END: dict[str, tuple[type, ...]] = {
    "sampling_rate": (int,),
    "n_fft": (int,),
    "hop_length": (int,),
    "win_length": (int,),
    "n_mel_channels": (int,),
    "mel_fmin": (int, float),
    "mel_fmax": (int, float),
}
RENAMED = ((r"\.block\.", ".stack."), (r"\.shortcut\.", ".skip_layer."), (r"^model\.", "melgan."))


def recognises(content: Any) -> bool:
    """Whether what a checkpoint holds looks like descript's generator."""
    return isinstance(content, dict) and any(str(key).startswith("model.1.") for key in content)


def import_checkpoint(content: Any, origin: Path, config: str | os.PathLike[str] | None = None) -> Imported[Vocoder]:
    """The vocoder of a state dict, its front-end that of ``config`` or else descript's.

    Raises :class:`BundleError` naming the file and the key that does not fit.
    """
    recipe, told, left = MELGAN_DESCRIPT, "descript's, which the file does not hold (--config, if it is another)", []
    if config is not None:
        path = companion(origin, config, (), "--config")
        values = read_config(path)
        recipe = _recipe(values, path)
        told = f"from {path.name}, else descript's"
        left = [f"{path.name}: {shown(key)}" for key in values if key not in FRONT_END]
    folded = fold_weight_norm(content, origin)
    sizes = _sizes(folded, origin)
    weights = {}
    for key, value in folded.items():
        renamed = key
        for pattern, name in RENAMED:
            renamed = re.sub(pattern, name, renamed)
        weights[renamed] = value
    vocoder = build("melgan", recipe, sizes, None, weights, origin)
    mapped = (
        f"{len(content)} tensors, weight norm folded: {len(weights)} weights",
        "sizes, from the weights",
        f"mel recipe ({recipe.sample_rate_hz} Hz): {told}",
    )
    return Imported(vocoder, FORMAT, mapped, tuple(left))


def _recipe(values: dict[str, Any], path: Path) -> MelRecipe:
    """The front-end that a configuration names. Raises :class:`BundleError` if it has no sampling rate."""
    if "sampling_rate" not in values:
        raise BundleError(f"{path}: expected a sampling_rate, which is what --config is for here, found none")
    numbers = {key: values[key] for key in FRONT_END if key in values}
    if numbers.get("mel_fmax", 0) is None:  # half the rate, as Audio2Mel has it
        del numbers["mel_fmax"]
    for key, value in numbers.items():
        if type(value) not in FRONT_END[key] or not math.isfinite(value):
            raise BundleError(f"{path}: expected a number under {key!r}, found {quoted(value)}")
    rate_hz, default = numbers["sampling_rate"], MELGAN_DESCRIPT
    try:
        return MelRecipe(
            sample_rate_hz=rate_hz,
            n_fft=numbers.get("n_fft", default.n_fft),
            hop=numbers.get("hop_length", default.hop),
            win=numbers.get("win_length", default.win),
            n_mels=numbers.get("n_mel_channels", default.n_mels),
            f_min_hz=float(numbers.get("mel_fmin", default.f_min_hz)),
            f_max_hz=float(numbers.get("mel_fmax", rate_hz / 2)),
            framing=default.framing,
            floor=default.floor,
        )
    except (OptionError, OverflowError) as error:
        raise BundleError(f"{path}: {error}") from error


def _sizes(weights: dict[str, Tensor], origin: Path) -> dict[str, Any]:
    """Arguments of the generator. Raises :class:`BundleError` for layers that are not descript's."""
    convolutions = {int(m[1]): w for k, w in weights.items() if (m := re.fullmatch(r"model\.(\d{1,4})\.weight", k))}
    blocks = {int(m[1]) for k in weights if (m := re.fullmatch(r"model\.(\d{1,4})\.shortcut\.weight", k))}
    first, *upsampling, _ = sorted(convolutions) if len(convolutions) > 2 else [0, 0]
    if first != 1 or not upsampling or any(w.dim() != 3 for w in convolutions.values()):
        raise BundleError(f"{origin}: expected convolutions from 'model.1' on, transposed ones and a last one")
    return {
        "in_channels": convolutions[first].shape[1],
        "kernel_size": convolutions[first].shape[2],
        "channels": convolutions[first].shape[0],
        "upsample_scales": [convolutions[i].shape[2] // 2 for i in upsampling],
        "stacks": len(blocks) // len(upsampling),
    }
