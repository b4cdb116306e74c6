"""What determines a vocoder's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.options import SEED, TEXT, Kind, listed, number, one_of, or_null, pair, whole
from armory_mdnf.training.options import Field, check_fields, read_recipe
from armory_mdnf.training.vocoder_generators import GENERATORS

ON_MELGAN = "parallel_wavegan_on_melgan"

_WEIGHT = number(0, above=True)
_SOURCES = Kind(
    "folders or manifests of recordings, each with a weight above 0",
    lambda v: isinstance(v, Mapping) and len(v) > 0 and all(map(TEXT.holds, v)) and all(map(_WEIGHT.holds, v.values())),
)
_FLAG = Kind("true or false", lambda v: isinstance(v, bool))

FIELDS = {
    "kind": Field(one_of(GENERATORS), "What is trained."),
    "sources": Field(
        _SOURCES,
        "Recordings, drawn from by weight, then by duration. They are held in memory: 0.12 GB an hour of 16 bits "
        "(FLAC), else twice that (Opus).",
    ),
    "conditioning": Field(or_null(TEXT), f"Trained MelGAN under a {ON_MELGAN}: name of a bundled one, or a file."),
    "continue_from": Field(
        or_null(TEXT),
        "Checkpoint of another run: its networks, optimizers, statistics and step are what this one begins with; steps "
        "count on from there.",
    ),
    "init": Field(or_null(TEXT), "Vocoder whose weights and statistics it begins with: a name, or a file."),
    "held_out_speakers": Field(
        listed(TEXT, "a list of speakers of LibriSpeech"), "Left out: what is below a folder of that name."
    ),
    "steps": Field(whole(1), "Step of the optimizer at which it ends."),
    "batch": Field(whole(1, 1 << 16), "Segments per step."),
    "lr": Field(number(0, 1000, above=True), "Peak of the learning rate."),
    "mel_weight": Field(number(0, 1e6), "Weight of the distance of log mels in the loss."),
    "discriminator_from": Field(or_null(whole(0)), "Step at which the discriminator joins; without, it never does."),
    "adversarial_weight": Field(number(0, 1e6), "Weight of the discriminator's verdict in the loss."),
    "spectral_final": Field(
        number(0, 1e6), "What the spectral losses are multiplied by at last, after the discriminator has joined."
    ),
    "spectral_fade_steps": Field(whole(0), "Steps in which they go there from 1, beginning where it joins."),
    "noisy": Field(number(0, 1), "Share of segments under white noise."),
    "noise_snr_db": Field(pair(-200, 200), "Range of the ratio of a segment to that noise in dB."),
    "bfloat16": Field(_FLAG, "Run the generator in bfloat16."),
    "seed": Field(SEED, "Of the weights to begin with, the segments and the noise."),
}
"""Every field of a :class:`VocoderRecipe`, as ``train vocoder --help`` describes it."""

# Where something is kept, not what it is; their content counts.
PATHS = ("sources", "conditioning", "continue_from", "init")


@dataclass(frozen=True)
class VocoderRecipe:
    """All that determines a run. :data:`FIELDS` says what each field is. Raises :class:`OptionError`."""

    kind: str
    sources: Mapping[str, float]
    conditioning: str | None = None
    continue_from: str | None = None
    init: str | None = None
    held_out_speakers: Sequence[str] = ()
    steps: int = 2400
    batch: int = 8
    lr: float = 1.5e-3
    mel_weight: float = 1.0
    discriminator_from: int | None = None
    adversarial_weight: float = 0.5
    spectral_final: float = 1.0
    spectral_fade_steps: int = 0
    noisy: float = 0.0
    noise_snr_db: tuple[float, float] = (0.0, 40.0)
    bfloat16: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        check_fields(vars(self), FIELDS, "recipe of a vocoder")
        starts = self.conditioning is not None or self.continue_from is not None
        if (self.kind == ON_MELGAN and not starts) or (self.kind != ON_MELGAN and self.conditioning is not None):
            raise OptionError(f"--conditioning goes with --kind {ON_MELGAN}, and that kind needs it")
        if self.conditioning is not None and self.continue_from is not None:
            raise OptionError("--conditioning has no effect with --continue-from, whose networks are complete")
        if self.init is not None and (self.conditioning is not None or self.continue_from is not None):
            raise OptionError("--init goes neither with --conditioning nor with --continue-from")
        if self.discriminator_from is None and (self.spectral_final != 1.0 or self.spectral_fade_steps):
            raise OptionError("the spectral losses fade after the discriminator joined; expected discriminator_from")

    def spectral_weight(self, step: int) -> float:
        """What the spectral losses are multiplied by at a step."""
        if self.discriminator_from is None or step < self.discriminator_from:
            return 1.0
        done = min(1.0, (step - self.discriminator_from + 1) / max(1, self.spectral_fade_steps))
        return 1.0 + (self.spectral_final - 1.0) * done

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """The fields that a JSON file gives. Raises :class:`BundleError`, :class:`OptionError` naming the file."""
        values = read_recipe(path)
        check_fields(values, FIELDS, str(path))
        return values

    def plain(self) -> dict[str, Any]:
        """The fields that are no paths."""
        return {key: value for key, value in asdict(self).items() if key not in PATHS}


def parse_sources(texts: list[str]) -> dict[str, float]:
    """Weights by source, of ``FOLDER_OR_MANIFEST[=WEIGHT]``. Raises :class:`OptionError`."""
    sources: dict[str, float] = {}
    for text in texts:
        path, _, value = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            weight = float(value)
        except ValueError:
            raise OptionError(f"--source: expected FOLDER_OR_MANIFEST=WEIGHT, got {quoted(text)}") from None
        if path in sources:
            raise OptionError(f"--source: {quoted(path)} is there twice")
        sources[path] = weight
    return sources
