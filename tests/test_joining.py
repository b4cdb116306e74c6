"""Parts of a run, made on other days, become one record; what are no parts of one run is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner_folder import CONFIGS

from armory_mdnf import cli
from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.joining import joined
from armory_mdnf.evaluation.records import LeftOut, RunRecord, read_record, write_record

RESULTS = CONFIGS.parent / "results"
WHOLE = RESULTS / "librispeech" / "whisper_rs_snr40.json"


def part(run: RunRecord, which: slice) -> RunRecord:
    """A run of some of the utterances. A record has them in the order of their positions."""
    index = run.config["dataset"]["index"][which]
    return replace(
        run,
        outcomes=run.outcomes[which],
        config={**run.config, "dataset": {**run.config["dataset"], "index": index}},
        changed={**run.changed, "dataset.index": [run.changed["dataset.index"][0], index]},
        chosen=len(index),
        seconds={key: value / 2 for key, value in run.seconds.items()},
    )


def test_the_parts_of_a_run_make_it_whole_again() -> None:
    run = read_record(WHOLE)
    assert joined({"a": part(run, slice(6)), "b": part(run, slice(6, None))}) == run


def test_an_utterance_of_two_parts_is_the_first_ones() -> None:
    run = read_record(WHOLE)
    again = tuple(replace(outcome, adversarial="OTHER") for outcome in run.outcomes)
    found = joined({"a": part(run, slice(6)), "b": part(replace(run, outcomes=again), slice(4, None))})
    assert found.outcomes == run.outcomes[:6] + again[6:]
    assert found.chosen == len(run.outcomes)
    assert found.config["dataset"]["index"] == run.config["dataset"]["index"]


def test_the_whole_has_its_utterances_in_the_order_of_their_positions() -> None:
    run = read_record(WHOLE)
    odd, even = part(run, slice(1, None, 2)), part(run, slice(0, None, 2))
    assert joined({"a": odd, "b": even}) == run
    left_out = replace(odd, outcomes=odd.outcomes[1:], left_out=(LeftOut(str(odd.outcomes[0].id), "x", "broken"),))
    found = joined({"a": left_out, "b": even})  # which position the one that is left out has, nobody knows
    assert found.outcomes == left_out.outcomes + even.outcomes
    assert found.left_out == left_out.left_out


def test_what_one_part_left_out_and_another_has_is_in_its_place() -> None:
    run = read_record(WHOLE)
    first, second = part(run, slice(3)), part(run, slice(1, 5, 2))  # 0, 1, 2 and 1, 3
    first = replace(
        first,
        outcomes=(first.outcomes[0], first.outcomes[2]),
        left_out=(LeftOut(str(first.outcomes[1].id), "x", "broken"),),
    )
    for runs in ({"a": first, "b": second}, {"b": second, "a": first}):
        found = joined(runs)
        assert found.outcomes == run.outcomes[:4]
        assert not found.left_out
        assert joined({"ab": found, "c": part(run, slice(4, None))}).outcomes == run.outcomes


def test_the_kept_records_of_a_split_have_one_order() -> None:
    seen: list[str] = []
    for path in sorted(WHOLE.parent.glob("*.json")):
        ids = [str(outcome.id) for outcome in read_record(path).outcomes]
        common = set(ids) & set(seen)
        assert [i for i in ids if i in common] == [i for i in seen if i in common], path.name
        seen = ids if len(ids) > len(seen) else seen


def test_a_block_without_options_has_no_seed_to_compare() -> None:
    run = read_record(WHOLE)
    bare = replace(run, config={**run.config, "defense": None, "user_init": {"module": "m", "kwargs": None}})
    assert joined({"a": part(bare, slice(6)), "b": part(bare, slice(6, None))}) == bare


def test_versions_that_differ_are_all_named() -> None:
    run = read_record(WHOLE)
    newer = replace(part(run, slice(6, None)), versions={**run.versions, "torch": "9.0"}, timestamp=2_000_000_000)
    found = joined({"a": part(run, slice(6)), "b": newer})
    assert found.versions == {**run.versions, "torch": f"{run.versions['torch']}, 9.0"}
    assert found.timestamp == 2_000_000_000


def edited(run: RunRecord, block: str, **values: Any) -> RunRecord:
    kwargs = {**(run.config[block].get("kwargs") or {}), **values}
    return replace(run, config={**run.config, block: {**run.config[block], "kwargs": kwargs}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: edited(run, "attack", max_iter=5), "they differ in attack.kwargs.max_iter"),
        (lambda run: edited(run, "user_init", seed=3), "they differ in user_init.kwargs.seed"),
        (lambda run: edited(run, "defense", seed=3), "they differ in defense.kwargs.seed"),
        (lambda run: replace(run, weights={"whisper_ctc": "other"}), "they differ in weights"),
        (lambda run: replace(run, device="tpu"), "they differ in device"),
        (lambda run: replace(run, flags={"skip_benign": True}), "they differ in flags"),
        (lambda run: replace(run, split_size=3), "they differ in split_size"),
        (lambda run: replace(run, changed={**run.changed, "attack.x": [1, 2]}), "they differ in changed.attack.x"),
        (
            lambda run: replace(run, config={**run.config, "dataset": {**run.config["dataset"], "index": "[:3]"}}),
            r"b: dataset.index: expected a list of positions, as a part of a split has, found '\[:3\]'",
        ),
        (
            lambda run: replace(run, config={k: v for k, v in run.config.items() if k != "dataset"}),
            "they differ in dataset",
        ),
        (lambda run: replace(run, outcomes=(replace(run.outcomes[0], id=None),)), "b: expected utterances with their"),
    ],
)
def test_what_are_no_parts_of_one_run_is_named(change: Callable[[RunRecord], RunRecord], words: str) -> None:
    run = read_record(WHOLE)
    with pytest.raises(ResultsError, match=words):
        joined({"a": part(run, slice(6)), "b": change(part(run, slice(6, None)))})


def test_parts_of_two_devices_are_joined_where_that_is_asked_for() -> None:
    run = read_record(WHOLE)
    parts = {
        "a": part(run, slice(6)),
        "b": replace(part(run, slice(4, 8)), device="tpu"),
        "c": part(run, slice(8, None)),
    }
    found = joined(parts, any_device=True)
    assert found.device == run.device
    assert found.elsewhere == {outcome.id: "tpu" for outcome in run.outcomes[6:8]}
    assert found.outcomes == run.outcomes
    again = joined({"first": found, "second": part(run, slice(5))}, any_device=True)  # it knows what it was joined of
    assert (again.outcomes, again.elsewhere) == (found.outcomes, found.elsewhere)
    other_way = joined({"second": part(run, slice(5, 7)), "first": found}, any_device=True)
    assert other_way.elsewhere == {run.outcomes[7].id: "tpu"}
    with pytest.raises(ResultsError, match="c: expected the device of the run, found none"):
        joined(parts | {"c": replace(parts["c"], device=None)}, any_device=True)
    with pytest.raises(ResultsError, match="they differ in flags"):
        joined(parts | {"c": replace(parts["c"], flags={"skip_benign": True})}, any_device=True)


def test_the_command_joins_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = read_record(WHOLE)
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, which in zip(files, (slice(6), slice(6, None)), strict=True):
        write_record(file, part(run, which))
    out = tmp_path / "results" / WHOLE.name
    words = ["record", str(out), str(files[0]), "--add", str(files[1])]
    assert cli.main(words) == 2
    assert "the run is not the whole of whisper_rs_snr40" in capsys.readouterr().err
    assert cli.main([*words, "--partial"]) == 0
    found = read_record(out)
    assert found.outcomes == run.outcomes
    assert found.config == run.config
    write_record(files[1], replace(part(run, slice(6, None)), device="tpu"))
    assert cli.main([*words, "--partial"]) == 2
    assert f"{files[1]} and {files[0]} are no parts of one run: they differ in device" in capsys.readouterr().err
    assert cli.main([*words, "--partial", "--any-device"]) == 0
    assert read_record(out).elsewhere == {outcome.id: "tpu" for outcome in run.outcomes[6:]}
    assert read_record(out).device == run.device


def test_a_run_without_data_is_no_part() -> None:
    run = read_record(WHOLE)
    bare = replace(run, config={key: block for key, block in run.config.items() if key != "dataset"})
    with pytest.raises(ResultsError, match=r"a: dataset.index: expected a list of positions"):
        joined({"a": bare, "b": bare})
