"""How vocoders pass MDNF's noise on, as it was logged while they learned and measured of finished ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from armory_mdnf.evaluation.tables import markdown
from armory_mdnf.files.strict_json import loads, read_json
from armory_mdnf.files.texts import read_text

TRAINING = Path(__file__).parents[1] / "training"
COSINES = {"waveform": "waveforms", "gradient": "exact gradients", "published": "published and exact"}
"""What two draws of the noise are compared by, and what it is called."""


@dataclass(frozen=True)
class Sensitivity:
    """Mean cosines of two draws with one vocoder, after so many steps against its discriminator; None: a finished one.

    ``stoi``: of resynthesised human dev speech, where it was logged.
    """

    vocoder: str
    step: int | None
    cosines: tuple[float, ...]
    stoi: float | None = None


def read_sensitivities(training: Path = TRAINING) -> list[Sensitivity]:
    """What `train vocoder --sensitivity` logged and `train sensitivity` measured.

    A training that began with a measured vocoder has that one as its step 0.
    """
    measured = read_json(training / "logs" / "sensitivity.json")["cosines"]
    finished = {name: tuple(found[key] for key in COSINES) for name, found in measured.items()}
    rows = [Sensitivity(name, None, cosines) for name, cosines in finished.items()]
    for log in sorted((training / "logs").glob("*.jsonl")):
        recipe = training / "recipes" / "vocoders" / f"{log.stem}.json"
        if not recipe.exists():  # a recogniser's log
            continue
        begun_with = read_json(recipe).get("init")
        if begun_with in finished:
            rows.append(Sensitivity(log.stem, 0, finished[begun_with]))
        rows += _logged(log)
    return rows


def _logged(log: Path) -> Iterator[Sensitivity]:
    for number, line in enumerate(read_text(log, "training log").splitlines(), 1):
        row = loads(line, f"{log}, line {number}")
        if "cosine_gradient" in row:
            cosines = tuple(row[f"cosine_{key}"] for key in COSINES)
            yield Sensitivity(log.stem, row["step"], cosines, row["stoi_dev"])


def sensitivity_table(rows: Iterable[Sensitivity]) -> str:
    """A row per vocoder and step, as Markdown."""
    cells = [
        [
            row.vocoder,
            "-" if row.step is None else str(row.step),
            "-" if row.stoi is None else f"{row.stoi:.2f}",
            *(f"{cosine:.2f}" for cosine in row.cosines),
        ]
        for row in rows
    ]
    return markdown(cells, ("vocoder", "step", "STOI, human dev", *COSINES.values()))


def trained(rows: Sequence[Sensitivity]) -> dict[str, list[Sensitivity]]:
    """The rows of each training, by the steps; finished vocoders are left out."""
    found: dict[str, list[Sensitivity]] = {}
    for row in rows:
        if row.step is not None:
            found.setdefault(row.vocoder, []).append(row)
    return found
