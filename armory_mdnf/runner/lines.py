"""One utterance of a run, evaluated or left out, and its line of JSON."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from armory_mdnf.data.bundled import Utterance
from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.records import all_words
from armory_mdnf.files import strict_json


@dataclass(frozen=True)
class Line:
    """What a run found out about one utterance.

    ``index``: its position in the split. Transcripts are None where the run left them out, ``target`` where the attack
    has none. Sizes of the perturbation are None where there was no attack, or where they are not finite: an utterance
    that the attack left unchanged has no finite SNR. ``seconds``: this utterance's share of its batch's time, by
    length, for "inference" and "attack". ``measures``: what further metrics of the configuration say of the
    perturbation, by their names. ``stoi``: intelligibility of the defended clean speech against what went in. Lines of
    older versions lack it, and the segmental SNR.
    """

    index: int
    id: str
    reference: str
    benign: str | None
    adversarial: str | None
    target: str | None
    snr_db: float | None
    l2: float | None
    linf: float | None
    seed: int | None
    seconds: dict[str, float]
    measures: dict[str, float | None] | None = None
    segmental_snr_db: float | None = None
    stoi: float | None = None

    def to_json(self) -> str:
        """A line of strict JSON, with the counts that follow from the transcripts."""
        content = asdict(self) | {"words": all_words(self)}
        for key in OPTIONAL:
            if not content[key] and content[key] != 0:
                del content[key]
        return json.dumps(content, allow_nan=False)


@dataclass(frozen=True)
class Failed:
    """An utterance that could not be processed, at its position in the split: its file, and why."""

    index: int
    id: str
    file: str
    reason: str

    def to_json(self) -> str:
        """A line of strict JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @property
    def sentence(self) -> str:
        """What a user is told."""
        return f"{self.id} ({self.file}): {self.reason}"


def failed(index: int, utterance: Utterance, why: object) -> Failed:
    """An utterance that is left out, with the reason free of the file's path and of its place in a batch."""
    text = str(why) or type(why).__name__
    text = text.removeprefix(f"{utterance.path}: ").replace(str(utterance.path), utterance.path.name)
    return Failed(index, utterance.id, str(utterance.path), _PLACE.sub("", text))


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


OPTIONAL = ("measures", "segmental_snr_db", "stoi")
"""Keys that a line has only where there is something to say."""


def parse_line(text: str, where: str) -> Line | Failed:
    """Read a line. Raises :class:`ResultsError` with ``where`` if it is not one, or its counts are others."""
    content = strict_json.loads(text, where, ResultsError)
    if not isinstance(content, dict):
        raise ResultsError(f"{where}: expected an utterance of a run, found {quoted(content)}")
    keys = set(content)
    if keys == set(_FAILED):
        if any(type(content[key]) is not kind for key, kind in _FAILED.items()):
            raise ResultsError(f"{where}: damaged: {quoted(text)}")
        return Failed(**content)
    if keys - set(OPTIONAL) != {*_TYPES, "words"}:
        raise ResultsError(f"{where}: expected the keys {', '.join(_TYPES)}, words, found {quoted(', '.join(content))}")
    stated = content.pop("words")
    for key, kinds in _TYPES.items():
        if not isinstance(content[key], kinds) or isinstance(content[key], bool):
            raise ResultsError(f"{where}: {key} is damaged: {quoted(content[key])}")
    measures = content.get("measures", {})
    if not isinstance(measures, dict) or not all(isinstance(v, (float, int, type(None))) for v in measures.values()):
        raise ResultsError(f"{where}: measures is damaged: {quoted(measures)}")
    for key in OPTIONAL[1:]:
        if key in content and not isinstance(content[key], float):
            raise ResultsError(f"{where}: {key} is damaged: {quoted(content[key])}")
    line = Line(**content)
    if stated != all_words(line):
        raise ResultsError(f"{where}: states word counts that its transcripts do not give")
    return line


def finite(value: Any) -> float | None:
    """A size as strict JSON can hold it."""
    return float(value) if value is not None and math.isfinite(value) else None
