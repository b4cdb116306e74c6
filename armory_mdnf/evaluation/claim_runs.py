"""What a run is in the paper's terms: the defence, the attack, and what it is measured on; from its configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from armory_mdnf.evaluation.identity import without_defaults
from armory_mdnf.evaluation.names import attack_name, block_of, is_ours
from armory_mdnf.evaluation.paper import BENIGN, EXACT, gradient_of, norm_of, unlike_the_papers
from armory_mdnf.evaluation.records import RunRecord, as_number
from armory_mdnf.files.provenance import leaves

FAMILIES = {"melgan": "MG", "pwg": "WG"}
STOCHASTIC = ("RS", "MG-MDNF", "MG-MDNF flat", "WG", "WG-MDNF")
"""Defences that draw noise, for which the published gradient is another than the exact one."""
UNVOCODED = ("none", "RS")
ROLES = re.compile(r"(.+?)_(base|(?:mg|wg|hg)(?:_gan)?)")
BUNDLE = ".safetensors"
OPTION = "attack.kwargs."
INCIDENTAL = ("batch_seconds", "batch_size", "num_random_init", "seed", "targeted", "verbose")
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

    ``recogniser``: name or path of the weights, without what says which defence they were fine-tuned for.
    ``vocoders``: name or path of a run's vocoder, "" without one; of a whole ground those of all families, "" if they
    are the first ones, which :data:`FAMILIES` names.
    """

    split: str
    recogniser: str
    vocoders: str


def role_of(run: RunRecord) -> tuple[Role, Ground] | None:
    """Where a run belongs, or None for one that is in none of the tables, such as an attack of other options."""
    recogniser, tuning = fine_tuning_of(run.recognizer)
    found = _system(run.config)
    threat = _threat(run)
    if found is None or threat is None:
        return None
    system, vocoders = found
    if system in UNVOCODED and tuning != "base":
        return None  # the control: a recogniser that was fine-tuned for a vocoder, without it
    tuned = tuning in _tunings(system, vocoders)
    gradient = EXACT if threat == BENIGN or system not in STOCHASTIC else gradient_of(run.config)
    return Role(system, threat, gradient, tuned), Ground(run.split, recogniser, vocoders)


def fine_tuning_of(recogniser: str) -> tuple[str, str]:
    """What a recogniser is fine-tuned from, and for which vocoder by the end of its name, as ``mg`` and ``mg_gan``.

    The second is "base" for none. A name without a vocoder's variant does not say for which of its family it is.
    """
    whole = recogniser.removesuffix(BUNDLE)
    match = ROLES.fullmatch(whole)
    return (match[1], match[2]) if match else (whole, "base")


def is_untuned(run: RunRecord) -> bool:
    """Whether a run has a vocoder before a recogniser that was not fine-tuned for it."""
    placed = role_of(run)
    return placed is not None and placed[0].system not in UNVOCODED and not placed[0].tuned


def _tunings(system: str, vocoder: str) -> tuple[str, ...]:
    """What the names of the recognisers that are fine-tuned for a defence may end in."""
    family, (_, variant) = system[:2].lower(), _variant(vocoder)[1]
    return family, f"{family}_{variant}"


def _system(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name of the defence in the paper, and of its vocoder: "" for none."""
    block, others = block_of(config, "defense"), unlike_the_papers(config)
    if not block:
        return "none", ""
    curve = others.pop("curve", "")
    others.pop("vocoder", None)
    if others or not is_ours(block):
        return None
    name = block.get("name")
    if name == "RandomizedSmoothing":
        return "RS", ""
    vocoder = str(block_of(block, "kwargs").get("vocoder", "melgan")).removesuffix(BUNDLE)
    family = FAMILIES.get(_variant(vocoder)[0])
    if family is None or name not in ("MelResynth", "MDNF"):
        return None
    if name == "MelResynth":
        return family, vocoder
    return f"{family}-MDNF" + (" flat" if curve is None else ""), vocoder


def _variant(vocoder: str) -> tuple[str, tuple[str, str]]:
    """Family of a vocoder in the names of files, and which of it: the folder, and what follows in the name."""
    path = PurePath(vocoder)
    family, _, rest = path.name.partition("_")
    return family, (str(path.parent), rest)


def _threat(run: RunRecord) -> str | None:
    """The attack in the paper's terms: ``l2 1.5``, ``20 dB``, ``l2 1.5 EOT 5``, ``l2 1.5 of 250 iterations``."""
    if all(outcome.adversarial is None for outcome in run.outcomes):
        return BENIGN
    block = block_of(run.config, "attack")
    name = attack_name(block)
    said = without_defaults(leaves({"attack": block}))
    given = {key.removeprefix(OPTION): value for key, value in said.items() if key.startswith(OPTION)}
    if block.get("use_label") or given.get("num_random_init"):
        return None
    kwargs = {key: value for key, value in given.items() if key not in (*INCIDENTAL, "gradient")}
    if name in ("CarliniWagner", "CarliniWagnerASR"):
        return CW if CW_OPTIONS | kwargs == CW_OPTIONS else None
    steps = kwargs.pop("max_iter", 100)
    draws = kwargs.pop("eot_draws", 1)
    norm = "" if kwargs.pop("norm", None) is None else norm_of(block)  # the paper's bound is one that is said
    step = as_number(kwargs.pop("eps_step", None))
    eps, snr_db, fraction = (as_number(kwargs.pop(key, None)) for key in ("eps", "snr_db", "step_fraction"))
    if kwargs or name not in ("PGD", "ProjectedGradientDescent", "SNR_PGD_Numpy"):
        return None
    if norm in ("snr", "snr_db"):
        ours = name == "PGD"  # whose eps_step is in full-scale samples, where Armory's is a part of the bound
        bound = snr_db if ours else eps if norm == "snr_db" else None
        known = bool(given.get("targeted")) and bound is not None and (fraction if ours else step) == 0.5
        threat = f"{bound:g} dB" if known else None
    else:
        small = eps is not None and (fraction == 0.2 or (step is not None and abs(step - eps / 5) < 1e-9))
        threat = f"{norm} {eps:g}" if small and norm in ("l2", "linf") and not given.get("targeted") else None
    if threat is None:
        return None
    threat += f" EOT {draws}" if draws != 1 else ""
    return threat + (f" of {steps} iterations" if steps != 100 else "")


Table = dict[tuple[str, str, str], RunRecord]
"""Runs by defence, attack and gradient."""


def tables(runs: Iterable[RunRecord]) -> dict[Ground, Table]:
    """The runs of each ground. Of two that are the same cell, the fine-tuned and then the longer one counts.

    Before the longer one comes that of the curve which this project's configurations have on the data. Of equally long
    ones that of this package's attack does: with EOT and more iterations there are no others.
    Runs without a vocoder are on every ground of their split and recogniser, and so are those of a family of which
    that split and recogniser have met one vocoder alone.
    """
    placed = [(role, ground, run) for run in runs for role, ground in [role_of(run) or (None, None)] if role and ground]
    found: dict[Ground, Table] = {}
    for ground, vocoders in _grounds({ground for _, ground, _ in placed}):
        cells: Table = {}
        rank: dict[tuple[str, str, str], tuple[bool, bool, int, bool]] = {}
        for role, other, run in placed:
            if (other.split, other.recogniser) != (ground.split, ground.recogniser) or other.vocoders not in vocoders:
                continue
            key = (role.system, role.threat, role.gradient)
            ours = is_ours(block_of(run.config, "attack"))
            usual = "curve" not in unlike_the_papers(run.config)
            order = (role.tuned, usual, len(run.outcomes), ours)
            if key not in rank or order > rank[key]:
                cells[key], rank[key] = run, order
        found[ground] = cells
    return found


def _grounds(of_runs: Iterable[Ground]) -> list[tuple[Ground, set[str]]]:
    """The grounds that runs are on, in order, and the vocoders of each, of which "" is none."""
    met: dict[tuple[str, str], dict[str, dict[tuple[str, str], str]]] = {}
    for one in of_runs:
        families = met.setdefault((one.split, one.recogniser), {})
        if one.vocoders:
            family, variant = _variant(one.vocoders)
            families.setdefault(family, {})[variant] = one.vocoders
    found = []
    for (split, recogniser), families in sorted(met.items()):
        several = [variants for variants in families.values() if len(variants) > 1]
        for variant in sorted({v for variants in several for v in variants}) or [("", "")]:
            here = [
                variants.get(variant) or next(iter(variants.values()))
                for _, variants in sorted(families.items())
                if variant in variants or len(variants) == 1
            ]
            names = "" if set(here) <= set(FAMILIES) else ", ".join(here)
            found.append((Ground(split, recogniser, names), {"", *here}))
    return found
