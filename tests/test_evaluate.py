"""An evaluation in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from conftest import speechlike

from armory_mdnf import cli
from armory_mdnf.commands import blocks
from armory_mdnf.evaluation.comparison import read_run
from armory_mdnf.runner.config import check_config

CONFIGS = Path(__file__).parents[1] / "scenario_configs"


@pytest.fixture
def written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Write a configuration and run nothing. Returns it."""

    def write(*words: object) -> Any:
        path = tmp_path / "c.json"
        path.unlink(missing_ok=True)
        options = ["--device", "cpu", "--config", str(path), "--only-write"]
        assert cli.main(["evaluate", *map(str, words), *options]) == 0
        assert capsys.readouterr().out == f"configuration: {path}\n"
        config = json.loads(path.read_text())
        check_config(config)
        return config

    return write


def test_the_configuration_is_that_of_the_table(written: Any) -> None:
    made = written("--defense", "mg_mdnf", "--attack", "pgd-l2", "--eps", "1.5", "--eot", "5", "--limit", "10")
    shipped = json.loads((CONFIGS / "mg_mdnf_eot_l2.json").read_text())
    shipped["user_init"]["kwargs"].pop("threads")
    shipped["defense"] = blocks.defense_block("mg_mdnf")  # tests/test_commands.py holds these against configurations
    shipped["model"]["model_kwargs"]["weights"] = blocks.model_for(None, "mg_mdnf")
    assert shipped["attack"]["kwargs"].pop("eps_step") == 0.3  # a fifth of eps, the default
    assert {k: v for k, v in made.items() if k != "_description"} == {
        k: v for k, v in shipped.items() if k != "_description"
    }


def test_targets_are_of_the_same_data(written: Any) -> None:
    made = written("--attack", "pgd-snr", "--snr-db", "30", "--targeted", "--data", "synthetic_dev")
    shipped = json.loads((CONFIGS / "none_snr30.json").read_text())["attack"]
    shipped["targeted_labels"]["kwargs"]["split"] = "synthetic_dev"
    shipped["kwargs"]["eot_draws"] = 1
    assert made["attack"] == shipped
    assert written("--attack", "cw")["attack"]["targeted_labels"]["kwargs"]["split"] == "human"


def test_no_attack_is_what_armory_skips(written: Any) -> None:
    made = written("--attack", "none", "--seed", "7", "--defense", "rs")
    assert made["sysconfig"]["skip_attack"] is True
    assert made["attack"]["kwargs"]["max_iter"] == 0
    assert made["user_init"]["kwargs"] == {"seed": 7}
    assert made["defense"]["kwargs"]["seed"] == 7


def test_names_of_data_and_models(written: Any, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = written("--data", "test-clean", "--model", "hf:some/model")
    assert (made["dataset"]["name"], made["dataset"]["eval_split"]) == ("librispeech", "test-clean")
    assert made["model"]["model_kwargs"] == {"weights": "hf:some/model"}
    monkeypatch.chdir(Path(weights).parent)
    assert written("--model", Path(weights).name)["model"]["model_kwargs"] == {"weights": weights}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--attack", "none", "--eps", "1"], "--eps has no effect with --attack none"),
        (["--attack", "none", "--eot", "2"], "--eot has no effect with --attack none"),
        (["--data", "humann"], "neither a path that exists nor one of human"),
        (["--limit", "0"], "--limit: expected a whole number >= 1, got 0"),
        (["--defense", "x"], "unknown defence 'x'"),
        (["--attack", "x"], "unknown attack 'x'"),
        (["--steps", "-3"], "--steps: expected a whole number >= 0, found -3"),
        (["--eot", "0"], "--eot: expected a whole number >= 1, found 0"),
        (["--eps", "nan"], "--eps: expected a finite number of at least 0, found nan"),
        (["--eps", "-1"], "--eps: expected a finite number of at least 0, found -1.0"),
        (["--attack", "pgd-snr", "--snr-db", "inf"], "--snr-db: expected a finite number, found inf"),
    ],
)
def test_what_is_refused(words: list[str], why: str, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["evaluate", *words, "--output-dir", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_own_recordings_from_one_line(tmp_path: Path, weights: str, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a", "b"):
        soundfile.write(folder / f"{name}.wav", speechlike(22050, seed=ord(name)), 22050)
        (folder / f"{name}.txt").write_text("Some words.")
    soundfile.write(folder / "c.wav", speechlike(8000), 16000)
    words = ["evaluate", "--model", weights, "--data", "mine", "--steps", "2", "--eps", "0.1", "--defense", "rs"]
    assert cli.main([*words, "--json", "--device", "cpu"]) == 3  # one has no transcript
    told = json.loads(capsys.readouterr().out)
    assert told["utterances"] == 2
    assert told["left_out"][0]["id"] == "c"
    run = read_run(told["results"])
    assert [outcome.reference for outcome in run.outcomes] == ["SOME WORDS"] * 2
    assert run.split == str(folder)
    assert told["wer"]["adversarial"]["value"] == run.rate("adversarial")
    assert told["wer"]["target"] is None
    again = ["run", told["config"], "--output-dir", "again"]
    assert cli.main(again) == 3  # the configuration is no dead end
    (results,) = Path("again").glob("*/results.json")
    assert read_run(results).outcomes == run.outcomes


# Names, and what is there already.


def only_write(folder: Path, *words: object) -> int:
    return cli.main(["evaluate", *map(str, words), "--device", "cpu", "--only-write", "--output-dir", str(folder)])


PLAIN = ("--attack", "pgd-l2", "--model", "hf:some/model.en")


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ((), "none_pgd-l2_human_model.en"),
        (("--eps", 0.5), "none_pgd-l2_human_model.en_eps0.5"),
        (("--steps", 7, "--eot", 5), "none_pgd-l2_human_model.en_steps7_eot5"),
        (("--seed", 3, "--limit", 2), "none_pgd-l2_human_model.en_limit2_seed3"),
        (("--targeted", "--model", "x/y"), "none_pgd-l2_human_y_targeted"),
    ],
)
def test_every_option_gives_another_name(others: tuple[object, ...], name: str, tmp_path: Path) -> None:
    assert only_write(tmp_path, *PLAIN, *others) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.json"]


def test_nothing_that_differs_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert only_write(tmp_path, *PLAIN) == 0
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    assert only_write(tmp_path, *PLAIN) == 0  # the same
    edited = before.replace(b'"max_iter": 100', b'"max_iter": 50')
    path.write_bytes(edited)
    assert edited != before
    assert only_write(tmp_path, *PLAIN) == 2
    assert f"{path} is there and differs: --config FILE.json takes another name" in capsys.readouterr().err
    assert path.read_bytes() == edited
    assert only_write(tmp_path, *PLAIN, "--config", tmp_path / "other.json") == 0
    assert (tmp_path / "other.json").read_bytes() == before


QUICK = ("--attack", "pgd-l2", "--steps", "1", "--limit", "2", "--device", "cpu", "--json")


def test_a_run_beside_it_is_not_mistaken_for_its_own(
    tmp_path: Path, weights: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cli._run

    def two_runs(args: Any, about: Any) -> int:
        for name in ("a", "z"):
            (tmp_path / f"{name}_of_another").mkdir()
        print("a component speaks")
        return run(args, about)

    monkeypatch.setattr(cli, "_run", two_runs)
    assert cli.main(["evaluate", "--model", weights, *QUICK, "--output-dir", str(tmp_path)]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert Path(found["results"]).parent.name.startswith(Path(found["config"]).stem)
    assert len(read_run(found["results"]).outcomes) == found["utterances"] == 2
    assert "a component speaks" in told.err


def test_quiet(tmp_path: Path, weights: str, capsys: Any) -> None:
    words = ["evaluate", "--model", weights, *QUICK, "--output-dir", str(tmp_path)]
    assert cli.main(words) == 0
    assert "batch 1/" in capsys.readouterr().err
    assert cli.main([*words, "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert json.loads(told.out)["utterances"] == 2
