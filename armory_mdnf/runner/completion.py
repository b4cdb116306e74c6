"""A whole configuration from the blocks that a record keeps, and how to run it again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.runner.config import check_config
from armory_mdnf.runner.named import KNOWN, blocks_of

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


def refuse_others_code(config: Config) -> None:
    """Raise :class:`OptionError` for a whole configuration that is none, or names a module but of this package or ART.

    Results are data, often somebody else's: a module that they name is not to be run because they are looked at.
    """
    check_config(config)
    for module in (block["module"] for block in blocks_of(config)):
        if module.split(".")[0] not in KNOWN:
            raise OptionError(
                f"the results name the module {quoted(module)}, which is not run for a page: run the configuration "
                "itself"
            )


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
