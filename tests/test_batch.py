"""The batch run: what counts as solved, what a kill leaves, lost workers, failures, and memory over many tasks."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcsolve.arc.dataset import TaskSet, Unreadable
from arcsolve.arc.submission import read_submission, validate_submission
from arcsolve.arc.task import Pair, Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference import batch as batch_module
from arcsolve.inference.adaptation import AdaptSettings
from arcsolve.inference.batch import Batch, solve_all
from arcsolve.inference.deadline import FLOOR_STEPS, Deadline
from arcsolve.inference.evaluation import spread
from arcsolve.inference.pool import Done, Failure, Job
from arcsolve.inference.results import read_entries
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Candidate, LeftOut, Recalled, Solution, TestSolution

WEIGHTS = "0" * 64
MADE_WITH = {"views": 1, "protocol": "per-task"}


def task(number: int, colour: int = 1, tests: int = 1) -> Task:
    grid = np.full((1 + number % 5, 2), colour, dtype=np.uint8)
    return Task(f"t{number:05}", (Pair(grid, grid),), (Pair(grid, grid),) * tests)


def solution(of: Task, *, truncated: bool = False, colour: int = 7, steps: tuple[int, ...] = (1,)) -> Solution:
    """Answers each test input by itself, in one colour and in 8."""
    tests = []
    for pair in of.test:
        assert pair.output is None, "a solver must not be handed the test outputs"
        first, second = np.full_like(pair.input, colour), np.full_like(pair.input, 8)
        tests.append(TestSolution(first, second, (Candidate(first, 1, 0.5),), ()))
    return Solution(
        of.id,
        "per-task",
        WEIGHTS,
        0,
        truncated,
        False,
        Recalled("mean"),
        LeftOut(),
        steps,
        tuple(tests),
        {"total": 0.1, "refine": 0.1},
    )


class FakePool:
    """Workers that answer at once, last in first out; ``fate`` says what becomes of a job instead."""

    def __init__(self, fate: dict[str, list[Any]] | None = None, size: int = 2) -> None:
        self.size = size
        self.fate = fate or {}
        self.jobs: list[Job] = []
        self.began: list[str] = []

    @property
    def free(self) -> int:
        return self.size - len(self.jobs)

    def submit(self, job: Job) -> None:
        assert self.free
        self.jobs.append(job)
        self.began.append(job.task.id)

    def wait(self, timeout: float | None = None) -> Sequence[Done]:
        job = self.jobs.pop()
        fates = self.fate.get(job.task.id)
        return [Done(job, fates.pop(0) if fates else solution(job.task))]

    def close(self) -> None:
        pass


def make(folder: Path, tasks: Iterable[Task], *, unreadable: Sequence[Unreadable] = (), **changes: Any) -> Batch:
    folder.mkdir(exist_ok=True)
    chosen: dict[str, Any] = {"keep_cut": False, "warn": lambda line: None, "made_with": MADE_WITH, **changes}
    return Batch(TaskSet("set", tuple(tasks)), unreadable, folder, chosen.pop("weights", WEIGHTS), **chosen)


def answered_by_solver(folder: Path) -> set[str]:
    return {key for key, value in read_submission(folder / "submission.json").items() if value[0][0].flat[0] == 7}


def test_the_submission_is_complete_from_the_start_and_in_order(tmp_path: Path) -> None:
    tasks = [task(n, tests=1 + n % 3) for n in range(9)]
    broken = Unreadable("t00004x", "x.json: broken", 2)
    run = make(tmp_path, tasks, unreadable=[broken])
    first = read_submission(tmp_path / "submission.json")
    validate_submission(first, run.tasks, "s", [broken])
    assert list(first) == sorted([*(t.id for t in tasks), broken.id]) and not answered_by_solver(tmp_path)
    solve_all(run, FakePool(), Settings())
    run.write_submission()
    assert answered_by_solver(tmp_path) == {t.id for t in tasks}
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 9 and all(next(iter(line)) == "id" for line in lines)


def test_only_what_matches_by_task_weights_and_settings_is_skipped(tmp_path: Path) -> None:
    tasks = [task(n) for n in range(4)]
    solve_all(make(tmp_path, tasks), FakePool(), Settings())
    assert make(tmp_path, tasks).todo == []
    assert len(make(tmp_path, tasks, weights="1" * 64).todo) == 4
    assert len(make(tmp_path, tasks, made_with={**MADE_WITH, "views": 2}).todo) == 4
    warned: list[str] = []
    changed = [*tasks[:3], task(3, colour=5)]
    run = make(tmp_path, changed, warn=warned.append)
    assert [t.id for t in run.todo] == ["t00003"]
    assert warned == ["t00003: the task has changed since it was solved"]
    # Other settings: an older answer is still better than none.
    make(tmp_path, tasks, made_with={**MADE_WITH, "views": 2})
    assert len(answered_by_solver(tmp_path)) == 4
    pool = FakePool()
    solve_all(run, pool, Settings())
    assert pool.began == ["t00003"] and make(tmp_path, changed).todo == []


def test_a_line_cut_short_and_a_line_of_rubbish_cost_their_own_task_only(tmp_path: Path) -> None:
    tasks = [task(n) for n in range(4)]
    solve_all(make(tmp_path, tasks), FakePool(), Settings())
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text(lines[0] + "rubbish\n" + lines[2] + lines[3][:50])
    warned: list[str] = []
    run = make(tmp_path, tasks, warn=warned.append)
    assert len(run.todo) == 2 and len(warned) == 1 and "line 2: not a result" in warned[0]
    solve_all(run, FakePool(), Settings())
    assert make(tmp_path, tasks).todo == []


def test_a_reader_does_not_cut_a_line_that_is_being_written(tmp_path: Path) -> None:
    tasks = TaskSet("set", (task(0), task(1)))
    solve_all(make(tmp_path, tasks), FakePool(), Settings())
    path = tmp_path / "results.jsonl"
    half = path.read_text()[:-30]
    path.write_text(half)
    assert len(list(read_entries(path, tasks))) == 1
    assert path.read_text() == half


def test_a_failing_task_stops_nobody_and_is_tried_again_next_time(tmp_path: Path) -> None:
    tasks = [task(n) for n in range(5)]
    run = make(tmp_path, tasks)
    solve_all(run, FakePool({"t00002": [Failure("RuntimeError: no", "Traceback ...")]}), Settings())
    assert run.failed == {"t00002": "RuntimeError: no"} and len(run.solved) == 4
    again = make(tmp_path, tasks)
    assert [t.id for t in again.todo] == ["t00002"]
    solve_all(again, FakePool(), Settings())
    assert not again.failed and len(again.solved) == 5


def test_a_lost_workers_task_runs_again_once(tmp_path: Path) -> None:
    run = make(tmp_path, [task(n) for n in range(5)])
    pool = FakePool({"t00001": [None], "t00003": [None, None]})
    solve_all(run, pool, Settings())
    assert list(run.failed) == ["t00003"] and "lost twice" in run.failed["t00003"]
    assert pool.began.count("t00001") == pool.began.count("t00003") == 2 and len(run.solved) == 4


def test_tasks_that_kill_their_workers_run_last_and_stop_nobody(tmp_path: Path) -> None:
    run = make(tmp_path, [task(n) for n in range(12)])
    deadly = {f"t{n:05}" for n in range(2, 10)}
    pool = FakePool({name: [None, None] for name in deadly}, size=1)
    solve_all(run, pool, Settings())
    assert run.failed.keys() == deadly and len(run.solved) == 4
    assert set(pool.began[-8:]) == deadly and len(pool.began) == 20


def test_malformed_tasks_are_recorded_once(tmp_path: Path) -> None:
    broken = [Unreadable("bad", "bad.json: not JSON")]
    assert len(make(tmp_path, [task(0)], unreadable=broken).record_unreadable()) == 1
    run = make(tmp_path, [task(0)], unreadable=broken)
    assert run.record_unreadable() == [] and run.failed == {"bad": "bad.json: not JSON"}


def test_answers_of_several_settings_in_one_folder_do_not_mix(tmp_path: Path) -> None:
    tasks = [task(n) for n in range(3)]
    fates = {t.id: [solution(t.blind, colour=6)] for t in tasks}
    solve_all(make(tmp_path, tasks), FakePool(), Settings())
    other = make(tmp_path, tasks, made_with={**MADE_WITH, "views": 2})
    assert other.otherwise == {t.id for t in tasks} and not other.solved
    solve_all(other, FakePool(fates), Settings())
    other.write_submission()
    assert not other.otherwise and not answered_by_solver(tmp_path)
    again = make(tmp_path, tasks)
    assert again.todo == [] and not again.otherwise
    assert answered_by_solver(tmp_path) == {t.id for t in tasks}


def test_known_test_outputs_change_nothing(tmp_path: Path) -> None:
    tasks = [task(n) for n in range(3)]
    solve_all(make(tmp_path, [t.blind for t in tasks]), FakePool(), Settings())
    warned: list[str] = []
    assert make(tmp_path, tasks, warn=warned.append).todo == [] and not warned


def test_a_task_that_went_and_came_back_is_not_changed(tmp_path: Path) -> None:
    before, between = [task(0)], [task(0, colour=5)]
    for tasks in (before, between):
        solve_all(make(tmp_path, tasks), FakePool(), Settings())
    warned: list[str] = []
    assert make(tmp_path, before, warn=warned.append).todo == [] and not warned


ODD = [
    {"settings": []},
    {"weights_sha256": 5},
    {"cut": None, "finished": "soon"},
    {"finished": "0001-01-01"},
    {"finished": 3},
    {"task_hash": {}},
    {"id": []},
    {"solution": []},
    {"solution": {"test": {}, "seconds": {}, "truncated": False}},
]


@pytest.mark.parametrize("line", [*ODD, "seconds", "deep", "bytes", "list"])
def test_odd_lines_are_told_and_left_out(line: Any, tmp_path: Path) -> None:
    tasks, path = [task(0), task(1)], tmp_path / "results.jsonl"
    solve_all(make(tmp_path, tasks), FakePool(size=1), Settings())
    first, second = path.read_bytes().splitlines()
    if isinstance(line, dict):
        first = json.dumps({**json.loads(first), **line}).encode()
    elif line == "seconds":
        first = first.replace(b'"total": 0.1', b'"total": 1' + b"0" * 400)
    else:
        first = {"deep": b"[" * 100_000, "bytes": first.replace(b"t0000", b"\xff"), "list": b"[]"}[line]
    path.write_bytes(first + b'\n"error"\n{"error": 1\n\xff"error"\n' + second + b"\n")
    warned: list[str] = []
    run = make(tmp_path, tasks, warn=warned.append, unreadable=[Unreadable("bad", "bad.json: no")])
    # An unknown id is no mistake: it may be another set's.
    assert len(run.todo) == 1 and len(warned) == 4, warned
    assert all(("not a result" in said or "has changed" in said) and said.isprintable() for said in warned)
    assert len(run.record_unreadable()) == 1


def test_what_meets_its_own_limit_is_solved_and_what_a_deadline_cut_is_not(tmp_path: Path) -> None:
    tasks, settings = [task(0)], Settings(time_limit=5.0)
    late = solution(tasks[0].blind, truncated=True)
    run = make(tmp_path / "a", tasks)
    solve_all(run, FakePool({"t00000": [late]}), settings)
    assert not run.cut and run.truncated == {"t00000"} and make(tmp_path / "a", tasks).todo == []
    run = make(tmp_path / "b", tasks)
    solve_all(run, FakePool({"t00000": [solution(tasks[0].blind), late]}), settings, deadline=Deadline(6.0))
    assert run.cut == run.truncated == {"t00000"}
    assert make(tmp_path / "b", tasks, keep_cut=True).todo == []
    assert len(make(tmp_path / "b", tasks).todo) == 1


def test_under_a_deadline_the_first_tasks_are_tried_and_then_solved(tmp_path: Path) -> None:
    run = make(tmp_path, [task(n) for n in range(6)])
    pool, settings = FakePool(), Settings()
    given: list[tuple[str, int]] = []
    submit = pool.submit

    def watch(job: Job) -> None:
        given.append((job.task.id, job.settings.adapt.steps))
        submit(job)

    pool.submit = watch  # type: ignore[method-assign]
    solve_all(run, pool, settings, deadline=Deadline(1000))
    assert len(run.solved) == 6 and not run.cut
    assert [steps for _, steps in given] == [FLOOR_STEPS] * 2 + [settings.adapt.steps] * 6
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 6, "a trial is no answer"


def test_a_trial_that_learns_nothing_is_made_once(tmp_path: Path) -> None:
    """Its whole time went into recall, say: no step was made, so what one takes is not known."""
    run = make(tmp_path, [task(n) for n in range(3)])
    fates = {t.id: [solution(t.blind, truncated=True, steps=(0,))] * 2 for t in run.tasks}
    pool = FakePool(fates)
    solve_all(run, pool, Settings(time_limit=1.0), deadline=Deadline(1000))
    assert len(run.solved) == 3 and len(pool.began) == 5


class Hung(FakePool):
    """After so many jobs nothing comes back; waiting costs time."""

    clock, good = 0.0, 0

    def wait(self, timeout: float | None = None) -> Sequence[Done]:
        assert timeout is not None
        if self.good:
            self.good -= 1
            return super().wait()
        self.clock += timeout
        return []


def test_a_worker_that_hangs_is_waited_for_until_the_deadline_only(tmp_path: Path) -> None:
    run, pool = make(tmp_path, [task(n) for n in range(3)]), Hung()
    solve_all(run, pool, Settings(), deadline=Deadline(100.0, lambda: pool.clock))
    assert 97 < pool.clock < 100 and len(pool.began) == 2


def test_a_trial_that_is_lost_is_not_made_again(tmp_path: Path) -> None:
    run = make(tmp_path, [task(n) for n in range(3)])
    first = FakePool(size=1)
    first.fate = {spread(run.tasks)[0].id: [None]}
    solve_all(run, first, Settings(), deadline=Deadline(1000))
    assert len(run.solved) == 3 and len(first.began) == 4


def test_a_trials_answer_is_better_than_none(tmp_path: Path) -> None:
    run, pool = make(tmp_path, [task(n) for n in range(3)]), Hung(size=1)
    pool.good = 1
    solve_all(run, pool, Settings(), deadline=Deadline(100.0, lambda: pool.clock))
    assert run.solved == run.cut and len(run.solved) == 1 and len(pool.began) == 2


def test_what_comes_back_at_the_last_moment_is_taken(tmp_path: Path) -> None:
    """Lying in the pipe, say, while another result was written."""
    run, pool = make(tmp_path, [task(n) for n in range(2)]), FakePool()
    clock = iter([0.0, *[1.0] * 20, *[99.9] * 50])
    solve_all(run, pool, Settings(adapt=AdaptSettings(steps=0)), deadline=Deadline(100.0, lambda: next(clock)))
    assert len(run.solved) == 2


def test_what_would_be_solved_as_it_was_tried_is_not_solved_again(tmp_path: Path) -> None:
    run, pool = make(tmp_path, [task(0)]), FakePool()
    deadline = Deadline(1000.0, lambda: 0.0)
    least = Settings(networks=1, adapt=AdaptSettings(steps=FLOOR_STEPS), leave_one_out=0)
    solve_all(run, pool, least, deadline=deadline)
    # The least settings are the whole ones here, so that nothing was cut.
    assert run.solved == {"t00000"} and not run.cut and len(pool.began) == 1


def test_what_does_not_fit_now_may_fit_when_more_is_known(tmp_path: Path) -> None:
    """A first trial that took very long, for a reason of its own."""
    now = [0.0]

    class Slow(FakePool):
        def wait(self, timeout: float | None = None) -> Sequence[Done]:
            job = self.jobs[-1]
            took = 45.0 if len(self.began) == 1 else 0.1
            now[0] += took
            done = replace(
                solution(job.task, steps=(job.settings.adapt.steps,)), seconds={"recall": took, "refine": 0.01}
            )
            self.fate[job.task.id] = [done]
            return super().wait()

    run, pool = make(tmp_path, [task(n) for n in range(8)]), Slow(size=1)
    solve_all(run, pool, Settings(), deadline=Deadline(100.0, lambda: now[0]))
    assert len(run.solved) == 8


def test_an_interrupt_keeps_what_trials_found(tmp_path: Path) -> None:
    class Interrupted(FakePool):
        def wait(self, timeout: float | None = None) -> Sequence[Done]:
            if len(self.began) == 2:
                raise KeyboardInterrupt
            return super().wait()

    run = make(tmp_path, [task(0)])
    with pytest.raises(KeyboardInterrupt):
        solve_all(run, Interrupted(size=1), Settings(), deadline=Deadline(1000.0))
    assert run.solved == run.cut == {"t00000"} and make(tmp_path, run.tasks).todo


def test_what_cannot_be_done_in_time_is_not_begun(tmp_path: Path) -> None:
    grid = np.zeros((30, 30), dtype=np.uint8)
    large = Task("large", (Pair(grid, grid),), (Pair(grid, grid),))
    run, pool, deadline = make(tmp_path, [task(0), large]), FakePool(), Deadline(10.0, lambda: 0.0)
    slow = solution(task(0).blind, steps=(FLOOR_STEPS,))
    slow.seconds["refine"] = 1.0
    deadline.learn(task(0), Settings(), slow)
    solve_all(run, pool, Settings(), deadline=deadline)
    assert pool.began == ["t00000"] and run.solved == {"t00000"}


def test_a_failure_after_a_trial_leaves_the_trials_answer(tmp_path: Path) -> None:
    run = make(tmp_path, [task(0)])
    pool = FakePool({"t00000": [solution(task(0).blind), Failure("RuntimeError: no", "")]})
    solve_all(run, pool, Settings(), deadline=Deadline(1000.0))
    assert run.solved == run.cut == {"t00000"} and not run.failed


def test_a_number_that_json_lacks_fails_its_task_only(tmp_path: Path) -> None:
    run = make(tmp_path, [task(0), task(1)])
    bad = solution(task(0).blind)
    bad.seconds["total"] = float("nan")
    solve_all(run, FakePool({"t00000": [bad]}), Settings())
    assert run.failed.keys() == {"t00000"} and run.solved == {"t00001"}
    assert run.answered == {"t00001"} and "not JSON compliant" in run.failed["t00000"]


def test_after_the_deadline_nothing_is_begun(tmp_path: Path) -> None:
    run = make(tmp_path, [task(n) for n in range(3)])
    solve_all(run, FakePool(), Settings(), deadline=Deadline(1e-9))
    assert not run.solved and len(read_submission(tmp_path / "submission.json")) == 3


def test_a_full_disk_stops_with_what_was_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, [task(n) for n in range(3)])
    solve_all(run, FakePool(), Settings())

    def full(path: Path, line: object) -> None:
        raise ArcsolveError(f"{path}: cannot be written (No space left on device); the lines before stand")

    monkeypatch.setattr(batch_module, "append", full)
    with pytest.raises(ArcsolveError, match="No space left"):
        solve_all(make(tmp_path, [task(n) for n in range(4)]), FakePool(), Settings())
    assert len(answered_by_solver(tmp_path)) == 3


def test_memory_is_flat_over_ten_thousand_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates of 10,000 solutions would fill gigabytes; only the answers stay, and they have their place already."""
    run = make(tmp_path, [task(n) for n in range(10_000)])
    monkeypatch.setattr(batch_module, "append", lambda path, line: None)
    seen: list[int] = []

    def watch(done: Task, line: dict[str, Any], size: float) -> None:
        if len(run.solved) % 2_000 == 0:
            seen.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        solve_all(run, FakePool(), Settings(), finished=watch)
    finally:
        tracemalloc.stop()
    assert len(seen) == 5 and len(run.solved) == 10_000
    # A thousand bytes a task would be 8 MB.
    assert seen[-1] - seen[0] < 8_000_000, seen
