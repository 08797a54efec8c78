"""A batch run: every task of a set solved, each on its own, with all that has to survive a kill in one folder."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from arcsolve.arc.dataset import TaskSet, Unreadable
from arcsolve.arc.submission import Attempts, validate_submission, write_submission
from arcsolve.arc.task import Task
from arcsolve.inference.deadline import Deadline, work
from arcsolve.inference.evaluation import spread
from arcsolve.inference.pool import Failure, Job, Pool
from arcsolve.inference.results import DAMAGED, RESULTS, append, choose, line_of, read_entries, whole_lines
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Solution

SUBMISSION = "submission.json"
SUBMISSION_SECONDS = 30.0
"""How often the submission is written anew, at the most; a kill in between loses nothing, since results are kept."""

Answers = dict[str, list[Attempts]]


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
        weights_sha256, made_with: what decides, with a task's hash, whether an earlier line counts. The protocol of
            ``made_with`` is what solutions are said to be made by.
        keep_cut: whether answers whose budget a deadline cut count as solved.
        warn: told of lines that cannot be read and of tasks that changed.

    Attributes:
        answers: of every task, those of these weights and settings before any others, a stand-in where there is none.
        solved: ids of the tasks that were solved with these weights and settings.
        cut: those of them whose budget a deadline cut.
        truncated: those of them that met the end of their time.
        otherwise: ids of the tasks whose answer is of other weights or settings.
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
        self.truncated: set[str] = set()
        self.otherwise: set[str] = set()
        self.failed = {task.id: task.error for task in self.unreadable}
        entries = choose(read_entries(self.results, tasks, warn, mend=True), weights_sha256, made_with)
        for entry in entries.values():
            self.answers[entry.id] = entry.attempts
            self.answered.add(entry.id)
            if not entry.made_by(weights_sha256, made_with):
                self.otherwise.add(entry.id)
            elif keep_cut or not entry.cut:
                self._solved(entry.id, entry.cut, entry.truncated)
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
        try:
            line = self._append(task, result, cut)
        except ValueError as error:  # JSON has no NaN
            result = Failure(f"{type(error).__name__}: {error}", "")
            line = self._append(task, result, cut)
        if isinstance(result, Failure):
            self.failed[task.id] = result.error
        else:
            self.failed.pop(task.id, None)
            self.answers[task.id] = [(test.attempt_1, test.attempt_2) for test in result.test]
            self.answered.add(task.id)
            self.otherwise.discard(task.id)
            self._solved(task.id, cut, result.truncated)
        if time.monotonic() - self.written >= SUBMISSION_SECONDS:
            self.write_submission()
        return line

    def _append(self, task: Task, result: Solution | Failure, cut: bool) -> dict[str, Any]:
        if isinstance(result, Failure):
            said: dict[str, Any] = {"error": result.error, "traceback": result.traceback}
        else:
            said = {"cut": cut, "solution": replace(result, protocol=self.made_with["protocol"]).to_json()}
        line = line_of(task, self.weights_sha256, self.made_with, **said)
        append(self.results, line)
        return line

    def _solved(self, task_id: str, cut: bool, truncated: bool) -> None:
        self.solved.add(task_id)
        if cut:
            self.cut.add(task_id)
        if truncated:
            self.truncated.add(task_id)

    def record_unreadable(self) -> list[dict[str, Any]]:
        """Put malformed tasks on the disk, once."""
        if not self.unreadable:
            return []  # the file may be long
        told = set()
        for text in whole_lines(self.results):
            if b'"error"' in text:
                with suppress(*DAMAGED):  # which was told already
                    value = json.loads(text)
                    told.add((value["id"], value["error"]))
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
    """Solve what is to do. A task that fails is recorded; one whose worker was lost runs once more, after the others.

    Args:
        deadline: after which no task is begun, and soon none is waited for; the first ones are tried for it, and then
            solved. Where there is no time for that, what the trial found is the answer.
        finished: called with each task, its line, and its share of the work.

    Raises:
        ArcsolveError: results cannot be written, or no worker can be started.
    """
    queue = deque(batch.todo)
    originals = {task.id: task for task in queue}
    sizes = {task.id: work(task, settings.adapt) for task in queue}
    cut: dict[str, bool] = {}
    lost: set[str] = set()
    trials: dict[str, Job] = {}
    rough: dict[str, Solution] = {}  # what they found
    running = 0

    def record(task_id: str, result: Solution | Failure, cut: bool) -> None:
        rough.pop(task_id, None)
        finished(originals[task_id], batch.record(originals[task_id], result, cut), sizes[task_id])

    def settle(task_id: str) -> None:
        """Let what a trial found be the answer."""
        result, tried = rough[task_id], trials[task_id].settings
        whole = settings if settings.stop else replace(settings, leave_one_out=0)
        record(task_id, result, result.truncated or not _alike(whole, tried))

    try:
        while queue or running:
            while queue and pool.free and not (deadline and deadline.left <= 0):
                largest = deadline.largest(settings) if deadline else math.inf
                task = next((task for task in queue if sizes[task.id] <= largest), None)
                if task is None:
                    break
                planned, cut[task.id], trial = settings, False, False
                if deadline:
                    unknown = settings.adapt.steps > 0 and not deadline.known
                    trial = unknown and task.id not in trials and len(trials) < pool.size
                if deadline and trial:
                    planned = deadline.trial(settings)
                elif deadline:
                    waiting = sum(sizes[other.id] for other in queue if sizes[other.id] <= largest)
                    planned, cut[task.id] = deadline.plan(task, waiting, settings, pool.size)
                queue.remove(task)
                if not trial and task.id in rough and _alike(planned, trials[task.id].settings):
                    settle(task.id)
                    continue
                job = Job(task.blind, planned)
                if trial:
                    trials[task.id] = job
                pool.submit(job)
                running += 1
            # Nothing to do, or nothing that could be done in time; workers that are to come are waited for.
            if not running and (not queue or (deadline and (deadline.left <= 0 or pool.free))):
                break
            done = pool.wait(max(deadline.patience, 0.0) if deadline else None)
            if deadline and deadline.patience <= 0 and not done:
                break
            for job, result in done:
                running -= 1
                task = originals[job.task.id]
                if result is None and task.id not in lost:
                    lost.add(task.id)
                    queue.append(task)  # last, since it may cost the next worker, too
                    continue
                if result is None:
                    result = Failure("its worker was lost twice; is there enough memory?", "")
                if isinstance(result, Failure) and task.id in rough:
                    settle(task.id)  # better than a stand-in
                    continue
                if deadline and isinstance(result, Solution):
                    deadline.learn(task, job.settings, result)
                    if trials.get(task.id) is job:
                        rough[task.id] = result
                        queue.appendleft(task)
                        continue
                # Its own limit is a budget like others; a shorter one is the deadline's.
                met = isinstance(result, Solution) and result.truncated
                record(task.id, result, cut[task.id] or (met and job.settings.time_limit != settings.time_limit))
    finally:
        for task_id in list(rough):
            settle(task_id)


def _alike(planned: Settings, tried: Settings) -> bool:
    """Whether a task would be solved again as it was tried."""
    return replace(planned, time_limit=None) == replace(tried, time_limit=None)
