"""Write the baselines of published numbers, or check them: `python tools/make_baselines.py [--check]`.

`baselines/paper.json`: Tables 2 to 4 of Mehlman et al. and the numbers of its text, by the configurations in
`scenario_configs/librispeech/`. `baselines/armory.json`: Armory's published results of DeepSpeech2, by Armory's own
configurations. `baselines/bundled.json` is not written here: `armory-mdnf baseline` does, when somebody asks for it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from armory_mdnf.evaluation.baselines import Baseline, BaselineCell, write_baseline
from armory_mdnf.evaluation.cells import cells_on
from armory_mdnf.evaluation.identity import identity
from armory_mdnf.evaluation.paper import BENIGN, number, number_to_target

FOLDER = Path(__file__).parents[1] / "baselines"

CW_UTTERANCES = 246
PAPER = "Mehlman, Sreeram, Peri and Narayanan, Mel Frequency Spectral Domain Defenses against Adversarial Attacks"
PLACE = re.compile(r"(?:Table (\d), row (.+?), column (.+?)|text, (.+?), (.+?)), (\d+) utterances of LibriSpeech")
DATA = {"module": "armory_mdnf.plugin.datasets", "name": "librispeech", "eval_split": "test_clean"}

# Word error rates as fractions: undefended, and behind ART's MP3 compression; of 100 utterances of test-clean.
ARMORY_BENIGN = {"none": 0.10, "mp3": 0.13}
ARMORY_PGD = {20: {"none": 0.46, "mp3": 0.53}, 30: {"none": 0.46, "mp3": 0.50}, 40: {"none": 0.33, "mp3": 0.36}}
ARMORY = "Armory v0.13.3, docs/baseline_results/librispeech_asr_results.md, Deep Speech 2, PGD (single channel)"
MP3 = {
    "module": "art.defences.preprocessor",
    "name": "Mp3Compression",
    "type": "Preprocessor",
    "kwargs": {"apply_fit": False, "apply_predict": True, "channels_first": False, "sample_rate": 16000},
}


def published(table: str, row: str, column: str) -> dict[str, float] | None:
    """Word error rates of a place in the paper, in percent; None where it has no number."""
    value = number(row, column, [table])
    if value is None:
        return None
    if column == BENIGN:
        return {"benign": value}
    return {"adversarial": value} | ({"target": number_to_target(row)} if column.startswith("CW") else {})


def paper_cells() -> Iterator[BaselineCell]:
    """A cell per configuration of the paper's scale that has a number in the paper."""
    for name, cell in sorted(cells_on("librispeech").items()):
        place = PLACE.search(cell.description)
        if not place:
            continue
        table, row, column, text_row, text_column, size = place.groups()
        if table is None:
            found = published("text", text_row, text_column)
        else:
            found = published(table, row, column.removesuffix(" as in the authors' files"))
        if found is None:
            continue
        where = f"Table {table}, {row}, {column}" if table else f"text, {text_row}, {text_column}"
        yield BaselineCell(
            f"test_clean/{name}",
            identity({**cell.blocks, "dataset": DATA}, cell.attacked),
            CW_UTTERANCES if column and column.startswith("CW") else int(size),
            {key: round(value / 100, 4) for key, value in found.items()},
            note=where,
        )


def armory_cells() -> Iterator[BaselineCell]:
    """Benign and attacked numbers of the two configurations, undefended and defended."""
    model = {
        "module": "armory.baseline_models.pytorch.deep_speech",
        "name": "get_art_model",
        "wrapper_kwargs": {"clip_values": [-1, 1], "pretrained_model": "librispeech"},
    }
    dataset = {"module": "armory.data.datasets", "name": "librispeech", "eval_split": "test_clean"}
    for defence, block in (("none", None), ("mp3", MP3)):
        blocks: dict[str, Any] = {"dataset": dataset, "defense": block, "model": model}
        benign = {"benign": ARMORY_BENIGN[defence]}
        yield BaselineCell(f"test_clean/{defence}_benign", identity(blocks, False), 100, benign, note=ARMORY)
        for ratio, values in ARMORY_PGD.items():
            kwargs = {"eps": ratio, "eps_step": 0.5, "max_iter": 500, "norm": "snr", "num_random_init": 0}
            attack = {
                "module": "armory.art_experimental.attacks.snr_pgd",
                "name": "SNR_PGD_Numpy",
                "knowledge": "white",
                "targeted": False,
                "use_label": False,
                "kwargs": kwargs | {"targeted": False},
            }
            found = identity({**blocks, "attack": attack}, True)
            name = f"test_clean/{defence}_snr_pgd_{ratio}"
            yield BaselineCell(name, found, 100, benign | {"adversarial": values[defence]}, note=ARMORY)


def main() -> int:
    """Write, or check."""
    made = {
        "paper.json": Baseline("paper", f"{PAPER}: Tables 2 to 4 and text", {c.name: c for c in paper_cells()}),
        "armory.json": Baseline("armory", ARMORY, {c.name: c for c in armory_cells()}),
    }
    wrong = 0
    for name, baseline in made.items():
        if "--check" not in sys.argv[1:]:
            write_baseline(FOLDER / name, baseline)
            print(f"{name}: {len(baseline.cells)} cells")
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_baseline(Path(folder) / name, baseline)
            there = (FOLDER / name).read_text(encoding="utf-8") if (FOLDER / name).is_file() else ""
            if (Path(folder) / name).read_text(encoding="utf-8") != there:
                print(f"{name} is not what the tables say: run python tools/make_baselines.py", file=sys.stderr)
                wrong = 1
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
