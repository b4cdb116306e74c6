"""A whole configuration from the blocks that a record keeps, and how to run it again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Config = dict[str, Any]

METRIC = {
    "means": True,
    "perturbation": ["snr_db", "l2", "linf"],
    "profiler_type": "basic",
    "record_metric_per_sample": True,
    "task": ["word_error_rate", "armory_mdnf.plugin.metrics.transcripts"],
}
SCENARIO = {"kwargs": {}, "module": "armory.scenarios.audio_asr", "name": "AutomaticSpeechRecognition"}
SYSCONFIG = {
    "docker_image": None,
    "external_github_repo": None,
    "gpus": "all",
    "output_dir": None,
    "output_filename": None,
}


def complete_config(blocks: Mapping[str, Any], skip_attack: bool = False, device: str | None = None) -> Config:
    """A configuration that ``armory run`` and ``armory-mdnf run`` take, with the given blocks.

    The others are those of this project's configurations: all metrics, on this machine, on a CPU unless ``device`` is
    "cuda".
    """
    standard = {
        "_description": "",
        "adhoc": {},
        "attack": None,
        "defense": None,
        "metric": METRIC,
        "scenario": SCENARIO,
        "sysconfig": SYSCONFIG | {"use_gpu": device == "cuda"},
    }
    config = copy.deepcopy(standard | dict(blocks))
    if skip_attack:
        config["sysconfig"]["skip_attack"] = True
        config["adhoc"]["skip_adversarial"] = True  # it is the whole of the configuration that is run
    return config
