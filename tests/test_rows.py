"""What runs are called: a defence of another strength, or another recogniser, is a row of its own."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD, CarliniWagner
from armory_mdnf.commands.blocks import defense_block, model_for
from armory_mdnf.defenses import MDNF, RandomizedSmoothing
from armory_mdnf.defenses.mdnf import PUBLISHED_LEVELS
from armory_mdnf.evaluation import paper
from armory_mdnf.evaluation.cells import cells_on
from armory_mdnf.evaluation.identity import DEFAULTS, differing, identity
from armory_mdnf.evaluation.names import NO_DEFENCE, recognizer_in
from armory_mdnf.evaluation.records import RunRecord, read_record
from armory_mdnf.report import charts, content, runs

RESULTS = Path(__file__).parents[1] / "results"
# Rows that a configuration's description calls something else than its label.
ROWS = {
    "none": NO_DEFENCE,
    **dict.fromkeys(("none-MG", "none-WG", "none-HG"), NO_DEFENCE),
    "MG-MDNF of the later files": "MG-MDNF with noise over the frame",
    "MG-MDNF of a curve anew": "MG-MDNF, curve whisper_l2",
    "HG-MDNF of a curve anew": "HG-MDNF, curve ds2_hg_l2, noise_level 80",
}


def of_command(defence: str, model: str | None = None, data: str = "bundled") -> dict[str, Any]:
    """What `evaluate` writes of a defence, a recogniser and data."""
    weights = model_for(model, defence)
    model_block = {"module": "armory_mdnf.plugin.model", "name": "get_art_model", "model_kwargs": {"weights": weights}}
    return {"defense": defense_block(defence), "model": model_block, "dataset": {"name": data}}


@pytest.mark.parametrize("data", ["bundled", "librispeech"])
def test_the_projects_own_configurations_have_the_names_of_their_rows(data: str) -> None:
    for cell in cells_on(data).values():
        found = re.search(r": (?:not in the paper|Table \d|text),? (?:row )?([^,]+),", cell.description)
        assert found is not None
        row = paper.row_in({**cell.blocks, "dataset": {"name": data}})
        assert row == ROWS.get(found[1], found[1])


@pytest.mark.parametrize(
    ("defence", "label"),
    [
        ("mg_mdnf", "MG-MDNF"),
        ("mg_mdnf,noise_level=120", "MG-MDNF, noise_level 120"),
        ("mg_mdnf,noise_level=120.0", "MG-MDNF, noise_level 120"),
        ("mg_mdnf,noise_level=20", "MG-MDNF"),
        ("mg_mdnf,noise_level=null", "MG-MDNF"),
        ("mg_mdnf,curve=whisper_l2", "MG-MDNF, curve whisper_l2"),
        ("mg_mdnf,curve=null,noise_level=80", "MG-MDNF with flat noise, noise_level 80"),
        ("mg_mdnf,curve_scales=variance", "MG-MDNF, curve_scales variance"),
        ("mg_mdnf,normalize=frame,noise_level=0.05", "MG-MDNF with noise over the frame"),
        ("mg_mdnf,normalize=frame", "MG-MDNF with noise over the frame, noise_level 20"),
        ("mg_mdnf,normalize=none,noise_level=2", "MG-MDNF, noise_level 2, normalize none"),
        ("mg_mdnf,seed=7,device_type=cpu", "MG-MDNF"),
        ("mg_mdnf,apply_predict=false", "MG-MDNF, apply_predict false"),
        ("mg", "MG"),
        ("mg,resample_rate_hz=22000", "MG, resample_rate_hz 22000"),
        ("mg,resample_rate_hz=null,sample_rate_hz=16000", "MG"),
        ("mg,vocoder=melgan", "MG, vocoder melgan"),
        ("mg,vocoder=here/melgan.safetensors", "MG, vocoder here/melgan.safetensors"),
        ("wg_mdnf", "WG-MDNF"),
        ("hg", "HG"),
        ("rs", "RS"),
        ("rs,snr_db=10", "RS, snr_db 10"),
        ("rs,passes=1,snr_db=20", "RS, passes 1, snr_db 20"),
        ("none", NO_DEFENCE),
    ],
)
def test_what_differs_from_the_papers_row_is_in_the_name(defence: str, label: str) -> None:
    assert paper.row_in(of_command(defence)) == label


def test_what_is_usual_follows_the_data_and_the_recogniser() -> None:
    assert paper.row_in(of_command("mg_mdnf", data="recordings")) == "MG-MDNF"
    assert paper.row_in(of_command("mg_mdnf", data="librispeech")) == "MG-MDNF, curve bundled_l2"
    assert paper.row_in(of_command("mg_mdnf,curve=published_linear", data="librispeech")) == "MG-MDNF"
    assert paper.row_in(of_command("mg", "ds2_mg")) == "MG, vocoder melgan_gan"
    assert paper.row_in(of_command("mg,vocoder=melgan", "ds2_mg")) == "MG"
    assert paper.row_in(of_command("mg", "mine.safetensors")) == "MG"  # nothing else is usual before it


def test_the_papers_options_are_the_defaults_of_the_classes() -> None:
    defaults = {
        name: {key: p.default for key, p in inspect.signature(kind.__init__).parameters.items()}
        for name, kind in (("MDNF", MDNF), ("RS", RandomizedSmoothing))
    }
    usual = {**paper.ALWAYS, **paper.FLOODED, "curve": paper.CURVE, "vocoder": "melgan"}
    assert {key: defaults["MDNF"][key] for key in usual} == usual
    assert {key: defaults["RS"][key] for key in paper.SMOOTHED} == paper.SMOOTHED
    assert paper.LEVELS == PUBLISHED_LEVELS


def test_what_is_somebody_elses_has_the_name_of_its_module_and_no_number_of_the_paper() -> None:
    def named(**block: Any) -> str:
        return paper.row_in({"defense": {"module": "art.defences.preprocessor", **block}})

    assert named(name="FeatureSqueezing", kwargs={"bit_depth": 8}) != named(
        name="FeatureSqueezing", kwargs={"bit_depth": 4}
    )
    assert named(name="Mp3Compression", kwargs={"sample_rate": 16000, "channels_first": False}) == (
        "art.defences.preprocessor.Mp3Compression, channels_first false, sample_rate 16000"
    )
    assert named(name="X", args=[1]) == "art.defences.preprocessor.X, args [1]"
    for name in ("MDNF", "RandomizedSmoothing", "RS"):
        label = named(name=name, kwargs={"vocoder": "melgan"})
        assert label.startswith("art.defences.preprocessor.")
        assert paper.number(label, "l2 1.5") is None


def test_recognisers_have_their_options_in_their_names() -> None:
    ours = of_command("none", "ds2_base")
    assert recognizer_in(ours) == "ds2_base"
    model = ours["model"]
    for options, name in (
        ({"gradient": "published", "device_type": "cpu"}, "ds2_base"),  # the threat says the one
        ({"clip_values": None}, "ds2_base, clip_values null"),
    ):
        assert recognizer_in({"model": model | {"wrapper_kwargs": options}}) == name
    assert recognizer_in({"model": model | {"model_kwargs": {}, "weights_file": "a.safetensors"}}) == "a.safetensors"
    toy = {"module": "toy", "name": "get_model", "model_kwargs": {"width": 16}, "wrapper_kwargs": {}}
    assert recognizer_in({"model": toy}) == "toy.get_model, width 16"
    weighed = toy | {"model_kwargs": {"weights": "w", "beam": 5}}
    assert recognizer_in({"model": weighed}) == "w, beam 5, model toy.get_model"


def test_recorded_runs_of_one_row_have_the_same_defence_and_recogniser() -> None:
    """As `metrics` tells them apart, by every option."""
    found = defaultdict(list)
    for p in runs.read_runs([RESULTS]):
        parts = ("defense", "model.model_kwargs", "model.module", "model.name", "model.weights_file")
        whole = {k: v for k, v in identity(p.run.config, False).items() if k.startswith(parts)}
        found[(p.run.split, *p.row)].append(json.dumps(whole, sort_keys=True))
    assert [row for row, identities in found.items() if len(set(identities)) > 1] == []


def louder(run: RunRecord) -> RunRecord:
    block = run.config["defense"]
    block = block | {"kwargs": block["kwargs"] | {"noise_level": 120.0}}
    return dataclasses.replace(run, name="louder", config={**run.config, "defense": block})


def test_a_page_keeps_two_strengths_apart() -> None:
    known = read_record(RESULTS / "human" / "mg_mdnf_pgd_l2.json")
    smaller = read_record(RESULTS / "human" / "mg_mdnf_pgd_l2_1.0.json")
    none = read_record(RESULTS / "human" / "none_pgd_l2.json")
    placed = [runs.place(run, f"{i}") for i, run in enumerate((none, known, louder(known), smaller, louder(smaller)))]
    made = content.build(placed, {})
    labels = ["MG-MDNF", "MG-MDNF, noise_level 120"]
    (table,) = made.tables
    assert [row[0] for row in table.rows] == [NO_DEFENCE, *labels]
    column = table.columns.index("l2 1.5")
    assert [[entry.paper for entry in row[2][column]] for row in table.rows[1:]] == [[52.4], [None]]
    assert [w.defence for w in made.worst] == [NO_DEFENCE, *labels]
    assert [w.threats for w in made.worst] == [1, 2, 2]
    assert [b.defence for b in made.balances] == [NO_DEFENCE, *labels]
    (chart,) = [c for c in charts.sweeps(placed) if c.axis.startswith("eps")]
    assert [line.label for line in chart.lines] == [f"{label} (ds2_mg)" for label in labels]


def test_flat_noise_is_not_the_default_curve() -> None:
    kwargs = {"noise_level": 20, "clip_values": None}
    flat, default = (
        identity({"defense": {"name": "MDNF", "kwargs": kwargs | curve}}, False) for curve in ({"curve": None}, {})
    )
    assert differing(flat, default) == ["defense.kwargs.curve"]
    assert "defense.kwargs.clip_values" not in flat


def test_null_may_be_a_choice() -> None:
    """Of what clips an attack, and of options of somebody else's component."""
    for module, option, choice in (
        ("armory_mdnf.plugin.model", "wrapper_kwargs.clip_values", True),
        ("armory_mdnf.plugin.model", "model_kwargs.another", False),
        ("art.estimators.x", "model_kwargs.another", False),
        ("mine.models", "model_kwargs.another", True),
    ):
        block, name = option.split(".")
        given = ({"module": module, block: kwargs} for kwargs in ({name: None}, {}))
        said, left_out = (identity({"model": model}, False) for model in given)
        assert (said != left_out) == choice, (module, option)


def test_an_option_that_says_its_default_is_no_other_configuration() -> None:
    attack = {"module": "armory_mdnf.attacks", "name": "PGD", "kwargs": {"norm": "l2", "eps": 1.5}}
    model = {"module": "armory_mdnf.plugin.model", "name": "get_art_model", "wrapper_kwargs": {}}
    said = {
        "attack": attack | {"kwargs": {**attack["kwargs"], **DEFAULTS["attack"][2]}},
        "model": model | {"wrapper_kwargs": DEFAULTS["model"][2]},
    }
    assert identity(said, True) == identity({"attack": attack, "model": model}, True)
    for block, options in (("attack", "kwargs"), ("model", "wrapper_kwargs")):
        theirs = {**said, block: said[block] | {"module": "armory_mdnf.attacks_of_theirs"}}
        assert identity(theirs, True).keys() > {f"{block}.{options}.{name}" for name in DEFAULTS[block][2]}
    for name, other in {"eot_draws": 5, "gradient": "published", "restarts": True, "random_start": 0}.items():
        kwargs = said["attack"]["kwargs"] | {name: other}
        found = identity(said | {"attack": attack | {"kwargs": kwargs}}, True)
        assert found[f"attack.kwargs.{name}"] is other


def test_the_defaults_are_those_of_the_attacks() -> None:
    defaults = DEFAULTS["attack"][2]
    fields = {f.name: f.default for kind in (PGD, CarliniWagner) for f in dataclasses.fields(kind)}
    assert {name: fields[name] for name in defaults} == defaults
    for kind in (PGD, CarliniWagner):
        assert all(f.default == defaults[f.name] for f in dataclasses.fields(kind) if f.name in defaults)
    assert DEFAULTS["model"][2] == {"gradient": inspect.signature(RecognizerEstimator).parameters["gradient"].default}
    stated = [
        (name, option)
        for data in ("bundled", "librispeech")
        for name, cell in cells_on(data).items()
        for option, value in cell.blocks["attack"]["kwargs"].items()
        if option in defaults and value == defaults[option]
    ]
    assert stated == []
