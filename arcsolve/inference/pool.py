"""What workers that solve tasks have in common: what they are handed, what they give back, and how they solve it."""

from __future__ import annotations

import ctypes
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Solution
from arcsolve.inference.solver import Solver

STARTS = 3
"""How often a worker is started in one place without coming to solve, before that place is given up."""
START_SECONDS = 600.0
"""How long a worker may take to start."""


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
        weights, sha256: the file, and what it must hold, now and when a worker is replaced.
        gpu: the one GPU that a process is to see, as ``CUDA_VISIBLE_DEVICES`` names it; ``None`` for all.
        adapted: weights that were adapted jointly from these, whose rows the tasks start from.
    """

    weights: Path
    sha256: str
    backend: str
    device: str
    threads: int = 0
    gpu: str | None = None
    adapted: Path | None = None

    def make(self) -> Solver:
        solver = Solver.from_weights(self.weights, backend=self.backend, device=self.device, threads=self.threads)
        if solver.weights.sha256 != self.sha256:
            raise ArcsolveError(f"{self.weights}: has changed since the run began")
        if self.adapted is None:
            return solver
        from arcsolve.inference.joint import joint_solver  # which needs all of the training

        return joint_solver(solver, self.adapted, self.backend, self.threads)


def attempt(solver: Solver, job: Job) -> Solution | Failure:
    """Solve a job; whatever goes wrong with this task must not stop the others."""
    try:
        return solver.solve(job.task, job.settings)
    except Exception as error:
        return Failure(name_of(error), traceback.format_exc())
    finally:
        _give_back()


def name_of(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


def _give_back() -> None:
    """Hand freed memory back to the system: over tasks of many sizes glibc's heap grows by gigabytes of holes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass  # another C library, which has its own ways
