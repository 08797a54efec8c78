"""ARC Prize's own submission format, and the traps of its scorer: a left-out index, a left-out task."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcsolve.arc.benchmarking import NO_ANSWER, Origin, read_benchmarking, write_benchmarking
from arcsolve.arc.dataset import TaskSet
from arcsolve.arc.grid import Grid
from arcsolve.arc.scoring import compare, hits, score
from arcsolve.arc.submission import Attempts, validate_submission
from arcsolve.arc.task import Pair, Task
from arcsolve.errors import ArcsolveError, FormatError

END = datetime(2026, 11, 25, 12, 0, 10, tzinfo=UTC)
ORIGIN = Origin("arcsolve-01234567", {"views": 2}, datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC), END)


def grid(colour: int) -> Grid:
    return np.full((2, 3), colour, dtype=np.uint8)


def task(task_id: str, *outputs: int) -> Task:
    return Task(task_id, (Pair(grid(0), grid(0)),), tuple(Pair(grid(0), grid(colour)) for colour in outputs))


TASKS = TaskSet("two", (task("a", 1), task("b", 1, 2, 3)))
ANSWERS: dict[str, list[Attempts]] = {
    "a": [(grid(9), grid(1))],
    "b": [(grid(1), grid(9)), (grid(9), grid(9)), (grid(9), grid(3))],
}


def write(folder: Path, answers: dict[str, list[Attempts]] = ANSWERS) -> Path:
    write_benchmarking(folder, answers, dict.fromkeys(answers, ORIGIN), "run")
    return folder


def test_round_trip_with_every_field_that_the_harness_demands(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "b.json"]
    entries = json.loads((folder / "b.json").read_text())
    assert [entry["attempt_2"]["metadata"]["pair_index"] for entry in entries] == [0, 1, 2]
    metadata = entries[1]["attempt_1"]["metadata"]
    # The required fields of `AttemptMetadata`, `Usage` and `Cost` in arc_agi_benchmarking/schemas.py.
    assert {"model", "provider", "start_timestamp", "end_timestamp", "choices", "kwargs", "usage", "cost"} <= set(
        metadata
    )
    assert set(metadata["cost"]) == {"prompt_cost", "completion_cost", "total_cost"}
    assert set(metadata["usage"]["completion_tokens_details"]) >= {"reasoning_tokens", "accepted_prediction_tokens"}
    assert (metadata["task_id"], metadata["test_id"]) == ("b", "run")
    assert metadata["start_timestamp"] == "2026-11-25T12:00:00+00:00"
    read = read_benchmarking(folder)
    validate_submission(read, TASKS, "run")
    assert score(read, TASKS) == score(ANSWERS, TASKS)


def test_entries_are_placed_by_their_index_not_their_position(tmp_path: Path) -> None:
    folder = write(tmp_path)
    entries = json.loads((folder / "b.json").read_text())
    (folder / "b.json").write_text(json.dumps(entries[::-1]))
    (folder / "results.json").write_text("{}")  # what the harness writes beside them
    assert score(read_benchmarking(folder), TASKS) == score(ANSWERS, TASKS)


def broken(change: str) -> Any:
    entries = json.loads(json.dumps([{"attempt_1": attempt(0), "attempt_2": attempt(0)}, {"attempt_1": attempt(1)}]))
    if change == "no index":
        del entries[1]["attempt_1"]["metadata"]["pair_index"]
    elif change == "twice":
        entries[1]["attempt_1"]["metadata"]["pair_index"] = 0
    elif change == "gap":
        entries[1]["attempt_1"]["metadata"]["pair_index"] = 2
    elif change == "two":
        entries[0]["attempt_2"]["metadata"]["pair_index"] = 1
    elif change == "grid":
        entries[1]["attempt_1"]["answer"] = [[1], [2, 3]]
    elif change == "empty":
        entries[1] = {"attempt_1": None, "attempt_2": None}
    return {"list": {"a": 1}, "object": [3]}.get(change, entries)


def attempt(index: int) -> dict[str, Any]:
    return {"answer": [[1]], "metadata": {"pair_index": index}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no index", "[1].attempt_1: metadata.pair_index is missing, which ARC Prize's scorer takes for 0"),
        ("twice", "[1]: pair_index 0 stands there twice"),
        ("gap", "no entry has pair_index 1"),
        ("two", "[0]: expected one pair_index in its attempts, found [0, 1]"),
        ("empty", "[1]: expected one pair_index in its attempts, found none"),
        ("grid", "[1].attempt_1.answer[1]: row has 2 cells, expected 1"),
        ("list", "expected a list with one entry for each test input"),
        ("object", "[0]: expected an object with attempt_1 and attempt_2"),
    ],
)
def test_what_would_be_scored_wrongly_is_refused(change: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(broken(change)))
    with pytest.raises(FormatError) as caught:
        read_benchmarking(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'b.json'}: {message}"


def test_an_attempt_that_was_not_made_is_wrong(tmp_path: Path) -> None:
    missing = [{"attempt_1": attempt(0), "attempt_2": None}, {"attempt_1": {**attempt(1), "answer": []}}]
    (tmp_path / "b.json").write_text(json.dumps(missing))
    (_, second), (third, _) = read_benchmarking(tmp_path)["b"]
    assert second is NO_ANSWER and third is NO_ANSWER


def test_a_left_out_task_is_not_free(tmp_path: Path) -> None:
    """The harness divides by the files that are there."""
    folder = write(tmp_path)
    (folder / "b.json").unlink()
    with pytest.raises(FormatError, match=r"^run: missing task b \(two has 2\)"):
        validate_submission(read_benchmarking(folder), TASKS, "run")
    with pytest.raises(FormatError, match=r"holds no <task id>\.json"):
        (folder / "a.json").unlink()
        read_benchmarking(folder)


def test_files_of_other_tasks_are_not_left_among_them(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ArcsolveError, match=r"holds other\.json, which is no task of this run"):
        write(tmp_path)


@pytest.mark.parametrize("task_id", ["../x", "/tmp/x", "a/b", "results"])
def test_an_id_that_leads_elsewhere_is_no_file_name(task_id: str, tmp_path: Path) -> None:
    with pytest.raises(ArcsolveError, match="cannot be the name of a file"):
        write(tmp_path / "run", {task_id: ANSWERS["a"]})
    assert not (tmp_path / "run").exists()


def test_the_difference_between_two_submissions_worked_out_by_hand() -> None:
    others: dict[str, list[Attempts]] = {
        "a": [(grid(1), grid(9))],
        "b": [(grid(9), grid(9)), (grid(2), grid(9)), (grid(9), grid(9))],
    }
    first, either = (compare(hits(ANSWERS, TASKS), hits(others, TASKS), k) for k in (1, 2))
    assert (first.gained, first.lost) == ((("b", 0),), (("a", 0), ("b", 1)))
    assert (first.by_output, first.by_task) == (-1 / 4, (-1 + 0) / 2)
    assert (either.gained, either.lost) == ((("b", 0), ("b", 2)), (("b", 1),))
    assert (either.by_output, either.by_task) == (1 / 4, (0 + 1 / 3) / 2)
    assert either.by_output_95[0] <= either.by_output <= either.by_output_95[1]
    same = compare(hits(ANSWERS, TASKS), hits(ANSWERS, TASKS), 2)
    assert (same.gained, same.lost, same.by_output_95) == ((), (), (0.0, 0.0))
