"""`make demo`: two runs of Armory, a line each, and their comparison. A stand-in plays Armory here."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner_folder import CONFIGS
from test_summary import armory_content

from armory_mdnf import cli
from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation import comparison
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.names import defence_label
from armory_mdnf.evaluation.records import read_record, write_record
from armory_mdnf.metrics.wer import count_words

ROOT = Path(__file__).parents[1]
NONE, MDNF = CONFIGS / "none_pgd_l2.json", CONFIGS / "mg_mdnf_pgd_l2.json"
words = st.lists(st.sampled_from(["A", "B", "PRESS", "ONE"]), max_size=7).map(" ".join)

# Writes results as Armory does, between its log on standard output and its progress bar on standard error.
STAND_IN = """
    #!{python}
    import json, os, sys, time
    from pathlib import Path
    command, config, *flags = sys.argv[1:]
    assert command == "run"
    config = json.loads(Path(config).read_text())
    flags = dict(zip(flags[::2], flags[1::2]))
    n = int(flags["--num-eval-batches"])
    print("2026-01-01 00:00:00 1s \\x1b[1mINFO    \\x1b[0m armory:main:1 a line of the log", flush=True)
    for i in range(n + 1):
        sys.stderr.write(f"\\rEvaluation:  50%|xxx  | {{i}}/{{n}} [00:00<00:00,  1.00it/s]")
        sys.stderr.flush()
    print()
    {does}
    content = json.loads(Path({content!r}).read_text())
    content["config"] |= {{"defense": config["defense"], "attack": config["attack"]}}
    folder = Path.home() / ".armory" / "outputs" / str(time.time())
    folder.mkdir(parents=True)
    (folder / "r.json").write_text(json.dumps(content))
"""


@pytest.fixture
def demo(tmp_path: Path):
    """Run tools/demo.py with a stand-in that also does what it is told."""

    def demo(does: str = "pass", *flags: str, configs: tuple[Path, Path] = (NONE, MDNF)) -> subprocess.CompletedProcess:
        (tmp_path / "content.json").write_text(json.dumps(armory_content()))
        armory = tmp_path / "armory"
        text = textwrap.dedent(STAND_IN).strip()
        armory.write_text(text.format(python=sys.executable, does=does, content=str(tmp_path / "content.json")))
        armory.chmod(0o755)
        command = [
            sys.executable,
            ROOT / "tools" / "demo.py",
            "--armory",
            armory,
            "--utterances",
            "2",
            "--page",
            tmp_path / "pages" / "demo.html",
            *configs,
            *flags,
        ]
        environment = os.environ | {"HOME": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)

    return demo


def test_one_line_per_run_and_then_both_side_by_side(demo, tmp_path: Path) -> None:
    done = demo()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    told = [" ".join(line.split()[:-1]) for line in lines[:2]]
    assert told == ["NO DEFENCE 2 of 2 utterances, done", "MG-MDNF 2 of 2 utterances, done"]
    assert lines[3].split() == ["word", "error", "rate,", "%", "NO", "DEFENCE", "MG-MDNF"]
    assert done.stdout.count("[DRESS] [WON]") == 2
    assert "rests on 4 words in 2 utterances" in done.stdout
    assert "a line of the log" not in done.stdout
    assert "\x1b" not in done.stdout
    assert [line.split()[0] for line in lines[-3:]] == ["results", "results", "page"]
    page = Path(lines[-1].split(maxsplit=1)[1])
    assert page == tmp_path / "pages" / "demo.html"
    html = page.read_text(encoding="utf-8")
    assert "MG-MDNF" in html
    assert "DRESS" in html


def test_further_flags_go_to_armory_and_win(demo) -> None:
    assert "1 of 1 utterances" in demo("pass", "--num-eval-batches", "1").stdout


def test_make_hands_over_what_it_is_told() -> None:
    told = ["UTTERANCES=2", f"CONFIG={MDNF}", "ARMORY_FLAGS=--index 0"]
    # Called by another make (`make test`), it would also say which folder it enters and leaves.
    made = subprocess.run(
        ["make", "-n", "--no-print-directory", "demo", *told], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    words = made.replace("\\\n", " ").split("tools/demo.py")[1].split()
    assert words[2:] == ["--utterances", "2", "scenario_configs/none_pgd_l2.json", str(MDNF), "--index", "0"]


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("sys.exit('ModuleNotFoundError: no module named x')", "armory run ended with exit code 1"),
        ("print('stopped by hand'); sys.exit(0)", "no results in"),
    ],
)
def test_a_run_without_results_shows_what_armory_said(demo, does: str, reason: str) -> None:
    done = demo(does)
    assert done.returncode == 1
    for part in ("a line of the log", "no module named x" if "Module" in does else "stopped by hand", reason):
        assert part in done.stderr
    assert "MG-MDNF" not in done.stdout
    assert "Traceback" not in done.stderr


def test_results_of_an_earlier_run_are_not_taken_for_this_ones(demo) -> None:
    assert demo().returncode == 0
    done = demo("sys.exit(0)")
    assert done.returncode == 1
    assert "no new results" in done.stderr


def test_an_error_of_armorys_is_shown_though_the_run_goes_on(demo) -> None:
    done = demo('print("2026-01-01 00:00:00 3s \\x1b[31mERROR   \\x1b[0m armory:x:1 the disk is odd")')
    assert done.returncode == 0
    assert done.stderr == 2 * "2026-01-01 00:00:00 3s ERROR    armory:x:1 the disk is odd\n"  # once per run


def test_a_file_that_is_no_configuration_is_named(demo, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    done = demo(configs=(NONE, tmp_path / "x.json"))
    assert done.returncode == 2
    assert f"{tmp_path / 'x.json'}: not a configuration" in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_terminal_the_line_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(module.time, "monotonic", lambda: 7.0)
    line = module.Line("MG-MDNF")
    line.show()
    line.done, line.of = 1, 3
    line.show()
    line.end("done")
    shown = screen.getvalue().split("\r\x1b[K")
    assert [text.split("  ")[-1].strip() for text in shown[1:]] == ["0:00"] * 3
    assert "starting Armory" in shown[1]
    assert "attacking utterance 2 of 3" in shown[2]
    assert screen.getvalue().count("\n") == 1


# The comparison.


@given(words, words)
def test_there_are_as_many_marks_as_word_errors(reference: str, heard: str) -> None:
    marked = comparison.mark_words(reference, heard)
    assert marked.count("[") == count_words(reference, heard).errors
    plain = [word.strip("[]") for word in marked.split()]
    assert [word for word in plain if word != "-"] == heard.split()
    coloured = comparison.mark_words(reference, heard, colour=True)
    assert coloured.replace(comparison.COLOUR, "").replace(comparison.PLAIN, "") == marked


def test_the_marks_are_where_the_words_differ() -> None:
    assert comparison.mark_words("PRESS ONE NOW", "PRESS WON NOW") == "PRESS [WON] NOW"
    assert comparison.mark_words("PRESS ONE NOW", "PRESS NOW") == "PRESS [-] NOW"
    assert comparison.mark_words("PRESS NOW", "PRESS IT NOW") == "PRESS [IT] NOW"
    assert comparison.mark_words("PRESS NOW", "") == "[-] [-]"


@pytest.mark.parametrize(
    ("stem", "label"),
    [
        ("none_pgd_l2", "NO DEFENCE"),
        ("rs_pgd_l2", "RS"),
        ("mg_pgd_l2", "MG"),
        ("mg_mdnf_pgd_l2", "MG-MDNF"),
        ("wg_pgd_l2", "WG"),
        ("wg_mdnf_pgd_l2", "WG-MDNF"),
    ],
)
def test_defences_have_the_papers_names(stem: str, label: str) -> None:
    assert defence_label(json.loads((CONFIGS / f"{stem}.json").read_text())) == label


def test_a_vocoder_from_a_file_leaves_the_class_name() -> None:
    block = {"name": "MDNF", "kwargs": {"vocoder": "my.safetensors"}}
    assert defence_label({"defense": block}) == "MDNF"


@pytest.fixture
def runs(tmp_path: Path):
    """Two runs, of which the second understood one more word under attack and one fewer without."""
    contents = [armory_content(), copy.deepcopy(armory_content())]
    for content, defence in zip(contents, (None, {"name": "MDNF", "kwargs": {"vocoder": "x"}}), strict=True):
        content["config"] |= {"defense": defence, "attack": {"name": "PGD", "kwargs": {"eps": 1.5}}}
    changed = contents[1]["results"]
    changed["adversarial_transcripts"][0]["utterances"][0]["hypothesis"] = "PRESS WON"
    changed["benign_transcripts"][0]["utterances"][0]["hypothesis"] = "PRESS WON"
    changed["adversarial_total_wer"] = changed["benign_total_wer"] = [[0.5, [2, 4]]]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.json").write_text(json.dumps(content))
    return [read_armory_results(tmp_path / f"{i}.json") for i in range(2)]


def test_the_comparison_says_what_the_numbers_mean(runs) -> None:
    text = comparison.side_by_side(*runs)
    for part in (
        "25.0 (1 of 4)           50.0 (2 of 4)",
        "75.0 (3 of 4)           50.0 (2 of 4)",
        "Under attack, MDNF has 1 error fewer than NO DEFENCE; of 4 words said, 1 fewer is wrong or missing.",
        "Benign, it has 1 error more than NO DEFENCE: that is its cost",
        "4 words in 2 utterances, one word being 25.0 points",
    ):
        assert part in text
    assert "NO DEFENCE has 1 error more than MDNF" in comparison.side_by_side(*runs[::-1])
    same = comparison.side_by_side(runs[0], runs[0])
    assert "NO DEFENCE (2) has as many errors as NO DEFENCE (1); of 4 words said, as many are wrong or missing." in same


def test_an_attack_that_changed_nothing_is_no_defence(runs) -> None:
    first, second = runs
    still = tuple(replace(o, l2=0.0, linf=0.0, snr_db=None) for o in second.outcomes)
    text = comparison.side_by_side(first, replace(second, outcomes=still))
    assert "changed no sample of any utterance (l2 0), as one of no steps does, or one whose gradient is zero" in text
    moved = (still[0], replace(still[1], l2=1.0))
    assert "changed no sample" not in comparison.side_by_side(first, replace(second, outcomes=moved))


def test_runs_of_which_some_were_not_attacked_are_refused(runs) -> None:
    first, second = runs
    half = (second.outcomes[0], replace(second.outcomes[1], adversarial=None))
    with pytest.raises(ResultsError, match="1 of 2 utterances have adversarial transcripts"):
        comparison.side_by_side(first, replace(second, outcomes=half))


def test_distances_to_other_targets_are_not_subtracted(runs) -> None:
    one, other = (
        replace(run, outcomes=tuple(replace(o, target=t) for o in run.outcomes))
        for run, t in zip(runs, "AB", strict=True)
    )
    assert comparison.paired(one, one)["difference"]["target"]["value"] == 0
    assert comparison.paired(one, other)["difference"]["target"] is None


def test_words_that_nobody_said_are_told_from_those_that_were_lost(runs) -> None:
    first, second = runs
    loud = replace(second.outcomes[0], adversarial="X Y Z " * 40)
    text = comparison.side_by_side(first, replace(second, outcomes=(loud, *second.outcomes[1:])))
    (line,) = [line for line in text.splitlines() if line.startswith("Under attack, MDNF")]
    assert int(line.split(" has ")[1].split()[0]) > 100
    assert line.endswith(" more than NO DEFENCE; of 4 words said, as many are wrong or missing.")
    kept = comparison.paired(first, second)["difference"]["adversarial_wrong_or_missing"]
    assert kept["utterances"] == 2
    assert kept["value"] == 1 / 4


def test_the_order_of_a_record_does_not_matter(runs) -> None:
    first, second = runs
    turned = replace(second, outcomes=second.outcomes[::-1])
    assert comparison.side_by_side(first, turned) == comparison.side_by_side(first, second)
    assert comparison.paired(first, turned)["difference"] == comparison.paired(first, second)["difference"]


def test_an_interval_is_told_of_enough_utterances_only(runs) -> None:
    assert "95 %" not in comparison.side_by_side(*runs)
    several = [replace(run, outcomes=run.outcomes * 5) for run in runs]
    assert "NO DEFENCE less MDNF is expected from" in comparison.side_by_side(*several)
    assert "95 %" not in comparison.side_by_side(several[0], several[0])  # no utterance tells how others would differ


def test_what_a_terminal_would_obey_is_not_printed(runs) -> None:
    outcomes = tuple(replace(o, adversarial="A\x1b[2J B") for o in runs[0].outcomes)
    assert "\x1b" not in comparison.side_by_side(replace(runs[0], outcomes=outcomes), runs[1])


def test_runs_that_cannot_be_compared_are_refused(runs) -> None:
    first, second = runs
    other = tuple(replace(o, reference="SOMETHING ELSE") for o in second.outcomes)
    with pytest.raises(ResultsError, match="same utterances: number 1 is 'PRESS ONE' in 0 and 'SOMETHING ELSE' in 1"):
        comparison.side_by_side(first, replace(second, outcomes=other))
    with pytest.raises(ResultsError, match="same utterances: number 2 is 'HELLO THERE' in 0 and nothing in 1"):
        comparison.side_by_side(first, replace(second, outcomes=second.outcomes[:1]))
    stronger = dict(second.config) | {"attack": {"name": "PGD", "kwargs": {"eps": 3.0}}}
    with pytest.raises(ResultsError, match=r"attack\.kwargs\.eps is 1\.5 in 0 and 3\.0 in 1"):
        comparison.side_by_side(first, replace(second, config=stronger))
    longer = dict(second.config) | {"attack": {"name": "PGD", "kwargs": {"eps": 1.5, "max_iter": 7}}}
    with pytest.raises(ResultsError, match=r"attack\.kwargs\.max_iter is not there in 0 and 7 in 1"):
        comparison.side_by_side(first, replace(second, config=longer))
    benign = tuple(replace(o, adversarial=None) for o in first.outcomes)
    with pytest.raises(ResultsError, match="found no attacked transcripts"):
        comparison.side_by_side(replace(first, outcomes=benign), second)


def test_two_gradients_are_two_attacks() -> None:
    """Others' attacks follow that of the estimator, which their own block does not say."""
    exact = read_record(ROOT / "results" / "human" / "mg_mdnf_pgd_l2.json")
    model = {**exact.config["model"], "wrapper_kwargs": {"gradient": "published"}}
    published = replace(exact, name="p", config={**exact.config, "model": model})
    for compared in (comparison.side_by_side, comparison.paired):
        with pytest.raises(ResultsError, match="the gradient is 'exact' in mg_mdnf_pgd_l2 and 'published' in p"):
            compared(exact, published)
        assert compared(published, published)


def test_how_an_attack_is_computed_makes_it_no_other(runs) -> None:
    first, second = runs
    block = second.config["attack"]
    kwargs = block["kwargs"] | {"verbose": True, "batch_seconds": 8.0, "seed": 3, "gradient": "exact"}
    moved = replace(second, config=dict(second.config) | {"attack": block | {"kwargs": kwargs}})
    assert comparison.side_by_side(first, moved) == comparison.side_by_side(first, second)


def test_the_command_takes_results_and_records(runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "record.json", runs[1])
    assert cli.main(["compare", str(tmp_path / "0.json"), str(tmp_path / "record.json")]) == 0
    assert capsys.readouterr().out.strip() == comparison.side_by_side(*runs).strip()
    assert cli.main(["compare", str(tmp_path / "0.json"), str(tmp_path / "record.json"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["first"]["results"] == str(tmp_path / "0.json")
    counts = [told[which]["counts"]["adversarial"] for which in ("first", "second")]
    assert told["difference"]["adversarial"]["value"] == (counts[0][0] - counts[1][0]) / counts[0][1]
    assert told["difference"]["target"] is None
    assert cli.main(["compare", str(tmp_path / "0.json"), str(tmp_path / "none.json")]) == 2
    assert "no results file at" in capsys.readouterr().err
