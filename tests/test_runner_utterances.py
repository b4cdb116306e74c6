"""Utterances that cannot be processed: named, left out, counted; and what other people's components give back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from art.defences.preprocessor.preprocessor import Preprocessor
from conftest import speechlike
from librispeech_folder import make_librispeech
from runner_folder import INDEX, failures, lines, strict, unsaid_length

from armory_mdnf import cli
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.audio.files import write_flac
from armory_mdnf.data import librispeech
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.selection import bundled, read_samples
from armory_mdnf.errors import AttackError, AudioError, OptionError, TranscriptError
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.records import LeftOut
from armory_mdnf.metrics.wer import count_words, word_error_rate
from armory_mdnf.runner import components
from armory_mdnf.runner.evaluate import ADVERSARIAL, BENIGN, Evaluation, case_of
from armory_mdnf.runner.lines import to_line

pytestmark = pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split")


@pytest.fixture
def root(tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LibriSpeech of five utterances, which the configuration takes all of."""
    folder = make_librispeech(tmp_path / "LibriSpeech")
    monkeypatch.setenv(librispeech.VARIABLE, str(folder))
    config["dataset"] |= {"name": "librispeech", "eval_split": "test_clean", "index": None}
    return folder / "test-clean"


def too_short(chapter: Path, path: Path) -> None:
    write_flac(path, np.zeros(100, np.float32), 16000)


def stereo(chapter: Path, path: Path) -> None:
    soundfile.write(path, np.zeros((3000, 2), np.int16), 16000, format="FLAC")


def of_another_rate(chapter: Path, path: Path) -> None:
    soundfile.write(path, np.zeros(3000, np.int16), 22050, format="FLAC")


def truncated(chapter: Path, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def of_other_audio(chapter: Path, path: Path) -> None:
    header, samples = path.read_bytes()[:42], librispeech.flac_header(path).samples
    write_flac(path, speechlike(samples, 77), 16000)
    path.write_bytes(header + path.read_bytes()[42:])


def missing(chapter: Path, path: Path) -> None:
    path.unlink()


def outside_the_alphabet(chapter: Path, path: Path) -> None:
    listing = chapter / "84-121.trans.txt"
    listing.write_text(listing.read_text().replace("DON'T GO", "d\u00f6n't 42"), encoding="utf-8")


def without_transcript(chapter: Path, path: Path) -> None:
    listing = chapter / "84-121.trans.txt"
    listing.write_text(listing.read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (too_short, "expected at least 161 samples, found 100"),
        (stereo, "expected 1 channel(s), found 2"),
        (of_another_rate, "expected 16000 Hz, found 22050"),
        (truncated, "is not a readable audio file (truncated or corrupt?)"),
        (of_other_audio, "decoded"),
        (missing, "of which there is neither .flac nor .opus"),
        (outside_the_alphabet, "line 2: expected 84-121-0000 (or so) and its words"),
        (without_transcript, "84-121-0001.flac has no transcript in 84-121.trans.txt"),
    ],
)
def test_one_bad_utterance_costs_itself_alone(
    damage: Callable[[Path, Path], None],
    reason: str,
    root: Path,
    config: dict[str, Any],
    run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = lines(run(config, "--skip-attack"))
    path = root / "84" / "121" / "84-121-0001.flac"
    damage(path.parent, path)
    capsys.readouterr()
    folder = run(config, "--skip-attack", code=3)
    out, err = capsys.readouterr()
    found = lines(folder)
    (failure,) = failures(folder).values()
    assert (failure.id, failure.file) == ("84-121-0001", str(path))
    assert reason in failure.reason
    assert {**found, failure.index: None}.keys() == whole.keys()  # positions are those of the whole split
    assert all(found[i].benign == whole[i].benign for i in found)
    for text in (out, err):
        assert f"84-121-0001 ({path}): " in text
        assert "utterance 0" not in text
    assert "4 of the split's 2620 utterances, 1 left out" in out
    assert "1 of 5 utterances are left out" in err
    record = read_armory_results(folder / "results.json")
    assert [entry.id for entry in record.left_out] == ["84-121-0001"]
    assert "84-121-0001" not in [outcome.id for outcome in record.outcomes]

    def never(self: Evaluation, batch: Any) -> Any:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(Evaluation, "__call__", never)
    assert cli.main(["run", "--resume", str(folder)]) == 3
    assert f"left out: 84-121-0001 ({path}): " in capsys.readouterr().err
    assert cli.main(["run", "--resume", str(folder), "--strict"]) == 2
    assert strict(folder / "results.json")["run"]["left_out"][0]["id"] == "84-121-0001"


def test_strict_stops_at_the_first_and_keeps_the_others(
    root: Path, config: dict[str, Any], run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "84" / "121" / "84-121-0001.flac"
    too_short(path.parent, path)
    folder = run(config, "--skip-attack", "--strict", code=2)
    assert f"--strict: 84-121-0001 ({path}): expected at least 161 samples, found 100" in capsys.readouterr().err
    assert not failures(folder)
    assert len(lines(folder)) < 5
    assert cli.main(["run", "--resume", str(folder)]) == 3
    assert len(lines(folder)) == 4


def test_a_transcript_that_its_frames_cannot_hold(
    root: Path, config: dict[str, Any], run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    listing = root / "84" / "121" / "84-121.trans.txt"
    listing.write_text(listing.read_text().replace("DON'T GO", "NO " * 100))
    config["attack"] |= {"use_label": True}
    folder = run(config, code=3)
    (failure,) = failures(folder).values()
    assert failure.id == "84-121-0001"
    assert failure.reason.startswith("transcript has 299 characters and needs 299 frames")
    assert len(lines(folder)) == 4


def test_where_nothing_can_be_processed_there_are_no_results(
    root: Path, config: dict[str, Any], run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in root.rglob("*.flac"):
        write_flac(path, np.zeros(100, np.float32), 16000)
    folder = run(config, code=2)
    assert "none of the 5 utterances could be processed; " in capsys.readouterr().err
    assert not (folder / "results.json").exists()


# What the components of others give back.


class Attack:
    """One step of nothing, but for the utterance at position 18."""

    rows = 1

    def __init__(self, spoil: Callable[[np.ndarray], Any]) -> None:
        self.spoil = spoil

    def generate(self, x: list[np.ndarray], y: Any = None, indices: Any = None) -> list[Any]:
        return [self.spoil(u) if i == 18 else u + np.float32(0.001) for i, u in zip(indices, x, strict=True)]


def with_nan(u: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(u)) == 7, np.nan, u).astype(np.float32)


def refusing(u: np.ndarray) -> np.ndarray:
    raise AttackError("the gradient of utterance 0 is not finite")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (with_nan, "attack Attack gave nan at sample 7, expected finite samples"),
        (lambda u: u[:-1], "attack Attack gave audio of shape"),
        (lambda u: u[None], "attack Attack gave audio of shape"),
        (lambda u: u.astype(np.float64), "attack Attack gave float64 samples, expected float32"),
        (lambda u: (u * 32768).astype(np.int16), "attack Attack gave int16 samples, expected float32"),
        (lambda u: None, "attack Attack gave object samples"),
        (refusing, "the gradient is not finite"),
    ],
)
def test_what_an_attack_gives_back_is_checked(weights: str, spoil: Callable[..., Any], reason: str) -> None:
    evaluation = Evaluation(RecognizerEstimator(weights, device_type="cpu"), Attack(spoil))
    found = evaluation(bundled("human", INDEX))
    (failure,) = [line for line in found if isinstance(line, LeftOut)]
    assert failure.index == 18
    assert failure.reason.startswith(reason)
    assert sorted(line.index for line in found if not isinstance(line, LeftOut)) == [13, 41]


def test_an_attack_that_gives_another_number_of_recordings(weights: str) -> None:
    class Losing(Attack):
        def generate(self, x: list[np.ndarray], y: Any = None, indices: Any = None) -> list[Any]:
            return super().generate(x, y, indices)[: 1 if 18 not in indices else -1]

    evaluation = Evaluation(RecognizerEstimator(weights, device_type="cpu"), Losing(lambda u: u))
    found = {line.index: line for line in evaluation(bundled("human", INDEX))}
    assert found[18].reason == "attack Losing gave 0 recordings for 1 utterances"
    assert not any(isinstance(found[i], LeftOut) for i in (13, 41))


class Fragile(Preprocessor):
    """A preprocessor that fails for one length of audio."""

    def __init__(self, length: int) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.length = length

    def __call__(self, x: Any, y: Any = None) -> Any:
        if any(len(u) == self.length for u in x):
            raise ZeroDivisionError("a pause")
        return x, y


def test_a_defence_that_fails_for_one_utterance(weights: str) -> None:
    chosen = bundled("human", INDEX)
    length = len(read_samples(chosen[1][1]))
    estimator = RecognizerEstimator(weights, preprocessing_defences=Fragile(length), device_type="cpu")
    evaluation = Evaluation(estimator, None, by_keys=False, theirs="defense theirs.Fragile")
    found = [line for batch in evaluation.batches(chosen, 100.0) for line in evaluation(batch)]
    (failure,) = [line for line in found if isinstance(line, LeftOut)]
    assert failure.index == 18
    assert failure.reason.startswith("defense theirs.Fragile cannot be used: ZeroDivisionError: a pause (")
    assert Path(__file__).name in failure.reason  # and the line


class Spoiling(Preprocessor):
    """A preprocessor that gives back something else for one length of audio."""

    def __init__(self, length: int, spoil: Callable[[np.ndarray], Any]) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.length, self.spoil = length, spoil

    def __call__(self, x: Any, y: Any = None) -> Any:
        return (np.stack([self.spoil(u) for u in x]) if x.shape[1] == self.length else x), y


@pytest.mark.parametrize("spoil", [with_nan, lambda u: u[:-1], lambda u: np.zeros(len(u), np.int16)])
def test_what_a_defence_of_others_gives_back_costs_one_utterance(weights: str, spoil: Callable[..., Any]) -> None:
    chosen = bundled("human", INDEX)
    defence = Spoiling(len(read_samples(chosen[1][1])), spoil)
    estimator = RecognizerEstimator(weights, preprocessing_defences=defence, device_type="cpu")
    evaluation = Evaluation(estimator, None, by_keys=False, theirs="defense theirs.Spoiling")
    found = {line.index: line for batch in evaluation.batches(chosen, 100.0) for line in evaluation(batch)}
    assert isinstance(found[18], LeftOut)
    assert "Spoiling" in found[18].reason
    assert not any(isinstance(found[i], LeftOut) for i in (13, 41))


def test_a_fault_of_this_package_is_no_fault_of_an_utterance(weights: str) -> None:
    evaluation = Evaluation(RecognizerEstimator(weights, device_type="cpu"), Attack(lambda u: u.nothing))
    with pytest.raises(AttributeError):
        evaluation(bundled("human", INDEX))


@pytest.mark.parametrize("heard", ["yes no", "Yes no", "YES nO"])
@pytest.mark.parametrize("purpose", [BENIGN, ADVERSARIAL])
def test_a_transcript_of_another_case_costs_one_utterance(
    heard: str, purpose: int, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, attacked = RecognizerEstimator(weights, device_type="cpu"), []
    predict = estimator.predict

    def written(x: list[np.ndarray], keys: Any = None, **options: Any) -> list[str]:
        found = predict(x, keys=keys, **options)
        return [heard if key == (18, purpose) else str(text) for key, text in zip(keys, found, strict=True)]

    monkeypatch.setattr(estimator, "predict", written)
    evaluation = Evaluation(estimator, Attack(lambda u: attacked.append(1) or u), case="upper")
    found = {line.index: line for line in evaluation(bundled("human", INDEX))}
    assert not any(isinstance(found[i], LeftOut) for i in (13, 41))
    assert isinstance(found[18], LeftOut)
    assert found[18].reason == f"expected a transcript in upper case as the references, found '{heard}'"
    assert bool(attacked) == (purpose == ADVERSARIAL)
    assert all(to_line(line) for line in found.values())


def test_the_case_is_that_of_all_references() -> None:
    """In data of both cases an utterance may be of one, and what is heard of it counts as it is."""
    assert [case_of(texts) for texts in (["yes no", "42"], ["A", ""], ["I", "Hello there"], ["42"])] == [
        "lower",
        "upper",
        "",
        "",
    ]
    assert count_words("OK", "ok then").errors == 2
    with pytest.raises(TranscriptError, match="one list is upper case and the other lower case"):
        word_error_rate(["OK", "I"], ["ok", "i"])


def test_a_target_of_another_case_is_refused_before_the_attack(weights: str) -> None:
    attacked: list[int] = []

    class Lower:
        def generate_at(self, indices: list[int], references: list[str]) -> list[str]:
            return [text.lower() for text in references]

    attack = Attack(lambda u: attacked.append(1) or u)
    evaluation = Evaluation(RecognizerEstimator(weights, device_type="cpu"), attack, Lower(), case="upper")
    assert all(isinstance(line, LeftOut) for line in evaluation(bundled("human", INDEX)))
    assert not attacked


def test_audio_of_other_formats_is_finite(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.where(np.arange(800) == 5, np.nan, speechlike(800)), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav: expected finite samples, found NaN"):
        read_samples(Utterance("a", path, "A", "1", 0.05))


def test_a_length_that_is_not_said_and_a_null_in_a_name_cost_one_recording(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("good", "piped"):
        write_flac(tmp_path / "data" / f"{name}.flac", speechlike(8000), 16000)
    unsaid_length(tmp_path / "data" / "piped.flac")
    rows = [{"audio": f"{name}.flac", "text": "press one"} for name in ("good", "nu\0ll", "piped")]
    path = tmp_path / "data" / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config["dataset"] |= {"name": "recordings", "eval_split": str(path), "index": None}
    folder = run(config, "--skip-attack", code=3)
    assert [line.id for line in lines(folder).values()] == ["good"]
    first, second = (failure.reason for failure in failures(folder).values())
    assert first.startswith("no audio file at ")
    assert second == "piped.flac does not say its length: write it to a file, not to a pipe"
    assert cli.main(["run", "--resume", str(folder)]) == 3


def test_every_line_of_a_run_is_strict_json(root: Path, config: dict[str, Any], run: Callable[..., Path]) -> None:
    too_short(root, root / "84" / "121" / "84-121-0001.flac")
    folder = run(config, "--skip-attack", code=3)
    for text in (folder / "utterances.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    ("index", "n", "expected"), [("[2:]", 3, [2, 3, 4]), ("[:-1]", 2, [0, 1]), ([4, 0, 4], 2, [0, 4])]
)
def test_positions_of_a_split_whose_size_nobody_knows(index: Any, n: int, expected: list[int]) -> None:
    assert components._numbers(index, n) == expected


def test_a_generator_that_gives_fewer_than_the_index_asks_for_is_refused() -> None:
    pairs = [(np.zeros((1, 16), np.float32), ["A"])] * 2
    with pytest.raises(OptionError, match=r"theirs: index \[0, 5, 900\] has 3 positions, and 2 utterances came for it"):
        components._held(pairs, "theirs", [0, 5, 900])
