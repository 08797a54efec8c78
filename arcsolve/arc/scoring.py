"""Scores: shares of test outputs hit exactly by the first attempt, and by either of two, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcsolve.arc.dataset import TaskSet
from arcsolve.arc.submission import Attempts, validate_submission
from arcsolve.errors import ArcsolveError

BOOTSTRAP = 4_000
"""Samples behind a confidence interval."""


@dataclass(frozen=True)
class Rate:
    """One accuracy, averaged in the two usual ways; they differ where tasks have several test outputs.

    Attributes:
        by_output: mean over test outputs, 0..1, as Kaggle counts.
        by_task: mean over tasks of the share of a task's test outputs that are right, 0..1, as papers count.
        by_output_95, by_task_95: 95% confidence intervals (lower, upper), by the bootstrap over tasks; the exact
            binomial ones over tasks where all outputs are right or all wrong, of which every resample is the same.
    """

    by_output: float
    by_task: float
    by_output_95: tuple[float, float]
    by_task_95: tuple[float, float]


@dataclass(frozen=True)
class Score:
    """How answers fared on a task set.

    Attributes:
        data: name of the task set.
        hash: ``TaskSet.hash`` of it: scores compare only where this is equal.
        tasks: number of tasks.
        test_outputs: number of test outputs.
        pass_at_1: the first attempt is right.
        pass_at_2: one of both attempts is right.
    """

    data: str
    hash: str
    tasks: int
    test_outputs: int
    pass_at_1: Rate
    pass_at_2: Rate

    def to_json(self) -> dict[str, Any]:
        """The same fields as JSON values, the rates as objects."""
        return asdict(self)


@dataclass(frozen=True)
class Change:
    """What one submission has right that another has not.

    Attributes:
        gained, lost: (task id, index of the test output) that only this one has right, and only the other one.
        by_output, by_task: difference of the two means.
        by_output_95, by_task_95: 95% confidence intervals by the paired bootstrap over tasks.
    """

    gained: tuple[tuple[str, int], ...]
    lost: tuple[tuple[str, int], ...]
    by_output: float
    by_task: float
    by_output_95: tuple[float, float]
    by_task_95: tuple[float, float]


Hits = dict[str, NDArray[np.bool_]]
"""By task id whether the first attempt, and either of two, is right: shape (test outputs, 2)."""


def hits(answers: Mapping[str, Sequence[Attempts]], tasks: TaskSet) -> Hits:
    """Compare two attempts at each test output with the true outputs; every test input must be answered.

    Raises:
        ArcsolveError: a test output is hidden, or the answers do not match the tasks.
    """
    validate_submission(answers, tasks, "answers")
    found: Hits = {}
    for task in tasks:
        rows = []
        for i, (pair, attempts) in enumerate(zip(task.test, answers[task.id], strict=True)):
            if pair.output is None:
                raise ArcsolveError(f"{tasks.name}: {task.id}.test[{i}]: the output is hidden, so it cannot be scored")
            first, second = (np.array_equal(attempt, pair.output) for attempt in attempts)
            rows.append([first, first or second])
        found[task.id] = np.array(rows)
    return found


def score(answers: Mapping[str, Sequence[Attempts]], tasks: TaskSet) -> Score:
    """Both rates of a submission.

    Raises:
        ArcsolveError: as :func:`hits` does.
    """
    return score_of(hits(answers, tasks), tasks)


def score_of(found: Hits, tasks: TaskSet) -> Score:
    """Both rates of hits on these tasks."""
    first, either = (_rate([rows[:, k] for rows in found.values()]) for k in (0, 1))
    return Score(tasks.name, tasks.hash, len(tasks), sum(map(len, found.values())), first, either)


def compare(these: Hits, others: Hits, attempts: int) -> Change:
    """What ``these`` hits have that ``others``, on the same tasks, have not, at one attempt or two."""
    own, other = ({task_id: rows[:, attempts - 1] for task_id, rows in found.items()} for found in (these, others))
    listed = [(task_id, index) for task_id, row in own.items() for index in range(len(row))]
    gained = tuple((task_id, i) for task_id, i in listed if own[task_id][i] and not other[task_id][i])
    lost = tuple((task_id, i) for task_id, i in listed if other[task_id][i] and not own[task_id][i])
    net = np.array([own[task_id].astype(int).sum() - other[task_id].sum() for task_id in own])
    outputs = np.array([len(row) for row in own.values()])
    by_output, by_task = _bootstrap(net, outputs)
    return Change(
        gained,
        lost,
        float(net.sum() / outputs.sum()),
        float((net / outputs).mean()),
        _interval(by_output),
        _interval(by_task),
    )


def _rate(hits: list[NDArray[np.bool_]]) -> Rate:
    right, outputs = np.array([h.sum() for h in hits]), np.array([len(h) for h in hits])
    if right.sum() in (0, outputs.sum()):
        # Clopper and Pearson (1934): from all failures, or successes, of n trials.
        bound, share = 0.025 ** (1 / len(hits)), float(right.sum() > 0)
        exact = (bound, 1.0) if share else (0.0, 1 - bound)
        return Rate(share, share, exact, exact)
    by_output, by_task = _bootstrap(right, outputs)
    return Rate(
        float(right.sum() / outputs.sum()), float((right / outputs).mean()), _interval(by_output), _interval(by_task)
    )


def _bootstrap(right: NDArray[np.int_], outputs: NDArray[np.int_]) -> tuple[list[float], list[float]]:
    """Both means over resampled tasks (Efron, 1979): of tasks, since the outputs of one stand or fall together."""
    rng = np.random.default_rng(0)
    by_output, by_task = [], []
    for _ in range(BOOTSTRAP):
        drawn = rng.integers(len(right), size=len(right))
        by_output.append(float(right[drawn].sum() / outputs[drawn].sum()))
        by_task.append(float((right[drawn] / outputs[drawn]).mean()))
    return by_output, by_task


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def percent(value: float, interval: tuple[float, float]) -> str:
    """A share with its 95% confidence interval, as tables show it."""
    return f"{value:.2%} ({interval[0]:.1%} to {interval[1]:.1%})"
