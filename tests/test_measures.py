"""Metrics beyond the pooled word error rate, and that all follow from the records of a run."""

from __future__ import annotations

import builtins
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import speechlike
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf import cli
from armory_mdnf.errors import AudioError, OptionError, ResultsError, TranscriptError
from armory_mdnf.evaluation.measures import measures, worst_over
from armory_mdnf.evaluation.records import Outcome, RunRecord, common_outcomes, read_record, write_record
from armory_mdnf.metrics import cer, intelligibility, perturbation, wer

RESULTS = Path(__file__).parents[1] / "results" / "human"
texts = st.text("AB ", max_size=9)


def edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, character in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (character != other))
    return row[-1]


@given(texts, texts)
def test_characters_are_aligned_by_the_fewest_edits(reference: str, hypothesis: str) -> None:
    said, heard = (" ".join(text.split()) for text in (reference, hypothesis))
    counts = cer.count_characters(reference, hypothesis)
    assert counts.errors == edit_distance(said, heard)
    assert counts.reference_characters == len(said)


def test_character_error_rates_of_edge_cases() -> None:
    assert cer.count_characters("", "AB") == cer.CharacterCounts(insertions=2)
    assert cer.count_characters("A B", "") == cer.CharacterCounts(deletions=3)
    assert cer.character_error_rate(["AB", ""], ["AB", "ABC"]) == 1.5
    assert cer.character_error_rate(["A  B"], [" A B "]) == 0
    with pytest.raises(TranscriptError, match="at least one character"):
        cer.character_error_rate([""], ["A"])


def test_the_mean_over_utterances_weighs_each_the_same() -> None:
    counts = [wer.count_words("ONE", "TWO"), wer.count_words("A B C D", "A B C D"), wer.count_words("", "X")]
    assert wer.mean_rate(counts) == 0.5
    assert wer.pool(counts).rate == 2 / 5
    assert wer.mean_rate(counts[2:]) is None
    assert wer.mean_rate([wer.count_words("ONE", "TWO THREE FOUR")]) == 3


def test_the_worst_attack_on_each_utterance() -> None:
    first = [wer.WordCounts.of(1, 4), wer.WordCounts.of(3, 3)]
    second = [wer.WordCounts.of(2, 4), wer.WordCounts.of(0, 3)]
    assert wer.worst_case([first, second]) == [second[0], first[1]]
    assert wer.worst_case([first, second], fewest=True) == [first[0], second[1]]
    for other in ([first, second[:1]], [first, [wer.WordCounts.of(2, 5), second[1]]], []):
        with pytest.raises(TranscriptError, match="expected attacks on the same utterances"):
            wer.worst_case(other)


@given(st.integers(0, 20), st.integers(0, 10))
def test_counts_of_errors_and_words_alone(errors: int, words: int) -> None:
    counts = wer.WordCounts.of(errors, words)
    assert (counts.errors, counts.reference_words) == (errors, words)


def test_a_target_is_reached_to_the_letter_or_not() -> None:
    assert wer.success_rate(["A B", "C", ""], ["A  B", "D", ""]) == 2 / 3
    with pytest.raises(TranscriptError, match="at least one target"):
        wer.success_rate([], [])


def test_segments_have_their_own_ratios() -> None:
    size = 480  # 30 ms at 16 kHz
    x = np.concatenate([np.ones(size), np.full(size, 0.1)])
    quiet, loud = np.full(size, 0.01), np.full(size, 0.1)
    assert perturbation.segmental_snr_db(x, x + np.concatenate([loud, quiet])) == pytest.approx(20)
    assert perturbation.segmental_snr_db(x, x + np.concatenate([quiet, quiet])) == pytest.approx((35 + 20) / 2)
    assert perturbation.snr_db(x, x + np.concatenate([loud, quiet])) == pytest.approx(10 * math.log10(1.01 / 0.0101))
    # A rest shorter than half a frame does not count.
    assert perturbation.segmental_snr_db(np.ones(700), np.r_[np.ones(480) * 1.1, np.ones(220) * 9]) == pytest.approx(20)


def test_segments_of_what_has_no_ratio() -> None:
    silence, tone = np.zeros(1000), np.ones(1000)
    assert perturbation.segmental_snr_db(tone, tone) == 35
    assert perturbation.segmental_snr_db(silence, tone) == -10
    assert perturbation.segmental_snr_db(silence, silence) is None
    assert perturbation.segmental_snr_db(np.ones(3), np.ones(3) * 1.1) == pytest.approx(20)
    with pytest.raises(AudioError, match="one dimension"):
        perturbation.segmental_snr_db(np.ones((2, 3)), np.ones((2, 3)))


def test_intelligibility_falls_with_noise_and_is_none_where_there_is_none() -> None:
    pytest.importorskip("pystoi", reason="the stoi extra is not installed")
    x = speechlike(16000).astype(np.float64)
    noise = np.random.default_rng(0).normal(size=x.size) * x.std()
    found = [intelligibility.stoi(x, x + level * noise) for level in (0, 0.3, 3)]
    assert found[0] == pytest.approx(1)
    assert found[0] > found[1] > found[2] > 0
    assert intelligibility.stoi(x[:4000], x[:4000]) is None
    assert intelligibility.stoi(0 * x, x) is None
    assert intelligibility.stoi(x, 0 * x) == pytest.approx(0, abs=1e-6)
    with pytest.raises(AudioError, match="one length"):
        intelligibility.stoi(x, x[1:])
    with pytest.raises(AudioError, match="finite"):
        intelligibility.stoi(x, np.where(x > 0, np.nan, x))


def test_without_pystoi_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pystoi":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OptionError, match=r"pip install 'armory-mdnf\[stoi\]'"):
        intelligibility.stoi(np.ones(9), np.ones(9))


def run(outcomes: list[Outcome], **config: Any) -> RunRecord:
    return RunRecord("name", tuple(outcomes), config)


def test_all_metrics_follow_from_a_record(tmp_path: Path) -> None:
    before = run(
        [
            Outcome("A B", "A B", "X Y Z Q Q", target="C", snr_db=20.0, l2=1.0, linf=0.1),
            Outcome("", "", "A", target="A", snr_db=None, l2=0.0, linf=0.0),
            Outcome("C D", "", "C D", target="", snr_db=30.0, l2=2.0, linf=0.3),
        ]
    )
    write_record(tmp_path / "r.json", before)
    found = measures(read_record(tmp_path / "r.json"))
    assert found == measures(before)
    assert found["benign_wer"] == 2 / 4
    assert found["benign_wer_mean"] == 0.5
    assert found["benign_cer"] == 3 / 6
    assert found["adversarial_wer"] == (5 + 1) / 4
    assert found["adversarial_wrong_or_missing"] == 2 / 4
    assert found["adversarial_wer_mean"] == 5 / 2 / 2
    assert found["target_success"] == 1 / 3
    assert (found["snr_db"], found["l2"], found["linf"]) == (25.0, 1.0, pytest.approx(0.4 / 3))


def test_a_run_without_words_or_an_attack_has_no_rates() -> None:
    found = measures(run([Outcome("", "A")]))
    assert {key for key, value in found.items() if value is not None} == {"utterances"}


def test_the_worst_over_runs_and_what_does_not_go_together() -> None:
    first = run([Outcome("A B", None, "A X", target="Q"), Outcome("C", None, "C", target="R")], attack={"name": "a"})
    second = run([Outcome("A B", None, "A B", target="Q"), Outcome("C", None, "R", target="R")], attack={"name": "b"})
    found = worst_over([first, second])
    assert found["adversarial_wer"] == found["adversarial_wrong_or_missing"] == 2 / 3
    assert found["target_success"] == 0.5
    assert worst_over([first, replace(second, outcomes=second.outcomes[::-1])]) == found  # joined in another order
    model = {"name": "n", "wrapper_kwargs": {"gradient": "published"}}  # which others' attacks follow
    both = [
        replace(one, config={**one.config, "model": block}) for one, block in ((first, {"name": "n"}), (second, model))
    ]
    assert worst_over(both) == found
    with pytest.raises(ResultsError, match="the same recogniser"):
        worst_over([first, run(list(second.outcomes), model={"name": "m"})])
    with pytest.raises(ResultsError, match="the same recogniser"):  # under one name
        worst_over([replace(first, weights={"ds2": "a"}), replace(second, weights={"ds2": "b"})])
    alike = [Outcome("A", None, "A", index=0), Outcome("A", None, "B", index=1), Outcome("C", None, "C")]
    with pytest.raises(ResultsError, match="and utterances"):  # which of the two it is, nobody can tell
        worst_over([run(alike), run(alike[::-1])])
    with pytest.raises(ResultsError, match="attacked transcripts of every utterance"):
        worst_over([run([Outcome("A", "A")])])


def test_the_command_and_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(RESULTS / f"none_{name}.json") for name in ("pgd_l2", "pgd_linf", "benign")]
    assert cli.main(["metrics", *files, "--json", str(tmp_path / "m.json")]) == 0
    printed = capsys.readouterr().out
    worst_of = f"worst of {files[0]}, {files[1]} (human; ds2_base, NO DEFENCE)"
    assert f"| {worst_of} | - |" in printed
    found = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert len(found) == 4
    worst = found[worst_of]["adversarial_wer"]
    assert worst >= max(found[path]["adversarial_wer"] for path in files[:2])
    assert found[files[2]]["adversarial_wer"] is None


def test_further_measures_survive_the_files_and_older_ones_lack_them(tmp_path: Path) -> None:
    before = run([Outcome("A", "A", "B", segmental_snr_db=12.5, stoi=0.0), Outcome("C", "C", "D", stoi=0.5)])
    write_record(tmp_path / "r.json", before)
    assert read_record(tmp_path / "r.json") == before
    found = measures(before)
    assert (found["segmental_snr_db"], found["stoi"]) == (12.5, 0.25)
    content = json.loads((tmp_path / "r.json").read_text())
    for utterance in content["utterances"]:
        del utterance["stoi"]
        utterance.pop("segmental_snr_db", None)
    older = tmp_path / "older.json"
    older.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    record = read_record(older)
    assert measures(record)["stoi"] is None
    write_record(tmp_path / "again.json", record)
    assert (tmp_path / "again.json").read_text() == older.read_text()


def test_the_worst_of_targeted_attacks_is_nearest_to_the_target() -> None:
    outcomes = [
        [Outcome("A B", None, heard, target=target) for heard, target in zip(texts, ("X Y", "Z"), strict=True)]
        for texts in (("X B", "Q"), ("Q Q", "Z Z"))
    ]
    found = worst_over([run(outcomes[0], attack={"name": "a"}), run(outcomes[1], attack={"name": "b"})])
    assert found["target_wer"] == (1 + 1) / 3
    assert found["target_success"] == 0
    other = run([replace(o, target="W") for o in outcomes[1]], attack={"name": "b"})
    assert worst_over([run(outcomes[0], attack={"name": "a"}), other])["target_wer"] is None


def test_groups_of_the_same_names_in_other_folders_have_rows_of_their_own(tmp_path: Path) -> None:
    for folder, snr_db in (("weak", 40), ("strong", 10)):
        for name in ("none_pgd_l2", "none_pgd_linf"):
            before = read_record(RESULTS / f"{name}.json")
            config = {**before.config, "defense": {"name": "RandomizedSmoothing", "kwargs": {"snr_db": snr_db}}}
            write_record(tmp_path / folder / f"{name}.json", replace(before, config=config))
    assert cli.main(["metrics", str(tmp_path), "--json", str(tmp_path / "m.json")]) == 0
    rows = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert len(rows) == 6


def test_a_size_that_no_mean_can_hold_is_damage(tmp_path: Path) -> None:
    for name in ("snr_db", "l2"):
        write_record(tmp_path / "r.json", run([Outcome("A", "A", "B", **{name: 1e308}), Outcome("C", "C", "D")]))
        with pytest.raises(ResultsError, match=rf"r\.json: not a complete record: .*{name} is 1e\+308"):
            read_record(tmp_path / "r.json")


def test_parts_of_a_split_are_not_paired_by_place() -> None:
    """Without ids: the same words may be another's, where a run is not of the first utterances."""
    said = ["A", "B", "A", "B"]
    whole = run([Outcome(text, text) for text in said], dataset={"index": None})
    first, second = (run([Outcome(text, text) for text in said[:2]], dataset={"index": i}) for i in ("[:2]", [2, 3]))
    assert len(common_outcomes(whole, first)) == 2
    assert common_outcomes(whole, second) == []
