"""What two runs must have in common before their numbers may be compared: the configuration, weights, utterances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from armory_mdnf.evaluation.names import within
from armory_mdnf.evaluation.records import RunRecord
from armory_mdnf.files.provenance import leaves

# Where and how it is computed, and the seeds: a run with another seed is the same experiment once more.
INCIDENTAL = (
    *("attack.kwargs.batch_seconds", "attack.kwargs.batch_size", "attack.kwargs.seed", "attack.kwargs.verbose"),
    *("attack.targeted_labels.kwargs.split", "dataset.batch_size", "dataset.framework", "dataset.index"),
    *("dataset.train_split", "defense.kwargs.device_type", "defense.kwargs.seed", "defense.kwargs.verbose"),
    *("model.fit", "model.fit_kwargs", "model.predict_kwargs", "model.wrapper_kwargs.device_type"),
)
NOTHING: tuple[Any, ...] = (None, {}, [])
"""Values of a key that say as much as its absence."""
SAID_BY_NULL = ("defense.kwargs.curve", "model.wrapper_kwargs.clip_values")
"""Keys whose null is a choice, and not the default: flat noise in place of a curve, attacks that are not clipped."""
KNOWN = ("armory_mdnf", "armory", "art")
"""Packages whose other options have null for their default, or no default."""
ATTACKS = "armory_mdnf.attacks"
DEFAULTS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "attack": (
        ATTACKS,
        "kwargs",
        {
            "eot_draws": 1,
            "eot_fresh": True,
            "gradient": "exact",
            "keep": "last",
            "random_start": False,
            "restarts": 1,
            "selection_draws": 1,
            "stop_on_success": False,
        },
    ),
    "model": ("armory_mdnf.plugin.model", "wrapper_kwargs", {"gradient": "exact"}),
}
"""By block the module of ours that it may name, and there the options that say no more by their default than by being
left out. Options that the shipped configurations state are not among them."""


def identity(config: Mapping[str, Any], attacked: bool) -> dict[str, Any]:
    """What decides a run's numbers, but for its seeds and its utterances: dotted keys and plain values.

    ``attacked``: whether the run has attacked transcripts; without them its attack block decided nothing.
    """
    parts = ("dataset", "defense", "model", *(("attack",) if attacked else ()))
    found = without_defaults(leaves({part: config.get(part) for part in parts}))
    return {
        key: value
        for key, value in sorted(found.items())
        if (value not in NOTHING or _says_null(key, found)) and not _incidental(key)
    }


def _says_null(key: str, found: Mapping[str, Any]) -> bool:
    """Whether a key's null is a choice: of somebody else's component nobody knows."""
    block, _, option = key.partition(".")
    module = found.get(f"{block}.module")
    theirs = "kwargs." in option and module is not None and not any(within(module, name) for name in KNOWN)
    return key in SAID_BY_NULL or theirs


def without_defaults(found: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Dotted keys and values but for those that :data:`DEFAULTS` has, where the block is of this package."""
    known = dict(found)
    for block, (module, options, defaults) in DEFAULTS.items():
        if within(known.get(f"{block}.module"), module):
            for name, default in defaults.items():
                value = known.get(key := f"{block}.{options}.{name}")
                if value == default and isinstance(value, bool) == isinstance(default, bool):
                    del known[key]
    return known


def is_own_attack(module: Any) -> bool:
    """Whether an attack's module is this package's, as it is where a configuration names none."""
    return within(module or ATTACKS, ATTACKS)


def _incidental(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in INCIDENTAL)


def identity_of(run: RunRecord) -> dict[str, Any]:
    """The :func:`identity` of a run."""
    return identity(run.config, any(outcome.adversarial is not None for outcome in run.outcomes))


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Keys in which two identities differ."""
    absent = object()
    return [k for k in sorted(first.keys() | second.keys()) if first.get(k, absent) != second.get(k, absent)]


def other_weights(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    """The first file that two runs name alike and that is another by its SHA-256; empty where there is none."""
    return next((name for name in sorted(first.keys() & second.keys()) if first[name] != second[name]), "")


def defended(found: Mapping[str, Any]) -> bool:
    """Whether an identity has a defence."""
    return any(key.startswith("defense") for key in found)
