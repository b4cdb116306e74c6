"""Vocoders from other projects' checkpoints: which format it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from armory_mdnf.errors import BundleError
from armory_mdnf.files.foreign import Imported
from armory_mdnf.vocoders.base import Vocoder
from armory_mdnf.vocoders.importing import refuse_unused


def import_vocoder(
    content: Any,
    origin: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    stats: str | os.PathLike[str] | None = None,
) -> Imported[Vocoder]:
    """The vocoder of what :func:`~armory_mdnf.files.foreign.read_checkpoint` found in ``origin``, for inference.

    Understands descript's MelGAN (``config``: a file with its sampling_rate), parallel-wavegan's checkpoints
    (``config``: config.yml, ``stats``: stats.h5 or .npy, or "none") and HiFi-GAN's own (``config``: config.json);
    descript's aside, the files beside are looked for next to ``origin`` if not given.

    Raises :class:`BundleError` naming the file, the key, and what was expected and found, or a file beside that the
    format has no use for.
    """
    from armory_mdnf.vocoders import descript, hifigan_checkpoints, parallel_wavegan_checkpoints

    origin = Path(origin)
    if parallel_wavegan_checkpoints.recognises(content):
        return parallel_wavegan_checkpoints.import_checkpoint(content, origin, config, stats)
    if hifigan_checkpoints.recognises(content):
        refuse_unused(origin, hifigan_checkpoints.FORMAT, {"--stats": stats})
        return hifigan_checkpoints.import_checkpoint(content, origin, config)
    if descript.recognises(content):
        refuse_unused(origin, descript.FORMAT, {"--stats": stats})
        return descript.import_checkpoint(content, origin, config)
    raise BundleError(
        f"{origin}: expected a vocoder of descript's MelGAN ('model.1.weight_v', ...), of parallel-wavegan ('model' "
        "with a 'generator') or of HiFi-GAN ('generator' with 'conv_pre.weight_v', ...)"
    )
