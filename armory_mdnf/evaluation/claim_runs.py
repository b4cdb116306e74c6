"""What a run is in the paper's terms: the defence, the attack, and what it is measured on; from its configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from armory_mdnf.evaluation.records import RunRecord, as_number

FAMILIES = {"melgan": "MG", "pwg": "WG"}
STOCHASTIC = ("RS", "MG-MDNF", "MG-MDNF flat", "WG", "WG-MDNF")
"""Defences that draw noise, for which the published gradient is another than the exact one."""
EXACT, PUBLISHED = "exact", "published"
BENIGN = "benign"
ROLES = re.compile(r"(.+?)_(base|mg|wg|hg)$")
INCIDENTAL = ("batch_seconds", "batch_size", "num_random_init", "seed", "targeted", "verbose")
NORMS = {"2": "l2", "l2": "l2", "inf": "linf", "linf": "linf"}
CW = "CW 0.01"
CW_OPTIONS = {
    "eps": 0.01,
    "max_iter": 400,
    "learning_rate": 0.0001,
    "decrease_factor_eps": 0.8,
    "num_iter_decrease_eps": 10,
}


@dataclass(frozen=True)
class Role:
    """A run's place in the paper's tables. ``tuned``: the recogniser was fine-tuned for what the defence gives back."""

    system: str
    threat: str
    gradient: str
    tuned: bool


@dataclass(frozen=True)
class Ground:
    """What runs must share so that their differences are the defences': the split, recogniser, and vocoders.

    ``vocoders``: the name of a run's vocoder, "" without one; of a whole ground those of all families, "" if they are
    the first ones, which :data:`FAMILIES` names.
    """

    split: str
    recogniser: str
    vocoders: str


def role_of(run: RunRecord) -> tuple[Role, Ground] | None:
    """Where a run belongs, or None for one that is in none of the tables, such as an attack of other options."""
    model = _block(run.config, "model")
    weights = _block(model, "model_kwargs").get("weights") or model.get("weights_file")
    stem = PurePath(str(weights)).stem
    match = ROLES.fullmatch(stem)
    family, tuning = (match[1], match[2]) if match else (stem, "base")
    found = _system(run.config)
    threat = _threat(run)
    if found is None or threat is None:
        return None
    system, vocoders = found
    if system in ("none", "RS") and tuning != "base":
        return None  # the control: a recogniser that was fine-tuned for a vocoder, without it
    tuned = tuning == system[:2].lower()
    gradient = _block(_block(run.config, "attack"), "kwargs").get("gradient")
    gradient = gradient or _block(model, "wrapper_kwargs").get("gradient") or EXACT
    exact = threat == BENIGN or system not in STOCHASTIC
    return Role(system, threat, EXACT if exact else str(gradient), tuned), Ground(run.split, family, vocoders)


def _system(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name of the defence in the paper, and of its vocoder: "" for none."""
    block = _block(config, "defense")
    if not block:
        return "none", ""
    kwargs = {k: v for k, v in _block(block, "kwargs").items() if k not in ("seed", "device_type")}
    name = block.get("name")
    if name == "RandomizedSmoothing":
        return ("RS", "") if {"snr_db": 15.0, "passes": 5} | kwargs == {"snr_db": 15.0, "passes": 5} else None
    vocoder = PurePath(str(kwargs.pop("vocoder", "melgan"))).stem
    family = FAMILIES.get(vocoder.partition("_")[0])
    if family is None or name not in ("MelResynth", "MDNF"):
        return None
    if name == "MelResynth":
        return (family, vocoder) if not kwargs else None
    curve = kwargs.pop("curve", "bundled_l2")
    published = {"noise_level": 20.0, "normalize": "utterance", "curve_scales": "std"}
    if published | kwargs != published:
        return None
    return f"{family}-MDNF" + ("" if curve is not None else " flat"), vocoder


def _threat(run: RunRecord) -> str | None:
    """The attack in the paper's terms: ``l2 1.5``, ``20 dB``, ``l2 1.5 EOT 5``, ``l2 1.5 of 250 iterations``."""
    if all(outcome.adversarial is None for outcome in run.outcomes):
        return BENIGN
    block = _block(run.config, "attack")
    given = _block(block, "kwargs")
    if block.get("use_label") or given.get("num_random_init"):
        return None
    kwargs = {key: value for key, value in given.items() if key not in (*INCIDENTAL, "gradient")}
    if block.get("name") in ("CarliniWagner", "CarliniWagnerASR"):
        return CW if CW_OPTIONS | kwargs == CW_OPTIONS else None
    steps = kwargs.pop("max_iter", 100)
    draws = kwargs.pop("eot_draws", 1)
    norm, step = str(kwargs.pop("norm", None)), as_number(kwargs.pop("eps_step", None))
    eps, snr_db, fraction = (as_number(kwargs.pop(key, None)) for key in ("eps", "snr_db", "step_fraction"))
    if kwargs or block.get("name") not in ("PGD", "ProjectedGradientDescent", "SNR_PGD_Numpy"):
        return None
    if norm in ("snr", "snr_db"):
        bound = snr_db if block.get("name") == "PGD" else eps if norm == "snr_db" else None
        known = bool(given.get("targeted")) and bound is not None and 0.5 in (fraction, step)
        name = f"{bound:g} dB" if known else None
    else:
        small = eps is not None and (fraction == 0.2 or (step is not None and abs(step - eps / 5) < 1e-9))
        name = f"{NORMS[norm]} {eps:g}" if small and norm in NORMS and not given.get("targeted") else None
    if name is None:
        return None
    name += f" EOT {draws}" if draws != 1 else ""
    return name + (f" of {steps} iterations" if steps != 100 else "")


def _block(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = config.get(name)
    return block if isinstance(block, Mapping) else {}


Table = dict[tuple[str, str, str], RunRecord]
"""Runs by defence, attack and gradient."""


def tables(runs: Iterable[RunRecord]) -> dict[Ground, Table]:
    """The runs of each ground. Of two that are the same cell, the fine-tuned and then the longer one counts.

    Of equally long ones that of this package's attack does: with EOT and more iterations there are no others.
    Runs without a vocoder are on every ground of their split and recogniser, and so are those of a family of which
    that split and recogniser have met one vocoder alone.
    """
    placed = [(role, ground, run) for run in runs for role, ground in [role_of(run) or (None, None)] if role and ground]
    found: dict[Ground, Table] = {}
    for ground, vocoders in _grounds({ground for _, ground, _ in placed}):
        cells: Table = {}
        rank: dict[tuple[str, str, str], tuple[bool, int, bool]] = {}
        for role, other, run in placed:
            if (other.split, other.recogniser) != (ground.split, ground.recogniser) or other.vocoders not in vocoders:
                continue
            key = (role.system, role.threat, role.gradient)
            ours = str(_block(run.config, "attack").get("module", "")).startswith("armory_mdnf.")
            order = (role.tuned, len(run.outcomes), ours)
            if key not in rank or order > rank[key]:
                cells[key], rank[key] = run, order
        found[ground] = cells
    return found


def _grounds(of_runs: Iterable[Ground]) -> list[tuple[Ground, set[str]]]:
    """The grounds that runs are on, in order, and the vocoders of each, of which "" is none."""
    met: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for one in of_runs:
        families = met.setdefault((one.split, one.recogniser), {})
        if one.vocoders:
            family, _, variant = one.vocoders.partition("_")
            families.setdefault(family, {})[variant] = one.vocoders
    found = []
    for (split, recogniser), families in sorted(met.items()):
        several = [variants for variants in families.values() if len(variants) > 1]
        for variant in sorted({v for variants in several for v in variants}) or [""]:
            here = [
                variants.get(variant) or next(iter(variants.values()))
                for _, variants in sorted(families.items())
                if variant in variants or len(variants) == 1
            ]
            names = "" if set(here) <= set(FAMILIES) else ", ".join(here)
            found.append((Ground(split, recogniser, names), {"", *here}))
    return found
