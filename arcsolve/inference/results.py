"""A run's results file: a JSON line for each task, written as it is solved and read again to go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from arcsolve.arc.dataset import TaskSet, one_line
from arcsolve.arc.grid import as_grid
from arcsolve.arc.submission import ATTEMPTS, Attempts
from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.evaluation import Outcome
from arcsolve.inference.sampler import effective_samples
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Solution
from arcsolve.network.weights import Weights

RESULTS = "results.jsonl"

DAMAGED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a damaged line may raise."""

Made = TypeVar("Made")


def made_with(backend: str, settings: Settings, protocol: str, joint: dict[str, Any] | None = None) -> dict[str, Any]:
    """What two lines of a results file must agree on, beside the weights, as JSON has it.

    Args:
        backend: its name.
        joint: how the set was adapted to jointly, if it was.
    """
    told = {**asdict(settings), "joint": joint, "backend": backend, "protocol": protocol}
    if settings.temperature == 1.0:
        del told["temperature"]  # there was no other once, and lines of then still count
    value: dict[str, Any] = json.loads(json.dumps(told))
    return value


def told_of(weights: Weights, backend: str, settings: Settings) -> dict[str, Any]:
    """What a score or a run has to tell beside its data: weights and budgets, as a user names them."""
    noise, steps = settings.noise_of(weights.config), settings.steps_of(weights.config)
    return {
        "weights_sha256": weights.sha256,
        "backend": backend,
        "views": settings.views,
        "samples": effective_samples(weights.config, settings.samples, noise, steps),
        "noise": "learned" if weights.config.noise_width else noise,
        "temperature": settings.temperature,
        "steps": steps,
        "recall": settings.recall,
        "adapt_steps": settings.adapt.steps,
        "networks": settings.refined,
        "leave_one_out": settings.leave_one_out,
    }


def line_of(task: Task, weights_sha256: str, settings: dict[str, Any], **result: Any) -> dict[str, Any]:
    """A line of the results file: the task's content, what solved it (:func:`made_with`), when, and the result.

    Args:
        result: ``solution``, as JSON, or ``error``; and whatever else is to be known.
    """
    return {
        "id": task.id,
        "task_hash": task.blind.hash,
        "weights_sha256": weights_sha256,
        "settings": settings,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **result,
    }


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line, and see it on the disk before the next task begins.

    Raises:
        ArcsolveError: the disk is full, or the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ArcsolveError(f"{path}: cannot be written ({error.strerror}); the lines before stand") from error


@dataclass(frozen=True)
class Entry:
    """What a line of a results file says of a task that was solved.

    Attributes:
        attempts: two for each test input.
        weights_sha256, settings: what it was solved with.
        cut: whether a deadline cut its budget.
        truncated: whether it met the end of its time.
        began, finished: when.
    """

    id: str
    attempts: list[Attempts]
    weights_sha256: str
    settings: dict[str, Any]
    cut: bool
    truncated: bool
    began: datetime
    finished: datetime

    def made_by(self, weights_sha256: object, settings: object) -> bool:
        """Whether these weights and settings (:func:`made_with`) made it."""
        return self.weights_sha256 == weights_sha256 and self.settings == settings


def read_entries(
    path: Path, tasks: TaskSet, warn: Callable[[str], None] = lambda line: None, *, mend: bool = False
) -> Iterator[Entry]:
    """The lines of a results file that answer tasks of the set as they are now, oldest first.

    A line that cannot be read is told to ``warn``, and its task counts as not solved.

    Raises:
        ArcsolveError: the file cannot be read.
    """
    return _read(path, tasks, _entry, warn, mend)


def check_results(path: Path, tasks: TaskSet, weights_sha256: str, settings: dict[str, Any]) -> None:
    """Refuse a results file that holds anything else than what these weights and settings made of these tasks.

    Raises:
        ArcsolveError: it does, or it cannot be read.
    """
    ids = {task.id for task in tasks}
    for number, text in enumerate(whole_lines(path, mend=False), 1):
        try:
            value = json.loads(text)
            same = (value["weights_sha256"], value["settings"]) == (weights_sha256, settings)
            listed = value["id"] in ids
        except DAMAGED:
            continue  # told where it is read
        if not same or not listed:
            what = (
                "with other weights, settings, backend or protocol" if listed else f"from other tasks than {tasks.name}"
            )
            raise ArcsolveError(f"{path}: line {number}: made {what}; choose another folder")


def read_outcomes(path: Path, tasks: TaskSet, weights_sha256: str, settings: dict[str, Any]) -> dict[str, Outcome]:
    """What these weights and settings made of each task whose test outputs are known, by its id.

    Raises:
        ArcsolveError: the file cannot be read.
    """

    def outcome(value: dict[str, Any], task: Task, where: str) -> Outcome | None:
        if not _entry(value, task, where).made_by(weights_sha256, settings):
            return None
        solution = Solution.from_json(value["solution"], where)
        if not all(isinstance(solution.seconds[name], int | float) for name in ("sample", *solution.seconds)):
            raise TypeError("seconds are no numbers")
        return Outcome.of(task, solution)

    found = _read(path, tasks, lambda value, task, where: (task.id, outcome(value, task, where)))
    return {task_id: one for task_id, one in found if one is not None}


def _read(
    path: Path,
    tasks: TaskSet,
    made_of: Callable[[dict[str, Any], Task, str], Made],
    warn: Callable[[str], None] = lambda line: None,
    mend: bool = False,
) -> Iterator[Made]:
    known = {task.id: (task, task.blind.hash) for task in tasks}
    current: set[str] = set()
    changed: set[str] = set()
    for number, text in enumerate(whole_lines(path, mend=mend), 1):
        where = f"{path}: line {number}"
        try:
            value = json.loads(text)
            task, content = known.get(value["id"], (None, ""))
            if task is None or "solution" not in value:
                continue
            matches = value["task_hash"] == content
            (current if matches else changed).add(task.id)
            if matches:
                yield made_of(value, task, where)
        except (*DAMAGED, FormatError) as error:
            warn(f"{where}: not a result, left out ({type(error).__name__}: {one_line(str(error)[:200])})")
    for task_id in sorted(changed - current):
        warn(f"{task_id}: the task has changed since it was solved")


def _entry(value: dict[str, Any], task: Task, where: str) -> Entry:
    solution, settings, weights_sha256 = value["solution"], value["settings"], value["weights_sha256"]
    if not isinstance(settings, dict) or not isinstance(weights_sha256, str):
        raise TypeError("settings or weights_sha256 of another type")
    attempts = []
    for index, (test, _) in enumerate(zip(solution["test"], task.test, strict=True)):
        first, second = (as_grid(test[key], f"{where}: test[{index}].{key}") for key in ATTEMPTS)
        attempts.append((first, second))
    finished = datetime.fromisoformat(value["finished"])
    began = finished - timedelta(seconds=float(solution["seconds"]["total"]))
    cut, truncated = bool(value["cut"]), bool(solution["truncated"])
    return Entry(task.id, attempts, weights_sha256, settings, cut, truncated, began, finished)


def choose(entries: Iterable[Entry], weights_sha256: object, settings: object) -> dict[str, Entry]:
    """Of each task the last entry that these weights and settings made, or else the last one, by the task's id."""
    chosen: dict[str, Entry] = {}
    for entry in entries:
        before = chosen.get(entry.id)
        if before is None or entry.made_by(weights_sha256, settings) or not before.made_by(weights_sha256, settings):
            chosen[entry.id] = entry
    return chosen


def read_rows(path: Path, head: dict[str, Any], take: Callable[[Any], Made], command: str, parts: str) -> list[Made]:
    """What an experiment's earlier run left, a line of JSON each; a last one that a kill cut short is dropped.

    Args:
        head: what every line must agree on.
        take: makes of a line what is wanted of it.
        command: what writes such files, for the error; ``parts``: what ``head`` tells, likewise.

    Raises:
        FormatError: a line is damaged, or of another kind.
        ArcsolveError: a line has another head, or the file cannot be read.
    """
    rows = []
    for number, line in enumerate(whole_lines(path), 1):
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
            same = all(row[key] == value for key, value in head.items())
            rows.append(take(row))
        except DAMAGED as error:
            raise FormatError(f"{where}: not a result of `{command}` ({error})") from error
        if not same:
            raise ArcsolveError(f"{where}: made with other {parts}; choose another folder")
    return rows


def whole_lines(path: Path, *, mend: bool = True) -> Iterator[bytes]:
    """The lines of a file of JSON lines, none where there is no file; what a kill left of a last one is left out.

    Args:
        mend: cut off what is left out; not where another process may be writing that line just now.

    Raises:
        ArcsolveError: the file cannot be read or shortened.
    """
    if not path.exists():
        return
    try:
        with path.open("r+b" if mend else "rb") as file:
            end = 0
            for line in file:
                if not line.endswith(b"\n"):
                    if mend:
                        file.truncate(end)
                    return
                end += len(line)
                yield line
    except OSError as error:
        raise ArcsolveError(f"{path}: {error.strerror or error}") from error
