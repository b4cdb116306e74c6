"""The results of a run in the form of Armory's results files, but in strict JSON."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import armory_mdnf
from armory_mdnf.evaluation.armory_results import PREFIXES
from armory_mdnf.evaluation.records import COMPARISONS, FURTHER, compare
from armory_mdnf.metrics.wer import pool
from armory_mdnf.runner.config import PERTURBATIONS, Config, as_list
from armory_mdnf.runner.lines import Failed, Line, finite
from armory_mdnf.runner.metrics import task_metrics, task_results

VERSIONED = ("armory-mdnf", "torch", "torchaudio", "numpy", "adversarial-robustness-toolbox", "parallel-wavegan")


def versions() -> dict[str, str]:
    """Versions of what computes the results."""
    return {name: metadata.version(name) for name in VERSIONED} | {"python": platform.python_version()}


def armory_results(
    lines: Sequence[Line], config: Config, started: int, name: str, made_by: Mapping[str, str]
) -> dict[str, Any]:
    """What ``armory run`` writes for these utterances, in the order of ``lines``.

    Values that are not finite, which Armory writes as ``Infinity`` and ``NaN``, are null. The transcripts are always
    there, whatever ``metric.task`` says: everything else follows from them. ``compute`` counts an utterance as an
    execution. ``armory_version`` names this package instead.
    """
    metric = config["metric"]
    size, each, tasks = config["dataset"]["batch_size"], metric["record_metric_per_sample"], task_metrics(metric)
    results: dict[str, Any] = {}
    for prefix, comparison in PREFIXES.items():
        counts = [c for c in (compare(line, comparison) for line in lines) if c is not None]
        if not counts:
            continue
        if each:
            rates = [[float(c.errors), float(c.reference_words)] for c in counts]
            results[f"{prefix}_word_error_rate"] = _batches(rates, size)
        total = pool(counts)
        results[f"{prefix}_total_wer"] = [[total.rate, [total.errors, total.reference_words]]]
        pairs = _pairs(lines, comparison)
        results[f"{prefix}_transcripts"] = [{"utterances": pairs, "versions": dict(made_by)}]
        texts = [(pair["reference"], pair["hypothesis"]) for pair in pairs]
        results |= task_results(tasks, prefix, texts, metric, size)
    if any(line.adversarial is not None for line in lines):
        for measure in as_list(metric["perturbation"]):
            values = [_size(line, measure) for line in lines]
            if each:
                results[f"perturbation_{measure}"] = _batches(values, size)
            if metric["means"]:
                known = [value for value in values if value is not None]
                whole = len(known) == len(values)  # as in Armory, where one infinity makes the mean infinite
                results[f"perturbation_mean_{measure}"] = [sum(known) / len(known) if whole else None]
    results["compute"] = _compute(lines) if metric.get("profiler_type") else {}
    return {
        "armory_version": f"none (armory-mdnf {armory_mdnf.__version__})",
        "config": _with_flags(config, name),
        "results": results,
        "timestamp": started,
    }


def extent(
    lines: Sequence[Line], failures: Sequence[Failed], chosen: int, split_size: int | None, changed: Mapping[str, Any]
) -> dict[str, Any]:
    """What Armory's form has no place for: which utterances these are, of how many, and what was left out and why.

    With them the measures of each that Armory does not know, where there are any.
    """
    further = {name: [getattr(line, name) for line in lines] for name in FURTHER}
    return {
        "ids": [line.id for line in lines],
        "chosen": chosen,
        "split_size": split_size,
        "changed": dict(changed),
        "left_out": [{"id": f.id, "file": f.file, "reason": f.reason} for f in failures],
        **{name: found for name, found in further.items() if any(value is not None for value in found)},
    }


def _size(line: Line, measure: str) -> float | None:
    return getattr(line, measure) if measure in PERTURBATIONS else (line.measures or {}).get(measure)


def _pairs(lines: Sequence[Line], comparison: str) -> list[dict[str, str]]:
    expected, found = COMPARISONS[comparison]
    return [{"reference": getattr(line, expected), "hypothesis": getattr(line, found)} for line in lines]


def _batches(values: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(values[i : i + size]) for i in range(0, len(values), size)]


def _compute(lines: Sequence[Line]) -> dict[str, float | None]:
    compute = {}
    for name in ("attack", "inference"):
        seconds = [line.seconds[name] for line in lines if name in line.seconds]
        if seconds:
            key = f"Avg. CPU time (s) for {len(seconds)} executions of {name.capitalize()}"
            compute[key] = finite(sum(seconds) / len(seconds))
    return compute


def _with_flags(config: Config, name: str) -> Config:
    """The configuration with what Armory adds to it: the flags of the command line, and a name of the run."""
    sysconfig = config["sysconfig"]
    flags = {
        "check_run": bool(sysconfig.get("check")),
        "num_eval_batches": sysconfig.get("num_eval_batches"),
        "skip_attack": bool(sysconfig.get("skip_attack")),
        "skip_benign": bool(sysconfig.get("skip_benign")),
        "skip_misclassified": False,
    }
    return config | {"scenario": config["scenario"] | {"kwargs": flags}, "eval_id": name}
