"""Checkpoints of the package parallel-wavegan: ``checkpoint-N.pkl``, ``config.yml``, ``stats.h5`` or ``stats.npy``.

The mel recipe and the generator's arguments come from the configuration, the normalisation from the statistics.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.errors import BundleError, OptionError, cause, choices, quoted, shown
from armory_mdnf.files.arrays import MAX_BYTES, read_numbers
from armory_mdnf.files.foreign import Imported
from armory_mdnf.vocoders._parallel_wavegan import PQMF
from armory_mdnf.vocoders.base import Vocoder
from armory_mdnf.vocoders.importing import NO_STATISTICS, build, companion, fold_weight_norm, read_config
from armory_mdnf.vocoders.making import NO_VOCODER
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
MAX_STATISTIC = 1e30  # of a logarithm: anything near is no statistic
FLOOR = 1e-10  # of parallel-wavegan's logmelfilterbank, which no configuration changes


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
        filters = _filters(generator) if generator.get("pqmf_params") else {}
    except NO_VOCODER as error:
        reason = f"{quoted(error.args[0])} is missing" if isinstance(error, KeyError) else cause(error)
        raise BundleError(f"{config_path}: {reason}") from error
    statistics, told = _statistics(origin, stats, values, recipe.n_mels, math.log10(base))
    weights = fold_weight_norm(content["model"]["generator"], origin) | filters
    vocoder = build(kind, recipe, generator, statistics, weights, origin)
    mapped = (
        f"{len(content['model']['generator'])} tensors, weight norm folded: {len(weights)} weights",
        f"generator ({values.get('generator_type', 'ParallelWaveGANGenerator')}) and mel recipe, from "
        f"{config_path.name}",
        f"normalisation, {told}",
    )
    left = [f"model: {shown(key)}" for key in content["model"] if key != "generator"]
    left += [shown(key) for key in content if key != "model"]
    return Imported(vocoder, FORMAT, mapped, tuple(left))


def _statistics(
    origin: Path, given: str | os.PathLike[str] | None, config: Mapping[str, Any], n_mels: int, unit: float
) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """Mean and scale of each mel bin in units of log10, and where they are from.

    Those in the file are of log_b x = log10 x / log10 b; ``unit`` is log10 b.
    """
    if given is not None and os.fspath(given) == NO_STATISTICS:
        own = None if unit == 1 else (torch.zeros(n_mels), torch.full((n_mels,), unit))
        return own, "none, as --stats none says"
    names = ("stats.npy", "stats.h5") if config.get("format") == "npy" else ("stats.h5", "stats.npy")
    more = f", or --stats {NO_STATISTICS} if the vocoder was trained on features that were not normalised"
    path = companion(origin, given, names, "--stats", more)
    mean, scale = read_statistics(path, n_mels)
    return (mean * unit, scale * unit), f"from {path.name}"


def read_statistics(path: Path, n_mels: int) -> tuple[Tensor, Tensor]:
    """Mean and scale of each mel bin. Shape: (n_mels,) each. Raises :class:`BundleError` naming the file."""
    if path.suffix == ".npy":
        values = read_numbers(path)
        found = dict(zip(("mean", "scale"), values, strict=True)) if values.shape[:1] == (2,) else {}
    else:
        found = _read_hdf5(path, n_mels)
    tensors = []
    for name in ("mean", "scale"):
        numbers = np.ravel(found.get(name, []))
        if numbers.shape != (n_mels,):
            raise BundleError(f"{path}: expected {n_mels} numbers under {name!r}, one per mel bin")
        if not np.isfinite(numbers).all() or np.abs(numbers).max() > MAX_STATISTIC:
            raise BundleError(f"{path}: expected finite numbers under {name!r}")
        if name == "scale" and numbers.min() <= 0:
            raise BundleError(f"{path}: expected numbers above 0 under 'scale', found {numbers.min():g}")
        tensors.append(torch.from_numpy(numbers.astype(np.float32)))
    return tensors[0], tensors[1]


def _read_hdf5(path: Path, n_mels: int) -> dict[str, Any]:
    """Arrays that lie in the file as they are: HDF5 can also point to other files, and unpack bytes to gigabytes."""
    import h5py

    found = {}
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise BundleError(f"{path}: expected a file of some hundred numbers, found {size} bytes")
        with h5py.File(path, "r") as f:
            for name in ("mean", "scale"):
                if not isinstance(f.get(name, getlink=True), h5py.HardLink):
                    continue
                item = f[name]
                if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu" or item.size != n_mels:
                    continue
                if item.external or item.is_virtual or item.chunks:
                    raise BundleError(f"{path}: expected {name!r} to lie in the file, whole and not compressed")
                found[name] = item[()]
    except BundleError:
        raise
    except Exception as error:  # whatever a damaged file raises, the user needs its name
        raise BundleError(f"{path} is not a readable file of statistics: {cause(error)}") from error
    return found


def _recipe(config: Mapping[str, Any]) -> MelRecipe:
    rate_hz = config["sampling_rate"]
    if type(rate_hz) is not int:
        raise OptionError(f"expected sampling_rate to be a whole number, found {quoted(rate_hz)}")
    for key, only in (("window", "hann"), ("sampling_rate_for_feats", rate_hz)):
        if config.get(key, only) != only:
            raise OptionError(f"expected {key} {only!r}, found {quoted(config[key])}")
    # What parallel-wavegan multiplies the audio by after its mel: a vocoder of another level than what it hears.
    gain = config.get("global_gain_scale", 1.0)
    if not isinstance(gain, (int, float)) or (gain > 0 and gain != 1):
        raise OptionError(f"expected global_gain_scale 1.0, or none at 0.0, found {quoted(gain)}")
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
    if not (base is None or isinstance(base, (int, float))) or base not in (None, 2.0, 10.0):
        raise OptionError(f"expected log_base null, 2.0 or 10.0, found {quoted(base)}")
    return math.e if base is None else float(base)


def _generator(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Kind of vocoder and arguments of its generator."""
    name = config.get("generator_type", "ParallelWaveGANGenerator")
    if not isinstance(name, str) or name not in KINDS:
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
            raise OptionError(f"{where}: expected {key} {value!r}, found {quoted(given[key])}")
    return {k: v for k, v in given.items() if k not in only and k not in WITHOUT_EFFECT}


def _pqmf_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """Synthesis filters of a multi-band model; up to version 0.4.2 their cut-off was another."""
    version = tuple(int(n) for n in re.findall(r"\d+", str(config.get("version", "0.1.0"))[:20])[:3])
    defaults = {"taps": 62, "cutoff_ratio": 0.142, "beta": 9.0}
    if "pqmf_params" not in config and version <= (0, 4, 2):
        defaults["cutoff_ratio"] = 0.15
    return defaults | dict(config.get("pqmf_params") or {})


def _filters(generator: Mapping[str, Any]) -> dict[str, Tensor]:
    filters = PQMF(generator["out_channels"], **generator["pqmf_params"])
    return {f"pqmf.{key}": value for key, value in filters.state_dict().items()}
