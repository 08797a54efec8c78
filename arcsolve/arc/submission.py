"""Kaggle's ``submission.json``: ``{id: [{"attempt_1": grid, "attempt_2": grid}, ...]}``, an entry per test input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from arcsolve.arc.dataset import TaskSet, Unreadable, one_line, read_json
from arcsolve.arc.grid import Grid, as_grid
from arcsolve.errors import FormatError
from arcsolve.files import replace_file

Attempts: TypeAlias = tuple[Grid, Grid]
"""The two attempts at one test output, the better one first."""

ATTEMPTS = ("attempt_1", "attempt_2")


def write_submission(path: str | Path, answers: Mapping[str, Sequence[Attempts]]) -> None:
    """Write the attempts of each task, in order of its test inputs; the file is complete or not there at all.

    Raises:
        ArcsolveError: the file cannot be written.
    """
    content = {
        task_id: [{key: grid.tolist() for key, grid in zip(ATTEMPTS, attempts, strict=True)} for attempts in outputs]
        for task_id, outputs in answers.items()
    }
    replace_file(path, json.dumps(content, separators=(",", ":")))


def read_submission(path: str | Path) -> dict[str, list[Attempts]]:
    """Read a submission: the attempts of each task, in the file's order.

    Raises:
        FormatError: not a submission; one line naming the file and the place in it.
        ArcsolveError: the file cannot be read.
    """
    value = read_json(str(path))
    where = one_line(str(path))
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object of answers by task id")
    submission = {}
    for task_id, outputs in value.items():
        place = f"{where}: {one_line(task_id)}"
        if not isinstance(outputs, list):
            raise FormatError(f"{place}: expected a list with one entry for each test input")
        submission[task_id] = [_attempts(entry, f"{place}[{i}]") for i, entry in enumerate(outputs)]
    return submission


def validate_submission(
    submission: Mapping[str, Sequence[Attempts]], tasks: TaskSet, where: str, unreadable: Iterable[Unreadable] = ()
) -> None:
    """Check that a submission answers every test input of every task, and no other task.

    Args:
        submission: as ``read_submission`` returns it.
        tasks: the tasks to be answered.
        where: what to name in an error, such as the file.
        unreadable: tasks of the same set that are malformed, which are to be answered all the same.

    Raises:
        FormatError: a task is missing or unknown, or has more or fewer answers than test inputs.
    """
    wanted = {task.id: len(task.test) for task in tasks} | {task.id: task.test_inputs for task in unreadable}
    ids = wanted.keys()
    for kind, strays in (("unknown", sorted(submission.keys() - ids)), ("missing", sorted(ids - submission.keys()))):
        if strays:
            more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
            raise FormatError(f"{where}: {kind} task {one_line(strays[0])}{more} ({tasks.name} has {len(wanted)})")
    for task_id, inputs in wanted.items():
        if len(submission[task_id]) != inputs:
            raise FormatError(f"{where}: {one_line(task_id)}: {len(submission[task_id])} answers, expected {inputs}")


def _attempts(entry: object, where: str) -> Attempts:
    if not isinstance(entry, dict):
        raise FormatError(f"{where}: expected an object with {ATTEMPTS[0]} and {ATTEMPTS[1]}")
    for key in ATTEMPTS:
        if key not in entry:
            raise FormatError(f"{where}: missing key `{key}`")
    first, second = (as_grid(entry[key], f"{where}.{key}") for key in ATTEMPTS)
    return first, second
