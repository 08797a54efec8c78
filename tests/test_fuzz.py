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


@given(data=FILES)
def test_loaders_and_commands_meet_any_file_without_a_traceback(data: bytes, tmp_path_factory: Any) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    path = folder / "any.json"
    path.write_bytes(data)
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
        ["submit", str(folder), "-o", str(folder / "out"), "--tasks", str(path)],
    ):
        done = CliRunner().invoke(arcsolve, command)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            assert isinstance(done.exception, ArcsolveError), done.exc_info
            one_line(done.exception)
        else:
            assert done.exit_code in (0, 3), done.output
