"""Evaluation: which tasks make a figure, solving them, scoring the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arcsolve.arc.dataset import OFFICIAL, TaskSet, load_tasks
from arcsolve.arc.scoring import Score, score
from arcsolve.arc.task import Pair, Task
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.solution import Solution
from arcsolve.inference.solver import Settings, Solver
from arcsolve.training.guard import split

TRAINING_SETS = ("arc-agi-1/training", "arc-agi-2/training")


@dataclass(frozen=True)
class Figure:
    """A named set of tasks with the protocol under which it is solved.

    Attributes:
        name: ``meta-dev``, ``development`` or the name of an official set.
        protocol: ``per-task`` (adapt to each task alone) or ``development`` (the trained row, no adaptation).
        tasks: the tasks, test outputs known.
    """

    name: str
    protocol: str
    tasks: TaskSet

    @property
    def adapts(self) -> bool:
        """Whether tasks are solved by adaptation."""
        return self.protocol != "development"


def figure(name: str, solver: Solver) -> Figure:
    """The tasks behind a figure.

    ``meta-dev``: the 60 held-out ARC-1 training tasks. ``development``: the training tasks in the weights' bank, whose
    test pairs training never saw. Otherwise an official set, or a path of tasks whose outputs are known.

    Raises:
        ArcsolveError: no such figure, or the weights have trained on a task that they may not have seen.
    """
    if name == "meta-dev":
        ids = set(split("meta_dev"))
        chosen = TaskSet(name, tuple(task for task in load_tasks(TRAINING_SETS[0]) if task.id in ids))
    elif name == "development":
        return Figure(name, "development", TaskSet(name, _trained(solver)))
    elif name in OFFICIAL or Path(name).exists():
        chosen = load_tasks(name)
    else:
        known = ", ".join(("meta-dev", "development", *OFFICIAL))
        raise ArcsolveError(f"no figure {name!r}: expected {known}, or the path of tasks with known outputs")
    for task in chosen:
        if any(pair.output is None for pair in task.test):
            raise ArcsolveError(f"{name}: {task.id}: the test output is hidden, so answers cannot be scored")
    if seen := [task.id for task in chosen if solver.seen(task)]:
        raise ArcsolveError(f"{name}: these weights were trained on {seen[0]} and {len(seen) - 1} more of its tasks")
    return Figure(name, "per-task", chosen)


def _trained(solver: Solver) -> tuple[Task, ...]:
    """Training tasks with a row in the bank; one that stands in both sets counts once, ARC-1's version."""
    known: dict[str, Task] = {}
    for name in TRAINING_SETS:
        for task in load_tasks(name):
            if task.id not in known and solver.trained_row(task) is not None:
                known[task.id] = task
    if not known:
        raise ArcsolveError("these weights know no training task")
    return tuple(known[task_id] for task_id in sorted(known))


def largest_side(task: Task) -> int:
    """The longest side of any grid of the task that the solver may see (not of test outputs)."""
    grids = [g for pair in task.train for g in (pair.input, pair.output) if g is not None]
    return max(int(side) for grid in (*grids, *(pair.input for pair in task.test)) for side in grid.shape)


def limited(tasks: TaskSet, limit: int | None, max_side: int | None) -> TaskSet:
    """A fixed subset: tasks within ``max_side``, then ``limit`` of them spread evenly over the order of canvas size.

    Raises:
        ArcsolveError: nothing is left.
    """
    kept = [task for task in tasks if max_side is None or largest_side(task) <= max_side]
    if not kept:
        raise ArcsolveError(f"{tasks.name}: no task has all sides within {max_side}")
    name = tasks.name if len(kept) == len(tasks) else f"{tasks.name}, sides <= {max_side}"
    if limit is not None and limit < len(kept):
        kept.sort(key=lambda task: (sum(pair.input.size for pair in task.train + task.test), task.id))
        kept = [kept[i * len(kept) // limit] for i in range(limit)]
        name = f"{name}, {limit} stratified"
    return TaskSet(name, tuple(sorted(kept, key=lambda task: task.id)))


@dataclass(frozen=True)
class Evaluation:
    """A figure's result.

    Attributes:
        score: both metrics at one and at two attempts.
        oracle: share of test outputs that are among the candidates at all.
        reproduced: mean share of demonstrations reproduced when left out, ``None`` where none was.
        solutions: by task id.
    """

    score: Score
    oracle: float
    reproduced: float | None
    solutions: dict[str, Solution]


def blind(task: Task) -> Task:
    """The task without its test outputs: what a solver is handed."""
    return Task(task.id, task.train, tuple(Pair(pair.input, None) for pair in task.test))


def evaluate(
    solver: Solver,
    chosen: Figure,
    settings: Settings,
    *,
    done: dict[str, Solution],
    finished: Callable[[Task, Solution], None],
) -> Evaluation:
    """Solve every task that is not ``done`` yet and score all.

    Args:
        done: solutions from an earlier run; those that are made now join them.
        finished: called with every solution as it is made.
    """
    for task in chosen.tasks:
        if task.id not in done:
            solve = solver.solve if chosen.adapts else solver.recall
            done[task.id] = solve(blind(task), settings)
            finished(task, done[task.id])
    solutions = {task.id: done[task.id] for task in chosen.tasks}
    answers = {i: [(t.attempt_1, t.attempt_2) for t in s.test] for i, s in solutions.items()}
    found = [hit for task in chosen.tasks for hit in _found(task, solutions[task.id])]
    shares = [s.reproduced / s.demonstrations for s in solutions.values() if s.demonstrations]
    return Evaluation(
        score(answers, chosen.tasks), float(np.mean(found)), float(np.mean(shares)) if shares else None, solutions
    )


def hits(task: Task, solution: Solution) -> list[bool]:
    """For each test output, whether one of the two attempts is right."""
    return [
        any(pair.output is not None and np.array_equal(grid, pair.output) for grid in (test.attempt_1, test.attempt_2))
        for pair, test in zip(task.test, solution.test, strict=True)
    ]


def _found(task: Task, solution: Solution) -> Iterable[bool]:
    """For each test output, whether it is among the candidates."""
    for pair, test in zip(task.test, solution.test, strict=True):
        assert pair.output is not None
        yield any(np.array_equal(candidate.grid, pair.output) for candidate in test.candidates)


def line_of(task: Task, solution: Solution, settings: Settings) -> dict[str, Any]:
    """A line of the results file: the solution, and the task's content and the settings that it stands for."""
    return {"id": task.id, "task_hash": task.hash, "settings": asdict(settings), "solution": solution.to_json()}


def read_results(path: Path, solver: Solver, chosen: Figure, settings: Settings) -> dict[str, Solution]:
    """Solutions of an earlier run's results file; a last line that a kill cut short is dropped from the file.

    Raises:
        ArcsolveError: the file was made with other weights, settings or protocol, or from other tasks.
    """
    done: dict[str, Solution] = {}
    hashes = {task.id: task.hash for task in chosen.tasks}
    if not path.exists():
        return done
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")
        del lines[-1]
    for number, text in enumerate(lines, 1):
        where = f"{path}: line {number}"
        try:
            value = json.loads(text)
            solution = Solution.from_json(value["solution"], where)
            same = value["settings"] == json.loads(json.dumps(asdict(settings)))
            known = hashes.get(value["id"]) == value["task_hash"]
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{where}: not a result of `arcsolve eval` ({error})") from error
        if not same or (solution.weights_sha256, solution.protocol) != (solver.weights.sha256, chosen.protocol):
            raise ArcsolveError(f"{where}: made with other weights, settings or protocol; choose another file")
        if not known:
            raise ArcsolveError(f"{where}: task {solution.task} is not in {chosen.tasks.name}; choose another file")
        done[solution.task] = solution
    return done
