"""From the blocks of a configuration to the objects that it names, in this package or anywhere else."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import Preprocessor

from armory_mdnf.asr.preprocessing import Defense
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.selection import SAMPLE_RATE_HZ, HeldUtterance, parse_slice
from armory_mdnf.errors import ArmoryMdnfError, OptionError, choices, quoted, traced
from armory_mdnf.locations import armory_folders, saved_model
from armory_mdnf.options import FLAG, POSITIVE, check_option
from armory_mdnf.runner.config import BLOCKS, Config, component, within
from armory_mdnf.runner.named import check_kwargs, find, import_from, is_ours, make, parameters

DEFAULT_SPLIT = "test_clean"  # Armory's, for a configuration that names none

Chosen = list[tuple[int, Utterance]]
"""Utterances with their positions in their split."""


class Targeter(Protocol):
    """What gives targets by the position of the utterance in its split."""

    def generate_at(self, indices: Sequence[int], references: Sequence[str]) -> list[str]:
        """One target per utterance."""


def find_own_code(config: Config | None = None) -> None:
    """Let what a configuration names be found where Armory finds a user's own code too.

    That is the working directory, and ``sysconfig.local_repo_path`` below Armory's folder for it.
    """
    names = None if config is None else config["sysconfig"].get("local_repo_path")
    found = [] if not names else [names] if isinstance(names, str) else names
    folders = [folder / name for name in found for folder in armory_folders("git")]
    import_from([str(path) for folder in folders for path in (folder, folder.parent)])


def load_dataset(block: Config, strict: bool = True) -> Chosen:
    """The utterances that the dataset block chooses, in the order of the split.

    ``strict`` False gives those that cannot be used too, with their ``problem``. A function that knows no ``choose``
    is called as Armory calls it, and what it generates is held in memory.
    """
    made = find(block, "dataset")
    split, index = block.get("eval_split", DEFAULT_SPLIT), block.get("index")
    options = {key: block[key] for key in block.keys() - BLOCKS["dataset"].keys()}
    if callable(choose := getattr(made, "choose", None)):
        with within("dataset.eval_split, dataset.index"):
            check_kwargs(choose, options, component(block))
            return choose(split, index, strict=strict, **options)
    if not callable(made):
        raise OptionError(f"dataset.name: expected a function, found {quoted(component(block))}")
    options |= {key: block[key] for key in ("index", "class_ids") if block.get(key) is not None}
    call = {"split": split, "epochs": 1, "batch_size": 1, "framework": "numpy", "shuffle_files": False}
    with within("dataset"):
        return _held(make(made, call | options, component(block)), component(block), index)


def split_size(block: Config) -> int | None:
    """How many utterances the block's split has when it is complete; None if its dataset does not tell, or is gone."""
    size = getattr(find(block, "dataset"), "size", None)
    with contextlib.suppress(Exception):  # recordings that have moved since a run of them, or somebody else's code
        return size(block.get("eval_split", DEFAULT_SPLIT)) if callable(size) else None
    return None


def _held(generator: Any, name: str, index: Any) -> Chosen:
    """What a generator of Armory's gives, with the positions that the index says that it has."""
    try:
        pairs = [(_one(x, name), str(_one_text(y, name))) for x, y in generator]
    except ArmoryMdnfError:
        raise
    except Exception as error:  # of somebody else's code
        raise OptionError(f"{name} cannot be read: {traced(error)}") from error
    rate = getattr(getattr(generator, "context", None), "sample_rate", None) or SAMPLE_RATE_HZ
    if rate != SAMPLE_RATE_HZ:
        raise OptionError(f"{name}: expected audio at {SAMPLE_RATE_HZ} Hz, found {rate}")
    numbers = _numbers(index, len(pairs))
    if len(numbers) != len(pairs):
        raise OptionError(
            f"{name}: index {quoted(index)} has {len(numbers)} positions, and {len(pairs)} utterances came for it"
        )
    return [
        (i, HeldUtterance(f"{name}-{i}", Path(f"{name}[{i}]"), text, "", len(x) / rate, samples=x))
        for i, (x, text) in zip(numbers, pairs, strict=True)
    ]


def _numbers(index: Any, n: int) -> list[int]:
    """Positions of ``n`` utterances that an index chose of a split whose size is not known, and which may end first."""
    if isinstance(index, list):
        return sorted(set(index))
    first, last = parse_slice(index) if isinstance(index, str) else (None, None)
    first = first or 0
    return list(range(first, first + n if last is None or last < 0 else min(first + n, last)))


def _one(x: Any, name: str) -> np.ndarray:
    samples = np.asarray(x[0], np.float32)
    if len(x) != 1 or samples.ndim != 1:
        raise OptionError(f"{name}: expected batches of one recording (1, T), found {np.shape(x)}")
    return samples


def _one_text(y: Any, name: str) -> str:
    if len(y) != 1 or not isinstance(y[0], (str, bytes)):
        raise OptionError(f"{name}: expected one transcript per recording, found {quoted(list(y))}")
    return y[0].decode() if isinstance(y[0], bytes) else str(y[0])


def initialise(block: Config | None) -> None:
    """Do what ``user_init`` asks for: seed the generators, set the threads."""
    if block is None or not block.get("name"):
        return
    function = find(block, "user_init")
    with within("user_init.kwargs"):
        make(function, block.get("kwargs") or {}, component(block))


def make_estimator(config: Config, device: str) -> Any:
    """The recogniser behind its defence, on "cpu" or "cuda"."""
    model = config["model"]
    function = find(model, "model")
    _check_device_type(model["wrapper_kwargs"], "model.wrapper_kwargs")
    wrapper = model["wrapper_kwargs"]
    if is_ours(model["module"]):
        wrapper = wrapper | {"device_type": device_type(device)}
        if not isinstance(model["weights_file"], (str, type(None))):
            found = quoted(model["weights_file"])
            raise OptionError(f"model.weights_file: expected the path of one file or null, found {found}")
    with within("model.model_kwargs, model.wrapper_kwargs, model.weights_file"):
        weights = model["weights_file"] if is_ours(model["module"]) else _weights(model["weights_file"])
        estimator = _called(function, component(model), model["model_kwargs"], wrapper, weights)
    if not callable(getattr(estimator, "predict", None)):
        raise OptionError(f"model.module, model.name: expected an estimator of ART's, got {type(estimator).__name__}")
    if (found := getattr(getattr(estimator, "device", None), "type", device)) != device:
        raise OptionError(
            f"model: the recogniser is on {found}, the run on {device}: set model.wrapper_kwargs.device_type"
        )
    if config["defense"]:
        before = getattr(estimator, "preprocessing_defences", None) or []
        estimator.set_params(preprocessing_defences=[*before, make_defense(config["defense"], device)])
    rate = getattr(estimator, "sample_rate", SAMPLE_RATE_HZ)
    if rate != SAMPLE_RATE_HZ:
        raise OptionError(
            f"the recogniser hears {rate} Hz, the data are {SAMPLE_RATE_HZ}: put it into a recogniser of your own that "
            f"resamples (docs/own.md), as all data are brought to {SAMPLE_RATE_HZ} Hz"
        )
    return estimator


def _called(function: Any, name: str, *args: Any) -> Any:
    try:
        return function(*args)
    except ArmoryMdnfError:
        raise
    except Exception as error:  # of somebody else's function
        raise OptionError(f"{name} cannot be called with {quoted(list(args), 300)}: {traced(error)}") from error


def _weights(value: Any) -> Any:
    """Where Armory has the files that ``weights_file`` names, for a model function that expects paths."""
    if isinstance(value, str):
        return str(saved_model(Path(value)))
    if isinstance(value, list):
        return [_weights(inner) for inner in value]
    return {key: _weights(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def make_defense(block: Config, device: str) -> Preprocessor:
    """The preprocessor of a defence block."""
    if block["type"] != "Preprocessor":
        found = quoted(block["type"])
        raise OptionError(f"defense.type: expected 'Preprocessor', found {found}: no other is implemented")
    name, made = component(block), find(block, "defense")
    if not inspect.isclass(made) or not issubclass(made, Preprocessor):
        raise OptionError(f"defense.module, defense.name: expected a preprocessor, found {quoted(name)}")
    if inspect.isabstract(made):
        missing = ", ".join(sorted(getattr(made, "__abstractmethods__", ())))
        raise OptionError(f"defense.module, defense.name: {quoted(name)} lacks {missing}")
    # JSON has no tuples, as Armory's loader knows, and no arrays.
    arrays = {key for key, parameter in parameters(made).items() if "ndarray" in str(parameter.annotation)}
    kwargs = {k: np.array(v) if k in arrays and isinstance(v, list) else v for k, v in block["kwargs"].items()}
    kwargs |= {k: tuple(v) for k, v in block["kwargs"].items() if k == "clip_values" and isinstance(v, list)}
    _check_device_type(kwargs, "defense.kwargs")
    with within("defense.kwargs"):
        if "device_type" in parameters(made) and (device == "cpu" or "device_type" not in kwargs):
            kwargs["device_type"] = device_type(device)
        return make(made, kwargs, name)


def make_attack(config: Config, estimator: Any, batch_seconds: float) -> Any:
    """The attack of a configuration, as it is. The runner has its own progress, and bounds the batches."""
    block = config["attack"]
    name, made = component(block), find(block, "attack")
    if not callable(getattr(made, "generate", None)):
        raise OptionError(f"attack.module, attack.name: expected an attack with generate, found {quoted(name)}")
    with within("attack.kwargs"):
        kwargs, known = dict(block["kwargs"]), parameters(made)
        if "batch_seconds" in kwargs:
            check_option("batch_seconds", kwargs["batch_seconds"], POSITIVE)
        if "verbose" in kwargs:
            check_option("verbose", kwargs["verbose"], FLAG)
        own = {"batch_seconds": batch_seconds, "verbose": False}
        kwargs |= {key: value for key, value in own.items() if key in known or key in kwargs}
        attack = make(made, kwargs, name, estimator)
    targeted = bool(getattr(attack, "targeted", block["kwargs"].get("targeted")))
    if targeted != (block.get("targeted_labels") is not None):
        expected = "attack.targeted_labels" if targeted else "attack.kwargs.targeted to be true"
        raise OptionError(f"expected {expected}: a targeted attack needs both, another one neither")
    return attack


def make_targeter(block: Config | None, chosen: Chosen) -> Targeter | None:
    """What chooses the targets of a targeted attack, or None. ``chosen``: what it will be asked for."""
    if block is None:
        return None
    made = find(block, "attack.targeted_labels")
    with within("attack.targeted_labels.kwargs"):
        targeter = make(made, block.get("kwargs") or {}, component(block))
    if callable(getattr(targeter, "generate_at", None)):
        return targeter
    if not callable(getattr(targeter, "generate", None)):
        raise OptionError(f"attack.targeted_labels: expected a targeter with generate, found {component(block)}")
    return _InOrder(targeter, component(block), chosen)


class _InOrder:
    """A targeter that is asked for one target after another, as Armory does, before anything is done.

    One that counts its calls, as Armory's do, so gives an utterance the same target in a run that goes on.
    """

    def __init__(self, targeter: Any, name: str, chosen: Chosen) -> None:
        self.targets: dict[int, str] = {}
        for index, utterance in chosen:
            found = _called(targeter.generate, name, np.array([utterance.transcript]))
            self.targets[index] = _one_text(found, name)

    def generate_at(self, indices: Sequence[int], references: Sequence[str]) -> list[str]:
        return [self.targets[i] for i in indices]


def draws_by_keys(estimator: Any) -> bool:
    """Whether recogniser and defences draw all noise by keys, so that no result depends on the batch."""
    operations = getattr(estimator, "preprocessing_operations", [])
    return callable(getattr(estimator, "keyed", None)) and all(isinstance(op, Defense) for op in operations)


def takes_batches(attack: Any) -> bool:
    """Whether an attack takes ragged batches and the positions that fix its draws, or one utterance at a time.

    One that derives from such takes them too where its own ``generate`` hands on any keywords.
    """
    known = parameters(attack.generate)
    hands_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    kinds = (kind for kind in type(attack).__mro__ if hands_on and "generate" in vars(kind))
    return "indices" in known or any("indices" in parameters(vars(kind)["generate"]) for kind in kinds)


def device_type(device: str) -> str:
    """ART's name of a device."""
    return "gpu" if device == "cuda" else "cpu"


def choose_device(config: Config, available: bool | None = None) -> tuple[str, list[str]]:
    """The device, "cpu" or "cuda", and what to tell the user about it; ``available``: of a GPU elsewhere than here.

    ``--device`` decides, else ``sysconfig.use_gpu``; without a GPU that falls back to the CPU, as in Armory.
    Raises :class:`OptionError` if ``--device cuda`` cannot be had.
    """
    sysconfig = config["sysconfig"]
    available = torch.cuda.is_available() if available is None else available
    asked = sysconfig.get("device")
    if asked == "cuda" and not available:
        raise OptionError("--device cuda: torch finds no CUDA device")
    if asked:
        return asked, []
    if not sysconfig["use_gpu"] or config["model"]["wrapper_kwargs"].get("device_type") == "cpu":
        return "cpu", []
    return ("cuda", []) if available else ("cpu", ["sysconfig.use_gpu: no CUDA device here, running on the CPU"])


def _check_device_type(kwargs: Mapping[str, Any], where: str) -> None:
    if kwargs.get("device_type", "gpu") not in ("cpu", "gpu"):
        raise OptionError(choices(kwargs["device_type"], ("cpu", "gpu"), f"{where}.device_type"))
