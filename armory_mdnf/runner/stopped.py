"""A run that was stopped before its end, as a record of the utterances that it had done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.joining import INDEX
from armory_mdnf.evaluation.records import RunRecord, check_run, with_origin
from armory_mdnf.files.run_folder import ABOUT
from armory_mdnf.runner import components, results
from armory_mdnf.runner.config import check_config, within
from armory_mdnf.runner.journal import Journal, read_run
from armory_mdnf.runner.strangers import is_own_dataset


def read_stopped(folder: Path) -> RunRecord:
    """What is done in the folder of a run, which is left as it is: a run of these utterances alone.

    Raises :class:`ResultsError` for what is not the folder of a run, for damaged lines and where nothing is done.
    """
    about, journal = read_run(folder), Journal.look_at(folder)
    if not journal.lines:
        raise ResultsError(f"{folder}: none of its utterances is done")
    with within(str(folder / ABOUT)):
        check_config(about["config"])
    try:
        run = with_origin(_done(journal, about), about)
        check_run(run)
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{folder / ABOUT}: what it says of the run is damaged: {error}") from error
    return run


def _done(journal: Journal, about: Mapping[str, Any]) -> RunRecord:
    index, dataset = sorted(journal.indices), about["config"]["dataset"]
    whole, _ = about["changed"].get(INDEX, [dataset.get("index"), index])
    found = results.record(
        [journal.lines[i] for i in index if i in journal.lines],
        [journal.failed[i] for i in index if i in journal.failed],
        {**about["config"], "dataset": {**dataset, "index": index}},
        journal.folder.resolve().name,
        timestamp=journal.started,
        chosen=len(index),
        split_size=components.split_size(dataset) if is_own_dataset(dataset) else None,  # runs nobody else's code
        changed={**about["changed"], INDEX: [whole, index]},
    )
    return replace(found, versions={"armory": results.in_place_of_armory(about["armory_mdnf"])} | about["versions"])
