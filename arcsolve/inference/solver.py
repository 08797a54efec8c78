"""The solver: recalls, refines, samples, votes, and says how well it reproduced the demonstrations it had not seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcsolve.arc.grid import Grid
from arcsolve.arc.task import Pair, Task
from arcsolve.inference.adaptation import Adapted, AdaptSettings, adapt
from arcsolve.inference.backend import Array, Backend
from arcsolve.inference.leave_one_out import leave_one_out
from arcsolve.inference.onnx_backend import OnnxBackend
from arcsolve.inference.recall import Recall, Recalled
from arcsolve.inference.sampler import Samples, sample
from arcsolve.inference.solution import Candidate, LatentStep, LeftOut, Solution, TestSolution
from arcsolve.inference.torch_backend import TorchBackend
from arcsolve.inference.voting import attempts, plausible, vote
from arcsolve.network.device import choose_device
from arcsolve.network.weights import Weights, load_weights
from arcsolve.shapes import canvas_size
from arcsolve.training.guard import fingerprints
from arcsolve.views import random_views

LEAVE_ONE_OUT_SHARE, ADAPT_SHARE = 0.5, 0.8
"""Shares of a time limit that are spent when leaving demonstrations out, and then refinement, has to end."""

LEFT_OUT_VIEWS = 8
"""Views by which a left-out demonstration is solved: enough to see whether it is reproduced."""


@dataclass(frozen=True)
class Settings:
    """Budgets of a solve; with these and the seed a run is the same every time on one machine.

    Attributes:
        views: ``V``, views of each test input.
        samples: ``K``, trajectories in each view.
        steps: ``N``, supervision steps; ``None`` for as many as the weights were trained for.
        noise: standard deviation of the noise in ``h``; ``None`` for what the weights were trained with.
        adapt: how to adapt.
        recall: whether to start from the trained latents that explain the demonstrations best, or from their mean.
        leave_one_out: demonstrations to leave out in turn at the most, to see if they are reproduced and how many steps
            are best; 0 for none.
        seed: of every random draw.
        time_limit: seconds for the whole solve, a cap: hitting it is reported as ``truncated``.
    """

    views: int = 32
    samples: int = 2
    steps: int | None = None
    noise: float | None = None
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    recall: bool = True
    leave_one_out: int = 3
    seed: int = 0
    time_limit: float | None = None


@dataclass(frozen=True)
class Progress:
    """Where a solve is: what a display needs.

    Attributes:
        stage: ``recall``, ``leave out demonstration k``, ``refine`` or ``sample``.
        done, total: steps or trajectories.
        reproduced: (k, of how many tried so far) left-out demonstrations, once there are any.
        exact: while refining, the share of views of the demonstrations that come out right.
        steps: the leading trajectory so far.
        candidates: ranked candidates so far.
    """

    stage: str
    done: int
    total: int
    reproduced: tuple[int, int] | None = None
    exact: float | None = None
    steps: Sequence[LatentStep] = ()
    candidates: Sequence[Candidate] = ()


Listener = Callable[[Progress], None]


class Clock:
    """Wall time of a solve by stage, and its cap in seconds (``None`` for none)."""

    def __init__(self, limit: float | None) -> None:
        self.began = self.last = time.monotonic()
        self.deadline = None if limit is None else self.began + limit
        self.truncated = False
        self.laps: dict[str, float] = {}

    def share(self, part: float) -> float | None:
        """The moment at which this part of the limit is spent."""
        return None if self.deadline is None else self.began + part * (self.deadline - self.began)

    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self.last
        self.last = now

    def seconds(self) -> dict[str, Any]:
        return {**self.laps, "total": self.last - self.began}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A task that is ready to be sampled: the adapted network and latents [P, C], and how they came about."""

    backend: Backend
    latents: Array
    recalled: Recalled
    left_out: LeftOut
    steps: int


class Solver:
    """Solves tasks with one set of weights.

    Args:
        weights: from :func:`~arcsolve.network.weights.load_weights`.
        backend: what samples trajectories; adaptation runs in torch on ``device``.
        device: torch device of the adaptation.
        rows: latents [P, C] to start from by task id, of tasks that these weights were adapted to jointly.
    """

    def __init__(
        self, weights: Weights, backend: Backend, device: torch.device, *, rows: Mapping[str, Array] | None = None
    ) -> None:
        self.weights = weights
        self.backend = backend
        self.device = device
        self.rows = rows or {}

    @classmethod
    def from_weights(cls, path: str | Path | None = None, *, backend: str = "onnx", device: str = "auto") -> Solver:
        """A solver from a weights file, by default the shipped one.

        Args:
            backend: ``onnx`` or ``torch``.
            device: ``auto``, ``cpu`` or ``cuda[:n]``.

        Raises:
            ArcsolveError: weights, graph or device are not usable.
        """
        weights = load_weights(Path(path) if path is not None else shipped_weights())
        if backend == "torch":
            chosen = choose_device(device)
            return cls(weights, TorchBackend(weights.config, weights.network, chosen), chosen)
        runtime = OnnxBackend(weights, device)
        # Adaptation goes where sampling goes, except where this torch has no CUDA though ONNX Runtime does.
        return cls(weights, runtime, choose_device(runtime.device if torch.cuda.is_available() else "cpu"))

    def solve(self, task: Task, settings: Settings | None = None, listener: Listener = lambda p: None) -> Solution:
        """Two answers for every test input of a task. Test outputs, where the task has them, are never looked at."""
        settings = settings or Settings()
        clock = Clock(settings.time_limit)
        ready = self.prepare(task, settings, clock, listener)
        tests = self.answer(task, ready, settings, clock, listener)
        return Solution(
            task=task.id,
            protocol=self.weights.training.get("protocol", "per-task"),
            weights_sha256=self.weights.sha256,
            seed=settings.seed,
            truncated=clock.truncated,
            seen_in_training=self.seen(task),
            recalled=ready.recalled.summary(),
            left_out=ready.left_out,
            adapt_steps=ready.steps,
            test=tests,
            seconds=clock.seconds(),
        )

    def prepare(
        self, task: Task, settings: Settings, clock: Clock | None = None, listener: Listener = lambda p: None
    ) -> Prepared:
        """Recall, leave-one-out and refinement: all that comes before sampling, and does not look at the tests."""
        clock = clock or Clock(settings.time_limit)
        listener(Progress("recall", 0, 1))
        recalled = self._start(task, settings)
        clock.lap("recall")
        left_out = self._leave_one_out(task, settings, clock, listener)
        clock.lap("leave_one_out")
        adapted = self._refine(task, settings, recalled.latents, left_out, clock, listener)
        backend = self.backend.adapted(adapted.tensors) if adapted.tensors else self.backend
        clock.lap("refine")
        return Prepared(backend, adapted.latents, recalled, left_out, adapted.steps)

    def answer(
        self,
        task: Task,
        ready: Prepared,
        settings: Settings,
        clock: Clock | None = None,
        listener: Listener = lambda p: None,
    ) -> tuple[TestSolution, ...]:
        """Sample and vote on every test input."""
        clock = clock or Clock(settings.time_limit)
        tests = []
        for pair in task.test:
            samples = self._sample(ready.backend, ready.latents, task.train, pair.input, settings, clock, listener)
            tests.append(_answers(samples, task.train, pair.input))
        clock.lap("sample")
        return tuple(tests)

    def seen(self, task: Task) -> bool:
        """Whether any demonstration of the task was trained on, by content."""
        return not self.weights.seen.isdisjoint(fingerprints(task.train))

    def trained_row(self, task: Task) -> Array | None:
        """The bank's own row of a task that was trained on, else ``None``."""
        if task.id in self.weights.tasks and self.seen(task):
            row: Array = self.weights.bank[self.weights.tasks.index(task.id)]
            return row
        return None

    def noise(self, settings: Settings) -> float:
        """Standard deviation of the noise in ``h`` that a solve with these settings uses."""
        return self.weights.config.noise if settings.noise is None else settings.noise

    @cached_property
    def recall(self) -> Recall:
        """The bank as it is searched for a new task."""
        return Recall(self.weights, self.device)

    def _start(self, task: Task, settings: Settings) -> Recalled:
        """Where refinement starts: the task's own row, or what recall finds."""
        row = self.rows.get(task.id)
        if row is None:
            row = self.trained_row(task)
        if row is not None:
            return Recalled(row, task.id)
        if not settings.recall:
            return Recalled(self.recall.mean, "mean")
        return self.recall.start(task.train)

    def _refine(
        self, task: Task, settings: Settings, latents: Array, left_out: LeftOut, clock: Clock, listener: Listener
    ) -> Adapted:
        how = settings.adapt
        reproduced = (left_out.reproduced, left_out.tried) if left_out.tried else None
        adapted = adapt(
            self.weights,
            task.train,
            how,
            latents,
            stop=left_out.steps,
            seed=settings.seed,
            device=self.device,
            deadline=clock.share(ADAPT_SHARE),
            progress=lambda done, total, exact: listener(Progress("refine", done, total, reproduced, exact)),
        )
        clock.truncated |= adapted.truncated
        return adapted

    def _sample(
        self,
        backend: Backend,
        latents: Array,
        demonstrations: tuple[Pair, ...],
        test_input: Grid,
        settings: Settings,
        clock: Clock,
        listener: Listener,
    ) -> Samples:
        samples = sample(
            backend,
            latents,
            test_input,
            canvas_size(demonstrations, test_input),
            random_views(settings.views, np.random.default_rng(settings.seed), keep_zero=True),
            samples=settings.samples,
            steps=settings.steps or self.weights.config.steps,
            noise=self.noise(settings),
            seed=settings.seed,
            plausible=plausible(demonstrations, test_input),
            out_of_time=clock.out_of_time,
            progress=lambda done, total, steps, found: listener(
                Progress("sample", done, total, steps=steps, candidates=found)
            ),
        )
        clock.truncated |= len(samples.grids) < samples.trajectories
        return samples

    def _leave_one_out(self, task: Task, settings: Settings, clock: Clock, listener: Listener) -> LeftOut:
        """A row that was trained on the demonstrations knows them all, so none of them can be left out of it."""
        if not settings.leave_one_out or task.id in self.rows:
            return LeftOut()
        few = replace(settings, views=min(LEFT_OUT_VIEWS, settings.views), samples=1)
        deadline = clock.share(LEAVE_ONE_OUT_SHARE)

        def answer(adapted: Adapted, known: tuple[Pair, ...], given: Grid) -> Grid:
            backend = self.backend.adapted(adapted.tensors) if adapted.tensors else self.backend
            samples = self._sample(backend, adapted.latents, known, given, few, Clock(None), lambda p: None)
            return _answers(samples, known, given).attempt_1

        def show(fold: int, done: int, total: int, reproduced: tuple[int, int]) -> None:
            listener(Progress(f"leave out demonstration {fold + 1}", done, total, reproduced))

        left_out = leave_one_out(
            self.weights,
            task.train,
            settings.adapt,
            lambda known: self._start(replace(task, train=known), settings).latents,
            answer,
            most=settings.leave_one_out,
            seed=settings.seed,
            device=self.device,
            out_of_time=lambda: deadline is not None and time.monotonic() > deadline,
            progress=show,
        )
        clock.truncated |= left_out.tried < min(settings.leave_one_out, len(task.train)) and len(task.train) > 1
        return left_out


def _answers(samples: Samples, demonstrations: tuple[Pair, ...], test_input: Grid) -> TestSolution:
    finals = zip(samples.grids, samples.confidences.tolist(), strict=True)
    candidates = vote(finals, plausible(demonstrations, test_input))
    first, second = attempts(candidates, samples.runners_up)
    return TestSolution(first, second, tuple(candidates), samples.steps)


def shipped_weights() -> Path:
    """The weights that come with the package: inside an installed one, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_weights" / "arcsolve.safetensors"
    return inside if inside.exists() else package.parent / "weights" / "arcsolve.safetensors"
