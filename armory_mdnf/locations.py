"""Armory's folders for data and weights, on this machine or inside its containers. Armory itself is not needed."""

from __future__ import annotations

from pathlib import Path

from armory_mdnf.errors import BundleError, quoted
from armory_mdnf.files.strict_json import read_json

CONTAINER = Path("/armory")  # where Armory mounts its folders in Docker
KEYS = {
    "datasets": "dataset_dir",
    "git": "local_git_dir",
    "outputs": "output_dir",
    "saved_models": "saved_model_dir",
}


def armory_folders(name: str) -> list[Path]:
    """Where one of :data:`KEYS` may lie, in the order of the search; the folders need not exist.

    First the folder that ``~/.armory/config.json`` names, or Armory's default, then the one of a container.
    Raises :class:`BundleError` if that file cannot be read.
    """
    config = Path.home() / ".armory" / "config.json"
    folder = config.parent / name
    if config.is_file():
        try:
            content = read_json(config, max_bytes=1 << 20)
        except BundleError as error:
            raise BundleError(f"{error}; run `armory configure`") from error
        named = content.get(KEYS[name]) if isinstance(content, dict) else None
        if named is not None and not isinstance(named, str):
            raise BundleError(f"{config}: {KEYS[name]}: expected a path, found {quoted(named)}; run `armory configure`")
        folder = Path(named) if named else folder
    return [folder, CONTAINER / name]


def saved_model(path: Path) -> Path:
    """The file that a relative path means: in the working directory, else below Armory's folder of saved models.

    The path as it is if there is no such file, or if it is absolute or leads out of the folder.
    """
    if path.is_absolute() or ".." in path.parts or is_there(path):
        return path
    found = [folder / path for folder in armory_folders("saved_models") if is_there(folder / path)]
    return found[0] if found else path


def is_there(path: Path) -> bool:
    """Whether there is a file of that path; there is none of a name too long for the disk."""
    try:
        return path.is_file()
    except OSError:
        return False
