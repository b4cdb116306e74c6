"""Whether an utterance gets in a batch what it gets alone, as components of others promise and nothing else shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from armory_mdnf.asr.estimator import RecognizerEstimator

OF_AUDIO, OF_LOSS = 0.01, 1e-3
"""Of what is heard, by its norm, and of a loss: rounding moves them far less, and another's audio more."""
KEY = (0xBA7C,)
QUIET = np.float32(0.1)


def mixed(estimator: Any, audio: Sequence[np.ndarray], references: Sequence[str]) -> str:
    """What is wrong with a component that hears an utterance otherwise beside another than alone; empty for nothing.

    The shortest utterance (T,), made quiet, is asked about beside the longest, and that beside it: what goes by the
    batch's loudness or lets padding in shows then. Estimators of others, and recognisers whose batches are not exact,
    get one utterance at a time. What fails at these two decides nothing: the run says it, if it meets it too.
    """
    if len(audio) < 2 or not isinstance(estimator, RecognizerEstimator) or not estimator.model.exact_batches:
        return ""
    shortest, *_, longest = sorted(range(len(audio)), key=lambda i: len(audio[i]))
    pair = [QUIET * audio[shortest], audio[longest]]
    texts = [references[shortest], references[longest]]
    for way in (1, -1):
        try:
            found = _first_is_moved(estimator, pair[::way], texts[::way])
        except Exception:  # of somebody else's code, at audio that the run may never have
            continue
        if found:
            return (
                f"{found}: it mixes the rows of a batch, lets padding in, or draws noise that no key fixes, see "
                "docs/extend.md"
            )
    return ""


def _first_is_moved(estimator: RecognizerEstimator, pair: Sequence[np.ndarray], texts: Sequence[str]) -> str:
    keys = [(*KEY, 0), (*KEY, 1)]
    beside, alone = estimator.defended(pair, keys)[0], estimator.defended(pair[:1], keys[:1])[0]
    if (apart := float(np.linalg.norm(beside - alone))) > OF_AUDIO * float(np.linalg.norm(alone)):
        share = apart / max(float(np.linalg.norm(alone)), 1e-30)
        return f"the defence makes of an utterance beside another what is {share:.0%} off what it makes of it alone"
    losses = []
    for n in (2, 1):
        with estimator.keyed(KEY):  # the draws are then by the place in the batch
            losses.append(float(estimator.compute_loss(pair[:n], texts[:n])[0]))
    beside_another, by_itself = losses
    if not np.isclose(beside_another, by_itself, rtol=OF_LOSS, atol=OF_LOSS, equal_nan=True):
        return (
            f"the recogniser gives an utterance a loss of {beside_another:.4g} beside another and {by_itself:.4g} alone"
        )
    return ""
