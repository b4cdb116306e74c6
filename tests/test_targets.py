"""Target transcripts: matched in length, by the position in the split, and never out of reach."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf.asr.alphabet import Alphabet
from armory_mdnf.asr.ctc import frames_needed
from armory_mdnf.attacks.targets import candidate_pool, matched_length, normalise
from armory_mdnf.data.bundled import load_split
from armory_mdnf.data.selection import SPLITS
from armory_mdnf.errors import BundleError, OptionError, TranscriptError
from armory_mdnf.plugin import targets
from armory_mdnf.plugin.targets import MatchedLengthTargeter

TEXT = st.text("AB ", max_size=8)
WORDS = TEXT.filter(str.strip)

needs_armory = [pytest.mark.armory, pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")]


@pytest.fixture(params=["bundled", pytest.param("librispeech", marks=needs_armory)])
def candidates(request: pytest.FixtureRequest) -> str:
    return request.param


# The choice.


@given(st.lists(WORDS, min_size=1, max_size=8), TEXT, st.integers(0, 50), st.integers(0, 10))
def test_a_target_is_another_text_that_fits_and_none_is_nearer(texts, reference, index, frames):
    pool = candidate_pool(texts)

    def fits(text: str) -> bool:
        return frames_needed(text) <= frames

    able = [c for c in pool if fits(c) and c != normalise(reference)]
    if not able:
        with pytest.raises(TranscriptError, match=f"utterance {index}.*none of the {len(pool)} candidates"):
            matched_length(reference, index, pool, fits)
        return
    target = matched_length(reference, index, pool, fits)
    assert target in able
    length = len(normalise(reference))
    assert abs(len(target) - length) == min(abs(len(c) - length) for c in able)
    assert matched_length(f"  {reference} ", index, candidate_pool(reversed(texts * 2)), fits) == target


def test_ties_are_taken_in_turn_by_the_index():
    pool = candidate_pool(["CC", "AA", "BB", "LONGER", "AA"])
    assert [matched_length("XX", i, pool) for i in range(5)] == ["AA", "BB", "CC", "AA", "BB"]
    assert [matched_length(" AA\n", i, pool) for i in range(3)] == ["BB", "CC", "BB"]


def test_frames_rule_out_the_nearest():
    """AAA is nearest, but takes five frames: one between equal neighbours."""
    pool = candidate_pool(["AAA", "ABABAB", "AB"])
    assert matched_length("XXX", 0, pool, lambda text: frames_needed(text) <= 4) == "AB"
    assert matched_length("XXX", 0, pool, lambda text: frames_needed(text) <= 5) == "AAA"


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "got none"), (["A", " "], "got an empty one"), ("ABC", "expected a list of candidates, got the string")],
)
def test_candidates_are_checked(texts: Any, message: str):
    with pytest.raises(OptionError, match=message):
        candidate_pool(texts)


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(TranscriptError, match="expected a transcript as a string, got int"):
        candidate_pool([3])
    with pytest.raises(OptionError, match="whole number >= 0, got -1"):
        matched_length("A", -1, ("B",))
    with pytest.raises(TranscriptError, match="none of the 1 candidates is another text than the reference"):
        matched_length("A", 0, ("A",))
    with pytest.raises(TranscriptError, match="none of the 2 candidates is short enough"):
        matched_length("A", 0, ("A", "B"), lambda text: False)


# The targeter of the bundled splits.


@pytest.mark.parametrize("split", SPLITS)
def test_every_utterance_has_a_target_within_reach(candidates, split):
    targeter, utterances = MatchedLengthTargeter(candidates, split), load_split(*SPLITS[split])
    references = [u.transcript for u in utterances]
    found = targeter.generate(references)
    assert isinstance(found, list)
    alphabet = Alphabet()
    for target, utterance in zip(found, utterances, strict=True):
        assert target != utterance.transcript
        assert frames_needed(alphabet.encode(target)) <= utterance.duration_s / 0.02
        assert abs(len(target) - len(utterance.transcript)) <= 10
    assert len(set(found)) >= min(25, len(found) // 3)
    assert targeter.generate_at(range(len(references)), references) == found


def test_neither_batches_nor_order_change_the_targets():
    references = [u.transcript for u in load_split("human", "eval")]
    together = MatchedLengthTargeter().generate(references)
    alone = MatchedLengthTargeter()
    for i in (7, 63, 0, 7):
        assert alone.generate(np.array([references[i]])).tolist() == [together[i]]
        assert alone.generate_at([i], [references[i].encode()]) == [together[i]]


def test_recordings_of_one_text_share_a_target(monkeypatch):
    """By the first one's position, and within the shorter one's 0.2 s, which are ten frames."""
    from armory_mdnf.data.bundled import Utterance

    def split(corpus: str, part: str) -> list[Utterance]:
        rows = [("CD", 1.0), ("ABC DEF", 1.0), ("ABC DEF", 0.2)] if part == "eval" else [("A LONGER TEXT", 1.0)]
        rows += [("GH IJK", 1.0), ("LMN OP", 1.0)] if part == "dev" else []
        return [Utterance(str(i), None, text, "voice", s) for i, (text, s) in enumerate(rows)]

    monkeypatch.setattr(targets, "load_split", split)
    monkeypatch.setattr(targets, "any_split", lambda name, strict: split(name, "eval"))
    targeter = MatchedLengthTargeter()
    assert targeter.generate(["ABC DEF"] * 2) == ["LMN OP"] * 2
    assert targeter.generate_at([2, 1], ["ABC DEF"] * 2) == ["LMN OP"] * 2


def test_the_targeter_refuses():
    with pytest.raises(OptionError, match=r"unknown candidates 'bundle'.*did you mean 'bundled'"):
        MatchedLengthTargeter("bundle")
    with pytest.raises(OptionError, match=r"unknown split 'humen'.*did you mean 'human'"):
        MatchedLengthTargeter(split="humen")
    targeter = MatchedLengthTargeter()
    with pytest.raises(TranscriptError, match=r"'HELLO' is not in split 'human'.*dataset\.eval_split"):
        targeter.generate(["HELLO"])
    with pytest.raises(TranscriptError, match="at position 0 of split 'human', got 'HELLO'"):
        targeter.generate_at([0], ["HELLO"])
    with pytest.raises(TranscriptError, match="expected None at position 9999"):
        targeter.generate_at([9999], ["HELLO"])


def test_librispeech_needs_armorys_file(monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    with pytest.raises(BundleError, match="'librispeech' come with Armory, which is not installed here"):
        MatchedLengthTargeter("librispeech")


def test_a_file_that_is_not_plain_data_is_refused(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(targets, "find_spec", lambda name: Spec)
    (tmp_path / "attacks").mkdir()
    file = tmp_path / "attacks" / "librispeech_target_labels.py"
    for text in ("matched_length = ['A']", "matched_length = ground_truth_100 = open('x').read()", "matched_length ="):
        file.write_text(text)
        with pytest.raises(BundleError, match=r"expected the lists matched_length, ground_truth_100"):
            MatchedLengthTargeter("librispeech")


@pytest.mark.armory
@needs_armory[1]
def test_the_librispeech_lists_are_armorys_and_armory_is_not_loaded():
    code = (
        "import sys, json; from armory_mdnf.plugin.targets import librispeech_candidates\n"
        "print(len(librispeech_candidates()), {'armory', 'tensorflow'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.split(maxsplit=1) == ["433", "set()\n"]
    from armory.attacks import librispeech_target_labels as labels

    assert targets.librispeech_candidates() == labels.matched_length + labels.ground_truth_100


@pytest.mark.armory
@needs_armory[1]
def test_armory_loads_the_targeter():
    from armory.utils.config_loading import load_label_targeter

    block = {"module": "armory_mdnf.plugin.targets", "name": "MatchedLengthTargeter", "kwargs": {"split": "human"}}
    targeter = load_label_targeter(block)
    reference = load_split("human", "eval")[0].transcript
    assert targeter.generate(np.array([reference])).tolist() == MatchedLengthTargeter().generate([reference])
