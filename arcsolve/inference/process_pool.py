"""Workers in processes of this machine, one for each device; one that is lost is replaced."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import process as process_module
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from arcsolve.errors import ArcsolveError
from arcsolve.inference.pool import START_SECONDS, STARTS, Done, Failure, Job, Ready, SolverSpec, attempt, name_of

GRACE = 60.0
"""Seconds beyond twice its time limit after which a job is not waited for."""
PATIENCE = 5.0
"""Seconds for a process to end, once it is told to."""

_SPAWN = multiprocessing.get_context("spawn")  # CUDA and ONNX Runtime's threads do not survive a fork


class ProcessPool:
    """A process for each of several solvers, so that a task which kills its process kills nothing else.

    One that dies, or hangs far beyond its job's limit, is replaced; one that cannot start, or runs on something else
    than the first one, leaves its place empty. On a GPU one is replaced after a failure, too: an error of CUDA may have
    broken the context for good.

    Args:
        warn: told of places that are left empty.
    """

    def __init__(self, specs: Sequence[SolverSpec], warn: Callable[[str], None] = lambda line: None) -> None:
        self.warn = warn
        self.first: Ready | None = None
        self.workers = [_Worker(spec) for spec in specs]

    @property
    def size(self) -> int:
        return len(self.workers)

    @property
    def free(self) -> int:
        return sum(worker.idle for worker in self.workers)

    def ready(self, timeout: float | None = None) -> Ready | None:
        """Block until there is a first solver, and tell what it runs on; ``None`` where so many seconds were too few.

        Raises:
            ArcsolveError: none can be made.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while self.first is None and (until is None or time.monotonic() < until):
            self.wait(None if until is None else max(0.0, until - time.monotonic()))
        return self.first

    def submit(self, job: Job) -> None:
        next(worker for worker in self.workers if worker.idle).start(job)

    def wait(self, timeout: float | None = None) -> Sequence[Done]:
        workers = {worker.pipe: worker for worker in self.workers}
        patience = max(0.0, min(worker.due for worker in self.workers) - time.monotonic())
        patience = patience if timeout is None else min(patience, timeout)
        done = []
        for pipe in wait(list(workers), None if math.isinf(patience) else patience):
            done += self._heard(workers[pipe])  # type: ignore[index]  # `wait` returns what it was given
        for worker in [worker for worker in self.workers if worker.due <= time.monotonic()]:
            done += self._lost(worker, "hangs")
        return done

    def _heard(self, worker: _Worker) -> list[Done]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            return self._lost(worker, f"ended {worker.end()}")
        if isinstance(message, ArcsolveError):
            self._give_up(worker, message)
        elif isinstance(message, Ready):
            worker.ready, worker.due = message, math.inf
            self.first = self.first or message
            if message[:2] != self.first[:2]:
                there, first = " ".join(message[:2]), " ".join(self.first[:2])
                self._give_up(worker, ArcsolveError(f"a worker runs on {there}, the first one on {first}"))
        else:
            assert worker.job is not None
            done = Done(worker.job, message)
            worker.job, worker.due = None, math.inf
            if isinstance(message, Failure) and worker.ready and worker.ready.device == "cuda":
                self._lost(worker, "failed")
            return [done]
        return []

    def _lost(self, worker: _Worker, how: str) -> list[Done]:
        """Another worker in its place, if one of this place ever came to solve, or may still."""
        if worker.ready is None and worker.starts == STARTS:
            self._give_up(worker, ArcsolveError(f"a worker process {how} as it started"))
            return []
        worker.close()
        self.workers[self.workers.index(worker)] = _Worker(worker.spec, 1 if worker.ready else worker.starts + 1)
        return [] if worker.job is None else [Done(worker.job, None)]

    def _give_up(self, worker: _Worker, reason: ArcsolveError) -> None:
        """Go on without a worker that does not start, if there is another."""
        worker.close()
        self.workers.remove(worker)
        if not self.workers:
            raise reason
        self.warn(f"one worker less: {reason}")

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


class _Worker:
    """A process that solves what comes through its pipe.

    Args:
        starts: how many were started in a row for this place, this one included.

    Attributes:
        due: when it will have to be called hung, by the monotonic clock.
    """

    def __init__(self, spec: SolverSpec, starts: int = 1) -> None:
        self.spec = spec
        self.starts = starts
        self.ready: Ready | None = None
        self.job: Job | None = None
        self.due = time.monotonic() + START_SECONDS
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, spec), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()  # so that its end is seen here

    @property
    def idle(self) -> bool:
        return self.ready is not None and self.job is None

    def start(self, job: Job) -> None:
        self.job = job
        if job.settings.time_limit is not None:
            # Twice, since a limit is only looked at between batches, which are long on small limits.
            self.due = time.monotonic() + 2 * job.settings.time_limit + GRACE
        with suppress(OSError):  # it died while idle; reading from it will tell
            self.pipe.send(job)

    def end(self) -> str:
        """How its process ended."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        return f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"

    def close(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join(PATIENCE)
        if self.process.is_alive():  # a driver may hold it for ever, and at exit Python would wait as long
            process_module._children.discard(self.process)  # type: ignore[attr-defined]


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM until later here, where they would leave a process half started; and the former for good
    in that process, whose parent will end it: to ignore it there is too late for its first second, spent importing.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # which would undo the mask, as it starts
    held: list[int] = []
    # A new process inherits the mask; but here another thread may be handed the signal.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, lambda number, frame: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if held:
            signal.raise_signal(held[0])


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
        pipe.send(ArcsolveError(f"a worker does not start: {name_of(error)}"))
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
