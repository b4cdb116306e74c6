"""A task metric that keeps the transcripts in Armory's results, from which everything else is derived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from armory.metrics.common import result_formatter
from armory.metrics.task import populationwise

from armory_mdnf.files.provenance import computing_versions


@populationwise
def transcripts(y: Sequence[str | bytes], y_pred: Sequence[str | bytes]) -> dict[str, Any]:
    """Reference and hypothesis of every utterance, in the order of the run, and the versions that made them."""
    pairs = zip(map(_text, y), map(_text, y_pred), strict=True)
    utterances = [{"reference": reference, "hypothesis": hypothesis} for reference, hypothesis in pairs]
    return {"utterances": utterances, "versions": computing_versions()}


@result_formatter("transcripts")
def format_transcripts(result: dict[str, Any]) -> str:
    """What Armory's console says of them."""
    return f"{len(result['utterances'])} recorded"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
