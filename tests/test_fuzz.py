"""Any file at all gives tasks, or one line of error: never a traceback. 500 inputs here; for 10,000:

pytest tests/test_fuzz.py --hypothesis-profile=long
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from arcsolve.arc.benchmarking import read_benchmarking
from arcsolve.arc.dataset import Unreadable, load_tasks
from arcsolve.arc.submission import read_submission
from arcsolve.cli.main import arcsolve
from arcsolve.errors import ArcsolveError

CELLS = st.one_of(st.integers(0, 9), st.integers(-1, 11), st.floats(), st.none(), st.booleans(), st.text(max_size=2))
GRIDS = st.one_of(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(st.integers(0, 9), min_size=width, max_size=width), min_size=1, max_size=4)
    ),
    st.lists(st.lists(CELLS, max_size=3), max_size=3),
    st.lists(st.just([0]), min_size=29, max_size=32),
)
PAIRS = st.one_of(
    st.fixed_dictionaries({"input": GRIDS, "output": GRIDS}),
    st.dictionaries(st.sampled_from(["input", "output", "x"]), GRIDS, max_size=3),
)
TASKS = st.one_of(
    st.fixed_dictionaries(
        {"train": st.lists(PAIRS, min_size=1, max_size=2), "test": st.lists(PAIRS, min_size=1, max_size=2)}
    ),
    st.dictionaries(st.sampled_from(["train", "test", "name"]), st.lists(PAIRS, max_size=2), max_size=3),
)
ATTEMPTS = st.one_of(
    st.fixed_dictionaries({"attempt_1": GRIDS, "attempt_2": GRIDS}),
    st.fixed_dictionaries(
        {
            "attempt_1": st.fixed_dictionaries(
                {"answer": GRIDS, "metadata": st.fixed_dictionaries({"pair_index": st.integers(-1, 2)})}
            )
        }
    ),
)
IDS = st.text(min_size=0, max_size=4)
JSON = st.recursive(
    st.one_of(CELLS, GRIDS), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(IDS, inner, max_size=3)
)
VALUES = st.one_of(
    TASKS,
    st.dictionaries(IDS, TASKS, max_size=3),
    st.dictionaries(IDS, st.lists(ATTEMPTS, max_size=2), max_size=2),
    st.lists(ATTEMPTS, max_size=3),
    JSON,
)


def damaged(text: str, cut: int, insert: bytes) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    cut %= len(data) + 1
    return data[:cut] + insert + data[cut:] if len(insert) % 2 else data[:cut] + insert


FILES = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda value: json.dumps(value).encode(), VALUES),
    st.builds(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), VALUES),
    st.builds(
        lambda value, cut, insert: damaged(json.dumps(value), cut, insert),
        VALUES,
        st.integers(0),
        st.binary(max_size=4),
    ),
)


def one_line(error: ArcsolveError) -> None:
    assert "\n" not in str(error) and str(error).isprintable() and len(str(error)) < 1000, repr(str(error))


LINE: dict[str, Any] = {
    "id": "any",
    "task_hash": "0",
    "weights_sha256": "0",
    "settings": {},
    "finished": "2026-11-25T12:00:00+00:00",
    "cut": False,
    "solution": {"test": [{"attempt_1": [[1]], "attempt_2": [[2]]}], "truncated": False, "seconds": {"total": 1.0}},
}
VALID = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}
ODD = st.one_of(
    JSON,
    st.floats(),
    st.integers(),
    st.lists(ATTEMPTS, max_size=2),
)
LINES = st.lists(
    st.one_of(
        st.builds(lambda key, value: {**LINE, key: value}, st.sampled_from(list(LINE)), ODD),
        st.builds(
            lambda key, value: {**LINE, "solution": {**LINE["solution"], key: value}},
            st.sampled_from(["test", "truncated", "seconds"]),
            ODD,
        ),
        st.builds(
            lambda date, spent: {
                **LINE,
                "finished": date,
                "solution": {**LINE["solution"], "seconds": {"total": spent}},
            },
            st.sampled_from(["0001-01-01", "2026-11-25", "9999-12-31T23:59:59Z", ""]),
            st.one_of(st.sampled_from([10**400, 1e300, "1", None, 60]), st.floats()),
        ),
        st.builds(lambda value: {**LINE, "error": value}, JSON),
    ),
    max_size=3,
)


@given(lines=LINES, junk=st.binary(max_size=20), summary=st.one_of(JSON, st.just({})), layout=st.booleans())
def test_submit_meets_any_run_without_a_traceback(
    lines: list[Any], junk: bytes, summary: Any, layout: bool, tmp_path_factory: Any
) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "run"
    folder.mkdir(exist_ok=True)
    tasks, out = folder.with_name("any.json"), folder.with_name("out")
    tasks.write_text(json.dumps(VALID))
    content = load_tasks(str(tasks)).tasks[0].blind.hash
    written = [{**line, "task_hash": content} if line["task_hash"] == "0" else line for line in lines]
    text = "\n".join(json.dumps(line) for line in written).encode()
    (folder / "results.jsonl").write_bytes(text + b"\n" + junk + b"\n")
    (folder / "summary.json").write_text(json.dumps(summary))
    if layout:
        command = ["submit", str(folder), "-o", str(out), "--tasks", str(tasks), "--format", "arc-agi-benchmarking"]
    else:
        command = ["submit", str(folder), "-o", str(out.with_suffix(".json")), "--tasks", str(tasks)]
    meets(command)


def meets(command: list[str]) -> None:
    """The command runs, or ends with one line."""
    done = CliRunner().invoke(arcsolve, command)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert isinstance(done.exception, ArcsolveError), done.exc_info
        one_line(done.exception)
    else:
        assert done.exit_code in (0, 3), done.output


@given(data=FILES)
def test_loaders_and_commands_meet_any_file_without_a_traceback(data: bytes, tmp_path_factory: Any) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    path = folder / "any.json"
    path.write_bytes(data)
    run = folder.with_name("empty run")
    run.mkdir(exist_ok=True)
    (run / "results.jsonl").write_bytes(data)
    unreadable: list[Unreadable] = []
    readers = (load_tasks, lambda source: load_tasks(source, unreadable), read_submission)
    for read, source in [*((read, str(path)) for read in readers), (load_tasks, str(folder))]:
        try:
            read(source)
        except ArcsolveError as error:
            one_line(error)
    try:
        read_benchmarking(folder)
    except ArcsolveError as error:
        one_line(error)
    for command in (
        ["show", str(path)],
        ["score", str(path), str(path)],
        ["score", str(folder), str(path), "--json"],
        ["submit", str(run), "-o", str(run / "out"), "--tasks", str(path)],
    ):
        meets(command)
