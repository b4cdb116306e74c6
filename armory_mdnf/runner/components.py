"""From the blocks of a configuration to the objects that it names. What is not known is refused by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from art.defences.preprocessor.preprocessor import Preprocessor

from armory_mdnf import attacks, defenses
from armory_mdnf.asr.checkpoints import recognizer_checksum
from armory_mdnf.data import selection
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.defenses.curves import curve_file
from armory_mdnf.errors import ArmoryMdnfError, OptionError, cause, choices, quoted, refuse_unknown, shown
from armory_mdnf.files.provenance import sha256_of
from armory_mdnf.runner.config import Config, component, within
from armory_mdnf.runner.equivalents import check_ignored, check_known, is_translated, translate
from armory_mdnf.runner.overrides import run_seed
from armory_mdnf.vocoders import vocoder_file

MODEL = "armory_mdnf.plugin.model.get_art_model"
USER_INIT = "armory_mdnf.plugin.seeding.seed_everything"
TARGETER = "armory_mdnf.plugin.targets.MatchedLengthTargeter"
ART_PREPROCESSORS = ("art.defences.preprocessor", "art.preprocessing")
DEFAULT_SPLIT = "test_clean"  # Armory's, for a configuration that names none
TFDS = "armory.data.datasets.librispeech"

Chosen = list[tuple[int, Utterance]]
"""Utterances with their positions in their split."""

DATASETS: dict[str, Callable[..., Chosen]] = {
    "armory_mdnf.plugin.datasets.bundled": selection.bundled,
    "armory_mdnf.plugin.datasets.librispeech": selection.librispeech,
}
"""Datasets by the name that a configuration gives them; a function of the split, the index, and ``strict``."""


class Targeter(Protocol):
    """What gives targets by the position of the utterance in its split."""

    def generate_at(self, indices: Sequence[int], references: Sequence[str]) -> list[str]:
        """One target per utterance."""


def load_dataset(block: Config, strict: bool = True) -> Chosen:
    """The utterances that the dataset block chooses, in the order of the split.

    ``strict`` False gives those that cannot be used too, with their ``problem``.
    """
    name = component(block)
    with within("dataset.module, dataset.name"):
        if name == TFDS:
            raise OptionError(
                f"dataset {name} downloads through TensorFlow, in `armory run` alone; "
                "armory_mdnf.plugin.datasets.librispeech reads a local folder"
            )
        if name not in DATASETS:
            raise OptionError(choices(name, DATASETS, "dataset"))
    with within("dataset.eval_split, dataset.index"):
        return DATASETS[name](block.get("eval_split", DEFAULT_SPLIT), block.get("index"), strict=strict)


def initialise(block: Config | None) -> None:
    """Do what ``user_init`` asks for: seed the generators, set the threads."""
    if block is None:
        return
    function = _only(block, USER_INIT, "user_init")
    kwargs = block.get("kwargs") or {}
    with within("user_init.kwargs"):
        _check_kwargs(function, kwargs, USER_INIT)
        function(**kwargs)


def make_estimator(config: Config, device: str) -> Any:
    """The recogniser behind its defence, on "cpu" or "cuda"."""
    model = config["model"]
    weights = model["weights_file"]
    if weights is not None and not isinstance(weights, str):
        raise OptionError(f"model.weights_file: expected the path of one file or null, found {quoted(weights)}")
    function = _only(model, MODEL, "model")
    _check_device_type(model["wrapper_kwargs"], "model.wrapper_kwargs")
    wrapper = model["wrapper_kwargs"] | {"device_type": device_type(device)}
    with within("model.model_kwargs, model.wrapper_kwargs, model.weights_file"):
        estimator = function(model["model_kwargs"], wrapper, weights)
    if config["defense"]:
        estimator.set_params(preprocessing_defences=[make_defense(config["defense"], device)])
    if estimator.sample_rate != selection.SAMPLE_RATE_HZ:
        raise OptionError(f"the recogniser hears {estimator.sample_rate} Hz, the data are {selection.SAMPLE_RATE_HZ}")
    return estimator


def make_defense(block: Config, device: str) -> Preprocessor:
    """The preprocessor of a defence block: one of this package's, or one of ART's."""
    if block["type"] != "Preprocessor":
        found = quoted(block["type"])
        raise OptionError(f"defense.type: expected 'Preprocessor', found {found}: no other is implemented")
    name, home = component(block), block["module"]
    ours = home == "armory_mdnf.defenses" or home.startswith("armory_mdnf.defenses.")
    with within("defense.module, defense.name"):
        if not ours and not any(home == m or home.startswith(f"{m}.") for m in ART_PREPROCESSORS):
            known = [f"armory_mdnf.defenses.{n}" for n in defenses.__all__]
            message = choices(name, known, "defense")
            raise OptionError(f"{message}, or a preprocessor of {' or '.join(ART_PREPROCESSORS)}")
    made = _find(block, "defense")
    if not inspect.isclass(made) or not issubclass(made, Preprocessor) or inspect.isabstract(made):
        raise OptionError(f"defense.module, defense.name: expected a preprocessor, found {quoted(name)}")
    # As Armory's loader does: JSON has no tuples.
    kwargs = {k: tuple(v) if k == "clip_values" and isinstance(v, list) else v for k, v in block["kwargs"].items()}
    _check_device_type(kwargs, "defense.kwargs")
    with within("defense.kwargs"):
        _check_kwargs(made, kwargs, name)
        if "device_type" in _parameters(made) and (device == "cpu" or "device_type" not in kwargs):
            kwargs["device_type"] = device_type(device)
        try:
            return made(**kwargs)
        except ArmoryMdnfError:
            raise
        except Exception as error:  # of somebody else's constructor
            raise OptionError(f"{name} does not take {quoted(kwargs, 200)}: {cause(error)}") from error


def make_attack(config: Config, estimator: Any, batch_seconds: float) -> Any:
    """The attack of a configuration, one of this package's. A translated one takes the seed of the run."""
    block = config["attack"]
    with within("attack.module, attack.name"):
        check_known(block["module"], block["name"])
    with within("attack.kwargs"):
        name, kwargs = translate(block["module"], block["name"], block["kwargs"])
        made = getattr(attacks, name)
        _check_kwargs(made, kwargs, f"{attacks.__name__}.{name}", but=("self", "estimator"))
        check_ignored(kwargs)
        if is_translated(block["module"]):
            kwargs["seed"] = run_seed(config) or 0
        attack = made(estimator, **kwargs | {"batch_seconds": batch_seconds, "verbose": False})
    if attack.targeted != (block.get("targeted_labels") is not None):
        expected = "attack.targeted_labels" if attack.targeted else "attack.kwargs.targeted to be true"
        raise OptionError(f"expected {expected}: a targeted attack needs both, another one neither")
    return attack


def make_targeter(block: Config | None) -> Targeter | None:
    """What chooses the targets of a targeted attack, or None."""
    if block is None:
        return None
    made = _only(block, TARGETER, "attack.targeted_labels")
    with within("attack.targeted_labels.kwargs"):
        _check_kwargs(made, block.get("kwargs") or {}, TARGETER)
        return made(**block.get("kwargs") or {})


def is_native(config: Config) -> bool:
    """Whether the defence draws its noise by keys, so that no result depends on the batch."""
    return not config["defense"] or config["defense"]["module"].startswith("armory_mdnf.")


def device_type(device: str) -> str:
    """ART's name of a device."""
    return "gpu" if device == "cuda" else "cpu"


def choose_device(config: Config) -> tuple[str, list[str]]:
    """The device, "cpu" or "cuda", and what to tell the user about it.

    ``--device`` decides, else ``sysconfig.use_gpu``; without a GPU that falls back to the CPU, as in Armory.
    Raises :class:`OptionError` if ``--device cuda`` cannot be had.
    """
    sysconfig, available = config["sysconfig"], torch.cuda.is_available()
    asked = sysconfig.get("device")
    if asked == "cuda" and not available:
        raise OptionError("--device cuda: torch finds no CUDA device here")
    if asked:
        return asked, []
    if not sysconfig["use_gpu"] or config["model"]["wrapper_kwargs"].get("device_type") == "cpu":
        return "cpu", []
    return ("cuda", []) if available else ("cpu", ["sysconfig.use_gpu: no CUDA device here, running on the CPU"])


def fingerprints(config: Config) -> dict[str, str]:
    """SHA-256 of the weights and the noise curve that a configuration uses, by their names, defaults included."""
    named = [config["model"]["model_kwargs"].get("weights"), config["model"]["weights_file"]]
    found = {name: recognizer_checksum(name) for name in named if isinstance(name, str)}
    block = config["defense"]
    if block and is_native(config):
        defaults = {name: p.default for name, p in _parameters(_find(block, "defense")).items()}
        for option, file_of in (("vocoder", vocoder_file), ("curve", curve_file)):
            if isinstance(name := block["kwargs"].get(option, defaults.get(option)), str):
                found[name] = sha256_of(file_of(name))
    return found


def _only(block: Config, known: str, what: str) -> Any:
    """The one function or class that a block may name. By name: the plugin is not ours to import."""
    if component(block) != known:
        raise OptionError(f"{what}.module, {what}.name: {choices(component(block), [known], what)}")
    return _find(block, what)


def _find(block: Config, what: str) -> Any:
    try:
        module = importlib.import_module(block["module"])
    except Exception as error:  # a module that is there can fail in any way
        raise OptionError(f"{what}.module: no module {shown(block['module'])}: {cause(error)}") from error
    found = getattr(module, block["name"], None)
    if found is None:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise OptionError(f"{what}.name: {choices(block['name'], public, 'name in ' + block['module'])}")
    return found


def _check_device_type(kwargs: Config, where: str) -> None:
    if kwargs.get("device_type", "gpu") not in ("cpu", "gpu"):
        raise OptionError(choices(kwargs["device_type"], ("cpu", "gpu"), f"{where}.device_type"))


def _check_kwargs(function: Any, kwargs: Config, name: str, but: Sequence[str] = ("self",)) -> None:
    refuse_unknown(kwargs, [p for p in _parameters(function) if p not in but], name)


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    # Of __init__, for a metaclass may stand in front of it.
    return inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters
