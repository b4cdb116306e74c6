"""Recognisers, defences and attacks of one's own: what they override counts, and what they may not do is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import speechlike
from runner_folder import INDEX
from torch import Tensor, nn

from armory_mdnf import cli
from armory_mdnf.asr.alphabet import Alphabet
from armory_mdnf.asr.contract import CTCRecognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.huggingface.vocabulary import TokenVocabulary
from armory_mdnf.attacks import PGD, CarliniWagner
from armory_mdnf.attacks.evasion import RecognizerAttack
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.selection import bundled, bundled_split
from armory_mdnf.defenses import RandomizedSmoothing, WaveformDefense
from armory_mdnf.errors import AudioError, BundleError, OptionError, TranscriptError
from armory_mdnf.evaluation.records import LeftOut
from armory_mdnf.plugin.datasets import dataset
from armory_mdnf.runner.components import make_defense, make_estimator
from armory_mdnf.runner.evaluate import Evaluation, check_reference
from armory_mdnf.runner.named import files_of

GERMAN = TokenVocabulary({token: i for i, token in enumerate(["<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüß"])}, 0)
CPU = {"device_type": "cpu"}
ONE = Utterance("one", Path("one.wav"), "ONE WORD", "", 1.0)


class Toy(CTCRecognizer):
    """Two layers that nobody trained."""

    sample_rate_hz = 16000
    min_samples = 400

    def __init__(self, alphabet: Any = None) -> None:
        super().__init__()
        self.alphabet = alphabet or Alphabet()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.1 * torch.randn(len(self.alphabet), 1, 400, generator=generator))

    def out_frames(self, lengths: Tensor) -> Tensor:
        return (lengths - 400) // 160 + 1

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.conv1d(x[:, None], self.weight, stride=160).transpose(1, 2), self.out_frames(lengths)


class Told(Toy):
    """Gives what it is told to make of its logits and frames."""

    def __init__(self, change: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.change(*super().forward(x, lengths))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda logits, frames: (logits[..., :20], frames), r"float logits of shape \(\d, frames, 29\), got .* 20\)"),
        (lambda logits, frames: (logits.transpose(0, 1), frames), r"of shape \(\d, frames, 29\)"),
        (lambda logits, frames: (logits.transpose(1, 2), frames), r"of shape \(\d, frames, 29\)"),
        (lambda logits, frames: (logits[0], frames), r"of shape \(\d, frames, 29\)"),
        (lambda logits, frames: (logits.long(), frames), "got torch.int64"),
        (lambda logits, frames: logits, "expected two tensors, logits and frames"),
        (lambda logits, frames: (logits.detach().numpy(), frames), "expected two tensors, logits and frames"),
        (lambda logits, frames: (logits, frames.tolist()), "expected two tensors, logits and frames"),
        (lambda logits, frames: (logits, frames.float()), "whole numbers of frames"),
        (lambda logits, frames: (logits, frames[:0]), "whole numbers of frames"),
        (lambda logits, frames: (logits, frames + 9), "at most"),
    ],
)
def test_scores_that_would_be_taken_for_others_are_refused(change: Any, why: str) -> None:
    """A class that the head lacks has a finite loss, which torch does not check on a CPU."""
    own = estimator(Told(change))
    x = speechlike(6400).reshape(2, 3200)
    for ask in (own.predict, lambda x: own.loss_gradient(x, ["ZZ", "Z"]), lambda x: own.compute_loss(x, ["ZZ", "Z"])):
        with pytest.raises(AudioError, match=f"Told.forward: .*{why}"):
            ask(x)


def test_a_head_may_be_wider_than_its_vocabulary() -> None:
    wide = Told(lambda logits, frames: (nn.functional.pad(logits, (0, 3), value=-9.0), frames))
    assert len(estimator(wide).predict(speechlike(6400).reshape(2, 3200))) == 2


def test_labels_of_several_characters_are_no_alphabet() -> None:
    with pytest.raises(OptionError, match="alphabet of single characters"):
        Alphabet(["_", "TH", "E"])  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"tokens of one character, found 'ing' \(and 1 more\)"):
        TokenVocabulary({"<pad>": 0, "|": 1, "a": 2, "th": 3, "ing": 4, "[UNK]": 5}, 0)


@pytest.mark.parametrize("model", [nn.Linear(1, 1), None, 3])
def test_what_is_no_recogniser_is_named(model: Any) -> None:
    with pytest.raises(OptionError, match="expected a SpeechRecognizer, or a name or a path, as model, got"):
        RecognizerEstimator(model, **CPU)


class Beam(Toy):
    """Writes what it is told to, with a dot, and keeps a list of words beside its weights."""

    said: Sequence[str] = ("YES.",)

    def encode(self, transcript: str) -> Any:
        return super().encode(transcript.replace(".", ""))

    def transcripts(self, x: Tensor, lengths: Tensor) -> list[str]:
        return [self.said[i % len(self.said)] for i in range(len(x))]

    def file_checksums(self) -> dict[str, str]:
        return {"words.txt": "abc"}


def estimator(recognizer: CTCRecognizer | None = None, *defences: Any) -> RecognizerEstimator:
    return RecognizerEstimator(recognizer or Toy(), preprocessing_defences=list(defences) or None, **CPU)


X = speechlike(8000)[None]


def test_transcripts_of_its_own_are_those_that_count() -> None:
    own = estimator(Beam())
    assert own.predict(X).tolist() == ["YES."]
    _, decoded = own.compute_loss_and_decoded_output(torch.from_numpy(X), ["NO"])
    assert decoded.tolist() == ["YES."]
    assert own.is_heard("YES.", own.encode(["YES"], 1)[0])
    assert not own.is_heard("YES.", own.encode(["NO"], 1)[0])
    probabilities, frames = own.predict(X, transcription_output=False)
    assert probabilities.shape == (1, frames[0], 29)


def test_what_it_writes_and_cannot_encode_is_no_target() -> None:
    """Or else an attack that looks whether its target is heard would lose the utterance."""

    class Dotted(Beam):
        encode = Toy.encode

    own = estimator(Dotted())
    (target,) = own.encode(["YES"], 1)
    assert not own.is_heard("YES.", target)
    options = {"targeted": True, "max_iter": 1}
    for attack in (
        CarliniWagner(own, num_iter_decrease_eps=1, **options),
        PGD(own, eps=0.1, stop_on_success=True, **options),
    ):
        assert attack.generate(X, ["YES"]).shape == X.shape


def test_the_transcripts_of_several_passes_vote() -> None:
    recognizer = Beam()
    recognizer.said = ("OH NO", "YES", "YES")
    assert estimator(recognizer, RandomizedSmoothing(snr_db=30, passes=3, **CPU)).predict(X).tolist() == ["YES"]


def test_a_recognisers_own_files_are_part_of_what_a_run_is_made_of(weights: str) -> None:
    assert files_of([estimator(Beam())]) == {"words.txt": "abc"}
    assert list(files_of([RecognizerEstimator(weights, **CPU)])) == [weights]


# References.


@pytest.mark.parametrize("reference", ["YES NO", "yes no", "Yes no", " YES  NO ", "", "DON'T"])
def test_a_reference_that_the_recogniser_can_write_in_some_case(reference: str) -> None:
    check_reference(estimator(), reference)
    check_reference(estimator(Beam()), reference)


@pytest.mark.parametrize(
    ("alphabet", "reference", "why"),
    [
        (None, "YES, NO", "': character ',' of 'YES, NO' is not in the alphabet"),
        (None, "Жук", "is not in the alphabet"),
        (None, "PRESS 1", "character '1'"),
        (GERMAN, "STRAßE", "$"),  # it writes STRASSE
        (GERMAN, "straße", "$"),
        (GERMAN, "Straße", "$"),
        (GERMAN, "CAFÉ", "character 'É'"),
    ],
)
def test_a_reference_that_it_cannot_write(alphabet: Any, reference: str, why: str) -> None:
    check_reference(estimator(Toy(GERMAN)), "MÜLLER")
    with pytest.raises(TranscriptError, match=f"the recogniser cannot write its reference '.*{why}"):
        check_reference(estimator(Toy(alphabet)), reference)


def test_who_does_not_tell_is_not_asked() -> None:
    class Deaf(Toy):
        def encode(self, transcript: str) -> Any:
            raise NotImplementedError

    check_reference(estimator(Deaf()), "?")
    check_reference(object(), "?")


def test_such_an_utterance_is_left_out_before_the_attack(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[int] = []
    own = RecognizerEstimator(weights, **CPU)
    check = own.encode
    chosen = bundled("human", INDEX)
    odd = chosen[1][1].transcript

    def encode(texts: Any, n: int) -> Any:
        if odd in texts:
            raise TranscriptError("character 'É' is not in the alphabet")
        return check(texts, n)

    class Attack:
        def generate(self, x: Any, y: Any = None, indices: Any = None) -> Any:
            attacked.extend(indices)
            return x

    monkeypatch.setattr(own, "encode", encode)
    found = {line.index: line for line in Evaluation(own, Attack())(chosen)}
    assert isinstance(found[18], LeftOut)
    assert found[18].reason.startswith(f"the recogniser cannot write its reference '{odd}': character 'É'")
    assert sorted(attacked) == [13, 41]


def test_every_bundled_reference_can_be_written(weights: str) -> None:
    own = RecognizerEstimator(weights, **CPU)
    for split in ("human", "human_dev", "synthetic", "synthetic_dev"):
        for utterance in bundled_split(split):
            check_reference(own, utterance.transcript)


@dataset
def punctuated(split: str) -> list[Utterance]:
    first, *others = bundled_split("human")[:3]
    return [replace(first, transcript=f"{first.transcript}."), *others]


@pytest.mark.parametrize(
    ("listing", "why"),
    [
        (lambda split: [], "expected utterances in split 'x', found none"),
        (lambda split: {}["x"], "cannot list the utterances of 'x': KeyError"),
        (lambda split: ["a.wav"], "utterance 0 of 'x': expected an armory_mdnf.data.bundled.Utterance, found 'a.wav'"),
        (lambda split: [replace(ONE, path="a.wav")], "expected path as a pathlib.Path, found 'a.wav'"),
        (lambda split: [ONE, replace(ONE, transcript=None)], "utterance 1 of 'x': expected transcript as text"),
        (lambda split: [replace(ONE, transcript=" ")], "expected transcript as text with words, found ' '"),
        (lambda split: [replace(ONE, duration_s=None)], "expected duration_s as a number above 0, found None"),
        (lambda split: [replace(ONE, duration_s=0.0)], "expected duration_s as a number above 0, found 0.0"),
    ],
)
def test_a_list_of_ones_own_is_held_to_what_one_has_to_be(listing: Any, why: str) -> None:
    with pytest.raises(OptionError, match=f"<lambda>: .*{why}"):
        dataset(listing).choose("x")


def test_a_list_of_ones_own_may_be_any_iterable_and_name_problems() -> None:
    broken = replace(ONE, transcript="", duration_s=0.0, problem="cut off")
    assert dataset(lambda split: iter([ONE, broken])).choose("x") == [(0, ONE), (1, broken)]


def test_data_of_ones_own_are_held_to_it_by_every_command(
    config: dict[str, Any], weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config["dataset"] |= {"module": __name__, "name": "punctuated", "eval_split": "x", "index": None}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(config))
    assert cli.main(["run", str(path), "--output-dir", str(tmp_path / "out"), "--json", "--device", "cpu"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert [entry["reason"].split("'")[0] for entry in told["left_out"]] == [
        "the recogniser cannot write its reference "
    ]
    assert cli.main(["audit", str(path), "--utterances", "2", "--iterations", "1", "--device", "cpu"]) == 2
    assert f"{bundled_split('human')[0].id}: the recogniser cannot write" in capsys.readouterr().err
    sound = bundled_split("human")[0].path
    words = ["attack", str(sound), "-o", str(tmp_path / "a.wav"), "--model", weights, "--reference", "Yes, no"]
    assert cli.main([*words, "--device", "cpu"]) == 2
    assert "--reference: the recogniser cannot write its reference 'YES, NO'" in capsys.readouterr().err


def of_8_khz(model_kwargs: Any, wrapper_kwargs: Any, weights_path: Any = None) -> RecognizerEstimator:
    recognizer = Toy()
    recognizer.sample_rate_hz = 8000
    return RecognizerEstimator(recognizer, **CPU)


def test_a_recogniser_of_another_rate_is_told_the_way_on(config: dict[str, Any]) -> None:
    config["model"] |= {"module": __name__, "name": "of_8_khz", "weights_file": None}
    with pytest.raises(OptionError, match=r"hears 8000 Hz, the data are 16000: .* resamples"):
        make_estimator(config, "cpu")


def elsewhere(model_kwargs: Any, wrapper_kwargs: Any, weights_path: Any = None) -> RecognizerEstimator:
    own = estimator()
    own._device = torch.device("meta")
    return own


def test_a_recogniser_on_another_device_than_the_run_is_refused(config: dict[str, Any]) -> None:
    config["model"] |= {"module": __name__, "name": "elsewhere", "weights_file": None}
    with pytest.raises(OptionError, match=r"is on meta, the run on cpu: set model\.wrapper_kwargs\.device_type"):
        make_estimator(config, "cpu")


# Noise from the global generators.


class Drawing(WaveformDefense):
    """Noise that no stream fixes."""

    stochastic = True

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__(**CPU)  # type: ignore[arg-type]
        self.noise_of = draw

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        return x + 0.01 * self.noise_of(x)


class BuiltLate(WaveformDefense):
    """Builds a layer, whose weights are drawn, when it is first used."""

    layer: nn.Conv1d | None = None

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        self.layer = self.layer or nn.Conv1d(1, 1, 1)
        return x


class Dropping(Toy):
    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(nn.functional.dropout(x, 0.1, training=True), lengths)


class RandomStep(RecognizerAttack):
    def __init__(self, of: Any) -> None:
        super().__init__(of, False, 64.0, 0, False)

    def attack(self, batch: Any) -> Tensor:
        return (batch.x + 0.001 * torch.randn_like(batch.x)).clamp(-1, 1)


DRAWS = [
    (torch.randn_like, "the defence draws from torch's global generator"),
    (lambda x: torch.from_numpy(np.random.standard_normal(x.shape)).to(x), "the defence draws from NumPy's"),
]


@pytest.mark.parametrize("passes", [0, -1, 2.0, True])
def test_a_number_of_passes_that_is_none_is_named(passes: Any, utterances: Any) -> None:
    hearing = estimator(None, Drawing(torch.zeros_like))
    hearing.preprocessing_defences[0].num_passes = passes
    with pytest.raises(OptionError, match=r"expected Drawing.num_passes to be a whole number >= 1"):
        hearing.predict(utterances[0][None])


@pytest.mark.parametrize(("draw", "why"), DRAWS)
def test_a_defence_that_draws_globally_is_refused(draw: Any, why: str) -> None:
    evaluation = Evaluation(estimator(None, Drawing(draw)), None, theirs="defense own.Drawing")
    with pytest.raises(OptionError, match=f"{why}.*streams"):
        evaluation(bundled("human", INDEX))
    seeded = Evaluation(evaluation.estimator, None, by_keys=False, theirs="defense own.Drawing")
    assert not any(isinstance(line, LeftOut) for line in seeded(bundled("human", INDEX)[:1]))


def test_a_recogniser_or_an_attack_that_draws_globally_is_refused() -> None:
    with pytest.raises(OptionError, match="the recogniser draws from torch's"):
        Evaluation(estimator(Dropping()), None, theirs="model own.Dropping")(bundled("human", INDEX))
    own = estimator()
    with pytest.raises(OptionError, match="attack RandomStep draws from torch's"):
        Evaluation(own, RandomStep(own), theirs="attack own.RandomStep")(bundled("human", INDEX))


def test_draws_that_change_nothing_are_not() -> None:
    """Of weights, when something is first used, and of layers of transformers'."""
    recognizer = Dropping()
    recognizer.draws_idly = True
    for own in (estimator(None, BuiltLate(**CPU)), estimator(recognizer)):
        found = Evaluation(own, None, theirs="defense own.BuiltLate")(bundled("human", INDEX))
        assert not any(isinstance(line, LeftOut) for line in found)
    with pytest.raises(OptionError, match="the defence draws"):
        Evaluation(estimator(recognizer, Drawing(torch.randn_like)), None, theirs="x")(bundled("human", INDEX))


def test_runs_and_audits_say_so(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config["defense"] = {"module": __name__, "name": "Whispering", "type": "Preprocessor", "kwargs": {}}
    (tmp_path / "c.json").write_text(json.dumps(config))
    for command in (
        ("run", "--output-dir", str(tmp_path / "out")),
        ("audit", "--utterances", "2", "--iterations", "1"),
    ):
        assert cli.main([command[0], str(tmp_path / "c.json"), *command[1:], "--device", "cpu"]) == 2
        assert "the defence draws from torch's global generator" in capsys.readouterr().err


class Whispering(Drawing):
    def __init__(self) -> None:
        super().__init__(torch.randn_like)


# What neighbours in a batch must not change.


class LoudestOfAll(WaveformDefense):
    """Scales by the loudest sample of the batch."""

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        return x / x.abs().max()


class OwnNoise(WaveformDefense):
    """Noise of a generator of its own, which goes on from call to call."""

    stochastic = True
    generator = np.random.default_rng(0)

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        return x + 0.1 * torch.from_numpy(self.generator.standard_normal(x.shape)).to(x)


class OwnLoudest(WaveformDefense):
    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        return x / x.abs().amax(1, keepdim=True)


class Normalising(Toy):
    """Takes the mean over the batch, padding included."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(10 * (x - x.mean()) / x.std(), lengths)


class ByItself(Normalising):
    exact_batches = False


@pytest.mark.parametrize(
    ("model", "defence", "who"),
    [(Toy, LoudestOfAll, "the defence"), (Toy, OwnNoise, "the defence"), (Normalising, None, "the recogniser")],
)
def test_what_mixes_the_rows_of_a_batch_is_refused(model: Any, defence: Any, who: str) -> None:
    own = estimator(model(), *([defence(**CPU)] if defence else []))
    evaluation = Evaluation(own, None, theirs="x")
    with pytest.raises(OptionError, match=f"{who} .*an utterance.* beside another .* alone: it mixes the rows"):
        evaluation(bundled("human", INDEX))
    for one in bundled("human", INDEX):
        assert not any(isinstance(line, LeftOut) for line in evaluation([one]))


@pytest.mark.parametrize(
    ("model", "defence"),
    [(Toy, OwnLoudest), (Toy, RandomizedSmoothing), (ByItself, None), (ByItself, LoudestOfAll)],
)
def test_what_keeps_them_apart_is_not(model: Any, defence: Any) -> None:
    """Nor what mixes them where each utterance is heard by itself."""
    found = Evaluation(estimator(model(), *([defence(**CPU)] if defence else [])), None, theirs="x")
    assert not any(isinstance(line, LeftOut) for line in found(bundled("human", INDEX)))


def test_an_audit_refuses_it_too(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config["defense"] = {"module": __name__, "name": "LoudestOfAll", "type": "Preprocessor", "kwargs": {}}
    config["model"] = {**config["model"], "module": __name__, "name": "toy_model"}
    (tmp_path / "c.json").write_text(json.dumps(config))
    words = ("audit", str(tmp_path / "c.json"), "--utterances", "2", "--iterations", "1", "--device", "cpu")
    assert cli.main([*words]) == 2
    assert "it mixes the rows of a batch" in capsys.readouterr().err


def toy_model(model_kwargs: Any, wrapper_kwargs: Any, weights_path: Any = None) -> RecognizerEstimator:
    return estimator()


# What is changed in place, and what JSON cannot say.


def test_an_attack_that_changes_what_it_is_given_is_as_large_as_its_change() -> None:
    class InPlace:
        def generate(self, x: list[np.ndarray], y: Any = None, indices: Any = None) -> Any:
            for u in x:
                u += np.float32(0.01)
            return x

    for line in Evaluation(estimator(), InPlace())(bundled("human", INDEX)):
        assert not isinstance(line, LeftOut)
        assert line.linf == pytest.approx(0.01, rel=1e-4)  # of float32 sums of samples below 1


@pytest.mark.parametrize("name", ["LFilter", "LFilterPyTorch"])
def test_a_list_is_an_array_where_a_preprocessor_takes_no_list(name: str) -> None:
    block = {"module": "art.preprocessing.audio", "name": name, "type": "Preprocessor"}
    made = make_defense(
        block | {"kwargs": {"numerator_coef": [1, -0.5], "denominator_coef": [1, 0], "clip_values": [-1, 1]}}, "cpu"
    )
    assert made.clip_values == (-1, 1)
    (found,) = estimator(None, made).defended(X)
    expected = X[0] - 0.5 * np.concatenate([[0], X[0, :-1]])
    np.testing.assert_allclose(found, expected.clip(-1, 1), atol=1e-6)
