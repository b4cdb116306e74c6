"""What a run was, in words that come from the run: not from the name or the description of its file.

The configurations that this project ships, the cells of its tables, are known by name (``cells.json``, which
``tools/make_configs.py`` writes). A run that bears the name of a cell is held against it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.identity import identity, identity_of, without_defaults
from armory_mdnf.evaluation.records import RunRecord
from armory_mdnf.files.provenance import leaves
from armory_mdnf.files.strict_json import readable

# What a run may have other than its cell: where and how it is computed, and the split, which every table names.
INCIDENTAL = (
    *("attack.kwargs.batch_size", "attack.kwargs.batch_seconds", "attack.kwargs.verbose"),
    *("attack.targeted_labels.kwargs.split", "defense.kwargs.device_type", "model.wrapper_kwargs.device_type"),
    "user_init.kwargs.threads",
)
PARTS = ("defense", "model", "user_init", "attack")
BY_ART = ", ART's attack"  # not yet in descriptions of the older results
LONGEST = 60  # characters of a value in a sentence


@dataclass(frozen=True)
class Cell:
    """A configuration of this project: its blocks, which utterances it takes, and whether it attacks."""

    name: str
    description: str
    index: Any
    attacked: bool
    blocks: Mapping[str, Any]


@functools.cache
def _cells() -> dict[str, dict[str, Cell]]:
    """Cells by the name of their data, and by their own."""
    content = json.loads((resources.files("armory_mdnf.evaluation") / "cells.json").read_text(encoding="utf-8"))
    return {data: {name: Cell(name, **cell) for name, cell in cells.items()} for data, cells in content.items()}


def cells_on(data: str) -> dict[str, Cell]:
    """The cells by name on a data set's configurations, ``bundled`` or ``librispeech``; empty for another."""
    return dict(_cells().get(data, {}))


def cell_named(run: RunRecord, name: str) -> Cell | None:
    """The cell of that name on the run's data."""
    return _cells().get(_data(run), {}).get(name)


def cell_described(run: RunRecord) -> Cell | None:
    """The cell whose description the run's configuration has."""
    words = run.config.get("_description")
    known = (cell for cells in _cells().values() for cell in cells.values())
    return next((c for c in known if words in (c.description, c.description.replace(BY_ART, ""))), None)


def known_name(run: RunRecord) -> str | None:
    """The name of the cell that has the run's configuration, on the run's data, whatever the run itself is called."""
    wanted = {key: value for key, value in identity_of(run).items() if not key.startswith("dataset.")}
    attacked = any(key.startswith("attack") for key in wanted)
    found = [c for c in _cells().get(_data(run), {}).values() if identity(c.blocks, attacked) == wanted]
    if not attacked:  # the attack of such a run was left out: several cells differ in nothing else
        found = [c for c in found if not c.attacked] or found
    index = _block(run, "dataset").get("index")
    return next((c.name for c in [c for c in found if c.index == index] + found), None)


def departures(run: RunRecord, cell: Cell | None) -> list[str]:
    """In what a run is less, or another, than a cell; or than its own configuration where ``cell`` is None."""
    found = list(_differences(run, cell) if cell else _changes(run))
    attacked = any(outcome.adversarial is not None for outcome in run.outcomes)
    if run.flags.get("check_run"):
        found.append("a check run")
    if run.flags.get("num_eval_batches"):
        found.append(f"the first {_shown(run.flags['num_eval_batches'])} batches")
    if (cell.attacked and not attacked) if cell else run.flags.get("skip_attack"):
        found.append("without the attack")
    if run.flags.get("skip_benign") or (cell and all(outcome.benign is None for outcome in run.outcomes)):
        found.append("without the benign utterances")
    expected = run.chosen if cell is None else at_least(cell.index, run.split_size)
    if expected is not None and len(run.outcomes) < expected:
        found.append(f"{len(run.outcomes)} of {expected} utterances")
    return found


def _changes(run: RunRecord) -> Iterator[str]:
    for key, (before, after) in sorted(run.changed.items()):
        if key.startswith(INCIDENTAL):
            continue
        yield f"{_words(key)} {_shown(after)} instead of {_shown(before)}"


def _differences(run: RunRecord, cell: Cell) -> Iterator[str]:
    parts = [part for part in PARTS if part != "attack" or cell.attacked]
    for part in ("defense", "attack"):
        was, now = (_name(source.get(part)) for source in (cell.blocks, run.config))
        if part in parts and was != now:
            parts.remove(part)
            yield f"{part} {_shown(now)} instead of {_shown(was)}"
    both = (leaves({part: source.get(part) for part in parts}) for source in (cell.blocks, run.config))
    stored, found = map(without_defaults, both)
    for key in sorted(stored.keys() | found.keys()):
        if not key.startswith(INCIDENTAL) and stored.get(key) != found.get(key):
            yield f"{_words(key)} {_shown(found.get(key))} instead of {_shown(stored.get(key))}"
    if _cells().get(_data(run), {}).get(cell.name) is not cell:
        yield f"data {_shown(_data(run))}"
    index = _block(run, "dataset").get("index")
    if not covers(index, cell.index):
        yield f"utterances {_shown(index)} instead of {_shown(cell.index)}"


def covers(index: Any, wanted: Any) -> bool:
    """Whether utterances chosen by ``index`` are those of ``wanted`` and perhaps more, as far as the two tell."""
    if index is None or index == wanted:
        return True
    (first, last), (first_wanted, last_wanted) = _bounds(index), _bounds(wanted)
    return first <= first_wanted and last >= last_wanted


def at_least(index: Any, size: int | None) -> int | None:
    """How many utterances an index chooses of a split of ``size``, or None if that is not known."""
    if isinstance(index, list):
        return len(set(map(str, index)))
    first, last = _bounds(index)
    last = min(last, math.inf if size is None else size)
    return None if math.isinf(last) else max(0, int(last - first))


def _bounds(index: Any) -> tuple[float, float]:
    """First position and the one after the last of a slice; of a list, where it has no gaps."""
    if index is None:
        return 0, math.inf
    if isinstance(index, list):
        whole = sorted({i for i in index if isinstance(i, int)})
        gapless = bool(whole) and whole == list(range(whole[0], whole[-1] + 1))
        return (whole[0], whole[-1] + 1) if gapless else (math.inf, -math.inf)
    first, _, last = str(index).strip().strip("[]").partition(":")
    try:
        start, stop = int(first or 0), int(last) if last.strip() else math.inf
    except ValueError:
        return math.inf, -math.inf
    return (start, stop) if stop >= 0 else (math.inf, -math.inf)  # from the end: how many is not known


def describe(run: RunRecord) -> str:
    """What was run, of its configuration's own values."""
    defense, attack = _block(run, "defense"), _block(run, "attack")
    text = _component(defense, ("device_type", "seed")) if defense else "no defence"
    if not any(outcome.adversarial is not None for outcome in run.outcomes):
        return f"{text}, no attack"
    left = ("batch_seconds", "batch_size", "max_iter", "num_random_init", "seed", "targeted", "verbose")
    kind = "targeted" if any(o.target is not None for o in run.outcomes) else "untargeted"
    kwargs = attack.get("kwargs")
    steps = kwargs.get("max_iter") if isinstance(kwargs, Mapping) else None
    count = "" if steps is None else f", {_shown(steps)} iteration{'' if steps == 1 else 's'}"
    return f"{text} against {kind} {_component(attack, left)}{count}"


def as_recorded(run: RunRecord, name: str, partial: bool = False) -> RunRecord:
    """The run under the name of a record, described as what it was.

    Raises :class:`ResultsError` for a run that is not the whole of what the name, or its own configuration, says,
    unless ``partial``.
    """
    name = readable(name)
    found = departures(run, cell_named(run, name))
    if found and not partial:
        raise ResultsError(
            f"the run is not the whole of {name}: {'; '.join(found)}. `armory-mdnf record --partial` keeps it, marked"
        )
    return replace(run, name=name, config={**run.config, "_description": heading(run)})


def heading(run: RunRecord) -> str:
    """The description of the configuration where the run is the whole of it, else what was run."""
    words = run.config.get("_description")
    if isinstance(words, str) and not departures(run, cell_described(run)):
        return words
    return describe(run)


def _name(block: Any) -> str:
    return f"{block.get('module')}.{block.get('name')}" if isinstance(block, Mapping) else "none"


def _data(run: RunRecord) -> str:
    return str(_block(run, "dataset").get("name"))


def _block(run: RunRecord, name: str) -> Mapping[str, Any]:
    block = run.config.get(name)
    return block if isinstance(block, Mapping) else {}


def _component(block: Mapping[str, Any], left_out: tuple[str, ...]) -> str:
    kwargs = block.get("kwargs")
    options = kwargs.items() if isinstance(kwargs, Mapping) else ()
    shown = ", ".join(f"{key} {_shown(value)}" for key, value in sorted(options) if key not in left_out)
    return f"{_shown(block.get('name'))} ({shown})" if shown else _shown(block.get("name"))


def _words(key: str) -> str:
    return " ".join(part for part in key.split(".") if part not in ("kwargs", "model_kwargs", "user_init"))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
