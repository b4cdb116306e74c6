"""What the command line changes in a configuration, written into it, so that it says what was run."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

from armory_mdnf.errors import OptionError, choices, quoted
from armory_mdnf.files.strict_json import readable
from armory_mdnf.options import POSITIVE
from armory_mdnf.runner.config import Config

DEVICES = ("cpu", "cuda")
# Larger batches fill the cores a little better, but more is lost when a run is killed.
BATCH_SECONDS = 32.0
SEEDING = {"module": "armory_mdnf.plugin.seeding", "name": "seed_everything"}
# Where every class of a block has an option ``seed``.
SEEDED = {"defense": "armory_mdnf.defenses.", "attack": "armory_mdnf.attacks."}
# What Armory's check run sets to one.
ITERATIONS = ("max_iter", "max_iter_1", "max_iter_2", "max_epochs", "max_trials", "model_retraining_epoch")


@dataclass(frozen=True)
class Overrides:
    """Options of the command line; None and False leave the configuration's."""

    num_eval_batches: int | None = None
    index: str | list[int] | None = None
    check: bool = False
    seed: int | None = None
    device: str | None = None
    batch_seconds: float | None = None
    output_dir: str | None = None
    skip_attack: bool = False
    skip_benign: bool = False
    filepath: str | None = None


def parse_index(text: str) -> str | list[int]:
    """``--index`` in Armory's notation: ``0,5``, or a slice ``[2:9]`` as in ``dataset.index``. Raises OptionError."""
    if ":" in text:
        return text
    if not re.fullmatch(r"\s*\[?\s*\d{1,18}(\s*,\s*\d{1,18})*\s*\]?\s*", text, re.ASCII):
        raise OptionError(f"--index: expected positions such as 0,5 or a slice such as [2:9], got {quoted(text)}")
    return sorted({int(token) for token in re.findall(r"\d+", text, re.ASCII)})


def override(config: Config, given: Overrides) -> Config:
    """The configuration that is run. As in Armory, ``sysconfig`` keeps the options of the command line.

    ``seed`` goes to ``user_init``, to this package's defences and attacks, and to others whose blocks name one.
    Raises :class:`OptionError` for options that contradict each other or are out of range.
    """
    config = copy.deepcopy(config)
    sysconfig = config["sysconfig"]
    options: dict[str, Any] = {
        name: readable(value) if isinstance(value, str) else value for name, value in vars(given).items()
    }
    seed = options.pop("seed")
    sysconfig |= {name: value for name, value in options.items() if value is not None and value is not False}
    _check_options(sysconfig)
    if sysconfig.get("index") is not None:
        config["dataset"]["index"] = sysconfig["index"]
    config["adhoc"] = config["adhoc"] or {}
    if config["adhoc"].get("skip_adversarial") or config["attack"] is None:
        sysconfig["skip_attack"] = True
    if sysconfig.get("skip_attack") and sysconfig.get("skip_benign"):
        raise OptionError("sysconfig.skip_attack and sysconfig.skip_benign leave nothing to do")
    if sysconfig.get("check") and config["attack"]:
        kwargs = config["attack"]["kwargs"]
        kwargs |= {name: 1 for name in ITERATIONS if kwargs.get(name)}
    if seed is not None:
        _reseed(config, seed)
    return config


def run_seed(config: Config) -> int | None:
    """Seed of the run, that of ``user_init``."""
    seed = ((config.get("user_init") or {}).get("kwargs") or {}).get("seed")
    return seed if isinstance(seed, int) else None


def _check_options(sysconfig: Config) -> None:
    batches, limit = sysconfig.get("num_eval_batches"), sysconfig.get("batch_seconds", BATCH_SECONDS)
    if batches is not None and batches < 0:
        raise OptionError(f"sysconfig.num_eval_batches: expected a whole number >= 0 (0: all), got {quoted(batches)}")
    if batches and sysconfig.get("index") is not None:
        raise OptionError("sysconfig.num_eval_batches and sysconfig.index cannot go together, as in Armory")
    if not POSITIVE.holds(limit):
        raise OptionError(f"sysconfig.batch_seconds: expected a finite number > 0, got {quoted(limit)}")
    if sysconfig.get("device", "cpu") not in DEVICES:
        raise OptionError(choices(sysconfig["device"], DEVICES, "sysconfig.device"))


def _reseed(config: Config, seed: int) -> None:
    block: dict[str, Any] = config.get("user_init") or dict(SEEDING)
    config["user_init"] = block | {"kwargs": (block.get("kwargs") or {}) | {"seed": seed}}
    for name, homes in SEEDED.items():
        part = config[name]
        if part and (f"{part['module']}.".startswith(homes) or "seed" in part["kwargs"]):
            part["kwargs"]["seed"] = seed
