"""Every key of a configuration set in turn to what does not belong there: it works, or the key is named."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_recognizer
from librispeech_folder import make_librispeech
from runner_folder import CONFIGS

from armory_mdnf import attacks, cli, defenses
from armory_mdnf.asr import estimator
from armory_mdnf.data import bundled, librispeech, selection
from armory_mdnf.errors import ArmoryMdnfError, OptionError, quoted
from armory_mdnf.plugin import attacks as adapters
from armory_mdnf.plugin.model import get_art_model
from armory_mdnf.plugin.seeding import seed_everything
from armory_mdnf.plugin.targets import MatchedLengthTargeter
from armory_mdnf.runner import command, results
from armory_mdnf.runner.config import BLOCKS, Config
from armory_mdnf.runner.evaluate import Evaluation

VALUES: tuple[Any, ...] = (
    *(None, -1, 0, 1.5, "", "x", [], {}, True, 1e29, [1], {"a": 1}, "\0", "../../x"),
    *(10**200, "\U0001f600" * 999, [[None]]),
)
# Some of each kind; what they share is tried once.
NAMES = (
    *("mg_mdnf_pgd_l2", "none_snr20", "none_cw", "mg_mdnf_eot_l2", "rs_pgd_l2", "wg_benign"),
    *("librispeech/mg_mdnf_cw_art", "librispeech/mg_mdnf_snr20_armory"),
)
Where = tuple[str | int, ...]
incomplete = pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split")


def committed(name: str) -> Config:
    return json.loads((CONFIGS / f"{name}.json").read_text())


def entries(value: Any) -> list[tuple[str | int, Any]]:
    return list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []


def paths(value: Any, at: Where = ()) -> Iterator[Where]:
    """Every place in nested objects and lists."""
    for key, inner in entries(value):
        yield (*at, key)
        yield from paths(inner, (*at, key))


def optional(config: Config) -> Iterator[Where]:
    """Keys that a configuration may have: of Armory's schema, and of the classes here that it names."""
    for block, keys in BLOCKS.items():
        yield from ((block, key) for key in keys if isinstance(config[block], dict) and key not in config[block])
    for block, home in (("attack", attacks), ("defense", defenses)):
        if config[block] and config[block]["module"] == home.__name__:
            parameters = inspect.signature(getattr(home, config[block]["name"]).__init__).parameters
            yield from ((block, "kwargs", key) for key in parameters if key not in ("self", "estimator"))


def block_of(config: Any, where: Where) -> Any:
    return functools.reduce(lambda value, key: value[key], where[:-1], config)


def places() -> dict[str, tuple[str, Where]]:
    """Every key, once for each class whose block it stands in."""
    found: dict[str, tuple[str, Where]] = {}
    for name in NAMES:
        config = committed(name)
        for where in (*paths(config), *optional(config)):
            top = config[where[0]]
            named = top.get("name") if isinstance(top, dict) else None
            found.setdefault(f"{'.'.join(map(str, where))} of {named}", (name, where))
    return found


PLACES = places()


def says_where(message: str, where: Where, value: Any) -> bool:
    """Whether a message names the block, and the key or, of a file or a class that is not there, the value."""
    if where == ("sysconfig", "index") and "sysconfig" not in message:  # the command line's, which goes into
        where = ("dataset", "index")
    *parents, key = [part for part in where if isinstance(part, str)]
    if ".".join(parents) not in message:
        return False
    shown = quoted(value)[1:-1][:20]
    named = re.search(rf"(?<![A-Za-z_]){re.escape(key)}(?![A-Za-z_])", message)
    return named is not None or (shown != "" and shown in message)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def libri(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_librispeech(tmp_path_factory.mktemp("libri") / "LibriSpeech", seconds=2.0)


Prepare = Callable[[Config | str], str | None]


@pytest.fixture
def prepare(
    weights: str, libri: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored_threads: None
) -> Prepare:
    """What the runner does with a configuration before it computes. Returns its refusal, or None."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv(librispeech.VARIABLE, str(libri))
    for module in (bundled, librispeech, selection):  # their files do not change
        monkeypatch.setattr(module, "load_split", functools.cache(module.load_split))
    monkeypatch.setattr(results, "versions", functools.cache(results.versions))
    load, made = estimator.load_recognizer, tiny_recognizer()
    monkeypatch.setattr(estimator, "load_recognizer", lambda name: made if name == weights else load(name))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluation, "batches", stop)
    args = cli.build_parser().parse_args(["run", "c.json"])

    def prepare(config: Config | str) -> str | None:
        text = config if isinstance(config, str) else json.dumps(config)
        text = re.sub(r"(librispeech/)?ds2_(base|mg|wg)(\.safetensors)?", weights, text)
        Path("c.json").write_text(text.replace("librispeech/melgan.safetensors", "melgan"))
        try:
            assert command.run(args) == command.INTERRUPTED
        except ArmoryMdnfError as error:
            return str(error)
        return None

    return prepare


@incomplete
@pytest.mark.parametrize("name", NAMES)
def test_as_committed_they_are_taken(prepare: Prepare, name: str) -> None:
    assert prepare(committed(name)) is None


@incomplete
@pytest.mark.parametrize("place", PLACES)
def test_any_value_works_or_is_refused_by_its_key(prepare: Prepare, place: str) -> None:
    name, where = PLACES[place]
    taken = []
    for value in VALUES:
        config = committed(name)
        block_of(config, where)[where[-1]] = copy.deepcopy(value)
        message = prepare(config)
        if message is None:
            taken.append(value)
        else:
            assert says_where(message, where, value), f"{value!r}: {message}"
            assert len(message) < 1000
    # A description may be any text; nothing takes everything.
    assert len(taken) < len(VALUES) - 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"eps": 1.5,', '"eps": 1.5, "eps": 0.1,', "attack.kwargs: the key 'eps' is there twice"),
        ('"eps": 1.5,', '"eps": 1e999,', "attack.kwargs.eps: the number 1e999 is too large"),
        ('"eps": 1.5,', '"eps": NaN,', "attack.kwargs.eps: NaN is no number of JSON"),
        ('"norm": 2,', '"norm": Infinity,', 'attack.kwargs.norm: Infinity is no number of JSON; write "inf" in quotes'),
        ('"human"', '"\\ud800"', "dataset.eval_split: an unpaired surrogate"),
        ('"eps": 1.5,', f'"eps": {"[" * 9000}1{"]" * 9000},', "levels of nesting"),
    ],
)
def test_what_is_not_strict_json(prepare: Prepare, old: str, new: str, message: str) -> None:
    text = (CONFIGS / "none_pgd_l2.json").read_text()
    assert old in text
    assert message in str(prepare(text.replace(old, new, 1)))


# The same through `armory run`, which calls the functions of the plugin itself.

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "seed_everything": (seed_everything, {"seed": 0, "threads": 1}),
    "get_art_model": (
        lambda model_kwargs, wrapper_kwargs, weights_file: get_art_model(model_kwargs, wrapper_kwargs, weights_file),
        {"model_kwargs": {"weights": "here"}, "wrapper_kwargs": {}, "weights_file": None},
    ),
    "get_art_model, wrapper_kwargs": (
        lambda **wrapper: get_art_model({"weights": "here"}, wrapper, None),
        {"clip_values": [-1, 1], "device_type": "cpu"},
    ),
    "MatchedLengthTargeter": (MatchedLengthTargeter, {"candidates": "bundled", "split": "human"}),
    **{
        name: (getattr(adapters, name), {"eps": 0.1, "batch_size": 1, "targeted": True, "num_iter_decrease_eps": 1})
        for name in ("CarliniWagnerASR", "ImperceptibleASR", "ImperceptibleASRPyTorch")
    },
}
CALLS["ImperceptibleASR"][1].update(window_size=2048, hop_size=512, alpha=0.1, max_iter_2=3)
CALLS["ImperceptibleASRPyTorch"][1].update(global_max_length=9000, alpha=0.1, n_fft=2048, hop_length=512)


@pytest.mark.parametrize("name", CALLS)
def test_the_plugin_takes_any_value_or_refuses_it(
    name: str, monkeypatch: pytest.MonkeyPatch, restored_threads: None, recognizer: Any
) -> None:
    load = estimator.load_recognizer
    monkeypatch.setattr(estimator, "load_recognizer", lambda name: recognizer if name == "here" else load(name))
    function, options = CALLS[name]
    first = [estimator.RecognizerEstimator(recognizer, device_type="cpu")] if hasattr(adapters, name) else []
    refused = 0
    for key in options:
        for value in VALUES:
            try:
                function(*first, **options | {key: copy.deepcopy(value)})
            except ArmoryMdnfError as error:
                refused += 1
                assert says_where(str(error), (key,), value), f"{key} = {value!r}: {error}"  # noqa: PT017
                assert len(str(error)) < 1000  # noqa: PT017
    assert refused > 5 * len(options)


def test_seeding_without_a_seed_says_so() -> None:
    with pytest.raises(OptionError, match=r"expected a seed that is a whole number .*, got None"):
        seed_everything()


@pytest.mark.armory
@pytest.mark.parametrize("function", ["bundled", "librispeech"])
@incomplete
def test_the_plugins_datasets_take_any_value_or_refuse_it(
    function: str, libri: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("armory_mdnf.plugin.datasets", reason="Armory is not installed")
    monkeypatch.setenv(librispeech.VARIABLE, str(libri))
    for module in (bundled, librispeech, selection):
        monkeypatch.setattr(module, "load_split", functools.cache(module.load_split))
    options = {"split": "human" if function == "bundled" else "test_clean", "epochs": 1, "batch_size": 1}
    refused = 0
    for key in (*options, "framework", "class_ids", "index"):
        for value in VALUES:
            try:
                getattr(datasets, function)(**options | {key: copy.deepcopy(value)})
            except ArmoryMdnfError as error:
                refused += 1
                assert says_where(str(error), (key,), value), f"{key} = {value!r}: {error}"  # noqa: PT017
    assert refused > 50
