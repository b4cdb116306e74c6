"""ART's and Armory's attacks in terms of ours: what an attack block of a configuration asks for.

| block | ours |
|---|---|
| ``art.attacks.evasion.ProjectedGradientDescent`` (or ``...Numpy``) | PGD, l2 or linf, fixed step, last iterate |
| ``art.attacks.evasion.FastGradientMethod`` | one step of PGD, as long as the radius |
| ``armory.art_experimental.attacks.snr_pgd.SNR_PGD_Numpy`` | PGD, radius from each utterance's power |
| ``art.attacks.evasion.CarliniWagnerASR``, ``armory_mdnf.plugin.attacks.CarliniWagnerASR`` | CarliniWagner |

``batch_size`` is accepted and has no effect: it is how many utterances ART holds at once, on which no result depends;
here that is ``--batch-seconds``. ``verbose`` likewise: the runner has one progress bar. ``eps_step`` of
``FastGradientMethod`` is the grid of its ``minimal`` search alone, which is refused. ``CarliniWagner`` keeps to
[-1, 1], which ART's does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from armory_mdnf.attacks.evasion import check_count, check_flag, check_positive
from armory_mdnf.attacks.geometry import LARGEST
from armory_mdnf.errors import OptionError, choices, quoted, refuse_unknown

OURS = "armory_mdnf.attacks"
OWN_CLASSES = ("PGD", "CarliniWagner", "RandomNoise")
ART = "art.attacks.evasion"
SNR_MODULE = "armory.art_experimental.attacks.snr_pgd"
PLUGIN = "armory_mdnf.plugin.attacks"

Options = dict[str, Any]

# ART's own defaults, which hold where a configuration leaves an option out.
_PGD: Options = {
    "norm": "inf",
    "eps": 0.3,
    "eps_step": 0.1,
    "decay": None,
    "max_iter": 100,
    "targeted": False,
    "num_random_init": 0,
    "batch_size": 32,
    "random_eps": False,
    "summary_writer": False,
    "verbose": True,
}
_FGM: Options = {
    "norm": "inf",
    "eps": 0.3,
    "eps_step": 0.1,
    "targeted": False,
    "num_random_init": 0,
    "batch_size": 32,
    "minimal": False,
    "summary_writer": False,
}
_SNR: Options = _PGD | {"norm": "snr", "eps": 10, "eps_step": 0.5, "batch_size": 1}
_CW: Options = {
    "eps": 2000.0,
    "learning_rate": 100.0,
    "max_iter": 1000,
    "decrease_factor_eps": 0.8,
    "num_iter_decrease_eps": 10,
    "batch_size": 16,
}
# The plugin's subclass takes Armory's keyword, and has defaults for audio in [-1, 1].
_PLUGIN_CW: Options = {
    "eps": 0.01,
    "learning_rate": 1e-4,
    "max_iter": 400,
    "decrease_factor_eps": 0.8,
    "num_iter_decrease_eps": 10,
    "batch_size": 1,
    "targeted": True,
}
# Why a value other than ART's default cannot be had.
_REFUSED = {
    "decay": "momentum is not implemented",
    "num_random_init": "ART refuses it for recognisers too; armory_mdnf.attacks.PGD has random_start and restarts",
    "random_eps": "a random radius is not implemented",
    "summary_writer": "TensorBoard is not written",
    "minimal": "ART refuses it for recognisers too",
}


def translate(module: str, name: str, kwargs: Mapping[str, Any]) -> tuple[str, Options]:
    """Class of :mod:`armory_mdnf.attacks` and its options, for an attack block of a configuration.

    Raises :class:`OptionError` for an attack that has no equivalent, for an option that it does not have, and for a
    value that ours does not support.
    """
    check_known(module, name)
    if not is_translated(module):
        return name, dict(kwargs)
    defaults, build = _EQUIVALENTS[_home(module), name]
    refuse_unknown(kwargs, defaults, name)
    options = defaults | dict(kwargs)
    check_ignored(options)
    for key, reason in _REFUSED.items():
        # By type too: ART reads False and 0 alike, but a string "false" is neither.
        if key in defaults and (options[key] != defaults[key] or isinstance(options[key], str)):
            raise OptionError(f"{name}: expected {key} {quoted(defaults[key])}, got {quoted(options[key])}: {reason}")
    return build(name, options)


def check_known(module: str, name: str) -> None:
    """Raise :class:`OptionError` for an attack that is neither ours nor has an equivalent."""
    if not is_translated(module):
        if name not in OWN_CLASSES:
            raise OptionError(choices(name, OWN_CLASSES, f"attack of {OURS}"))
    elif (_home(module), name) not in _EQUIVALENTS:
        known = [f"{OURS}.{n}" for n in OWN_CLASSES] + [f"{m}.{n}" for m, n in _EQUIVALENTS]
        raise OptionError(f"{choices(f'{module}.{name}', known, 'attack')}; others run in Armory alone")


def check_ignored(options: Mapping[str, Any]) -> None:
    """Raise :class:`OptionError` for a value that has no effect here and is wrong everywhere."""
    if "batch_size" in options:
        check_count("batch_size", options["batch_size"], least=1)
    if "verbose" in options:
        check_flag("verbose", options["verbose"])
    if "batch_seconds" in options:
        check_positive("batch_seconds", options["batch_seconds"])


def is_translated(module: str) -> bool:
    """Whether blocks of this module are translated, rather than handed to our attacks as they are."""
    return not (module == OURS or module.startswith(f"{OURS}."))


def _pgd(name: str, options: Options) -> tuple[str, Options]:
    return "PGD", {
        "norm": _norm(name, options["norm"]),
        "eps": options["eps"],
        "eps_step": options["eps_step"],
        "max_iter": options["max_iter"],
        "targeted": options["targeted"],
    }


def _fgm(name: str, options: Options) -> tuple[str, Options]:
    check_positive("eps_step", options["eps_step"])
    return "PGD", {
        "norm": _norm(name, options["norm"]),
        "eps": options["eps"],
        "eps_step": options["eps"],
        "max_iter": 1,
        "targeted": options["targeted"],
    }


def _snr_pgd(name: str, options: Options) -> tuple[str, Options]:
    check_positive("eps_step", options["eps_step"])
    return "PGD", {
        "norm": "snr",
        "snr_db": _snr_db(name, options["norm"], options["eps"]),
        "step_fraction": options["eps_step"],
        "max_iter": options["max_iter"],
        "targeted": options["targeted"],
    }


def _carlini_wagner(name: str, options: Options) -> tuple[str, Options]:
    if options.get("targeted", True) is not True:
        found = quoted(options["targeted"])
        raise OptionError(f"{name}: expected targeted true, got {found}: it has no untargeted form")
    return "CarliniWagner", {k: v for k, v in options.items() if k != "batch_size"} | {"targeted": True}


def _norm(name: str, norm: object) -> str:
    if norm in (math.inf, "inf"):
        return "linf"
    if norm == 2 and not isinstance(norm, bool):
        return "l2"
    raise OptionError(f"{name}: expected norm 2 or 'inf', got {quoted(norm)}")


def _snr_db(name: str, norm: object, eps: object) -> float:
    """Armory's bound in decibels; its norm "snr" has a linear power ratio as eps, "snr_db" decibels."""
    if norm not in ("snr", "snr_db"):
        expected = "norm 'snr' (eps a power ratio) or 'snr_db' (eps in dB)"
        raise OptionError(f"{name}: expected {expected}, got {quoted(norm)}")
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not abs(eps) <= LARGEST:
        raise OptionError(f"{name}: expected eps to be a finite number, got {quoted(eps)}")
    if norm == "snr_db":
        return float(eps)
    if eps <= 0:
        hint = "is it in dB? then norm is 'snr_db'"
        raise OptionError(f"{name}: expected a power ratio eps > 0, got {quoted(eps)}; {hint}")
    return 10 * math.log10(eps)


_Builder = Callable[[str, Options], tuple[str, Options]]
_EQUIVALENTS: dict[tuple[str, str], tuple[Options, _Builder]] = {
    (ART, "ProjectedGradientDescent"): (_PGD, _pgd),
    (ART, "ProjectedGradientDescentNumpy"): (_PGD, _pgd),
    (ART, "FastGradientMethod"): (_FGM, _fgm),
    (ART, "CarliniWagnerASR"): (_CW, _carlini_wagner),
    (SNR_MODULE, "SNR_PGD_Numpy"): (_SNR, _snr_pgd),
    (PLUGIN, "CarliniWagnerASR"): (_PLUGIN_CW, _carlini_wagner),
}


def _home(module: str) -> str:
    # ART's classes are imported from the package or from the module below it that defines them.
    return ART if module.startswith(f"{ART}.") else module
