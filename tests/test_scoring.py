"""Scores: both means by their names, worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from arcsolve.arc.dataset import TaskSet, load_tasks
from arcsolve.arc.grid import Grid
from arcsolve.arc.scoring import Rate, score
from arcsolve.arc.submission import Attempts
from arcsolve.arc.task import Pair, Task
from arcsolve.errors import ArcsolveError, FormatError


def grid(colour: int) -> Grid:
    return np.full((2, 3), colour, dtype=np.uint8)


def task(task_id: str, *outputs: Grid | None) -> Task:
    return Task(task_id, (Pair(grid(0), grid(0)),), tuple(Pair(grid(0), output) for output in outputs))


def test_both_means_differ_where_tasks_have_several_outputs() -> None:
    tasks = TaskSet("two", (task("a", grid(1)), task("b", grid(1), grid(2), grid(3))))
    right, wrong = grid(1), grid(9)
    answers: dict[str, list[Attempts]] = {
        "a": [(right, wrong)],
        "b": [(wrong, right), (wrong, wrong), (wrong, wrong)],
    }
    found = score(answers, tasks)
    assert (found.tasks, found.test_outputs, found.hash) == (2, 4, tasks.hash)
    assert (found.pass_at_1.by_output, found.pass_at_1.by_task) == (1 / 4, 1 / 2)
    assert (found.pass_at_2.by_output, found.pass_at_2.by_task) == (2 / 4, (1 + 1 / 3) / 2)
    first = json.loads(json.dumps(found.to_json()))["pass_at_1"]
    assert (first["by_output"], first["by_task"]) == (0.25, 0.5)
    # Two tasks drawn with replacement: one all right, the other all wrong.
    assert first["by_output_95"] == first["by_task_95"] == [0.0, 1.0]


def test_the_interval_covers_a_known_proportion() -> None:
    """Of 400 tasks with one output each, 30% right: Wilson's interval is 25.7% to 34.7%."""
    tasks = TaskSet("many", tuple(task(f"t{i}", grid(1)) for i in range(400)))
    answers: dict[str, list[Attempts]] = {
        f"t{i}": [(grid(1), grid(2)) if i < 120 else (grid(9), grid(2))] for i in range(400)
    }
    low, high = score(answers, tasks).pass_at_1.by_output_95
    assert low == pytest.approx(0.257, abs=0.01) and high == pytest.approx(0.347, abs=0.01)


def test_no_right_answer_is_not_a_certain_zero() -> None:
    tasks = TaskSet("many", tuple(task(f"t{i}", grid(1)) for i in range(40)))
    for attempt, interval in ((grid(9), (0, 0.0881)), (grid(1), (0.9119, 1))):
        answers: dict[str, list[Attempts]] = {f"t{i}": [(attempt, grid(2))] for i in range(40)}
        rate = score(answers, tasks).pass_at_1
        assert rate.by_output_95 == rate.by_task_95 == pytest.approx(interval, abs=1e-4)


def test_a_grid_of_another_size_is_wrong() -> None:
    """Elementwise comparison would broadcast a single cell over the whole output."""
    answers: dict[str, list[Attempts]] = {"a": [(grid(1)[:1], grid(1)[:1, :1])]}
    assert score(answers, TaskSet("one", (task("a", grid(1)),))).pass_at_2.by_output == 0


def test_true_outputs_score_one_on_the_official_set() -> None:
    tasks = load_tasks("arc-agi-2/evaluation")
    answers: dict[str, list[Attempts]] = {
        t.id: [(pair.output, pair.output) for pair in t.test if pair.output is not None] for t in tasks
    }
    exact = (0.025 ** (1 / len(tasks)), 1.0)
    assert score(answers, tasks).pass_at_1 == Rate(1.0, 1.0, exact, exact)


def test_hidden_outputs_and_missing_answers_are_refused() -> None:
    with pytest.raises(ArcsolveError, match=r"set: a\.test\[1\]: the output is hidden"):
        score({"a": [(grid(1), grid(1))] * 2}, TaskSet("set", (task("a", grid(1), None),)))
    with pytest.raises(FormatError, match="missing task a"):
        score({}, TaskSet("set", (task("a", grid(1)),)))
