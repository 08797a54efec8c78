"""A run's results file: a JSON line for each task, written as it is solved and read again to go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.evaluation import Figure, Outcome
from arcsolve.inference.sampler import effective_samples
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Solution
from arcsolve.inference.solver import Solver
from arcsolve.network.weights import Weights

RESULTS = "results.jsonl"


def made_with(backend: str, settings: Settings, joint: dict[str, Any] | None = None) -> dict[str, Any]:
    """What two lines of a results file must agree on, beside weights and protocol, as JSON has it.

    Args:
        backend: its name.
        joint: how the set was adapted to jointly, if it was.
    """
    value: dict[str, Any] = json.loads(json.dumps({**asdict(settings), "joint": joint, "backend": backend}))
    return value


def told_of(weights: Weights, backend: str, settings: Settings) -> dict[str, Any]:
    """What a score or a run has to tell beside its data: weights and budgets, as a user names them."""
    noise = settings.noise_of(weights.config)
    return {
        "weights_sha256": weights.sha256,
        "backend": backend,
        "views": settings.views,
        "samples": effective_samples(weights.config, settings.samples, noise),
        "noise": noise,
        "steps": settings.steps or weights.config.steps,
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
        "task_hash": task.hash,
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


def read_results(path: Path, solver: Solver, chosen: Figure, settings: dict[str, Any]) -> dict[str, Outcome]:
    """Outcomes of an earlier run's results file; a last line that a kill cut short is dropped from the file.

    Raises:
        ArcsolveError: the file was made with other weights, settings or protocol, or from other tasks.
    """
    done: dict[str, Outcome] = {}
    known = {task.id: task for task in chosen.tasks}
    for number, text in enumerate(whole_lines(path), 1):
        where = f"{path}: line {number}"
        try:
            value = json.loads(text)
            task = known.get(value["id"])
            solution = Solution.from_json(value["solution"], where)
            same = value["settings"] == settings
            listed = task is not None and task.hash == value["task_hash"]
            outcome = Outcome.of(task, solution) if task is not None and listed else None
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise FormatError(f"{where}: not a result of `arcsolve eval` ({error})") from error
        if not same or (solution.weights_sha256, solution.protocol) != (solver.weights.sha256, chosen.protocol):
            raise ArcsolveError(
                f"{where}: made with other weights, settings, backend or protocol; choose another folder"
            )
        if outcome is None:
            raise ArcsolveError(f"{where}: task {solution.task} is not in {chosen.tasks.name}; choose another folder")
        done[solution.task] = outcome
    return done


def whole_lines(path: Path, *, mend: bool = True) -> Iterator[str]:
    """The lines of a file of JSON lines, none where there is no file; what a kill left of a last one is left out.

    Args:
        mend: cut off what is left out; not where another process may be writing that line just now.

    Raises:
        ArcsolveError: the file cannot be read or shortened, or is no text.
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
                yield line.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ArcsolveError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
