"""Evaluation: which tasks make a figure, under which protocol they are solved, and scoring the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arcsolve.arc.dataset import OFFICIAL, TaskSet, load_tasks
from arcsolve.arc.scoring import Score, score
from arcsolve.arc.submission import Attempts
from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.solution import Solution, TestSolution
from arcsolve.inference.solver import Solver
from arcsolve.training.guard import split

TRAINING_SETS = ("arc-agi-1/training", "arc-agi-2/training")


@dataclass(frozen=True)
class Figure:
    """A named set of tasks with the protocol under which it is solved.

    Attributes:
        name: ``meta-dev``, ``development``, the name of an official set, or a path.
        protocol: ``per-task`` (training never saw the tasks; adapt to each alone), ``joint`` (adapt to all their
            demonstrations at once), ``transductive`` (their demonstrations were trained on) or ``development`` (the
            trained row, no adaptation).
        tasks: the tasks, test outputs known.
    """

    name: str
    protocol: str
    tasks: TaskSet


def figure(name: str, solver: Solver, protocol: str = "per-task") -> Figure:
    """The tasks behind a figure.

    ``meta-dev``: the 60 held-out ARC-1 training tasks. ``development``: the training tasks in the weights' bank, whose
    test pairs training never saw. Otherwise an official set, or a path of tasks whose outputs are known.

    Raises:
        ArcsolveError: no such figure, or what the weights were trained on does not go with the protocol.
    """
    if name == "meta-dev":
        ids = set(split("meta_dev"))
        chosen = TaskSet(name, tuple(task for task in load_tasks(TRAINING_SETS[0]) if task.id in ids))
    elif name == "development":
        if protocol != "per-task":
            raise ArcsolveError(f"development is solved from trained rows: --protocol {protocol} does not go with it")
        return Figure(name, "development", TaskSet(name, _trained(solver)))
    elif name in OFFICIAL or Path(name).exists():
        chosen = load_tasks(name)
    else:
        known = ", ".join(("meta-dev", "development", *OFFICIAL))
        raise ArcsolveError(f"no figure {name!r}: expected {known}, or the path of tasks with known outputs")
    for task in chosen:
        if any(pair.output is None for pair in task.test):
            raise ArcsolveError(f"{name}: {task.id}: the test output is hidden, so answers cannot be scored")
    check_protocol(chosen, solver, protocol)
    return Figure(name, protocol, chosen)


def check_protocol(tasks: TaskSet, solver: Solver, protocol: str) -> None:
    """Refuse a protocol that these weights cannot honestly claim on these tasks.

    Raises:
        ArcsolveError: the weights are transductive, or have seen a task, and the protocol is another; or the protocol
            is transductive and the weights are not.
    """
    trained = solver.weights.protocol
    if protocol == "transductive":
        if trained != "transductive":
            raise ArcsolveError(f"{tasks.name}: these weights are {trained}, not transductive")
        return
    if trained == "transductive":
        raise ArcsolveError(f"{tasks.name}: these weights are transductive; score them with --protocol transductive")
    if seen := [task.id for task in tasks if solver.seen(task)]:
        raise ArcsolveError(
            f"{tasks.name}: these weights were trained on {seen[0]} and {len(seen) - 1} more of its tasks"
        )


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


def cells(task: Task) -> int:
    """Input cells of all of a task's pairs: what solving it costs, roughly."""
    return sum(pair.input.size for pair in task.train + task.test)


def limited(tasks: TaskSet, limit: int | None, max_side: int | None, seed: int = 0) -> TaskSet:
    """A fixed subset: tasks within ``max_side``, then one drawn from each of ``limit`` equal slices by size.

    Raises:
        ArcsolveError: nothing is left.
    """
    kept = [task for task in tasks if max_side is None or largest_side(task) <= max_side]
    if not kept:
        raise ArcsolveError(f"{tasks.name}: no task has all sides within {max_side}")
    name = tasks.name if len(kept) == len(tasks) else f"{tasks.name}, sides <= {max_side}"
    if limit is not None and limit < len(kept):
        kept.sort(key=lambda task: (cells(task), task.id))
        rng = np.random.default_rng(seed)
        bounds = [i * len(kept) // limit for i in range(limit + 1)]
        kept = [kept[int(rng.integers(low, high))] for low, high in pairwise(bounds)]
        name = f"{name}, {limit} stratified, seed {seed}"
    return TaskSet(name, tuple(sorted(kept, key=lambda task: task.id)))


def spread(tasks: TaskSet) -> list[Task]:
    """The order to solve tasks in: every prefix of it is spread over the sizes, so that early figures mean something.

    Tasks sorted by size are taken at the bit-reversed numbers (van der Corput's sequence).
    """
    ordered = sorted(tasks, key=lambda task: (cells(task), task.id))
    bits = max(1, (len(ordered) - 1).bit_length())
    reversed_numbers = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(2**bits))
    return [ordered[number] for number in reversed_numbers if number < len(ordered)]


class Hits(NamedTuple):
    """For each test output: hit by the first attempt, by either, among the candidates, and its size by the first."""

    first: tuple[bool, ...]
    either: tuple[bool, ...]
    found: tuple[bool, ...]
    sized: tuple[bool, ...]

    @classmethod
    def of(cls, task: Task, tests: Sequence[TestSolution]) -> Hits:
        """Compare answers with the task's test outputs, which must be known."""
        rows = []
        for pair, test in zip(task.test, tests, strict=True):
            assert pair.output is not None
            first, second = (np.array_equal(grid, pair.output) for grid in (test.attempt_1, test.attempt_2))
            found = any(np.array_equal(candidate.grid, pair.output) for candidate in test.candidates)
            rows.append((first, first or second, found, test.attempt_1.shape == pair.output.shape))
        return cls(*zip(*rows, strict=True))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a figure needs of a solved task; its candidates stay in the results file, or 10,000 tasks would fill memory.

    Attributes:
        attempts: the two answers to each test input.
        right: for each test output, whether an attempt hits it.
        found: for each test output, whether it is among the candidates.
        sized: for each test output, whether the first attempt has its size.
        votes: for each test input, trajectories that ended at the first attempt.
        trajectories: all that ran.
        reproduced, tried: demonstrations when left out.
        source: what refinement started from.
        seconds: by stage.
    """

    attempts: tuple[Attempts, ...]
    right: tuple[bool, ...]
    found: tuple[bool, ...]
    sized: tuple[bool, ...]
    votes: tuple[int, ...]
    trajectories: int
    reproduced: int
    tried: int
    source: str
    seconds: dict[str, float]

    @classmethod
    def of(cls, task: Task, solution: Solution) -> Outcome:
        """Compare a solution with the task's test outputs, which must be known."""
        hits = Hits.of(task, solution.test)
        return cls(
            attempts=tuple((test.attempt_1, test.attempt_2) for test in solution.test),
            right=hits.either,
            found=hits.found,
            sized=hits.sized,
            votes=tuple(test.candidates[0].votes for test in solution.test),
            trajectories=sum(candidate.votes for test in solution.test for candidate in test.candidates),
            reproduced=solution.left_out.reproduced,
            tried=solution.left_out.tried,
            source=solution.recalled.source,
            seconds=solution.seconds,
        )


@dataclass(frozen=True)
class Evaluation:
    """A figure's result.

    Attributes:
        score: both metrics at one and at two attempts.
        oracle: share of test outputs that are among the candidates at all.
        size: share of test outputs whose size the first attempt has.
        reproduced: mean share of demonstrations reproduced when left out, ``None`` where none was.
        seconds: mean seconds of a task by stage.
        outcomes: by task id.
    """

    score: Score
    oracle: float
    size: float
    reproduced: float | None
    seconds: dict[str, float]
    outcomes: dict[str, Outcome]


def summarise(tasks: TaskSet, done: dict[str, Outcome]) -> Evaluation:
    """The figures of a set of which every task is solved."""
    outcomes = {task.id: done[task.id] for task in tasks}
    shares = [one.reproduced / one.tried for one in outcomes.values() if one.tried]
    stages = {name: None for one in outcomes.values() for name in one.seconds}
    return Evaluation(
        score=score({task_id: one.attempts for task_id, one in outcomes.items()}, tasks),
        oracle=float(np.mean([hit for one in outcomes.values() for hit in one.found])),
        size=float(np.mean([hit for one in outcomes.values() for hit in one.sized])),
        reproduced=float(np.mean(shares)) if shares else None,
        seconds={name: float(np.mean([one.seconds.get(name, 0.0) for one in outcomes.values()])) for name in stages},
        outcomes=outcomes,
    )
