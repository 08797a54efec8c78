"""The format of ARC Prize's own harness, arc-agi-benchmarking: a folder with one JSON file of attempts for each task.

A file ``<id>.json`` holds a list with an entry for each test input: ``{"attempt_1": {"answer": grid, "metadata":
{...}}, "attempt_2": ...}``. Its scorer (``scoring.py``) places an entry by ``metadata.pair_index``, which is 0 where it
is left out, and divides by the files that are there: both make a wrong score of an incomplete folder, so that here
every index is written, and demanded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from arcsolve.arc.dataset import one_line, read_json
from arcsolve.arc.grid import Grid, as_grid
from arcsolve.arc.submission import ATTEMPTS, Attempts
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.files import make_folder, replace_file

RESULTS = "results.json"
"""What the harness itself writes into such a folder, and skips when it scores."""

NO_ANSWER: Grid = np.zeros((0, 0), dtype=np.uint8)
"""What stands for an attempt without an answer (``null`` or ``[]``): it equals no grid."""


@dataclass(frozen=True)
class Origin:
    """Where the attempts at a task come from.

    Attributes:
        model: what made them.
        settings: how, as JSON values.
        began, finished: when.
    """

    model: str
    settings: Mapping[str, Any]
    began: datetime
    finished: datetime


def is_file_name(task_id: str) -> bool:
    """Whether a task's file can have its id for a name: from a combined file it may be anything, a path included."""
    return task_id.isprintable() and task_id == Path(task_id).name and task_id not in ("", Path(RESULTS).stem)


def write_benchmarking(
    folder: Path, answers: Mapping[str, Sequence[Attempts]], origins: Mapping[str, Origin], name: str
) -> None:
    """Write one file for each task, with the fields that the harness' schema demands.

    Args:
        origins: by task id; every task of ``answers`` has one.
        name: of the run, which becomes ``test_id``.

    Raises:
        ArcsolveError: the folder holds files of other tasks, which would be scored with these, or is not writable; or
            a task's id cannot be a file's name.
    """
    for task_id in answers:
        if not is_file_name(task_id):
            raise ArcsolveError(f"{folder}: the task id {task_id!a} cannot be the name of a file in it")
    make_folder(folder)
    present = {path.stem for path in folder.glob("*.json") if path.name != RESULTS}
    if strays := sorted(present - answers.keys()):
        raise ArcsolveError(f"{folder}: holds {one_line(strays[0])}.json, which is no task of this run")
    for task_id, outputs in answers.items():
        entries = [
            {
                key: {"answer": grid.tolist(), "metadata": _metadata(origins[task_id], task_id, index, name)}
                for key, grid in zip(ATTEMPTS, attempts, strict=True)
            }
            for index, attempts in enumerate(outputs)
        ]
        replace_file(folder / f"{task_id}.json", json.dumps(entries))


def _metadata(origin: Origin, task_id: str, index: int, name: str) -> dict[str, Any]:
    """The schema is made for language models: their tokens and costs are nil here."""
    tokens = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
    details = dict.fromkeys(("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"), 0)
    return {
        "model": origin.model,
        "provider": "arcsolve",
        "start_timestamp": origin.began.isoformat(),
        "end_timestamp": origin.finished.isoformat(),
        "choices": [],
        "kwargs": dict(origin.settings),
        "usage": {**tokens, "completion_tokens_details": details},
        "cost": {"prompt_cost": 0.0, "completion_cost": 0.0, "total_cost": 0.0},
        "task_id": task_id,
        "pair_index": index,
        "test_id": name,
    }


def read_benchmarking(folder: Path) -> dict[str, list[Attempts]]:
    """Read the attempts of each task, in order of the test inputs.

    Raises:
        FormatError: not such a folder, or an entry without a usable index; one line naming file and place.
        ArcsolveError: a file cannot be read.
    """
    files = sorted(path for path in folder.glob("*.json") if path.name != RESULTS)
    if not files:
        raise FormatError(f"{one_line(str(folder))}: holds no <task id>.json")
    return {path.stem: _entries(path) for path in files}


def _entries(path: Path) -> list[Attempts]:
    where, value = one_line(str(path)), read_json(str(path))
    if not isinstance(value, list):
        raise FormatError(f"{where}: expected a list with one entry for each test input")
    placed: dict[int, Attempts] = {}
    for number, entry in enumerate(value):
        place = f"{where}: [{number}]"
        if not isinstance(entry, dict):
            raise FormatError(f"{place}: expected an object with {' and '.join(ATTEMPTS)}")
        index = _index(entry, place)
        if index in placed:
            raise FormatError(f"{place}: pair_index {index} stands there twice")
        first, second = (_answer(entry.get(key), f"{place}.{key}") for key in ATTEMPTS)
        placed[index] = first, second
    if sorted(placed) != list(range(len(placed))):
        missing = min(set(range(len(placed))) - placed.keys())
        raise FormatError(f"{where}: no entry has pair_index {missing}")
    return [placed[index] for index in range(len(placed))]


def _index(entry: Mapping[str, Any], place: str) -> int:
    """The one ``pair_index`` that the attempts of an entry name."""
    found = set()
    for key in ATTEMPTS:
        attempt = entry.get(key)
        if attempt is None:
            continue
        metadata = attempt.get("metadata") if isinstance(attempt, dict) else None
        index = metadata.get("pair_index") if isinstance(metadata, dict) else None
        if type(index) is not int or index < 0:
            raise FormatError(f"{place}.{key}: metadata.pair_index is missing, which ARC Prize's scorer takes for 0")
        found.add(index)
    if len(found) != 1:
        raise FormatError(f"{place}: expected one pair_index in its attempts, found {sorted(found) or 'none'}")
    return int(found.pop())


def _answer(attempt: Any, where: str) -> Grid:
    answer = attempt.get("answer") if isinstance(attempt, dict) else None
    return NO_ANSWER if answer is None or answer == [] else as_grid(answer, f"{where}.answer")
