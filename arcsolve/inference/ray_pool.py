"""Workers on an existing Ray cluster: actors with a solver each; one that is lost is replaced where there is room."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arcsolve import __version__
from arcsolve.errors import ArcsolveError
from arcsolve.inference.pool import START_SECONDS, STARTS, Done, Failure, Job, SolverSpec, attempt


class RayPool:
    """Workers on a cluster.

    The weights and their graph travel to the workers, which need arcsolve, in this version, and no shared disk.

    Args:
        address: of the cluster, as ``ray.init`` takes it: ``auto``, ``host:port`` or ``ray://host:port``.
        spec: the weights file here, its graph beside it unless the backend is torch; ``auto`` (GPUs if the cluster has
            any), ``cpu`` or ``cuda``; and the CPUs that a worker gets, 0 for one.
        workers: how many; by default as many as the GPUs of the cluster, or its CPUs, allow.

    Raises:
        ArcsolveError: Ray is not installed, the cluster cannot be reached, or it lacks what is asked for.
    """

    def __init__(self, address: str, spec: SolverSpec, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise ArcsolveError("--ray needs Ray, install it with: pip install 'ray>=2.40,<3'") from None
        self.ray: Any = ray  # it is typed in part only
        if spec.device not in ("auto", "cpu", "cuda"):
            raise ArcsolveError(f"--device {spec.device}: with --ray, expected auto, cpu or cuda")
        _knock(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ArcsolveError(f"--ray {address}: no such cluster ({lines[0][:200]})") from None
        there = self.ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        self.device = spec.device if spec.device != "auto" else "cuda" if gpus else "cpu"
        spec = replace(spec, device=self.device, threads=spec.threads or int(self.device == "cpu"))
        needs = {"num_gpus": 1} if self.device == "cuda" else {"num_cpus": spec.threads}
        most = gpus if self.device == "cuda" else int(there.get("CPU", 0)) // spec.threads
        if not most:
            raise ArcsolveError(f"--ray {address}: the cluster has no room for a worker on {self.device}")
        files = {path.name: path.read_bytes() for path in _files(spec)}
        self.start: tuple[Any, ...] = (__version__, spec, self.ray.put(files))
        self.actor = self.ray.remote(_Actor).options(**needs, max_restarts=0, max_task_retries=0)
        self.starting: dict[Any, Any] = {}
        self.stillborn = 0  # workers in a row that ended as they started
        self.idle: list[Any] = []
        self.running: dict[Any, tuple[Any, Job]] = {}
        for _ in range(min(workers or most, most)):
            self._start()

    def _start(self) -> None:
        actor = self.actor.remote(*self.start)
        self.starting[actor.ready.remote()] = actor

    @property
    def size(self) -> int:
        return max(1, len(self.idle) + len(self.running))

    @property
    def free(self) -> int:
        return len(self.idle)

    def submit(self, job: Job) -> None:
        actor = self.idle.pop()
        self.running[actor.solve.remote(job)] = (actor, job)

    def wait(self, timeout: float | None = None) -> Sequence[Done]:
        # Jobs take as long as they take; but where none runs, a worker should soon be there.
        patience = timeout
        if not self.running:
            patience = START_SECONDS if timeout is None else min(timeout, START_SECONDS)
        ready, _ = self.ray.wait([*self.running, *self.starting], num_returns=1, timeout=patience)
        if not ready:
            if patience == timeout:
                return []
            raise ArcsolveError(f"the Ray cluster gave no worker within {START_SECONDS:.0f} s")
        (reference,) = ready
        if reference in self.starting:
            self._started(reference)
            return []
        actor, job = self.running.pop(reference)
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # the job or its result could not travel
            result = Failure(_cause(error), str(error))
        except self.ray.exceptions.RayError:
            result = None
        if result is None or (isinstance(result, Failure) and self.device == "cuda"):  # see ProcessPool
            self.ray.kill(actor)  # it may only have been out of reach
            self._start()
        else:
            self.idle.append(actor)
        return [Done(job, result)]

    def _started(self, reference: Any) -> None:
        """A worker is there, or it is not: then another one is tried, but not for ever."""
        actor = self.starting.pop(reference)
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.stillborn += 1
            # Where its constructor raised, so will the next one's; else its machine went, or it was killed.
            if "creation task" not in str(error) and self.stillborn < STARTS:
                self._start()
            elif not (self.idle or self.running or self.starting):
                raise ArcsolveError(f"a worker on the Ray cluster does not start: {_cause(error)}") from None
        else:
            self.stillborn = 0
            self.idle.append(actor)

    def close(self) -> None:
        self.ray.shutdown()  # ends the actors, which this process owns


class _Actor:
    """A worker on the cluster."""

    def __init__(self, version: str, spec: SolverSpec, files: dict[str, bytes]) -> None:
        if version != __version__:
            raise ArcsolveError(f"it has arcsolve {__version__}, this machine {version}")
        # Once loaded, the files are needed no more.
        with tempfile.TemporaryDirectory() as folder:
            for file, content in files.items():
                Path(folder, file).write_bytes(content)
            self.solver = replace(spec, weights=Path(folder, spec.weights.name)).make()

    def ready(self) -> None:
        """Answers once the solver is made."""

    def solve(self, job: Job) -> Any:
        return attempt(self.solver, job)


def _knock(address: str) -> None:
    """See that somebody listens there: Ray itself goes on trying for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # ``auto``, or nonsense that Ray refuses at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArcsolveError(f"--ray {address}: no such cluster ({reason})") from None


def _files(spec: SolverSpec) -> list[Path]:
    return [spec.weights] if spec.backend == "torch" else [spec.weights, spec.weights.with_suffix(".onnx")]


def _cause(error: BaseException) -> str:
    """The last line of Ray's report that names an exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else type(error).__name__)
