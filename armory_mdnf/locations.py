"""Armory's folders for data and weights, on this machine or inside its containers. Armory itself is not needed."""

from __future__ import annotations

import json
from pathlib import Path

from armory_mdnf.errors import BundleError

CONTAINER = Path("/armory")  # where Armory mounts its folders in Docker
KEYS = {"datasets": "dataset_dir", "saved_models": "saved_model_dir", "outputs": "output_dir"}


def armory_folders(name: str) -> list[Path]:
    """Where ``datasets``, ``saved_models`` or ``outputs`` may lie, in the order of the search; they need not exist.

    First the folder that ``~/.armory/config.json`` names, or Armory's default, then the one of a container.
    Raises :class:`BundleError` if that file cannot be read.
    """
    config = Path.home() / ".armory" / "config.json"
    folder = config.parent / name
    if config.is_file():
        try:
            content = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"{config} is not readable JSON: {error}; run `armory configure`") from error
        named = content.get(KEYS[name]) if isinstance(content, dict) else None
        folder = Path(named) if isinstance(named, str) and named else folder
    return [folder, CONTAINER / name]


def saved_model(path: Path) -> Path:
    """The file that a relative path means: in the working directory, else below Armory's folder of saved models.

    The path as it is if there is no such file, or if it is absolute or leads out of the folder.
    """
    if path.is_absolute() or ".." in path.parts or path.is_file():
        return path
    found = [folder / path for folder in armory_folders("saved_models") if (folder / path).is_file()]
    return found[0] if found else path
