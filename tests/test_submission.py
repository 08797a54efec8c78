"""Submissions: written whole, read back equal, and refused with the place that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcsolve.arc.dataset import TaskSet, load_tasks
from arcsolve.arc.grid import Grid
from arcsolve.arc.submission import Attempts, read_submission, validate_submission, write_submission
from arcsolve.errors import ArcsolveError, FormatError


def grid(*rows: list[int]) -> Grid:
    return np.array(rows, dtype=np.uint8)


@pytest.fixture(scope="module")
def tasks() -> TaskSet:
    return TaskSet("ten", load_tasks("arc-agi-2/evaluation").tasks[:10])


@pytest.fixture
def answers(tasks: TaskSet) -> dict[str, list[Attempts]]:
    return {task.id: [(pair.input, grid([1, 2])) for pair in task.test] for task in tasks}


def test_round_trip_in_kaggles_layout(tmp_path: Path, tasks: TaskSet, answers: dict[str, list[Attempts]]) -> None:
    path = tmp_path / "submission.json"
    write_submission(path, answers)
    read = read_submission(path)
    validate_submission(read, tasks, str(path))
    for task_id, outputs in answers.items():
        for expected, found in zip(outputs, read[task_id], strict=True):
            assert [g.tolist() for g in expected] == [g.tolist() for g in found]
    layout = json.loads(path.read_text())
    assert all(set(entry) == {"attempt_1", "attempt_2"} for outputs in layout.values() for entry in outputs)
    assert [file.name for file in tmp_path.iterdir()] == ["submission.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """Hours of answers must not be lost to a full disk or a wrong path at the end."""
    with pytest.raises(ArcsolveError, match="No such file or directory"):
        write_submission(tmp_path / "nowhere" / "submission.json", {})
    target = tmp_path / "directory"
    target.mkdir()
    with pytest.raises(ArcsolveError, match="directory"):
        write_submission(target, {"a": [(grid([1]), grid([2]))]})
    assert [file.name for file in tmp_path.iterdir()] == ["directory"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "bad.json: expected an object of answers by task id"),
        ({"a": {"attempt_1": [[1]]}}, "bad.json: a: expected a list with one entry for each test input"),
        ({"a": [[[1]]]}, "bad.json: a[0]: expected an object with attempt_1 and attempt_2"),
        ({"a": [{"attempt_1": [[1]]}]}, "bad.json: a[0]: missing key `attempt_2`"),
        (
            {"a": [{"attempt_1": [[1]], "attempt_2": [[1, 2], [3]]}]},
            "bad.json: a[0].attempt_2[1]: row has 1 cells, expected 2",
        ),
    ],
)
def test_a_malformed_submission_is_named_in_one_line(value: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(value))
    with pytest.raises(FormatError) as caught:
        read_submission(path)
    assert str(caught.value).replace(f"{tmp_path}/", "") == message


def test_every_task_and_every_test_input_is_wanted(tasks: TaskSet, answers: dict[str, list[Attempts]]) -> None:
    """Some scorers skip tasks that are missing, which makes leaving out the hard ones pay."""
    first, second = tasks.tasks[:2]
    with pytest.raises(FormatError, match=f"^s: missing task {first.id} and 1 more"):
        validate_submission({k: v for k, v in answers.items() if k not in (first.id, second.id)}, tasks, "s")
    with pytest.raises(FormatError, match=r"^s: unknown task stray"):
        validate_submission({**answers, "stray": []}, tasks, "s")
    with pytest.raises(FormatError, match=f"^s: {first.id}: 0 answers, expected {len(first.test)}"):
        validate_submission({**answers, first.id: []}, tasks, "s")
