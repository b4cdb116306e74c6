"""Armory's configuration files: what the native runner reads of them, and what it refuses by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from armory_mdnf.errors import ArmoryMdnfError, OptionError, choices, quoted, refuse_unknown
from armory_mdnf.files.strict_json import loads, read_json

Config = dict[str, Any]
Kinds = tuple[type, ...]
MAX_BYTES = 1 << 20  # a configuration has some hundred lines
MAX_NAME = 200  # bytes of a file's name, to which a time is added; file systems take 255
_NULL = type(None)
_TEXTS: Kinds = (str, list)
_PATHS: Kinds = (str, list, _NULL)

# The keys of each block with the types that Armory's schema gives them, and those that its loaders read beside it.
TOP: dict[str, Kinds] = {
    "_description": (str,),
    "adhoc": (dict, _NULL),
    "attack": (dict, _NULL),
    "dataset": (dict,),
    "defense": (dict, _NULL),
    "eval_id": (str,),
    "metric": (dict,),
    "model": (dict,),
    "scenario": (dict,),
    "sysconfig": (dict,),
    "user_init": (dict, _NULL),
}
BLOCKS: dict[str, dict[str, Kinds]] = {
    "adhoc": {"audio_channel": (dict, _NULL), "skip_adversarial": (bool,)},
    "attack": {
        "generate_kwargs": (dict,),
        "knowledge": (str,),
        "kwargs": (dict,),
        "module": (str,),
        "name": (str,),
        "targeted_labels": (dict, _NULL),
        "type": (str, _NULL),
        "use_label": (bool,),
    },
    "dataset": {
        "batch_size": (int,),
        "class_ids": (int, list, _NULL),
        "eval_split": (str,),
        "framework": (str,),
        "index": (str, list, _NULL),
        "module": (str,),
        "name": (str,),
        "train_split": (str,),
    },
    "defense": {"args": (list,), "kwargs": (dict,), "module": (str,), "name": (str,), "type": (str,)},
    "metric": {
        "max_record_size": (int, _NULL),
        "means": (bool,),
        "perturbation": _TEXTS,
        "profiler_type": (str, _NULL),
        "record_metric_per_sample": (bool,),
        "task": _TEXTS,
        "task_kwargs": (dict, list, _NULL),
    },
    "model": {
        "fit": (bool,),
        "fit_kwargs": (dict,),
        "model_kwargs": (dict,),
        "module": (str,),
        "name": (str,),
        "predict_kwargs": (dict,),
        "weights_file": (str, list, dict, _NULL),
        "wrapper_kwargs": (dict,),
    },
    "scenario": {
        "export_batches": (bool, int),
        "export_samples": (int, _NULL),
        "kwargs": (dict,),
        "module": (str,),
        "name": (str,),
    },
    "sysconfig": {
        "docker_image": (str, _NULL),
        "external_github_repo": _PATHS,
        "external_github_repo_pythonpath": _PATHS,
        "gpus": (str,),
        "local_repo_path": _PATHS,
        "output_dir": (str, _NULL),
        "output_filename": (str, _NULL),
        "use_gpu": (bool,),
        # Options of the command line, which Armory keeps and reads here.
        "batch_seconds": (int, float),
        "check": (bool,),
        "debug": (bool,),
        "device": (str,),
        "filepath": (str,),
        "index": (str, list, _NULL),
        "log_level": _PATHS,
        "no_docker": (bool,),
        "num_eval_batches": (int, _NULL),
        "set_pythonhashseed": (bool,),
        "skip_attack": (bool, _NULL),
        "skip_benign": (bool, _NULL),
        "skip_misclassified": (bool, _NULL),
    },
    "user_init": {"kwargs": (dict, _NULL), "module": (str,), "name": (str, _NULL)},
}
REQUIRED = {
    "": ("_description", "adhoc", "attack", "dataset", "defense", "metric", "model", "scenario", "sysconfig"),
    "attack": ("knowledge", "kwargs", "module", "name"),
    "attack.targeted_labels": ("module", "name"),
    "dataset": ("batch_size", "module", "name"),
    "defense": ("kwargs", "module", "name", "type"),
    "metric": ("means", "perturbation", "record_metric_per_sample", "task"),
    "model": ("fit", "fit_kwargs", "model_kwargs", "module", "name", "weights_file", "wrapper_kwargs"),
    "scenario": ("kwargs", "module", "name"),
    "sysconfig": ("docker_image", "external_github_repo", "gpus", "use_gpu"),
    "user_init": ("module",),
}
# Armory writes its own flags here, and overrides them from the command line.
SCENARIO_KWARGS = ("check_run", "num_eval_batches", "skip_attack", "skip_benign", "skip_misclassified")
# What is in Armory's power alone, when it is asked for.
UNSUPPORTED = {
    ("adhoc", "audio_channel"): "an audio channel is not implemented",
    ("attack", "generate_kwargs"): "options of generate are not implemented",
    ("attack", "type"): "preloaded, patch and sweep attacks are not implemented",
    ("dataset", "class_ids"): "transcripts have no classes",
    ("defense", "args"): "positional arguments are not implemented; give them as kwargs",
    ("metric", "task_kwargs"): "the metrics have no options",
    ("model", "fit"): "training is `armory-mdnf train`",
    ("model", "predict_kwargs"): "options of predict are not implemented",
    ("scenario", "export_batches"): "audio is not exported",
    ("scenario", "export_samples"): "audio is not exported",
    ("sysconfig", "external_github_repo"): "nothing is downloaded",
    ("sysconfig", "external_github_repo_pythonpath"): "nothing is downloaded",
    ("sysconfig", "skip_misclassified"): "Armory refuses it for speech recognition too",
}
SCENARIO = ("armory.scenarios.audio_asr", "AutomaticSpeechRecognition")
TASKS = ("word_error_rate", "armory_mdnf.plugin.metrics.transcripts")
PERTURBATIONS = ("snr_db", "l2", "linf")
PROFILERS = ("basic",)


def read_config(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration; ``-`` reads standard input.

    Raises :class:`OptionError` naming the file and the key for what is missing, not strict JSON, unknown, or not
    supported.
    """
    name = os.fspath(path)
    if name == "-":
        name = "standard input"
        if sys.stdin is None:
            raise OptionError("standard input is closed: expected a configuration on it")
        text = sys.stdin.buffer.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise OptionError(f"{name}: expected at most {MAX_BYTES} bytes")
        config = loads(text, name, OptionError)
    else:
        config = read_json(name, OptionError, MAX_BYTES)
    with within(name):
        check_config(config)
    return config


@contextmanager
def within(where: str) -> Iterator[None]:
    """Put the place in the configuration before what is wrong with it."""
    try:
        yield
    except ArmoryMdnfError as error:
        raise type(error)(f"{where}: {error}") from error


def check_config(config: Any) -> None:
    """Raise :class:`OptionError` for the first key that is unknown, missing, of another type, or not supported."""
    _check_block(config, TOP, "")
    for name in BLOCKS:
        if config.get(name) is not None:
            check_block(config[name], name)
    _check_outputs(config["sysconfig"])
    _check_attack(config["attack"])
    _check_metric(config["metric"])
    refuse_unknown(config["scenario"]["kwargs"], SCENARIO_KWARGS, "scenario.kwargs")
    if (config["scenario"]["module"], config["scenario"]["name"]) != SCENARIO:
        found = quoted(component(config["scenario"]))
        raise OptionError(f"scenario.module, scenario.name: expected {'.'.join(SCENARIO)}, found {found}")
    if config["dataset"]["batch_size"] < 1:
        raise OptionError(f"dataset.batch_size: expected at least 1, found {config['dataset']['batch_size']}")
    if config["dataset"].get("framework", "numpy") != "numpy":
        raise OptionError(f"dataset.framework: expected 'numpy', found {quoted(config['dataset']['framework'])}")


def check_block(block: Any, name: str) -> None:
    """:func:`check_config` for one of :data:`BLOCKS`."""
    _check_block(block, BLOCKS[name], name, is_open=_takes_more(block, name))
    for (of, key), why in UNSUPPORTED.items():
        if of == name and block.get(key):
            raise OptionError(f"{name}.{key} is not supported, found {quoted(block[key])}: {why}")


def component(block: Mapping[str, Any]) -> str:
    """Dotted name of what a block asks for."""
    return f"{block.get('module')}.{block.get('name')}"


def as_list(value: str | list[str]) -> list[str]:
    """Metric names, of which Armory takes one or several."""
    return [value] if isinstance(value, str) else list(value)


def _takes_more(block: Any, name: str) -> bool:
    """Whether the further keys of a block are options of what it names: of a dataset that is not of this package."""
    home = block.get("module") if isinstance(block, dict) else None
    return name == "dataset" and isinstance(home, str) and not home.startswith("armory_mdnf.")


def _check_block(block: Any, keys: Mapping[str, Kinds], name: str, is_open: bool = False) -> None:
    where = name or "the configuration"
    if not isinstance(block, dict):
        raise OptionError(f"expected {where} to be an object, found {type(block).__name__}")
    for key, value in block.items():
        if key not in keys and is_open:
            continue
        if key not in keys:
            raise OptionError(choices(key, keys, f"key of {where}"))
        kinds = keys[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join("null" if kind is _NULL else kind.__name__ for kind in kinds)
            raise OptionError(f"{name + '.' if name else ''}{key}: expected {expected}, found {quoted(value)}")
    for key in REQUIRED.get(name, ()):
        if key not in block:
            raise OptionError(f"expected the key {key!r} in {where}, found {', '.join(sorted(block)) or 'none'}")


def _check_attack(attack: Config | None) -> None:
    if attack is None:
        return
    if attack["knowledge"] not in ("white", "black"):
        raise OptionError(choices(attack["knowledge"], ("white", "black"), "attack.knowledge"))
    labels, targeted = attack.get("targeted_labels"), attack["kwargs"].get("targeted")
    if targeted is not None and not isinstance(targeted, bool):
        raise OptionError(f"attack.kwargs.targeted: expected true or false, found {quoted(targeted)}")
    if labels is not None:
        _check_block(labels, {"kwargs": (dict,), "module": (str,), "name": (str,)}, "attack.targeted_labels")
        if targeted is False:
            raise OptionError("attack.targeted_labels is given, but attack.kwargs.targeted is false")
    if targeted and labels is None:
        raise OptionError("attack.kwargs.targeted: expected attack.targeted_labels for a targeted attack, found none")
    if (targeted or labels is not None) and attack.get("use_label"):
        raise OptionError("attack.use_label: expected false for a targeted attack, as in Armory")


def _check_metric(metric: Config) -> None:
    tasks, perturbations = as_list(metric["task"]), as_list(metric["perturbation"])
    for key, found, known in (("task", tasks, TASKS), ("perturbation", perturbations, PERTURBATIONS)):
        for name in found:
            if not isinstance(name, str):
                raise OptionError(f"metric.{key}: expected names, found {quoted(name)} among them")
            if name not in known and "." not in name:
                hint = "; others by their dotted names"
                raise OptionError(f"{choices(name, known, f'metric.{key}')}{hint}")
    if TASKS[0] not in tasks:
        raise OptionError(f"metric.task: expected {TASKS[0]!r} among them, found {quoted(tasks)}")
    if metric.get("profiler_type") not in (None, *PROFILERS):
        raise OptionError(choices(metric["profiler_type"], PROFILERS, "metric.profiler_type"))


def _check_outputs(sysconfig: Config) -> None:
    name, folder = sysconfig.get("output_filename") or "", sysconfig.get("output_dir") or ""
    if Path(name).name != name or not name.isprintable() or len(name) > MAX_NAME:
        raise OptionError(f"sysconfig.output_filename: expected a plain name, found {quoted(name)}")
    for text in as_list(sysconfig.get("local_repo_path") or []):
        if not isinstance(text, str) or not text.isprintable():
            raise OptionError(f"sysconfig.local_repo_path: expected names of folders, found {quoted(text)}")
    if not folder.isprintable() or any(len(part.encode()) > MAX_NAME for part in Path(folder).parts):
        raise OptionError(f"sysconfig.output_dir: expected a path, found {quoted(folder)}")
