"""What determines a recogniser's training, and the sources that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from armory_mdnf.asr.checkpoints import KINDS
from armory_mdnf.errors import BundleError, OptionError, quoted
from armory_mdnf.options import FILE_NAME, OBJECT, SEED, TEXT, Kind, listed, number, one_of, or_null, pair, whole
from armory_mdnf.training.augmentation import Augmentation
from armory_mdnf.training.corpora.sentences import HeldOut
from armory_mdnf.training.corpus import held_out_sentences
from armory_mdnf.training.held_out import is_training_split
from armory_mdnf.training.options import Field, check_fields, describe, read_recipe
from armory_mdnf.training.sources import (
    SAMPLE_RATE_HZ,
    Joined,
    LibriSpeech,
    Recordings,
    Shards,
    Source,
    Spliced,
    librispeech_in,
    read_recordings,
)

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
DEV_SPLITS = ("human_dev", "synthetic_dev")


def _is_shares(value: Any) -> bool:
    two = listed(number(0), "")
    pairs = list(value.values()) if isinstance(value, Mapping) else []
    if not pairs or not all(two.holds(p) and len(p) == 2 for p in pairs):
        return False
    return all(sum(p[end] for p in pairs) > 0 for end in (0, 1))


def _is_sizes(value: Any) -> bool:
    size = number(0, 1 << 16)
    return isinstance(value, Mapping) and all(isinstance(v, (str, bool)) or size.holds(v) for v in value.values())


AUGMENTATION = {
    "speed": Field(pair(0.1, 10), "Range of the factor of speed, by linear interpolation."),
    "speeds": Field(listed(number(0.1, 10), "a list of factors"), "One of them instead, to a hundredth, band-limited."),
    "gain_db": Field(pair(-200, 200), "Range of the change of level in dB."),
    "tilt": Field(pair(-1, 1), "Range of the coefficient of a first-order filter; above 0 it lifts high frequencies."),
    "noise_probability": Field(number(0, 1), "Share of utterances under noise."),
    "noise_snr_db": Field(pair(-200, 200), "Range of the ratio of the utterance to its noise in dB."),
    "pink_share": Field(number(0, 1), "Share of the noises that are rather low than white."),
    "time_masks": Field(whole(0, 1000), "Masks over time per utterance."),
    "time_mask_frames": Field(whole(0, 100_000), "Longest of them in frames, and at most a tenth of the utterance."),
    "frequency_masks": Field(whole(0, 1000), "Masks over frequency per utterance."),
    "frequency_mask_bins": Field(whole(0, 1000), "Widest of them in bins of the spectrogram."),
    "warp": Field(pair(0.1, 10), "Range of the factor that stretches the spectrogram's bins."),
}
"""What ``augmentation`` in a recipe may set: the fields of :class:`Augmentation`."""

FIELDS = {
    "name": Field(FILE_NAME, "The checkpoint and the log are in DATA_DIR/runs/NAME."),
    "sources": Field(
        Kind("an object of two shares of at least 0 per source, not all 0", _is_shares),
        "Each source's share of what is drawn, at the start and at the end of the run; it moves linearly. Sources: "
        "human, joined, spliced (of the human corpus), a split of LibriSpeech such as train-clean-100, or the name of "
        "a folder of shards in DATA_DIR.",
    ),
    "steps": Field(whole(1), "Steps of the optimizer."),
    "seed": Field(SEED, "Of the draws, and of the weights where they begin at random."),
    "model": Field(
        Kind(f"an object of texts, true, false, and numbers from 0 to {1 << 16}", _is_sizes),
        "Sizes of a network that begins with random weights.",
    ),
    "kind": Field(one_of(KINDS), "What 'model' describes."),
    "init": Field(
        or_null(TEXT),
        "Instead of 'model': the weights to begin with. The name of bundled ones, a file in DATA_DIR or among Armory's "
        "saved models, or (for whisper_ctc) a folder of a Whisper of Hugging Face in DATA_DIR, whose encoder gets a "
        "head with random weights.",
    ),
    "learning_rate": Field(number(0, 1000, above=True), "Its peak."),
    "final_learning_rate": Field(number(0, 1000), "Where its half cosine ends."),
    "head_learning_rate": Field(
        or_null(number(0, 1000, above=True)), "The peak for the layer onto the characters, if it is another."
    ),
    "layer_decay": Field(
        number(0, 1, above=True),
        "Of a stack of layers (of whisper_ctc), each learns at this ratio of the rate of the one above.",
    ),
    "dropout": Field(number(0, 0.99), "Share left out of what each layer of whisper_ctc puts onto its residual."),
    "consistency": Field(
        number(0, 1000),
        "Weight of the divergence between what two draws of the masks give for an utterance; 0: one draw.",
    ),
    "frozen": Field(listed(TEXT, "a list of names"), "Weights that stay as they are: all whose names begin so."),
    "warmup_steps": Field(whole(0), "Steps in which the rate rises linearly to its peak."),
    "batch_seconds": Field(
        number(0, 36_000, above=True),
        "Seconds of audio per step, about; where an utterance is longer, batches are of equal numbers instead.",
    ),
    "weight_decay": Field(number(0, 1000), "Of AdamW."),
    "clip_norm": Field(number(0, above=True), "Largest norm of the gradient."),
    "short_first_steps": Field(whole(0), "So many steps hear utterances of at most 3 s only."),
    "augmentation": Field(OBJECT, "How far utterances are changed, see below."),
    "max_duration_s": Field(
        or_null(number(0, above=True)),
        "Longest utterance of shards (else 9 s) and of LibriSpeech (else 17 s) that is drawn.",
    ),
    "dev": Field(
        listed(TEXT, "a list of splits"),
        "Splits that are watched, by the names that dataset.eval_split takes; LibriSpeech from where sources have it.",
    ),
    "dev_utterances": Field(or_null(whole(1)), "How many of each are watched; all if not given."),
    "held_out_speakers": Field(
        listed(TEXT, "a list of speakers of LibriSpeech"),
        "Not trained on; of a split of LibriSpeech in 'dev' they alone are watched.",
    ),
    "precision": Field(one_of(PRECISIONS), "Of the network in training; the loss is in float32."),
}
"""Every field of a :class:`Recipe`, as ``train recognizer --help`` describes it."""


@dataclass(frozen=True)
class Recipe:
    """All that determines a run. :data:`FIELDS` says what each field is. Raises :class:`OptionError`."""

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
    layer_decay: float = 1.0
    dropout: float = 0.0
    consistency: float = 0.0
    frozen: Sequence[str] = ()
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
        _check(vars(self), f"recipe {quoted(self.name)}")

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a JSON recipe. Raises :class:`BundleError`, :class:`OptionError` naming the file and the field."""
        values = read_recipe(path)
        _check(values, str(path))
        for name in FIELDS:
            if name not in values and name not in _defaults(cls):
                raise OptionError(f"{path}: expected {name!r}, which has no default")
        return cls(**values)


def _check(values: Mapping[str, Any], where: str) -> None:
    check_fields(values, FIELDS, where)
    check_fields(values.get("augmentation", {}), AUGMENTATION, f"{where}: augmentation")


def _defaults(cls: Any) -> dict[str, Any]:
    made = {f.name: f.default_factory() for f in fields(cls) if f.default_factory is not MISSING}
    return made | {f.name: f.default for f in fields(cls) if f.default is not MISSING}


def recipe_help() -> str:
    """Every field of a recipe: what it may be, what it is for, its default."""
    parts = describe(FIELDS, _defaults(Recipe)), describe(AUGMENTATION, _defaults(Augmentation))
    return "fields of a recipe (JSON):\n{}\n\nfields of 'augmentation':\n{}".format(*parts)


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
    refused = HeldOut(held_out_sentences() if {"joined", "spliced"} & set(names) else ()).is_in
    for name in names:
        if name == "human":
            sources[name] = Recordings([r for r in recordings if len(r.audio) < 12 * SAMPLE_RATE_HZ])
        elif name == "joined":
            sources[name] = Joined(recordings, refused)
        elif name == "spliced":
            sources[name] = Spliced(recordings, refused)
        elif is_training_split(name, held_out_speakers):
            folder = librispeech_in(data_dir)
            sources[name] = LibriSpeech(name, folder, held_out_speakers=held_out_speakers, **bound)
        else:
            FILE_NAME.check(name, "source")
            sources[name] = Shards(data_dir / name, held_out_speakers=held_out_speakers, **bound)
        if len(sources[name]) == 0:
            raise BundleError(f"source {name}: there is nothing to draw from (all longer than max_duration_s?)")
    return sources
