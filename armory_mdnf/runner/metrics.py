"""Metrics beyond this package's own that a configuration names by dotted names: found, called as Armory calls them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from armory_mdnf.errors import OptionError, traced
from armory_mdnf.runner.config import PERTURBATIONS, TASKS, Config, as_list
from armory_mdnf.runner.lines import finite
from armory_mdnf.runner.named import find_dotted

Metric = Callable[[Any, Any], Any]


def perturbation_metrics(metric: Config) -> dict[str, Metric]:
    """Functions of the clean and the attacked batch, by the names that the ``metric`` block has for them."""
    return _found(as_list(metric["perturbation"]), PERTURBATIONS, "metric.perturbation")


def task_metrics(metric: Config) -> dict[str, Metric]:
    """Functions of references and transcripts, likewise."""
    return _found(as_list(metric["task"]), TASKS, "metric.task")


def _found(names: Iterable[str], known: Iterable[str], what: str) -> dict[str, Metric]:
    found = {name: find_dotted(name, what) for name in names if name not in known}
    return {name: _made(made, f"{what}: {name}") if isinstance(made, type) else made for name, made in found.items()}


def _made(kind: type, where: str) -> Metric:
    try:
        made: Metric = kind()
    except Exception as error:  # of somebody else's code
        raise OptionError(f"{where} cannot be made without arguments: {traced(error)}") from error
    return made


def task_results(
    metrics: dict[str, Metric], prefix: str, pairs: Sequence[tuple[str, str]], metric: Config, size: int
) -> dict[str, Any]:
    """What Armory's results have of them for one comparison: references and transcripts, in batches of ``size``.

    A metric that is registered with Armory as one of the whole population sees all at once. One that fails is left out
    with a note: it follows from the transcripts, and is no reason to withhold them.
    """
    results: dict[str, Any] = {}
    for name, function in metrics.items():
        short = name.rsplit(".", 1)[-1]
        try:
            if _of_the_population(short):
                results[f"{prefix}_{short}"] = [plain(_call(function, name, pairs))]
                continue
            batches = [plain(_call(function, name, pairs[i : i + size])) for i in range(0, len(pairs), size)]
        except OptionError as error:
            print(f"note: {error}; the results are without it", file=sys.stderr)
            continue
        if metric["record_metric_per_sample"] or not metric["means"]:
            results[f"{prefix}_{short}"] = batches
        if metric["means"]:
            results[f"{prefix}_mean_{short}"] = [_mean(batches)]
    return results


def _call(function: Metric, name: str, pairs: Sequence[tuple[str, str]]) -> Any:
    references, transcripts = (np.array(column) for column in zip(*pairs, strict=True))
    try:
        return function(references, transcripts)
    except Exception as error:  # of somebody else's code
        raise OptionError(f"metric.task: {name} cannot be used: {traced(error)}") from error


def measured(function: Metric, name: str, x: np.ndarray, x_adv: np.ndarray) -> float | None:
    """Size of one perturbation, shapes (1, T), by a metric of batches; None for one that is not finite."""
    try:
        return finite(float(np.asarray(function(x, x_adv)).reshape(-1)[0]))
    except Exception as error:  # of somebody else's code
        raise OptionError(f"metric.perturbation: {name} cannot be used: {traced(error)}") from error


def _of_the_population(name: str) -> bool:
    """Whether a metric was registered so; its module has then loaded Armory."""
    task = getattr(sys.modules.get("armory.metrics"), "task", None)
    return task is not None and name in task.population


def plain(value: Any) -> Any:
    """A result as strict JSON can hold it: numbers that are not finite are null."""
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _mean(batches: Sequence[Any]) -> float | None:
    """Mean of all numbers, or None if there is something else among them."""
    values = list(_leaves(batches))
    if not values or not all(isinstance(value, (int, float)) for value in values):
        return None
    return sum(values) / len(values)


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value
