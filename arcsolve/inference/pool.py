"""Workers that solve tasks: processes of this machine, one for each device."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, Protocol

from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Solution
from arcsolve.inference.solver import Solver

STARTS = 3
"""How often a worker is started in one place without coming to solve, before that place is given up."""

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


class Ready(NamedTuple):
    """What a worker's solver runs on.

    Attributes:
        backend: its name.
        device: type of the torch device, ``cpu`` or ``cuda``.
        notice: why it is another than one would expect, if it is.
    """

    backend: str
    device: str
    notice: str | None


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

    def wait(self, timeout: float | None = None) -> Sequence[Done]:
        """Block until something happens: jobs come back, or (an empty answer) a worker becomes free.

        Args:
            timeout: seconds after which nothing has happened; ``None`` for none.

        Raises:
            ArcsolveError: there is no worker left, and none can be started.
        """
        ...

    def close(self) -> None:
        """Stop all workers at once; what they have in hand is lost."""
        ...


@dataclass(frozen=True)
class SolverSpec:
    """What a worker makes its solver from: see :meth:`~arcsolve.inference.solver.Solver.from_weights`.

    Attributes:
        gpu: the one GPU that a process is to see, as ``CUDA_VISIBLE_DEVICES`` names it; ``None`` for all.
        adapted: weights that were adapted jointly from these, whose rows the tasks start from.
    """

    weights: Path
    backend: str
    device: str
    threads: int = 0
    gpu: str | None = None
    adapted: Path | None = None

    def make(self) -> Solver:
        solver = Solver.from_weights(self.weights, backend=self.backend, device=self.device, threads=self.threads)
        if self.adapted is None:
            return solver
        from arcsolve.inference.joint import joint_solver  # which needs all of the training

        return joint_solver(solver, self.adapted, self.backend)


def attempt(solver: Solver, job: Job) -> Solution | Failure:
    """Solve a job; whatever goes wrong with this task must not stop the others."""
    try:
        return solver.solve(job.task, job.settings)
    except Exception as error:
        return Failure(_name(error), traceback.format_exc())
    finally:
        _give_back()


def _name(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


def _give_back() -> None:
    """Hand freed memory back to the system: over tasks of many sizes glibc's heap grows by gigabytes of holes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass  # another C library, which has its own ways


class ProcessPool:
    """A process for each of several solvers, so that a task which kills its process kills nothing else.

    One that dies is replaced, unless it cannot start: then there are fewer. On a GPU one is replaced after a failure,
    too: an error of CUDA may have broken the context for good.
    """

    def __init__(self, specs: Sequence[SolverSpec]) -> None:
        self.workers = [_Worker(spec) for spec in specs]

    @property
    def size(self) -> int:
        return len(self.workers)

    @property
    def free(self) -> int:
        return sum(worker.job is None for worker in self.workers)

    def ready(self) -> Ready:
        """Blocks until there is a first solver, and tells what it runs on.

        Raises:
            ArcsolveError: none can be made.
        """
        while True:
            for worker in self.workers:
                if worker.ready is not None:
                    return worker.ready
            self.wait()

    def submit(self, job: Job) -> None:
        next(worker for worker in self.workers if worker.job is None).start(job)

    def wait(self, timeout: float | None = None) -> Sequence[Done]:
        workers = {worker.pipe: worker for worker in self.workers}
        done = []
        for pipe in wait(list(workers), timeout):
            worker = workers[pipe]  # type: ignore[index]  # `wait` returns what it was given
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                if worker.ready is None and worker.starts == STARTS:
                    error = ArcsolveError(f"a worker process ended as it started ({worker.end()})")
                    done += self._give_up(worker, error)
                else:
                    done += self._replace(worker)
                continue
            if isinstance(message, Ready):
                worker.ready = message
            elif isinstance(message, ArcsolveError):
                done += self._give_up(worker, message)
            else:
                assert worker.job is not None
                done.append(Done(worker.job, message))
                worker.job = None
                if isinstance(message, Failure) and worker.ready and worker.ready.device == "cuda":
                    self._replace(worker)
        return done

    def _replace(self, worker: _Worker) -> list[Done]:
        """Another worker in its place."""
        worker.close()
        new = _Worker(worker.spec, 1 if worker.ready else worker.starts + 1)
        self.workers[self.workers.index(worker)] = new
        if worker.job is None:
            return []
        if worker.ready:
            return [Done(worker.job, None)]
        new.start(worker.job)  # which the first one never saw
        return []

    def _give_up(self, worker: _Worker, reason: ArcsolveError) -> list[Done]:
        """Go on without a worker that does not start, if there is another."""
        worker.close()
        self.workers.remove(worker)
        if not self.workers:
            raise reason
        return [] if worker.job is None else [Done(worker.job, None)]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


class _Worker:
    """A process that solves what comes through its pipe.

    Args:
        starts: how many were started in a row for this place, this one included.
    """

    def __init__(self, spec: SolverSpec, starts: int = 1) -> None:
        self.spec = spec
        self.starts = starts
        self.ready: Ready | None = None
        self.job: Job | None = None
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, spec), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()  # so that its end is seen here

    def start(self, job: Job) -> None:
        self.job = job
        with suppress(OSError):  # it died while idle; reading from it will tell
            self.pipe.send(job)

    def end(self) -> str:
        """How its process ended."""
        self.process.join(10)
        code = self.process.exitcode
        return f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"

    def close(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C until later here, and for good in a process that is started meanwhile: its parent will end it.

    To ignore it there is too late for its first second, which it spends importing.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # which would undo the mask, as it starts
    held: list[int] = []
    # A new process inherits the mask; but here another thread may be handed the signal.
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _serve(pipe: Connection, spec: SolverSpec) -> None:
    """A worker process: a solver, then one result for each job."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if spec.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.gpu
    try:
        solver = spec.make()
    except ArcsolveError as error:
        pipe.send(error)
        return
    except Exception as error:
        pipe.send(ArcsolveError(f"a worker does not start: {_name(error)}"))
        return
    notice = getattr(solver.backend, "notice", None)
    with suppress(EOFError, OSError):
        pipe.send(Ready(solver.backend.name, solver.device.type, notice))
        while True:
            pipe.send(attempt(solver, pipe.recv()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
