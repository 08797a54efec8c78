"""Workers in processes and on Ray: those that die, that never start, that a GPU's error may have broken."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_batch import solution, task

from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.pool import STARTS, Done, Failure, Job, SolverSpec
from arcsolve.inference.process_pool import ProcessPool
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Solution
from arcsolve.network.weights import load_weights


class Puppet:
    """A solver that does what the task's colour says: 2 dies, 3 fails, 4 sleeps, others answer."""

    def __init__(self, device: str) -> None:
        self.device = SimpleNamespace(type=device)
        self.backend = SimpleNamespace(name="puppet", notice=None)

    def solve(self, of: Task, settings: Settings) -> Solution:
        colour = int(of.test[0].input[0, 0])
        if colour == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if colour == 3:
            raise RuntimeError(f"{os.getpid()}\nmore")
        if colour == 4:
            time.sleep(600)
        return solution(of)


@dataclass(frozen=True)
class Spec(SolverSpec):
    """``backend`` says how the worker starts."""

    def make(self) -> Any:
        if self.backend == "dies":
            os._exit(7)
        if self.backend == "raises":
            raise ImportError("libcuda.so")
        if self.backend == "refuses":
            raise ArcsolveError("w.safetensors: no such file")
        if self.backend == "sleeps":
            time.sleep(600)
        if self.backend == "sees":
            return Puppet(os.environ["CUDA_VISIBLE_DEVICES"])
        return Puppet(self.device)


def spec(backend: str = "", device: str = "cpu", gpu: str | None = None) -> Spec:
    return Spec(Path("w.safetensors"), "0" * 64, backend, device, gpu=gpu)


def job(number: int, colour: int = 1, limit: float | None = None) -> Job:
    return Job(task(number, colour).blind, Settings(time_limit=limit))


def finish(pool: ProcessPool, count: int) -> list[Done]:
    done: list[Done] = []
    while len(done) < count:
        done += pool.wait(60)
    return done


def test_a_task_that_kills_its_process_costs_only_itself() -> None:
    pool = ProcessPool([spec()])
    try:
        assert pool.free == 0, "none has come up yet"
        pool.ready()
        for number, colour in enumerate((1, 2, 1, 3)):
            pool.submit(job(number, colour))
            ((_, result),) = finish(pool, 1)
            if colour == 2:
                assert result is None
                assert pool.wait(60) == [], "another one is there"
            elif colour == 3:
                assert isinstance(result, Failure) and result.error.startswith("RuntimeError: ")
                assert "more" in result.traceback and "\n" not in result.error
            else:
                assert isinstance(result, Solution)
        assert pool.size == pool.free == 1
        pool.submit(job(0, 4))
        assert pool.wait(0.1) == []
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("dies", "a worker process ended with status 7 as it started"),
        ("raises", "a worker does not start: ImportError: libcuda.so"),
        ("refuses", "w.safetensors: no such file"),
    ],
)
def test_workers_that_cannot_start_end_the_run(backend: str, said: str) -> None:
    pool = ProcessPool([spec(backend)])
    try:
        with pytest.raises(ArcsolveError, match=said):
            pool.ready()
    finally:
        pool.close()


@pytest.mark.parametrize("other", [spec("refuses"), spec("dies"), spec(device="cuda")])
def test_a_place_that_gives_no_such_worker_is_given_up_and_the_others_go_on(other: Spec) -> None:
    warned: list[str] = []
    pool = ProcessPool([other, spec()], warned.append)
    try:
        while pool.size == 2 or not pool.free:
            assert pool.wait(60) == []
        (line,) = warned
        assert line.startswith("one worker less: ")
        pool.submit(job(2))
        assert isinstance(finish(pool, 1)[0].result, Solution)
    finally:
        pool.close()


def test_what_hangs_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcsolve.inference.process_pool.GRACE", 0.5)
    pool = ProcessPool([spec()])
    try:
        pool.ready()
        pool.submit(job(0, 4, limit=0.1))
        assert [result for _, result in pool.wait()] == [None]
        assert pool.size == 1 and pool.free == 0
        pool.wait(60)
        pool.submit(job(1))
        assert isinstance(finish(pool, 1)[0].result, Solution)
    finally:
        pool.close()


def test_a_solver_that_does_not_come_up_is_waited_for_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ProcessPool([spec("sleeps")])
    try:
        assert pool.ready(0.2) is None
    finally:
        pool.close()
    monkeypatch.setattr("arcsolve.inference.process_pool.START_SECONDS", 0.1)
    pool = ProcessPool([spec("sleeps")])
    try:
        with pytest.raises(ArcsolveError, match="a worker process hangs as it started"):
            pool.ready()
    finally:
        pool.close()


def test_weights_that_change_during_a_run_are_noticed(weights_file: Path) -> None:
    with pytest.raises(ArcsolveError, match="has changed since the run began"):
        SolverSpec(weights_file, "0" * 64, "torch", "cpu").make()
    SolverSpec(weights_file, load_weights(weights_file).sha256, "torch", "cpu").make()


def test_after_a_failure_on_a_gpu_there_is_another_process() -> None:
    """One that only says that it is on a GPU."""
    pids = {}
    for device in ("cpu", "cuda"):
        pool = ProcessPool([spec(device=device)])
        try:
            found = []
            pool.ready()
            for number in range(2):
                while not pool.free:
                    pool.wait(60)
                pool.submit(job(number, 3))
                result = finish(pool, 1)[0].result
                assert isinstance(result, Failure)
                found.append(result.error)
            pids[device] = len(set(found))
        finally:
            pool.close()
    assert pids == {"cpu": 1, "cuda": 2}


def test_a_process_that_cannot_be_killed_does_not_hold_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcsolve.inference.process_pool.PATIENCE", 0.2)
    pool = ProcessPool([spec("sleeps")])
    process = pool.workers[0].process
    kill = process.kill
    monkeypatch.setattr(process, "kill", lambda: None)
    pool.close()
    assert process.is_alive() and process not in multiprocessing.active_children()
    kill()
    process.join()


def test_a_process_sees_its_own_gpu_only() -> None:
    pool = ProcessPool([spec("sees", gpu="5")])
    try:
        ready = pool.ready()
        assert ready is not None and ready.device == "5"
    finally:
        pool.close()


class FakeRay:
    """A cluster on which everything happens at once: ``fate`` says what a worker's start, and each job, gives."""

    def __init__(self, fate: list[Any]) -> None:
        self.exceptions = pytest.importorskip("ray").exceptions
        self.fate = fate
        self.killed: list[Any] = []

    def wait(self, references: list[Any], num_returns: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        result = self.fate.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


def cluster(fate: list[Any], workers: int = 1) -> Any:
    """A pool on a fake cluster."""
    from arcsolve.inference.ray_pool import RayPool

    def call(*arguments: Any) -> object:
        return object()

    def actor(*arguments: Any) -> Any:
        return SimpleNamespace(ready=SimpleNamespace(remote=call), solve=SimpleNamespace(remote=call))

    pool = RayPool.__new__(RayPool)
    pool.ray, pool.actor, pool.start, pool.device = FakeRay(fate), SimpleNamespace(remote=actor), (), "cpu"
    pool.starting, pool.idle, pool.running, pool.stillborn = {}, [], {}, 0
    for _ in range(workers):
        pool._start()
    return pool


def test_a_worker_that_ray_ends_is_replaced_and_its_task_given_back() -> None:
    exceptions = pytest.importorskip("ray").exceptions
    for death in (exceptions.OutOfMemoryError("memory monitor"), exceptions.RayActorError()):
        pool = cluster([None, death, None, solution(task(0).blind)])
        assert pool.wait() == [] and pool.free == 1
        pool.submit(job(0))
        assert [result for _, result in pool.wait()] == [None] and pool.free == 0 and len(pool.ray.killed) == 1
        assert pool.wait() == [] and pool.free == 1
        pool.submit(job(0))
        assert isinstance(pool.wait()[0].result, Solution)


def test_what_cannot_travel_is_its_tasks_failure() -> None:
    exceptions = pytest.importorskip("ray").exceptions
    error = exceptions.RayTaskError("solve", "Traceback\nValueError: no", ValueError("no"))
    pool = cluster([None, error])
    pool.wait()
    pool.submit(job(0))
    ((_, result),) = pool.wait()
    assert isinstance(result, Failure) and pool.free == 1


def test_workers_that_die_as_they_start_are_not_started_for_ever() -> None:
    death = pytest.importorskip("ray").exceptions.RayActorError
    pool = cluster([death() for _ in range(9)])
    with pytest.raises(ArcsolveError, match="a worker on the Ray cluster does not start"):
        for _ in range(9):
            pool.wait()
    assert len(pool.ray.fate) == 9 - STARTS
    # Where there is another worker, the run goes on with that.
    pool = cluster([None, *(death() for _ in range(9))], workers=2)
    for _ in range(1 + STARTS):
        pool.wait()
    assert pool.free == 1 and not pool.starting and len(pool.ray.fate) == 9 - STARTS
