"""One file format for everything learned: safetensors with the configuration inside.

The configuration travels with the weights, so that they can never meet the wrong mel recipe or alphabet.
Nothing in the file can be executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from armory_mdnf.atomic import replacing
from armory_mdnf.errors import BundleError, choices
from armory_mdnf.locations import saved_model

FORMAT = "armory_mdnf/1"


def bundled_path(name: str) -> Path | None:
    """Path of a weight file that ships with the package, or None if there is none of that name."""
    path = Path(str(resources.files("armory_mdnf"))) / "weights" / f"{name}.safetensors"
    return path if path.is_file() else None


def bundled_names() -> list[str]:
    """Names of the weight files that ship with the package."""
    folder = Path(str(resources.files("armory_mdnf"))) / "weights"
    return sorted(p.stem for p in folder.glob("*.safetensors"))


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Find a weight file by the name of a bundled one or by path.

    A relative path is one in the working directory, else below Armory's folder of saved models, on the host and in its
    containers alike. Raises :class:`BundleError`.
    """
    text = os.fspath(name_or_path)
    is_path = os.sep in text or text.endswith(".safetensors")
    found = saved_model(Path(text)) if is_path else bundled_path(text)
    if found is not None and found.is_file():
        return found
    if is_path:
        where = "" if os.path.isabs(text) else ", neither from here nor in Armory's saved_model_dir"
        raise BundleError(f"no weight file at {text}{where}")
    raise BundleError(f"{choices(text, bundled_names(), 'bundled weights')}; a path ends in .safetensors")


def save(path: str | os.PathLike[str], kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a bundle atomically: a killed run leaves the old file or the new one."""
    from safetensors.torch import save_file

    metadata = {"format": FORMAT, "kind": kind, "config": json.dumps(dict(config), sort_keys=True)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(plain, str(partial), metadata=metadata)


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The kind that a safetensors file says it is. Raises :class:`BundleError` if it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as f:
            return (f.metadata() or {}).get("kind")
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is not a readable safetensors file (truncated or corrupt?): {error}") from error


def load(name_or_path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a bundle of the given kind. Returns its configuration and tensors. Raises as :func:`load_any`."""
    return load_any(name_or_path, [kind])[1:]


def load_any(
    name_or_path: str | os.PathLike[str], kinds: Iterable[str]
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Read a bundle of one of the given kinds. Returns its kind, its configuration and its tensors.

    Raises :class:`BundleError` naming the file if it is missing, truncated, corrupt, of another kind, or written
    by another format.
    """
    from safetensors import SafetensorError, safe_open

    path = resolve(name_or_path)
    try:
        with safe_open(str(path), framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is not a readable safetensors file (truncated or corrupt?): {error}") from error
    if metadata.get("format") != FORMAT:
        raise BundleError(f"{path}: expected format {FORMAT!r}, found {metadata.get('format')!r}")
    if (kind := metadata.get("kind")) not in (known := list(kinds)):
        expected = " or ".join(map(repr, known))
        raise BundleError(f"{path}: expected a bundle of kind {expected}, found {kind!r}")
    try:
        config = json.loads(metadata["config"])
    except (KeyError, json.JSONDecodeError) as error:
        raise BundleError(f"{path}: its configuration is missing or not JSON") from error
    if not isinstance(config, dict):
        raise BundleError(f"{path}: expected a configuration that is an object, found {type(config).__name__}")
    return kind, config, tensors


def fill(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load ``tensors`` into ``network``. Raises :class:`BundleError` for the first key that does not fit."""
    expected = network.state_dict()
    for key in expected:
        if key not in tensors:
            if key.endswith("num_batches_tracked"):
                continue
            raise BundleError(f"{origin}: weight {key!r} is missing, expected shape {tuple(expected[key].shape)}")
        if tensors[key].shape != expected[key].shape:
            raise BundleError(
                f"{origin}: weight {key!r} has shape {tuple(tensors[key].shape)}, expected {tuple(expected[key].shape)}"
            )
        if tensors[key].is_floating_point() and not bool(torch.isfinite(tensors[key]).all()):
            raise BundleError(f"{origin}: weight {key!r} has values that are not finite")
    for key in tensors:
        if key not in expected:
            raise BundleError(f"{origin}: unexpected weight {key!r} of shape {tuple(tensors[key].shape)}")
    network.load_state_dict(dict(tensors), strict=False)
