"""Workers that solve tasks: in this process, or one process for each device."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, Protocol

from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Solution
from arcsolve.inference.solver import Solver

_SPAWN = multiprocessing.get_context("spawn")  # CUDA and ONNX Runtime's threads do not survive a fork


class Job(NamedTuple):
    """A task to solve, without its test outputs, and how."""

    task: Task
    settings: Settings


@dataclass(frozen=True)
class Failure:
    """Why a task was not solved: one line, and where it happened."""

    error: str
    traceback: str


class Done(NamedTuple):
    """A job that came back; ``result`` is ``None`` where its worker was lost, so that it may run again."""

    job: Job
    result: Solution | Failure | None


class Pool(Protocol):
    """Workers that hold a solver each and solve one job at a time."""

    @property
    def size(self) -> int:
        """Workers that there are now, at least one."""
        ...

    @property
    def free(self) -> int:
        """How many jobs may be handed in now."""
        ...

    def submit(self, job: Job) -> None:
        """Give a job to a free worker."""
        ...

    def wait(self) -> Sequence[Done]:
        """Block until something happens: jobs come back, or (an empty answer) a worker becomes free.

        Raises:
            ArcsolveError: a worker cannot be started.
        """
        ...

    def close(self) -> None:
        """Stop all workers at once; what they have in hand is lost."""
        ...


@dataclass(frozen=True)
class SolverSpec:
    """What a worker makes its solver from: see :meth:`~arcsolve.inference.solver.Solver.from_weights`."""

    weights: Path
    backend: str
    device: str
    threads: int = 0

    def make(self) -> Solver:
        return Solver.from_weights(self.weights, backend=self.backend, device=self.device, threads=self.threads)


def attempt(solver: Solver, job: Job) -> Solution | Failure:
    """Solve a job; whatever goes wrong with this task must not stop the others."""
    try:
        return solver.solve(job.task, job.settings)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return Failure(f"{type(error).__name__}: {lines[0]}".rstrip(": "), traceback.format_exc())
    finally:
        _give_back()


def _give_back() -> None:
    """Hand freed memory back to the system: over tasks of many sizes glibc's heap grows by gigabytes of holes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass  # another C library, which has its own ways


class InlinePool:
    """One worker: this process."""

    size = 1

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.job: Job | None = None

    @property
    def free(self) -> int:
        return int(self.job is None)

    def submit(self, job: Job) -> None:
        self.job = job

    def wait(self) -> Sequence[Done]:
        assert self.job is not None
        job, self.job = self.job, None
        return [Done(job, attempt(self.solver, job))]

    def close(self) -> None:
        """Nothing to stop."""


class ProcessPool:
    """A process for each of several solvers; one that dies is replaced."""

    def __init__(self, specs: Sequence[SolverSpec]) -> None:
        self.size = len(specs)
        self.workers = [_Worker(spec) for spec in specs]

    @property
    def free(self) -> int:
        return sum(worker.job is None for worker in self.workers)

    def submit(self, job: Job) -> None:
        next(worker for worker in self.workers if worker.job is None).start(job)

    def wait(self) -> Sequence[Done]:
        busy = {worker.pipe: worker for worker in self.workers if worker.job is not None}
        done = []
        for pipe in wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]  # `wait` returns what it was given
            assert worker.job is not None
            try:
                result = worker.pipe.recv()
            except (EOFError, OSError):
                done.append(Done(worker.job, None))
                worker.close()
                self.workers[self.workers.index(worker)] = _Worker(worker.spec)
                continue
            if isinstance(result, ArcsolveError):
                raise result
            done.append(Done(worker.job, result))
            worker.job = None
        return done

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


class _Worker:
    """A process that solves what comes through its pipe."""

    def __init__(self, spec: SolverSpec) -> None:
        self.spec = spec
        self.job: Job | None = None
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, spec), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here

    def start(self, job: Job) -> None:
        self.job = job
        try:
            self.pipe.send(job)
        except OSError:
            pass  # it died while idle; reading from it will tell

    def close(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, spec: SolverSpec) -> None:
    """A worker process: a solver, then one result for each job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        solver = spec.make()
    except ArcsolveError as error:
        pipe.send(error)
        return
    while True:
        try:
            job = pipe.recv()
            pipe.send(attempt(solver, job))
        except (EOFError, OSError):
            return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
