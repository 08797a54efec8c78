"""The solver: adapts to a task, samples, votes, and says how well it reproduced the demonstrations it had not seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcsolve.arc.grid import Grid
from arcsolve.arc.task import Pair, Task
from arcsolve.inference.adaptation import Adapted, AdaptSettings, adapt
from arcsolve.inference.backend import Array, Backend
from arcsolve.inference.onnx_backend import OnnxBackend
from arcsolve.inference.sampler import Samples, sample
from arcsolve.inference.solution import Candidate, LatentStep, Solution, TestSolution
from arcsolve.inference.torch_backend import TorchBackend
from arcsolve.inference.voting import attempts, vote
from arcsolve.network.device import choose_device
from arcsolve.network.weights import Weights, load_weights
from arcsolve.shapes import canvas_size
from arcsolve.training.guard import fingerprints
from arcsolve.views import random_views

ADAPT_SHARE = 0.6
"""Share of a time limit that adaptation may use, so that there is time to sample what it learned."""

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
        leave_one_out: whether to adapt once more for each demonstration, without it, to see if it is reproduced.
        seed: of every random draw.
        time_limit: seconds for the whole solve, a cap: hitting it is reported as ``truncated``.
    """

    views: int = 32
    samples: int = 2
    steps: int | None = None
    noise: float | None = None
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    leave_one_out: bool = True
    seed: int = 0
    time_limit: float | None = None


@dataclass(frozen=True)
class Progress:
    """Where a solve is: what a display needs.

    Attributes:
        stage: ``adapt``, ``sample`` or ``leave out demonstration k``.
        done, total: steps or trajectories.
        reproduced: (k, of how many tried so far) left-out demonstrations, once there are any.
        steps: the leading trajectory so far.
        candidates: ranked candidates so far.
    """

    stage: str
    done: int
    total: int
    reproduced: tuple[int, int] | None = None
    steps: Sequence[LatentStep] = ()
    candidates: Sequence[Candidate] = ()


Listener = Callable[[Progress], None]


class Solver:
    """Solves tasks with one set of weights.

    Args:
        weights: from :func:`~arcsolve.network.weights.load_weights`.
        backend: what samples trajectories; adaptation runs in torch on ``device``.
        device: torch device of the adaptation.
    """

    def __init__(self, weights: Weights, backend: Backend, device: torch.device) -> None:
        self.weights = weights
        self.backend = backend
        self.device = device

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
        clock = _Clock(settings.time_limit)
        adapted = self._adapt(task, task.train, settings, clock, listener, "adapt")
        backend = self.backend.adapted(adapted.tensors) if adapted.tensors else self.backend
        clock.lap("adapt")
        tests = []
        for pair in task.test:
            samples = self._sample(backend, adapted.latents, task.train, pair.input, settings, clock, listener)
            tests.append(_answers(samples))
        clock.lap("sample")
        reproduced, tried = self._leave_one_out(task, settings, clock, listener) if settings.leave_one_out else (0, 0)
        clock.lap("leave_one_out")
        return Solution(
            task=task.id,
            protocol=self.weights.training.get("protocol", "per-task"),
            weights_sha256=self.weights.sha256,
            seed=settings.seed,
            truncated=clock.truncated,
            seen_in_training=self.seen(task),
            reproduced=reproduced,
            demonstrations=tried,
            test=tuple(tests),
            seconds=clock.seconds(),
        )

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

    def recall(self, task: Task, settings: Settings) -> Solution:
        """Answers for a task that was trained on from its own row, without adaptation (the ``development`` figure).

        Raises:
            KeyError: the task was not trained on.
        """
        row = self.trained_row(task)
        if row is None:
            raise KeyError(task.id)
        clock = _Clock(settings.time_limit)
        tests = tuple(
            _answers(self._sample(self.backend, row, task.train, pair.input, settings, clock, lambda p: None))
            for pair in task.test
        )
        clock.lap("sample")
        sha256 = self.weights.sha256
        return Solution(
            task.id, "development", sha256, settings.seed, clock.truncated, True, 0, 0, tests, clock.seconds()
        )

    def _adapt(
        self,
        task: Task,
        demonstrations: tuple[Pair, ...],
        settings: Settings,
        clock: _Clock,
        listener: Listener,
        stage: str,
        reproduced: tuple[int, int] | None = None,
    ) -> Adapted:
        adapted = adapt(
            self.weights,
            demonstrations,
            settings.adapt,
            seed=settings.seed,
            device=self.device,
            latents=self.trained_row(task),
            deadline=clock.share(ADAPT_SHARE) if stage == "adapt" else clock.deadline,
            progress=lambda done, total: listener(Progress(stage, done, total, reproduced)),
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
        clock: _Clock,
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
            out_of_time=clock.out_of_time,
            progress=lambda done, total, steps, found: listener(
                Progress("sample", done, total, steps=steps, candidates=found)
            ),
        )
        clock.truncated |= len(samples.grids) < samples.trajectories
        return samples

    def _leave_one_out(self, task: Task, settings: Settings, clock: _Clock, listener: Listener) -> tuple[int, int]:
        """How many demonstrations come out right when the network adapts to the others only, and how many were tried.

        With one demonstration there are no others, and none is tried. A trained row has seen the demonstration, so for
        a task from training the figure says less (``seen_in_training`` warns of it).
        """
        if len(task.train) < 2:
            return 0, 0
        reproduced = 0
        few = Settings(
            views=min(LEFT_OUT_VIEWS, settings.views),
            samples=1,
            steps=settings.steps,
            noise=settings.noise,
            seed=settings.seed,
        )
        for index, left_out in enumerate(task.train):
            if clock.out_of_time():
                clock.truncated = True
                return reproduced, index
            others = task.train[:index] + task.train[index + 1 :]
            stage = f"leave out demonstration {index + 1}"
            adapted = self._adapt(task, others, settings, clock, listener, stage, (reproduced, index))
            if adapted.truncated:
                return reproduced, index
            backend = self.backend.adapted(adapted.tensors) if adapted.tensors else self.backend
            samples = self._sample(backend, adapted.latents, others, left_out.input, few, clock, lambda p: None)
            answer = vote(zip(samples.grids, samples.confidences.tolist(), strict=True))[0].grid
            reproduced += left_out.output is not None and np.array_equal(answer, left_out.output)
        return reproduced, len(task.train)


def _answers(samples: Samples) -> TestSolution:
    candidates = vote(zip(samples.grids, samples.confidences.tolist(), strict=True))
    first, second = attempts(candidates, samples.runners_up)
    return TestSolution(first, second, tuple(candidates), samples.steps)


class _Clock:
    """Wall time by stage, and the cap."""

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


def shipped_weights() -> Path:
    """The weights that come with the package: inside an installed one, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_weights" / "arcsolve.safetensors"
    return inside if inside.exists() else package.parent / "weights" / "arcsolve.safetensors"
