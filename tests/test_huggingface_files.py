"""Where models of Hugging Face lie, how they come there, and what is said of those that do not."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from armory_mdnf.asr.checkpoints import load_recognizer, recognizer_checksum
from armory_mdnf.asr.huggingface.folders import find_folder, is_huggingface
from armory_mdnf.errors import BundleError, OptionError

pytest.importorskip("transformers", reason="the hf extra is not installed")


def test_what_cannot_be_loaded_says_why(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not in Hugging Face's cache .* checkpoint download hf:no/such"):
        load_recognizer("hf:no/such")
    with pytest.raises(OptionError, match="expected a model of the Hugging Face hub"):
        load_recognizer("hf:../../etc")
    assert find_folder(f"hf:{folders['sew']}") == folders["sew"]
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BundleError, match="unknown model_type of a recogniser 'bert'"):
        load_recognizer(tmp_path)
    (tmp_path / "config.json").write_text((folders["hubert"] / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"expected model\.safetensors, found none; pytorch_model\.bin is a pickle"):
        load_recognizer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folders["hubert"] / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(BundleError, match=str(tmp_path)):
        load_recognizer(tmp_path)


@pytest.mark.parametrize("name", ["a--b/c", "a/b--c", "a/b.git", "a/b-", "a/b.", "añ/x", "a/b²", "a/b/c", "-a/b"])
def test_what_the_hub_takes_for_no_name_is_refused(name: str) -> None:
    for download in (False, True):
        with pytest.raises(OptionError, match="expected a model of the Hugging Face hub"):
            find_folder(f"hf:{name}", download)


def refusal(kind: str, message: str) -> Exception:
    """As the hub answers, whatever library the request was made with."""
    errors = pytest.importorskip("huggingface_hub.errors")
    response = SimpleNamespace(headers={}, request=None, status_code=401)
    return getattr(errors, kind)(message, response=response)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["RepositoryNotFoundError", "GatedRepoError", "HfHubHTTPError"])
def test_a_download_that_the_hub_refuses_says_what_it_said(
    monkeypatch: pytest.MonkeyPatch, kind: str, wrapped: bool
) -> None:
    import huggingface_hub

    def refuse(name: str, **options: Any) -> str:
        said = refusal(kind, "401 Client Error.\n\nAccess to model a/b is restricted.")
        if wrapped:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache") from said
        raise said

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(BundleError, match=r"cannot be downloaded: the hub answered .*Access to model a/b is") as caught:
        find_folder("hf:a/b", download=True)
    assert "offline" not in str(caught.value)
    assert f"{kind}: 401 Client Error. Access" in str(caught.value)


@pytest.mark.parametrize("error", [ConnectionError("no route"), RuntimeError("of some HTTP library")])
def test_a_download_that_reaches_no_hub_asks_whether_there_is_a_network(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import huggingface_hub

    def fail(name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(BundleError, match=f"cannot be downloaded: .*{error}.*; is this machine offline"):
        find_folder("hf:a/b", download=True)


def test_a_folder_is_found_among_armorys_saved_models(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its path below them, and as the hub's model of that name."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    below = tmp_path / ".armory" / "saved_models" / "somebody" / "sew-tiny"
    assert not is_huggingface("somebody/sew-tiny")
    shutil.copytree(folders["sew"], below)
    assert is_huggingface("somebody/sew-tiny")
    for name in ("somebody/sew-tiny", "hf:somebody/sew-tiny"):
        assert find_folder(name) == below
        assert recognizer_checksum(name) == recognizer_checksum(folders["sew"])
    assert not is_huggingface("../saved_models/somebody/sew-tiny")
