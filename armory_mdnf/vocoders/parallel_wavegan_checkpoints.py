"""Checkpoints of the package parallel-wavegan: ``checkpoint-N.pkl``, ``config.yml``, ``stats.h5`` or ``stats.npy``.

The mel recipe and the generator's arguments come from the configuration, the normalisation from the statistics.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.errors import BundleError, OptionError, choices
from armory_mdnf.foreign import Imported
from armory_mdnf.vocoders._parallel_wavegan import PQMF
from armory_mdnf.vocoders.base import Vocoder
from armory_mdnf.vocoders.importing import build, companion, fold_weight_norm
from armory_mdnf.vocoders.melgan import MelGAN

FORMAT = "parallel-wavegan checkpoint"
KINDS = {"MelGANGenerator": "melgan", "ParallelWaveGANGenerator": "parallel_wavegan", "HiFiGANGenerator": "hifigan"}
# Arguments that change nothing here: weight norm is folded, dropout is for training.
WITHOUT_EFFECT = ("use_weight_norm", "dropout")
# Arguments that may be said, and only have one value here.
CONVOLUTIONAL = {"use_causal_conv": False, "nonlinear_activation": "LeakyReLU"}
MELGAN_ONLY = CONVOLUTIONAL | {
    "nonlinear_activation_params": {"negative_slope": 0.2},
    "pad": "ReflectionPad1d",
    "pad_params": {},
}
ONLY: dict[str, dict[str, Any]] = {
    "melgan": MELGAN_ONLY,
    "hifigan": CONVOLUTIONAL | {"nonlinear_activation_params": {"negative_slope": 0.1}, "out_channels": 1},
    "parallel_wavegan": {
        "use_causal_conv": False,
        "in_channels": 1,
        "out_channels": 1,
        "upsample_conditional_features": True,
    },
}
CONDITIONING_ONLY: dict[str, dict[str, Any]] = {
    "MelGANGenerator": MELGAN_ONLY | {"use_final_nonlinear_activation": False},
    "ConvInUpsampleNetwork": {
        "use_causal_conv": False,
        "nonlinear_activation": None,
        "nonlinear_activation_params": {},
        "interpolate_mode": "nearest",
    },
}
FLOOR = 1e-10  # of parallel-wavegan's logmelfilterbank, which no configuration changes
MAX_CONFIG_BYTES = 1 << 20
show = reprlib.repr  # a YAML file of a few bytes can describe a value that takes gigabytes to print


def recognises(content: Any) -> bool:
    """Whether what a checkpoint holds looks like parallel-wavegan's."""
    model = content.get("model") if isinstance(content, dict) else None
    return isinstance(model, dict) and isinstance(model.get("generator"), dict)


def import_checkpoint(
    content: Any,
    origin: Path,
    config: str | os.PathLike[str] | None = None,
    stats: str | os.PathLike[str] | None = None,
) -> Imported[Vocoder]:
    """The vocoder of a checkpoint.

    Raises :class:`BundleError` naming the file, the key, and what was expected and found.
    """
    config_path = companion(origin, config, ("config.yml", "config.yaml"), "--config")
    values = read_config(config_path)
    try:
        kind, generator = _generator(values)
        recipe = _recipe(values)
        base = _logarithm(values)
    except (KeyError, TypeError, ValueError, AttributeError, OptionError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise BundleError(f"{config_path}: {reason}") from error
    first, second = ("stats.npy", "stats.h5") if values.get("format") == "npy" else ("stats.h5", "stats.npy")
    stats_path = companion(origin, stats, (first, second), "--stats")
    mean, scale = read_statistics(stats_path, recipe.n_mels)
    # The statistics are of log_b x = log10 x / log10 b: both in units of log10.
    statistics = mean * math.log10(base), scale * math.log10(base)
    weights = fold_weight_norm(content["model"]["generator"], origin)
    if generator.get("pqmf_params"):
        weights |= _filters(generator)
    vocoder = build(kind, recipe, generator, statistics, weights, origin)
    mapped = (
        f"{len(content['model']['generator'])} tensors, weight norm folded: {len(weights)} weights",
        f"generator ({values.get('generator_type', 'ParallelWaveGANGenerator')}) and mel recipe, from "
        f"{config_path.name}",
        f"normalisation, from {stats_path.name}",
    )
    left = [f"model: {key}" for key in content["model"] if key != "generator"]
    left += [str(key) for key in content if key != "model"]
    return Imported(vocoder, FORMAT, mapped, tuple(left))


def read_config(path: Path) -> dict[str, Any]:
    """A ``config.yml``, its tuples as lists and no other object of Python's.

    Raises :class:`BundleError` naming the file.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node, True))
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise BundleError(f"{path}: expected a configuration of at most {MAX_CONFIG_BYTES} bytes")
    try:
        with path.open(encoding="utf-8") as f:
            values = yaml.load(f, Loader=Loader)  # a SafeLoader: it makes plain values only
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not a readable configuration: {error}") from error
    if not isinstance(values, dict):
        raise BundleError(f"{path}: expected a mapping, found {type(values).__name__}")
    return values


def read_statistics(path: Path, n_mels: int) -> tuple[Tensor, Tensor]:
    """Mean and scale of each mel bin. Shape: (n_mels,) each. Raises :class:`BundleError` naming the file."""
    try:
        if path.suffix == ".npy":
            found = dict(zip(("mean", "scale"), np.load(path, allow_pickle=False), strict=False))
        else:
            import h5py

            with h5py.File(path, "r") as f:
                found = {name: f[name][()] for name in ("mean", "scale") if name in f and f[name].size == n_mels}
    except (OSError, ValueError, EOFError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is not a readable file of statistics: {error}") from error
    tensors = []
    for name in ("mean", "scale"):
        values = np.ravel(found.get(name, []))
        if values.shape != (n_mels,) or values.dtype.kind not in "fiu":
            raise BundleError(f"{path}: expected {n_mels} numbers under {name!r}, one a mel bin")
        tensors.append(torch.from_numpy(values.astype(np.float32)))
    return tensors[0], tensors[1]


def _recipe(config: Mapping[str, Any]) -> MelRecipe:
    rate_hz = config["sampling_rate"]
    for key, only in (("window", "hann"), ("sampling_rate_for_feats", rate_hz)):
        if config.get(key, only) != only:
            raise OptionError(f"expected {key} {only!r}, found {show(config[key])}")
    win, low, high = (config.get(key) for key in ("win_length", "fmin", "fmax"))
    return MelRecipe(
        sample_rate_hz=rate_hz,
        n_fft=config["fft_size"],
        hop=config["hop_size"],
        win=config["fft_size"] if win is None else win,
        n_mels=config["num_mels"],
        f_min_hz=0.0 if low is None else float(low),
        f_max_hz=rate_hz / 2 if high is None else float(high),
        framing="centered",
        floor=FLOOR,
    )


def _logarithm(config: Mapping[str, Any]) -> float:
    """Base of the logarithm; null in the configuration is e."""
    base = config.get("log_base", 10.0)
    if base not in (None, 2.0, 10.0):
        raise OptionError(f"expected log_base null, 2.0 or 10.0, found {show(base)}")
    return math.e if base is None else float(base)


def _generator(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Kind of vocoder and arguments of its generator."""
    name = config.get("generator_type", "ParallelWaveGANGenerator")
    if name not in KINDS:
        raise OptionError(choices(name, KINDS, "generator_type"))
    kind = KINDS[name]
    # A misspelling that parallel-wavegan once had in its own recipes, and still accepts.
    given = {k.replace("kernal", "kernel"): v for k, v in config["generator_params"].items()}
    arguments = _without(given, ONLY[kind], "generator_params")
    if kind == "parallel_wavegan" and "upsample_params" in arguments:
        net = arguments.get("upsample_net", "ConvInUpsampleNetwork")
        own = {key: arguments.get(key) for key in ("aux_channels", "aux_context_window") if key in arguments}
        only = CONDITIONING_ONLY.get(net, {}) | (own if net == "ConvInUpsampleNetwork" else {})
        arguments["upsample_params"] = _without(arguments["upsample_params"], only, "upsample_params")
    if kind == "melgan" and arguments.get("out_channels", 1) != 1:
        arguments["pqmf_params"] = _pqmf_params(config)
        MelGAN.layout(arguments)  # refuses filters that are too many or too long, before they are made
    return kind, arguments


def _without(given: Mapping[str, Any], only: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments less those that have one value. Raises :class:`OptionError` if they have another."""
    for key, value in only.items():
        if key in given and given[key] != value:
            raise OptionError(f"{where}: expected {key} {value!r}, found {show(given[key])}")
    return {k: v for k, v in given.items() if k not in only and k not in WITHOUT_EFFECT}


def _pqmf_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """Synthesis filters of a multi-band model; up to version 0.4.2 their cut-off was another."""
    version = tuple(int(n) for n in re.findall(r"\d+", str(config.get("version", "0.1.0")))[:3])
    defaults = {"taps": 62, "cutoff_ratio": 0.142, "beta": 9.0}
    if "pqmf_params" not in config and version <= (0, 4, 2):
        defaults["cutoff_ratio"] = 0.15
    return defaults | dict(config.get("pqmf_params") or {})


def _filters(generator: Mapping[str, Any]) -> dict[str, Tensor]:
    filters = PQMF(generator["out_channels"], **generator["pqmf_params"])
    return {f"pqmf.{key}": value for key, value in filters.state_dict().items()}
