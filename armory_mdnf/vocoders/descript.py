"""descript's MelGAN checkpoints (``multi_speaker.pt``, ``linda_johnson.pt``): a bare state dict with weight norm.

The layers are those of parallel-wavegan's generator, at the same positions under other names. The file has no
configuration: the sizes are seen in the weights, the front-end is the one that all of them were trained with.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from armory_mdnf.audio.mel import MELGAN_DESCRIPT
from armory_mdnf.errors import BundleError
from armory_mdnf.foreign import Imported
from armory_mdnf.vocoders.base import Vocoder
from armory_mdnf.vocoders.importing import build, fold_weight_norm

FORMAT = "descript MelGAN state dict"
RENAMED = ((r"\.block\.", ".stack."), (r"\.shortcut\.", ".skip_layer."), (r"^model\.", "melgan."))


def recognises(content: Any) -> bool:
    """Whether what a checkpoint holds looks like descript's generator."""
    return isinstance(content, dict) and any(str(key).startswith("model.1.") for key in content)


def import_checkpoint(content: Any, origin: Path) -> Imported[Vocoder]:
    """The vocoder of a state dict. Raises :class:`BundleError` naming the file and the key that does not fit."""
    folded = fold_weight_norm(content, origin)
    config = _sizes(folded, origin)
    weights = {}
    for key, value in folded.items():
        renamed = key
        for pattern, name in RENAMED:
            renamed = re.sub(pattern, name, renamed)
        weights[renamed] = value
    vocoder = build("melgan", MELGAN_DESCRIPT, config, None, weights, origin)
    mapped = (
        f"{len(content)} tensors, weight norm folded: {len(weights)} weights",
        "sizes, from the weights",
        "mel recipe: descript's, which the file does not hold",
    )
    return Imported(vocoder, FORMAT, mapped, ())


def _sizes(weights: dict[str, Tensor], origin: Path) -> dict[str, Any]:
    """Arguments of the generator. Raises :class:`BundleError` for layers that are not descript's."""
    convolutions = {int(m[1]): w for k, w in weights.items() if (m := re.fullmatch(r"model\.(\d+)\.weight", k))}
    blocks = {int(m[1]) for k in weights if (m := re.fullmatch(r"model\.(\d+)\.shortcut\.weight", k))}
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
