"""The results of a run in the form of Armory's results files, but in strict JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import armory_mdnf
from armory_mdnf.cpu.switch import way
from armory_mdnf.evaluation.armory_results import PREFIXES, flags_of
from armory_mdnf.evaluation.records import COMPARISONS, FURTHER, LeftOut, Outcome, RunRecord, compare, kept_blocks
from armory_mdnf.files.provenance import computing_versions
from armory_mdnf.files.strict_json import readable
from armory_mdnf.metrics.wer import pool
from armory_mdnf.runner.config import PERTURBATIONS, Config, as_list
from armory_mdnf.runner.lines import finite
from armory_mdnf.runner.metrics import task_metrics, task_results


def versions() -> dict[str, str]:
    """Versions of what computes the results; which way a CPU computes, if it is not the usual one."""
    found = computing_versions()
    return found if way() == "fast" else found | {"cpu": way()}


def in_place_of_armory(version: str) -> str:
    """What stands for Armory's version where this package's ran without it."""
    return f"none (armory-mdnf {version})"


def record(
    lines: Sequence[Outcome],
    left_out: Sequence[LeftOut],
    config: Config,
    name: str,
    **about: Any,
) -> RunRecord:
    """What a run of a configuration found, as its results file says it; ``about`` are further fields of the record."""
    return RunRecord(
        readable(name),
        tuple(lines),
        kept_blocks(config),
        seconds={key: round(sum(values), 3) for key, values in _seconds(lines).items()},
        versions={"armory": in_place_of_armory(armory_mdnf.__version__)} | versions(),
        flags=flags_of(_with_flags(config, name)),
        left_out=tuple(left_out),
        **about,
    )


def armory_json(run: RunRecord, config: Config) -> dict[str, Any]:
    """What ``armory run`` writes for the utterances of a run, in their order; ``run`` holds what that has no place for.

    Values that are not finite, which Armory writes as ``Infinity`` and ``NaN``, are null. The transcripts are always
    there, whatever ``metric.task`` says: everything else follows from them. ``compute`` counts an utterance as an
    execution. ``armory_version`` names this package instead.
    """
    lines, made_by = run.outcomes, {key: value for key, value in run.versions.items() if key != "armory"}
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
        results[f"{prefix}_transcripts"] = [{"utterances": pairs, "versions": made_by}]
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
    further = {name: [getattr(line, name) for line in lines] for name in FURTHER}
    results["compute"] = _compute(lines) if metric.get("profiler_type") else {}
    return {
        "armory_version": run.versions["armory"],
        "config": _with_flags(config, run.name),
        "results": results,
        "run": {
            "ids": [line.id for line in lines],
            "chosen": run.chosen,
            "split_size": run.split_size,
            "changed": dict(run.changed),
            "left_out": [left_out.recorded() for left_out in run.left_out],
            **{name: found for name, found in further.items() if any(value is not None for value in found)},
        },
        "timestamp": run.timestamp,
    }


def _size(line: Outcome, measure: str) -> float | None:
    return getattr(line, measure) if measure in PERTURBATIONS else (line.measures or {}).get(measure)


def _pairs(lines: Sequence[Outcome], comparison: str) -> list[dict[str, str]]:
    expected, found = COMPARISONS[comparison]
    return [{"reference": getattr(line, expected), "hypothesis": getattr(line, found)} for line in lines]


def _batches(values: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(values[i : i + size]) for i in range(0, len(values), size)]


def _seconds(lines: Sequence[Outcome]) -> dict[str, list[float]]:
    """Of every utterance that has them."""
    found = {name: [line.seconds[name] for line in lines if name in line.seconds] for name in ("attack", "inference")}
    return {name: values for name, values in found.items() if values}


def _compute(lines: Sequence[Outcome]) -> dict[str, float | None]:
    return {
        f"Avg. CPU time (s) for {len(values)} executions of {name.capitalize()}": finite(sum(values) / len(values))
        for name, values in _seconds(lines).items()
    }


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
