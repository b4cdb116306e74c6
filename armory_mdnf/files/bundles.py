"""One file format for everything learned: safetensors with the configuration inside.

The configuration travels with the weights, so that they can never meet the wrong mel recipe or alphabet.
Nothing in the file can be executed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from armory_mdnf.errors import BundleError, cause, choices, quoted, shown
from armory_mdnf.files import strict_json
from armory_mdnf.files.atomic import replacing
from armory_mdnf.files.bounds import check_small
from armory_mdnf.files.foreign import is_torch_file
from armory_mdnf.locations import saved_model

FORMAT = "armory_mdnf/1"
MAX_CONFIG = 1 << 20  # characters; most have some hundred
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What checkpoints of other projects are called, which have to be converted.
FOREIGN_SUFFIXES = (".pth", ".pt", ".ckpt", ".pkl", ".tar", ".bin")


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
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise BundleError(f"expected the name or the path of weights, got {quoted(name_or_path)}")
    text = os.fspath(name_or_path)
    is_path = os.sep in text or text.endswith((".safetensors", *FOREIGN_SUFFIXES))
    try:
        found = saved_model(Path(text)) if is_path else bundled_path(text)
        if found is not None and found.is_file():
            return found
    except OSError as error:  # a name that is too long, a folder that cannot be entered
        raise BundleError(f"no weight file at {shown(text)}: {cause(error)}") from error
    if is_path:
        where = "" if os.path.isabs(text) else ", neither from here nor in Armory's saved_model_dir"
        raise BundleError(f"no weight file at {shown(text)}{where}")
    raise BundleError(f"{choices(text, bundled_names(), 'bundled weights')}; a path ends in .safetensors")


def save(path: str | os.PathLike[str], kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a bundle atomically: a killed run leaves the old file or the new one.

    Raises ``OSError`` naming ``path`` if the disk is full or cannot be written.
    """
    metadata = {"format": FORMAT, "kind": kind, "config": strict_json.dumps(dict(config), sort_keys=True)}
    save_tensors(path, tensors, metadata)


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically. Raises ``OSError`` naming ``path``."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        try:
            save_file(plain, str(partial), metadata=metadata)
        except SafetensorError as error:  # which a full disk raises too, its number in the text
            number = re.search(r"(?:code: |os error )(\d{1,4})", str(error))
            reason = os.strerror(int(number[1])) if number else cause(error)
            raise OSError(int(number[1]) if number else errno.EIO, reason, os.fspath(path)) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file. Raises :class:`BundleError` naming it if it is none, or damaged."""
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="pt") as f:
            yield f
    except BundleError:
        raise
    except Exception as error:  # whatever a damaged header raises, the user needs the file's name
        if path.suffix != ".safetensors" and path.is_file() and is_torch_file(path):
            raise BundleError(
                f"{path} is a checkpoint of torch, expected a safetensors file: write one with `armory-mdnf checkpoint "
                f"convert {path} {path.with_suffix('.safetensors')}`, and name that"
            ) from error
        if path.is_dir():
            raise BundleError(f"{path} is a folder, expected a safetensors file") from error
        reason = f"(truncated or corrupt?): {cause(error)}"
        raise BundleError(f"{path} is not a readable safetensors file {reason}") from error


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The kind that a safetensors file says it is. Raises :class:`BundleError` if it is none."""
    with _opened(Path(path)) as f:
        return (f.metadata() or {}).get("kind")


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
    path = resolve(name_or_path)
    with _opened(path) as f:
        metadata = f.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise BundleError(f"{path}: expected format {FORMAT!r}, found {quoted(metadata.get('format'))}")
        if (kind := metadata.get("kind")) not in (known := list(kinds)):
            expected = " or ".join(map(repr, known))
            raise BundleError(f"{path}: expected a bundle of kind {expected}, found {quoted(kind)}")
        config = _config(metadata.get("config"), path)
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    return kind, config, tensors


def _config(text: str | None, path: Path) -> dict[str, Any]:
    if text is None or len(text) > MAX_CONFIG:
        found = "none" if text is None else f"one of {len(text)} characters"
        raise BundleError(f"{path}: expected a configuration of at most {MAX_CONFIG} characters, found {found}")
    config = strict_json.loads(text, f"{path}: its configuration")
    if not isinstance(config, dict):
        raise BundleError(f"{path}: expected a configuration that is an object, found {type(config).__name__}")
    check_small(config, f"{path}: its configuration")
    return config


def check_fit(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Raise :class:`BundleError` for the first of ``tensors`` that is not what ``network`` has under its name.

    The network may be on torch's meta device, so that sizes which a file only claims allocate nothing.
    """
    expected = network.state_dict()
    for key, value in expected.items():
        shape = tuple(value.shape)
        if key not in tensors:
            if key.endswith("num_batches_tracked"):
                continue
            raise BundleError(f"{origin}: expected weight {quoted(key)} of shape {shape}, found none")
        if not isinstance(found := tensors[key], Tensor) or found.shape != value.shape:
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise BundleError(f"{origin}: expected weight {quoted(key)} of shape {shape}, found {what}")
        check_kind(key, found, value.is_floating_point(), origin)
        if not bool(torch.isfinite(found).all()):
            raise BundleError(f"{origin}: expected finite numbers in weight {quoted(key)}, found NaN or infinity")
    for key in tensors:
        if key not in expected:
            raise BundleError(f"{origin}: found weight {quoted(key)}, which this network does not have")


def check_kind(key: str, found: Tensor, floating: bool, origin: str) -> None:
    """Raise :class:`BundleError` for a weight that is not of floating point numbers, or of whole ones, as it should be.

    Numbers of 8 bits and less stand for others by a scale that no file here has.
    """
    whole = not (found.is_floating_point() or found.is_complex() or found.is_quantized)
    if not (found.dtype in FLOATS if floating else whole):
        kind = f"floating point numbers in weight {quoted(key)} (of 16, 32 or 64 bits)"
        expected = kind if floating else f"whole numbers in weight {quoted(key)}"
        raise BundleError(f"{origin}: expected {expected}, found {found.dtype}")


def fill(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load ``tensors`` into ``network`` in its precision; they replace what one on the meta device only describes.

    Raises :class:`BundleError` naming ``origin`` for the first weight that is missing, too many, of another shape or
    not finite.
    """
    check_fit(network, tensors, origin)
    expected = network.state_dict()
    described_only = any(value.is_meta for value in expected.values())
    weights = {key: value.to(expected[key].dtype) for key, value in tensors.items()}
    network.load_state_dict(weights, strict=False, assign=described_only)
