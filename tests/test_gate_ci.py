"""The example of docs/ci.md: its commands pass, a broken noise shaping is caught, another seed is not."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import yaml
from torch import Tensor

from armory_mdnf import cli
from armory_mdnf.audio import noise
from armory_mdnf.defenses import MDNF

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def commands() -> list[list[str]]:
    """The workflow's own commands: those of this package."""
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    steps = yaml.safe_load(block)["jobs"]["gate"]["steps"]
    lines = [shlex.split(line) for step in steps for line in step.get("run", "").splitlines()]
    return [line[1:] for line in lines if line[0] == "armory-mdnf"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the workflow's relative paths are this checkout's."""
    for name in ("scenario_configs", "baselines"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_commands_pass(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands()
    assert [line[0] for line in found] == ["run", "run", "gate"]
    codes = [cli.main(line) for line in found]
    assert codes == [0, 0, 0], capsys.readouterr().out
    suite = ElementTree.parse(checkout / "gate.xml").getroot()[0]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    compared = {f["cell"] for f in json.loads((checkout / "gate.json").read_text())["findings"]}
    assert compared == {"human/mg_mdnf_benign", "human/none_benign"}


def gated(checkout: Path, name: str, *options: str) -> int:
    config = ROOT / "scenario_configs" / "mg_mdnf_benign.json"
    out = str(checkout / name)
    assert cli.main(["run", str(config), "--index", "[:16]", "--output-dir", out, *options]) == 0
    return cli.main(["gate", out, "--baseline", "baselines/bundled.json", "--common"])


def test_a_broken_noise_shaping_is_caught_and_another_seed_is_not(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gated(checkout, "seed", "--seed", "1") == 0

    def each_bin(self: Any, log_mel: Tensor, frames: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """The norm over the frames of each bin in place of the whole matrix: the curve has no effect any more."""
        n = noise.normal(streams, frames.tolist(), like=log_mel, rows=log_mel.shape[1]) * self.curve[:, None]
        return self.noise_level * n / n.norm(dim=2, keepdim=True)

    monkeypatch.setattr(MDNF, "mel_noise", each_bin)
    assert gated(checkout, "broken") == 1
    assert re.search(r"human/mg_mdnf_benign  benign WER %.*WORSE", capsys.readouterr().out)
