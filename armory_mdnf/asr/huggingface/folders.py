"""Where a Hugging Face model lies: a folder, or a name of the hub that was downloaded before."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from armory_mdnf.errors import BundleError, OptionError, cause, quoted
from armory_mdnf.files.strict_json import read_json
from armory_mdnf.locations import is_there, saved_model

PREFIX = "hf:"
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
CONFIG = "config.json"
PATTERNS = ["*.json", "*.txt", "*.safetensors"]
NEEDS = "it needs transformers: pip install 'armory-mdnf[hf]'"
MAX_JSON_BYTES = 1 << 24


def is_huggingface(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether weights are named as a model of the hub (``hf:NAME``), or are a folder with a ``config.json``."""
    text = os.fspath(name_or_path)
    return text.startswith(PREFIX) or is_there(_local(text) / CONFIG)


def find_folder(name_or_path: str | os.PathLike[str], download: bool = False) -> Path:
    """The folder of a model: a local one, or the hub's as it lies in Hugging Face's cache.

    Nothing is downloaded unless ``download`` asks for it, and then only JSON, text and safetensors.
    Raises :class:`BundleError` saying what to do if it is not there, :class:`OptionError` for what is no name.
    """
    text = os.fspath(name_or_path)
    if not text.startswith(PREFIX):
        return _local(text)
    name = text.removeprefix(PREFIX)
    if is_there((local := _local(name)) / CONFIG):
        return local
    no_name = OptionError(f"expected a model of the Hugging Face hub, as hf:openai/whisper-tiny, got {quoted(text)}")
    if not NAME.fullmatch(name) or ".." in name:
        raise no_name
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise BundleError(f"{text}: {NEEDS}") from error
    try:
        return Path(snapshot_download(name, allow_patterns=PATTERNS, local_files_only=not download))
    except HFValidationError as error:  # the hub's own rules, such as no "--"
        raise no_name from error
    except Exception as error:  # of its HTTP library, too, which is another one in another version
        if download:
            # Where the hub refused and nothing is in the cache, the refusal is the cause of what is raised.
            answer = (error.__cause__ or error) if isinstance(error, LocalEntryNotFoundError) else error
            answered = isinstance(answer, HfHubHTTPError) and not isinstance(answer, LocalEntryNotFoundError)
            reason = (
                f"the hub answered {cause(answer, 400)}" if answered else f"{cause(error)}; is this machine offline?"
            )
            raise BundleError(f"{text} cannot be downloaded: {reason}") from error
        raise BundleError(
            f"{text} is not in Hugging Face's cache on this machine: `armory-mdnf checkpoint download {text}` fetches "
            "it where there is a network; or give the path of a folder that has it"
        ) from error


def _local(text: str) -> Path:
    """A folder with a model, in the working directory, else below Armory's folder of saved models."""
    return saved_model(Path(text, CONFIG)).parent


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file beside the weights. Raises :class:`BundleError` naming it."""
    content = read_json(path, max_bytes=MAX_JSON_BYTES)
    if not isinstance(content, dict):
        raise BundleError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def feature_extractor(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Settings of a model's feature extractor, and the file that has them.

    As transformers reads them: from ``processor_config.json``, where version 5 writes those of all of a processor, else
    from ``preprocessor_config.json``. Raises :class:`BundleError` where neither has them: a model hears other audio
    than it was trained on by any settings but its own.
    """
    processor, alone = folder / "processor_config.json", folder / "preprocessor_config.json"
    if processor.is_file() and "feature_extractor" in (content := read_object(processor)):
        settings = content["feature_extractor"]
        if not isinstance(settings, dict):
            raise BundleError(f"{processor}: feature_extractor: expected an object, found {quoted(settings)}")
        return processor, settings
    if not alone.is_file():
        raise BundleError(
            f"{folder}: expected {processor.name} with a feature_extractor, or {alone.name}, found neither: save the "
            "model's processor into the folder too (save_pretrained)"
        )
    return alone, read_object(alone)


def weight_files(folder: Path) -> list[Path]:
    """The files that decide what a model computes, for a fingerprint: weights, configuration, vocabulary."""
    return sorted(path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file())


def check_safetensors(folder: Path) -> None:
    """Raise :class:`BundleError` for a folder without weights in safetensors, which execute nothing."""
    if any(folder.glob("model*.safetensors")):
        return
    other = next((path.name for path in folder.glob("*.bin")), None)
    hint = f"; {other} is a pickle, which is not opened: save the model again with safetensors" if other else ""
    raise BundleError(f"{folder}: expected model.safetensors, found none{hint}")
