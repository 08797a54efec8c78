"""A batch run: every task of a set solved, each on its own, with all that has to survive a kill in one folder."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from arcsolve.arc.dataset import TaskSet, Unreadable
from arcsolve.arc.grid import as_grid
from arcsolve.arc.submission import ATTEMPTS, Attempts, validate_submission, write_submission
from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.deadline import Deadline, work
from arcsolve.inference.evaluation import blind, spread
from arcsolve.inference.pool import Failure, Job, Pool
from arcsolve.inference.results import RESULTS, append, line_of, whole_lines
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Solution

SUBMISSION = "submission.json"
SUBMISSION_SECONDS = 30.0
"""How often the submission is written anew, at the most; a kill in between loses nothing, since results are kept."""

LOST_IN_A_ROW = 5
"""Workers lost, with no result in between, after which something else than a task must be wrong."""

Answers = dict[str, list[Attempts]]


@dataclass(frozen=True)
class Entry:
    """What a line of a results file says of a task that was solved.

    Attributes:
        attempts: two for each test input.
        weights_sha256, settings: what it was solved with.
        cut: whether a deadline or a time limit cut its budget.
        finished: when.
        seconds: how long it took.
    """

    id: str
    attempts: list[Attempts]
    weights_sha256: str
    settings: dict[str, Any]
    cut: bool
    finished: datetime
    seconds: float


def read_entries(
    path: Path, tasks: TaskSet, warn: Callable[[str], None] = lambda line: None, *, mend: bool = False
) -> Iterator[Entry]:
    """The lines of a results file that answer tasks of the set as they are now, oldest first.

    A line that cannot be read is told to ``warn``, and its task counts as not solved.

    Raises:
        ArcsolveError: the file cannot be read.
    """
    known = {task.id: task for task in tasks}
    changed: set[str] = set()
    for number, text in enumerate(whole_lines(path, mend=mend), 1):
        where = f"{path}: line {number}"
        try:
            value = json.loads(text)
            task = known.get(value["id"])
            if task is None or "solution" not in value:
                continue
            if value["task_hash"] != task.hash:
                changed.add(task.id)
                continue
            changed.discard(task.id)
            yield _entry(value, task, where)
        except (ValueError, KeyError, TypeError, FormatError) as error:
            warn(f"{where}: not a result, left out ({error})")
    for task_id in sorted(changed):
        warn(f"{task_id}: the task has changed since it was solved")


def _entry(value: dict[str, Any], task: Task, where: str) -> Entry:
    solution = value["solution"]
    attempts = []
    for index, (test, _) in enumerate(zip(solution["test"], task.test, strict=True)):
        first, second = (as_grid(test[key], f"{where}: test[{index}].{key}") for key in ATTEMPTS)
        attempts.append((first, second))
    return Entry(
        task.id,
        attempts,
        value["weights_sha256"],
        value["settings"],
        bool(value["cut"]),
        datetime.fromisoformat(value["finished"]),
        float(solution["seconds"]["total"]),
    )


def unanswered(tasks: TaskSet, unreadable: Iterable[Unreadable]) -> Answers:
    """What a submission says of tasks without an answer, in order of their ids: the input itself, and a black cell."""
    cell = np.zeros((1, 1), dtype=np.uint8)
    answers: Answers = {task.id: [(pair.input, cell) for pair in task.test] for task in tasks}
    answers |= {task.id: [(cell, cell)] * task.test_inputs for task in unreadable}
    return dict(sorted(answers.items()))


class Batch:
    """A batch run's folder and what is known so far. The folder's lock is the caller's affair.

    Args:
        tasks: what to solve; test outputs, where they are there, are not handed to the solver.
        unreadable: malformed tasks of the same set: recorded, and answered by a stand-in.
        folder: holds ``results.jsonl`` and ``submission.json``.
        weights_sha256, made_with: what decides, with a task's hash, whether an earlier line counts.
        keep_cut: whether answers that a deadline or a limit cut short count as solved.
        warn: told of lines that cannot be read and of tasks that changed.

    Attributes:
        answers: of every task, the stand-in where there is no other.
        solved: ids of the tasks that were solved with these weights and settings.
        cut: those of them whose budget was cut.
        failed: what went wrong, by id.
    """

    def __init__(
        self,
        tasks: TaskSet,
        unreadable: Iterable[Unreadable],
        folder: Path,
        weights_sha256: str,
        made_with: dict[str, Any],
        *,
        keep_cut: bool,
        warn: Callable[[str], None],
    ) -> None:
        self.tasks = tasks
        self.unreadable = tuple(unreadable)
        self.results = folder / RESULTS
        self.submission = folder / SUBMISSION
        self.weights_sha256 = weights_sha256
        self.made_with = made_with
        self.answers = unanswered(tasks, self.unreadable)
        self.answered: set[str] = set()
        self.solved: set[str] = set()
        self.cut: set[str] = set()
        self.failed = {task.id: task.error for task in self.unreadable}
        for entry in read_entries(self.results, tasks, warn, mend=True):
            self.answers[entry.id] = entry.attempts
            self.answered.add(entry.id)
            same = entry.weights_sha256 == weights_sha256 and entry.settings == made_with
            if same and (keep_cut or not entry.cut):
                self._solved(entry.id, entry.cut)
        self.written = -float("inf")
        self.write_submission()

    @property
    def todo(self) -> list[Task]:
        """What is not solved, in an order of which every beginning is spread over the sizes."""
        return [task for task in spread(self.tasks) if task.id not in self.solved]

    def record(self, task: Task, result: Solution | Failure, cut: bool) -> dict[str, Any]:
        """Put a result on the disk, and sometimes the submission; returns the line.

        Raises:
            ArcsolveError: the disk is full, or a file cannot be written; what was there before still is.
        """
        if isinstance(result, Failure):
            self.failed[task.id] = result.error
            said: dict[str, Any] = {"error": result.error, "traceback": result.traceback}
        else:
            cut = cut or result.truncated
            self.failed.pop(task.id, None)
            self.answers[task.id] = [(test.attempt_1, test.attempt_2) for test in result.test]
            self.answered.add(task.id)
            self._solved(task.id, cut)
            said = {"cut": cut, "solution": result.to_json()}
        line = line_of(task, self.weights_sha256, self.made_with, **said)
        append(self.results, line)
        if time.monotonic() - self.written >= SUBMISSION_SECONDS:
            self.write_submission()
        return line

    def _solved(self, task_id: str, cut: bool) -> None:
        self.solved.add(task_id)
        (self.cut.add if cut else self.cut.discard)(task_id)

    def record_unreadable(self) -> list[dict[str, Any]]:
        """Put malformed tasks on the disk, once."""
        if not self.unreadable:
            return []  # the file may be long
        told = set()
        for text in whole_lines(self.results):
            if '"error"' in text:
                value = json.loads(text)
                told.add((value.get("id"), value.get("error")))
        lines = [{"id": one.id, "error": one.error} for one in self.unreadable if (one.id, one.error) not in told]
        for line in lines:
            append(self.results, line)
        return lines

    def write_submission(self) -> None:
        """Write ``submission.json`` with what is known so far: always every task, every test input, two attempts.

        Raises:
            ArcsolveError: the file cannot be written.
        """
        validate_submission(self.answers, self.tasks, str(self.submission), self.unreadable)
        write_submission(self.submission, self.answers)
        self.written = time.monotonic()


def solve_all(
    batch: Batch,
    pool: Pool,
    settings: Settings,
    *,
    deadline: Deadline | None = None,
    finished: Callable[[Task, dict[str, Any], float], None] = lambda task, line, size: None,
) -> None:
    """Solve what is to do. A task that fails is recorded; one whose worker was lost runs again once.

    Args:
        deadline: after which no task is begun; the first ones are tried for it, and then solved.
        finished: called with each task, its line, and its share of the work.

    Raises:
        ArcsolveError: results cannot be written, or workers are lost one after the other.
    """
    queue = deque(batch.todo)
    sizes = {task.id: work(task, settings.adapt) for task in queue}
    cut: dict[str, bool] = {}
    lost: set[str] = set()
    trials: set[str] = set()
    originals = {task.id: task for task in queue}
    running = in_a_row = 0
    while queue or running:
        while queue and pool.free and not (deadline and deadline.left <= 0):
            task = queue.popleft()
            planned, cut[task.id] = settings, False
            if deadline is not None and settings.adapt.steps and not deadline.known:
                planned = deadline.trial(settings)
                trials.add(task.id)
            elif deadline is not None:
                waiting = sizes[task.id] + sum(sizes[other.id] for other in queue)
                planned, cut[task.id] = deadline.plan(task, waiting, settings, pool.size)
            pool.submit(Job(blind(task), planned))
            running += 1
        if deadline and deadline.left <= 0:
            queue.clear()
            if not running:
                break
        for job, result in pool.wait():
            running -= 1
            task = originals[job.task.id]
            if result is None:
                in_a_row += 1
                if in_a_row > LOST_IN_A_ROW:
                    raise ArcsolveError(f"{in_a_row} workers were lost one after the other; is there enough memory?")
                if task.id not in lost:
                    lost.add(task.id)
                    trials.discard(task.id)
                    queue.appendleft(task)
                    continue
                result = Failure("its worker was lost twice; is there enough memory?", "")
            else:
                in_a_row = 0
            if deadline is not None and isinstance(result, Solution):
                deadline.learn(task, job.settings, result)
                if task.id in trials:
                    trials.remove(task.id)
                    queue.appendleft(task)
                    continue
            finished(task, batch.record(task, result, cut[task.id]), sizes[task.id])
