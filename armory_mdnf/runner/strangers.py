"""What a configuration from elsewhere may make: results are data, often somebody else's, and nothing in them is run.

A configuration that the user runs names anybody's code. One that stands in a record, and is made into components again
because a page shows the record, names what this project's own configurations do, attacks of this package and ART's, and
preprocessors of both.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from art.attacks.attack import EvasionAttack
from art.defences.preprocessor.preprocessor import Preprocessor

from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.runner.config import PERTURBATIONS, TASKS, Config, as_list, check_config, component
from armory_mdnf.runner.named import find

# Whatever else this package has is a function too, and some of them write files.
FUNCTIONS = {
    "dataset": ("armory_mdnf.plugin.datasets", ("bundled", "librispeech", "recordings")),
    "model": ("armory_mdnf.plugin.model", ("get_art_model",)),
    "user_init": ("armory_mdnf.plugin.seeding", ("seed_everything",)),
    "attack.targeted_labels": ("armory_mdnf.plugin.targets", ("MatchedLengthTargeter",)),
}
OURS = {"attack": "armory_mdnf.attacks", "defense": "armory_mdnf.defenses"}
CLASSES: dict[str, tuple[type, tuple[str, ...]]] = {
    "attack": (EvasionAttack, (OURS["attack"], "armory_mdnf.plugin.attacks", "art.attacks")),
    "defense": (Preprocessor, (OURS["defense"], "art.defences")),
}
ART_TEXTS = ("device_type", "norm")
"""Keywords of ART's components that are texts and name no file."""


def refuse_others_code(config: Config) -> None:
    """Raise :class:`OptionError` for a configuration that is none, or would make what a record may not.

    Nothing that it names is called, and no module of others imported.
    """
    check_config(config)
    attack = config["attack"] or {}
    for key, block in (
        ("dataset", config["dataset"]),
        ("model", config["model"]),
        ("user_init", config.get("user_init")),
        ("attack.targeted_labels", attack.get("targeted_labels")),
    ):
        if block and not (key == "user_init" and not block.get("name")):  # without a name nothing is done
            _check_function(key, block)
    for key, known in (("task", TASKS), ("perturbation", PERTURBATIONS)):
        for name in as_list(config["metric"][key]):
            if name not in known:
                raise _refusal(f"metric.{key}", " or ".join(known), name)
    for key in CLASSES:
        if config[key]:
            _check_class(key, config[key])


def is_own_dataset(block: Config) -> bool:
    """Whether a block names one of this package's data sets, which list files and call nothing."""
    module, names = FUNCTIONS["dataset"]
    return block["module"] == module and block["name"] in names


def _check_function(key: str, block: Config) -> None:
    module, names = FUNCTIONS[key]
    if block["module"] != module or block["name"] not in names:
        expected = " or ".join(f"{module}.{name}" for name in names)
        raise _refusal(f"{key}.module, {key}.name", expected, component(block))


def _check_class(key: str, block: Config) -> None:
    base, homes = CLASSES[key]
    expected = f"a class of {' or '.join(homes)} that is one of ART's {base.__name__}"
    found = find(block, key) if _is_below(block["module"], homes) else None
    if not inspect.isclass(found) or not issubclass(found, base):
        raise _refusal(f"{key}.module, {key}.name", expected, component(block))
    _check_keywords(f"{key}.kwargs", block["kwargs"], is_art=not _is_below(found.__module__, (OURS[key],)))


def _is_below(module: str, homes: tuple[str, ...]) -> bool:
    return any(module == home or module.startswith(f"{home}.") for home in homes)


def _check_keywords(key: str, kwargs: Mapping[str, Any], is_art: bool) -> None:
    """Refuse keywords that let ART write: a summary writer's folder, texts that become part of a path.

    Those of this package name files to read at most, whose readers execute nothing.
    """
    if kwargs.get("summary_writer", False) is not False:
        raise _refusal(f"{key}.summary_writer", "false, as it writes files", kwargs["summary_writer"])
    for name, value in kwargs.items():
        if is_art and not (isinstance(value, str) and name in ART_TEXTS) and not _is_plain(value):
            raise _refusal(f"{key}.{name}", "numbers, true, false or null", value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float))


def _refusal(key: str, expected: str, found: Any) -> OptionError:
    return OptionError(
        f"{key}: expected {expected}, found {quoted(found)}, which is not made because results name it: if you trust "
        "whoever wrote it, run the configuration itself"
    )
