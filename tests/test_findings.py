"""Which runs docs/findings.md compares."""

from __future__ import annotations

from pathlib import Path

from armory_mdnf.evaluation.findings import PAIRS
from armory_mdnf.evaluation.records import read_record

RESULTS = Path(__file__).parents[1] / "results"
SCALES = {"test_clean": "librispeech", "human": "human"}


def test_a_gain_with_another_recogniser_has_the_control_of_that_recogniser() -> None:
    """A defence and the recogniser fine-tuned for it, against another without: how much is the fine-tuning's?"""
    for split, pairs in PAIRS.items():
        names = {name for _, *both in pairs for name in both}
        heard = {name: read_record(RESULTS / SCALES[split] / f"{name}.json") for name in names}
        controlled = {heard[second].recognizer for _, _, second in pairs if not heard[second].config["defense"]}
        gains = {
            heard[first].recognizer
            for _, first, second in pairs
            if heard[first].config["defense"] and not heard[second].config["defense"]
        }
        assert gains
        assert gains <= controlled
