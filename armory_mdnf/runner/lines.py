"""The line of JSON that a run keeps of an utterance, evaluated or left out."""

from __future__ import annotations

import math
import re
from typing import Any

from armory_mdnf.data.bundled import Utterance
from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.records import FURTHER, LeftOut, Outcome, all_words, as_number
from armory_mdnf.files.strict_json import dumps, readable

_LINE = (
    *("index", "id", "reference", "benign", "adversarial", "target", "snr_db", "l2", "linf", "seed", "seconds"),
    *("measures", *FURTHER),
)
OPTIONAL = ("measures", *FURTHER)
"""Keys that a line has only where there is something to say."""


def to_line(found: Outcome | LeftOut) -> str:
    """A line of strict JSON, with the counts that follow from the transcripts."""
    if isinstance(found, LeftOut):
        return dumps({"index": found.index, **found.recorded()}, error=ResultsError)
    content = {name: getattr(found, name) for name in _LINE} | {"words": all_words(found)}
    for key in OPTIONAL:
        if not content[key] and content[key] != 0:
            del content[key]
    return dumps(content, error=ResultsError)


def failed(index: int, utterance: Utterance, why: object) -> LeftOut:
    """An utterance that is left out, with the reason free of the file's path and of its place in a batch."""
    text = str(why) or type(why).__name__
    text = text.removeprefix(f"{utterance.path}: ").replace(str(utterance.path), utterance.path.name)
    file, reason = readable(str(utterance.path)), readable(_PLACE.sub("", text))
    return LeftOut(utterance.id, file, reason, index)


# What messages of one utterance call it, by its place among those that they were given.
_PLACE = re.compile(r"^utterance \d+(: |, | (?=is ))| of utterance \d+\b|(?<=\btranscript) \d+\b")
_FAILED = {"index": int, "id": str, "file": str, "reason": str}
_TYPES: dict[str, tuple[type, ...]] = {
    "index": (int,),
    "id": (str,),
    "reference": (str,),
    "benign": (str, type(None)),
    "adversarial": (str, type(None)),
    "target": (str, type(None)),
    "snr_db": (int, float, type(None)),
    "l2": (int, float, type(None)),
    "linf": (int, float, type(None)),
    "seed": (int, type(None)),
    "seconds": (dict,),
}


def parse_line(content: dict[str, Any], where: str) -> Outcome | LeftOut:
    """What a line says. Raises :class:`ResultsError` with ``where`` if that is nothing, or its counts are others."""
    keys = set(content)
    if keys == set(_FAILED):
        if any(type(content[key]) is not kind for key, kind in _FAILED.items()):
            raise ResultsError(f"{where}: damaged: {quoted(content)}")
        return LeftOut(**content)
    if keys - set(OPTIONAL) != {*_TYPES, "words"}:
        raise ResultsError(f"{where}: expected the keys {', '.join(_TYPES)}, words, found {quoted(', '.join(content))}")
    stated = content.pop("words")
    if isinstance(content["seconds"], dict) and any(as_number(v) is None for v in content["seconds"].values()):
        raise ResultsError(f"{where}: expected seconds as numbers, found {quoted(content['seconds'])}")
    for key, kinds in _TYPES.items():
        if not isinstance(content[key], kinds) or isinstance(content[key], bool):
            raise ResultsError(f"{where}: {key} is damaged: {quoted(content[key])}")
    measures = content.get("measures", {})
    if not isinstance(measures, dict) or not all(isinstance(v, (float, int, type(None))) for v in measures.values()):
        raise ResultsError(f"{where}: measures is damaged: {quoted(measures)}")
    for key in FURTHER:
        if key in content and not isinstance(content[key], float):
            raise ResultsError(f"{where}: {key} is damaged: {quoted(content[key])}")
    line = Outcome(**content)
    if stated != all_words(line):
        raise ResultsError(f"{where}: states word counts that its transcripts do not give")
    return line


def finite(value: Any) -> float | None:
    """A size as strict JSON can hold it."""
    return float(value) if value is not None and math.isfinite(value) else None
