"""What determines a recogniser's training, and the sources that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from armory_mdnf.data.librispeech import FOLDER
from armory_mdnf.errors import OptionError, choices, refuse_unknown
from armory_mdnf.training.corpus import held_out_sentences
from armory_mdnf.training.sentences import HeldOut
from armory_mdnf.training.sources import (
    SAMPLE_RATE_HZ,
    Joined,
    LibriSpeech,
    Recordings,
    Shards,
    Source,
    Spliced,
    is_training_split,
    read_recordings,
)

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
DEV_SPLITS = ("human_dev", "synthetic_dev")


@dataclass(frozen=True)
class Recipe:
    """All that determines a run.

    ``init`` is the name of bundled weights, or a bundle in the data directory or among Armory's saved models, to start
    from instead of ``model``, which describes a network of ``kind`` with random weights. For ``whisper_ctc``, ``init``
    may be a Hugging Face folder of a Whisper in the data directory: its encoder, under a head with random weights.
    ``sources`` maps a source's name to its share at the start and at the end of the run; shares move linearly.
    Names: ``human``, ``joined``, ``spliced``, a split of LibriSpeech (``train-clean-100``), or the name of a folder of
    shards in the data directory. ``max_duration_s`` bounds the utterances of the last two (by default 9 s in shards,
    17 s in LibriSpeech). ``dev`` names the splits that are watched, as ``dataset.eval_split`` does, ``dev_utterances``
    how many of each. ``held_out_speakers`` of LibriSpeech are not trained on, and alone are watched where ``dev`` names
    a split of LibriSpeech. ``head_learning_rate`` is the peak for the layer onto the characters, by default that of
    all.
    ``precision`` is that of the network in training: bfloat16 (the loss is in float32) or float32.
    """

    name: str
    sources: Mapping[str, tuple[float, float]]
    steps: int
    seed: int
    model: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "deepspeech2"
    init: str | None = None
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    head_learning_rate: float | None = None
    warmup_steps: int = 300
    batch_seconds: float = 32.0
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    short_first_steps: int = 0
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    max_duration_s: float | None = None
    dev: Sequence[str] = DEV_SPLITS
    dev_utterances: int | None = None
    held_out_speakers: Sequence[str] = ()
    precision: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise OptionError(choices(self.precision, PRECISIONS, "precision"))

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a JSON recipe; refuses unknown keys."""
        values = json.loads(path.read_text())
        refuse_unknown(values, cls.__dataclass_fields__, f"recipe {path.name}")
        return cls(**values)


def build_sources(
    names: list[str], data_dir: Path, max_duration_s: float | None = None, held_out_speakers: Sequence[str] = ()
) -> dict[str, Source]:
    """Open the sources that a recipe names.

    LibriSpeech is the folder of that name in the data directory, or where :mod:`armory_mdnf.data.librispeech` finds it.
    """
    bound = {} if max_duration_s is None else {"max_duration_s": max_duration_s}
    sources: dict[str, Source] = {}
    recordings = (
        read_recordings(data_dir / "human" / "train.jsonl") if {"human", "joined", "spliced"} & set(names) else []
    )
    for name in names:
        if name == "human":
            sources[name] = Recordings([r for r in recordings if len(r.audio) < 12 * SAMPLE_RATE_HZ])
        elif name == "joined":
            sources[name] = Joined(recordings)
        elif name == "spliced":
            sources[name] = Spliced(recordings, HeldOut(held_out_sentences()).is_in)
        elif is_training_split(name, held_out_speakers):
            local = data_dir / FOLDER
            folder = local if local.is_dir() else None
            sources[name] = LibriSpeech(name, folder, held_out_speakers=held_out_speakers, **bound)
        else:
            sources[name] = Shards(data_dir / name, **bound)
    return sources
