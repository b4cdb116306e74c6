"""Where Armory's folders lie, whatever is in its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from armory_mdnf.errors import BundleError
from armory_mdnf.files.bundles import resolve
from armory_mdnf.locations import CONTAINER, armory_folders, is_there, saved_model


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Armory's configuration in a home of its own."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (tmp_path / ".armory").mkdir()
    return tmp_path / ".armory" / "config.json"


def test_a_named_folder_comes_before_the_container(config: Path) -> None:
    config.write_text('{"saved_model_dir": "/models", "dataset_dir": null}')
    assert armory_folders("saved_models") == [Path("/models"), CONTAINER / "saved_models"]
    assert armory_folders("datasets")[0] == config.parent / "datasets"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"saved_model_dir": "/a", "saved_model_dir": "/b"}', "the key 'saved_model_dir' is there twice"),
        ("[" * 9000 + "]" * 9000, "levels of nesting"),
        ('{"saved_model_dir": 3}', "saved_model_dir: expected a path, found 3"),
        ('{"saved_model_dir": ["/a"]}', "saved_model_dir: expected a path, found"),
        ("", "is not JSON"),
    ],
)
def test_a_configuration_that_says_something_else_is_named(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(BundleError, match=rf"config\.json.*{message}.*; run `armory configure`"):
        armory_folders("saved_models")


@pytest.mark.parametrize("name", ["x" * 5000, "\U0001f600" * 999, "a\0b"])
def test_a_name_that_no_file_can_have_is_not_there(config: Path, name: str) -> None:
    assert not is_there(Path(name))
    assert saved_model(Path(name)) == Path(name)
    with pytest.raises(BundleError, match=r"unknown bundled weights|no weight file"):
        resolve(name)
