"""Which tasks a figure takes, in which order, and which protocols it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from arcsolve.arc.dataset import TaskSet, load_tasks
from arcsolve.arc.task import Pair, Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.evaluation import cells, check_protocol, figure, limited, spread
from arcsolve.inference.solver import Solver
from arcsolve.training.guard import fingerprints


@pytest.fixture(scope="module")
def solver(weights_file: Path) -> Solver:
    return Solver.from_weights(weights_file, device="cpu")


def sized(side: int) -> Task:
    pair = Pair(np.zeros((side, side), dtype=np.uint8), np.zeros((1, 1), dtype=np.uint8))
    return Task(f"t{side:02}", (pair,), (pair,))


SIZES = TaskSet("sizes", tuple(sized(side) for side in range(1, 31)))


def test_a_limit_takes_one_task_of_each_slice_by_size_and_the_seed_decides_which() -> None:
    for seed in range(3):
        chosen = limited(SIZES, 10, None, seed)
        assert [(int(task.id[1:]) - 1) // 3 for task in chosen] == list(range(10))
        assert chosen.name == f"sizes, 10 stratified, seed {seed}"
    assert limited(SIZES, 10, None, 1).hash == limited(SIZES, 10, None, 1).hash != limited(SIZES, 10, None, 2).hash
    assert len(limited(SIZES, 99, 12)) == 12
    with pytest.raises(ArcsolveError, match="no task has all sides within 1"):
        limited(TaskSet("large", SIZES.tasks[5:]), None, 1)


def test_every_beginning_of_the_order_is_spread_over_the_sizes() -> None:
    order = spread(SIZES)
    assert sorted(task.id for task in order) == [task.id for task in SIZES]
    mean = np.mean([cells(task) ** 0.5 for task in SIZES])
    assert abs(np.mean([cells(task) ** 0.5 for task in order[:8]]) - mean) < 4


def with_protocol(solver: Solver, protocol: str, seen: frozenset[bytes]) -> Solver:
    weights = replace(solver.weights, training={**solver.weights.training, "protocol": protocol}, seen=seen)
    return Solver(weights, solver.backend, solver.device)


def test_what_the_weights_have_seen_decides_the_protocol(solver: Solver) -> None:
    tasks = load_tasks("arc-agi-1/evaluation")
    seen = frozenset(fingerprints(tasks.tasks[0].train))
    check_protocol(tasks, solver, "per-task")
    check_protocol(tasks, solver, "joint")
    check_protocol(tasks, with_protocol(solver, "transductive", seen), "transductive")
    for protocol in ("per-task", "joint"):
        with pytest.raises(ArcsolveError, match="these weights are transductive"):
            check_protocol(tasks, with_protocol(solver, "transductive", seen), protocol)
        with pytest.raises(ArcsolveError, match=f"were trained on {tasks.tasks[0].id} and 0 more"):
            check_protocol(tasks, with_protocol(solver, "per-task", seen), protocol)
    with pytest.raises(ArcsolveError, match="these weights are per-task, not transductive"):
        figure("arc-agi-1/evaluation", solver, "transductive")
