"""`armory-mdnf configs`: the configurations of the package, listed and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runner_folder import CONFIGS

from armory_mdnf import cli
from armory_mdnf.commands import configs
from armory_mdnf.runner.config import check_config

NAMES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.json"))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["configs", *words]) == 0
    return capsys.readouterr().out


def test_every_configuration_of_the_clone_is_one_of_the_package() -> None:
    assert sorted(configs.known()) == NAMES
    assert configs.FOLDER.resolve() == CONFIGS.resolve()  # one copy


def test_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys).splitlines()
    assert [line.split()[0] for line in lines] == configs.known()
    (line,) = said(capsys, "librispeech/mg_mdnf_pgd_l2").splitlines()
    assert line.split()[:2] == ["librispeech/mg_mdnf_pgd_l2", "test_clean[:500]"]
    assert "Table 2, row MG-MDNF, column l2 1.5" in line


def test_the_list_for_machines_is_what_the_files_say(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(said(capsys, "--json", "*noise_l2", "none_benign.json", "none_benign"))["configs"]
    names = [entry["name"] for entry in listed]
    assert names[-1] == "none_benign"
    assert names[:-1] == [name for name in configs.known() if name.endswith("noise_l2")]
    for entry in listed:
        content = json.loads((CONFIGS / f"{entry['name']}.json").read_text())
        assert entry["what"] == content["_description"]
        assert (entry["split"], entry["index"]) == (content["dataset"]["eval_split"], content["dataset"]["index"])
        assert entry["docker_image"] == content["sysconfig"]["docker_image"]


def test_what_is_written_is_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    written = said(capsys, "none_pgd_l2", "librispeech/rs_*", "--to", str(folder)).splitlines()
    assert Path(written[0]) == folder / "none_pgd_l2.json"
    assert sorted(Path(path) for path in written) == sorted(folder.rglob("*.json"))
    for path in folder.rglob("*.json"):
        assert path.read_bytes() == (CONFIGS / path.relative_to(folder)).read_bytes()
        check_config(json.loads(path.read_text()))
    (folder / "librispeech" / "rs_cw.json").unlink()
    assert json.loads(said(capsys, "librispeech/rs_cw", "none_pgd_l2", "--to", str(folder), "--json")) == {
        "written": [str(folder / "librispeech" / "rs_cw.json"), str(folder / "none_pgd_l2.json")]
    }


def test_an_edited_file_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited = tmp_path / "none_pgd_l2.json"
    edited.write_text("{}")
    words = ["configs", "mg_pgd_l2", "none_pgd_l2", "--to", str(tmp_path)]
    assert cli.main(words) == 2
    assert "none_pgd_l2.json is there and differs: --force replaces it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["none_pgd_l2.json"]
    assert cli.main([*words, "--force"]) == 0
    assert edited.read_bytes() == (CONFIGS / edited.name).read_bytes()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["none_pdg_l2"],
            "no configuration 'none_pdg_l2': `armory-mdnf configs` lists them; did you mean none_pgd_l2?",
        ),
        (["x*x*x"], "no configuration 'x*x*x': `armory-mdnf configs` lists them\n"),
        (["../setup"], "no configuration '../setup'"),
        (["--force"], "--force replaces files: expected --to FOLDER too"),
    ],
)
def test_refusals(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["configs", *words]) == 2
    assert why in capsys.readouterr().err


def test_a_package_without_them_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    monkeypatch.setattr(configs, "FOLDER", tmp_path)
    assert cli.main(["configs"]) == 2
    assert f"no configurations in {tmp_path}" in capsys.readouterr().err
