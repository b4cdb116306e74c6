"""Target transcripts for Armory's ``attack.targeted_labels``. Armory itself is not imported."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from armory_mdnf.asr.ctc import frames_needed
from armory_mdnf.attacks.targets import candidate_pool, matched_length, normalise
from armory_mdnf.data.bundled import CORPORA, load_split
from armory_mdnf.data.selection import any_split
from armory_mdnf.errors import BundleError, OptionError, TranscriptError, choices, quoted

FRAME_S = 0.02
"""DeepSpeech2 gives one frame of characters in 20 ms."""

LIBRISPEECH_FILE = Path("attacks", "librispeech_target_labels.py")
LIBRISPEECH_LISTS = ("matched_length", "ground_truth_100")


@dataclass(frozen=True)
class _Place:
    """Where a transcript stands in a split: its first position, and the frames of its shortest recording."""

    index: int
    frames: int


class MatchedLengthTargeter:
    """Targets of matched length for a split, bundled or of LibriSpeech, chosen by the utterance's position in it.

    ``candidates``: ``"bundled"``, the transcripts of the bundled dev splits, or ``"librispeech"``, the target lists
    that come with Armory. ``split``: the configuration's ``dataset.eval_split``; one of LibriSpeech is read from the
    folder of :mod:`armory_mdnf.data.librispeech`.

    Armory hands a targeter nothing but references, so the position is looked up: ``--index``, shards and batches do not
    change the targets. Recordings of one text share one target: the first one's position decides, and the shortest
    one's duration bounds the target.

    Raises :class:`OptionError` for unknown names, :class:`BundleError` if Armory's lists or the split are not there.
    """

    def __init__(self, candidates: str = "bundled", split: str = "human") -> None:
        if not isinstance(candidates, str) or candidates not in CANDIDATES:
            raise OptionError(choices(candidates, CANDIDATES, "candidates"))
        if not isinstance(split, str):
            raise OptionError(f"expected split to be the name of one, got {quoted(split)}")
        self.split = split
        self.candidates = candidate_pool(CANDIDATES[candidates]())
        self._transcripts: list[str] = []
        self._places: dict[str, _Place] = {}
        for index, utterance in enumerate(any_split(split, strict=False)):
            text, frames = normalise(utterance.transcript), int(utterance.duration_s / FRAME_S)
            self._transcripts.append(text)
            if utterance.problem:  # it keeps its place, and is no measure of what fits
                continue
            first = self._places.get(text, _Place(index, frames))
            self._places[text] = _Place(first.index, min(first.frames, frames))

    def generate(self, y: Sequence[Any]) -> Any:
        """Targets of a batch of references, a list for a list and an array otherwise, as Armory expects.

        Raises :class:`TranscriptError` for a reference that is not in the split.
        """
        targets = [self._target(normalise(_text(reference))) for reference in y]
        return targets if isinstance(y, list) else np.array(targets)

    def generate_at(self, indices: Sequence[int], references: Sequence[str]) -> list[str]:
        """Targets of the utterances at these positions of the split: those of :meth:`generate`.

        Raises :class:`TranscriptError` if another transcript stands at one of the positions.
        """
        targets = []
        for index, reference in zip(indices, references, strict=True):
            text = normalise(_text(reference))
            found = self._transcripts[index] if 0 <= index < len(self._transcripts) else None
            if found != text:
                where = f"position {index} of split {quoted(self.split)}"
                raise TranscriptError(f"expected {quoted(found)} at {where}, got {quoted(text)}")
            targets.append(self._target(text))
        return targets

    def _target(self, text: str) -> str:
        place = self._places.get(text)
        if place is None:
            raise TranscriptError(
                f"{quoted(text)} is not in split {quoted(self.split)}, whose order gives the targets: "
                "is the targeter's split that of dataset.eval_split?"
            )
        # Characters stand for their classes: the alphabet has one of each.
        return matched_length(text, place.index, self.candidates, lambda target: frames_needed(target) <= place.frames)


def bundled_candidates() -> list[str]:
    """Transcripts of the bundled dev splits."""
    return [u.transcript for corpus in CORPORA for u in load_split(corpus, "dev")]


def librispeech_candidates() -> list[str]:
    """Armory's target lists for LibriSpeech, read as data: importing them would load Armory and TensorFlow.

    Raises :class:`BundleError` if Armory is not installed, or its file is not as expected.
    """
    spec = find_spec("armory")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    paths = [path for path in (Path(folder) / LIBRISPEECH_FILE for folder in folders) if path.is_file()]
    if not paths:
        raise BundleError(
            "the candidates 'librispeech' come with Armory, which is not installed here: "
            "pip install armory-mdnf[armory], or use 'bundled'"
        )
    try:
        body = ast.parse(paths[0].read_text(encoding="utf-8")).body
        assigned = {ast.unparse(node.targets[0]): node.value for node in body if isinstance(node, ast.Assign)}
        return [text for name in LIBRISPEECH_LISTS for text in ast.literal_eval(assigned[name])]
    except (KeyError, SyntaxError, TypeError, ValueError) as error:
        raise BundleError(f"{paths[0]}: expected the lists {', '.join(LIBRISPEECH_LISTS)}: {quoted(error)}") from error


CANDIDATES = {"bundled": bundled_candidates, "librispeech": librispeech_candidates}


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
