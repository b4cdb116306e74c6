"""The cells of the configurations, for their tests."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from conftest import tiny_recognizer

from armory_mdnf.asr.estimator import RecognizerEstimator

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "scenario_configs"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_configs", ROOT / "tools" / "make_configs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()
# name of a file without its ending -> folder, system, threat, place in the paper
CELLS = {
    f"{scale}/{system}_{threat}".lstrip("/"): (scale, system, threat, place)
    for scale, (table, *_) in tool.SCALES.items()
    for system, threat, place in tool.cells(table)
}


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def tiny() -> RecognizerEstimator:
    return RecognizerEstimator(tiny_recognizer(), device_type="cpu")


def under_pgd(scale: str, system: str) -> str:
    """The configuration of a system under l2 PGD: ART's, or this package's where that is the only one."""
    names = [f"{scale}/{system}_{threat}".lstrip("/") for threat in ("pgd_l2", "pgd_l2_ours")]
    return next(name for name in names if name in CELLS)


def defence_of(system: str) -> tuple[str | None, str]:
    """Class of the defence, and weights of the recogniser that was fine-tuned for it."""
    classes = dict.fromkeys(("mg", "wg", "hg"), "MelResynth")
    classes = {"mdnf": "MDNF", **classes, "rs": "RandomizedSmoothing"}
    words = system.split("_")
    tuned = next((word for word in words if word in ("mg", "wg", "hg")), None)
    weights = f"ds2_{tuned or 'base'}" + "_gan" * ("gan" in words)
    if "whisper" in words:
        tuned = "mg" if tuned == "wg" else tuned  # none is fine-tuned for WG
        family = "whisper_ctc_v2" if "v2" in words else "whisper_ctc"
        weights = f"{family}_{tuned}" if tuned else family
    if "tiny" in words:
        weights = "hf:openai/whisper-tiny.en"
    if words[0] == "none":
        return None, weights
    return next((classes[word] for word in classes if word in words), None), weights
