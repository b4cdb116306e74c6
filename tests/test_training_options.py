"""Recipes and options: every wrong value is refused with its place, and every option is described."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_recognizer
from test_tour import gathers

import armory_mdnf
from armory_mdnf import cli
from armory_mdnf.cli import RECIPES
from armory_mdnf.errors import ArmoryMdnfError, BundleError, OptionError
from armory_mdnf.training import options as options_module
from armory_mdnf.training import recipe as recipe_module
from armory_mdnf.training import vocoder_recipe
from armory_mdnf.training.augmentation import Augmentation
from armory_mdnf.training.optimizer import make_optimizer
from armory_mdnf.training.recipe import Recipe
from armory_mdnf.training.start import starting_recognizer

FOLDER = Path(armory_mdnf.__file__).parent / "training" / "recipes"
WRONG: list[Any] = [
    None, -1, 0, 1.5, "", "x", [], {}, True, 1e29, [1], {"a": 1}, "\0", "../../x", float("nan"), 10**400, "a" * 10**6,
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_the_shipped_recipes_are_what_a_recipe_may_be(name: str) -> None:
    assert Recipe.read(FOLDER / f"{name}.json").name == name


@pytest.mark.parametrize("key", recipe_module.FIELDS)
def test_each_field_set_to_anything_is_read_or_refused_by_name(tmp_path: Path, key: str) -> None:
    whole = json.loads((FOLDER / "whisper_ctc.json").read_text())
    path = tmp_path / "r.json"
    refusals = []
    for value in WRONG:
        path.write_text(json.dumps(whole | {key: value}))
        try:
            Recipe.read(path)
        except ArmoryMdnfError as error:
            refusals.append(str(error))
    assert len(refusals) >= 5
    for refusal in refusals:
        assert str(path) in refusal
        assert key in refusal
        assert len(refusal) < 800


@pytest.mark.parametrize("key", recipe_module.AUGMENTATION)
def test_each_field_of_the_augmentation_is_checked(tmp_path: Path, key: str) -> None:
    whole = json.loads((FOLDER / "whisper_ctc.json").read_text())
    path = tmp_path / "r.json"
    pairs_in_order = () if key == "speeds" else ([1], [2, 1])  # a list of speeds has any number, in any order
    for value in (None, -1, "x", *pairs_in_order, {}, 1e29, [0, 1e999]):
        path.write_text(json.dumps(whole | {"augmentation": {key: value}}))
        with pytest.raises(ArmoryMdnfError, match=rf"r\.json.*augmentation.*{key}"):
            Recipe.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r"expected an object, found \[\]"),
        ("[" * 10**5, "is not JSON"),
        ('{"name": "a", "name": "b"}', "the key 'name' is there twice"),
        ('{"name": "a", "sources": {"human": [1, 1]}, "steps": 1}', "expected 'seed', which has no default"),
        ('{"name": "a", "sources": {"human": [1]}}', "sources: expected an object of two shares of at least 0"),
        ('{"name": "a", "sources": {"human": [0, 1]}}', "sources: expected an object of two shares .*, not all 0"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ArmoryMdnfError, match=rf"r\.json.*{message}"):
        Recipe.read(path)
    with pytest.raises(BundleError, match="no recipe at"):
        Recipe.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    "model",
    [{"hidden_size": 0}, {"hidden_size": 1.5}, {"rnn_type": "x"}, {"hidden_layers": 0.5}, {"conv_channels": "a"}],
)
def test_sizes_of_no_network_are_refused(tmp_path: Path, model: dict[str, Any]) -> None:
    recipe = Recipe("t", {"human": (1, 1)}, steps=1, seed=1, model=model)
    with pytest.raises(ArmoryMdnfError):
        starting_recognizer(recipe, tmp_path)


def test_a_kind_that_the_weights_are_not_of_is_refused(tmp_path: Path) -> None:
    recipe = Recipe("t", {"human": (1, 1)}, steps=1, seed=1, init="ds2_base", kind="whisper_ctc")
    with pytest.raises(OptionError, match="kind is 'whisper_ctc', ds2_base is a 'deepspeech2'"):
        starting_recognizer(recipe, tmp_path)


def test_frozen_weights_that_there_are_not_are_refused() -> None:
    recognizer = tiny_recognizer()
    first = next(name for name, _ in recognizer.network.named_parameters()).partition(".")[0]
    recipe = Recipe("t", {"human": (1, 1)}, steps=1, seed=1, frozen=[first])
    make_optimizer(recipe, recognizer)
    assert {p.requires_grad for n, p in recognizer.network.named_parameters() if n.startswith(first)} == {False}
    with pytest.raises(OptionError, match=r"t: frozen: no weight begins with 'encoder\.konv'"):
        make_optimizer(dataclasses.replace(recipe, frozen=[first, "encoder.konv"]), recognizer)


def test_every_field_is_described_and_every_description_is_of_a_field() -> None:
    for fields, cls in (
        (recipe_module.FIELDS, Recipe),
        (recipe_module.AUGMENTATION, Augmentation),
        (vocoder_recipe.FIELDS, vocoder_recipe.VocoderRecipe),
    ):
        described = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        assert set(fields) == set(described)
        for name, field in fields.items():
            assert field.help.endswith(".")
            default = described[name].default
            assert default is dataclasses.MISSING or field.kind.holds(default)


@pytest.mark.parametrize("command", RECIPES)
def test_help_describes_every_option_and_its_default(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(parser: Any, argv: Any = None) -> None:
        seen.append(parser)
        raise KeyboardInterrupt

    monkeypatch.setattr(options_module.Parser, "parse_args", look)
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module(f"armory_mdnf.training.{command}").main([])
    (parser,) = seen
    for action in parser._actions:
        assert action.help, action.dest
        assert gathers(action), action.dest
        if action.default not in (None, "==SUPPRESS==", []) and not isinstance(action.default, bool):
            stated = re.search(r"\(default: ([^)]*)\)", action.help)
            assert stated, action.dest
            values = action.default if isinstance(action.default, list) else [action.default]
            shown = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
            assert stated[1] == shown
    assert parser.description.strip()
    if command == "recognizer":
        text = parser.format_help()
        assert all(f"  {name}: " in text for name in [*recipe_module.FIELDS, *recipe_module.AUGMENTATION])
        assert "Seconds of audio per step" in text
        assert "(default: 32.0)" in text


@pytest.mark.parametrize("text", ["cpi", "cuda:x", "cuda:999", ""])
def test_a_device_that_is_not_there_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "resynthesis", "--vocoder", "x", "--sources", "a=1", "--device", text])
    assert stopped.value.code == 2
    assert "argument --device: " in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "100000"])
def test_threads_are_a_whole_number(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    with pytest.raises(SystemExit):
        cli.main(["train", "recognizer", "r.json", "--out", "x", "--threads", value])
    assert "expected a whole number from 0 to 4096" in capsys.readouterr().err
    assert torch.get_num_threads() == before
