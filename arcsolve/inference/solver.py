"""The solver: recalls, refines, samples, votes, and says how well it reproduced the demonstrations it had not seen."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from arcsolve.arc.grid import Grid
from arcsolve.arc.task import Pair, Task
from arcsolve.inference.adaptation import Adapted, adapt
from arcsolve.inference.backend import Array, Backend
from arcsolve.inference.leave_one_out import leave_one_out
from arcsolve.inference.onnx_backend import OnnxBackend
from arcsolve.inference.paths import count_steps
from arcsolve.inference.recall import Recall
from arcsolve.inference.sampler import Samples, sample
from arcsolve.inference.settings import Clock, Listener, Progress, Settings
from arcsolve.inference.solution import LeftOut, Recalled, Solution, TestSolution
from arcsolve.inference.torch_backend import TorchBackend
from arcsolve.inference.voting import attempts, plausible, vote
from arcsolve.network.device import choose_device
from arcsolve.network.weights import Weights, load_weights, shipped_weights
from arcsolve.shapes import canvas_size
from arcsolve.training.guard import fingerprints
from arcsolve.views import random_views

LEAVE_ONE_OUT_SHARE, ADAPT_SHARE = 0.5, 0.8
"""Shares of a time limit that are spent when leaving demonstrations out, and then refinement, has to end."""

LEFT_OUT_CELLS = 800
"""Cells of the largest canvas times demonstrations left out, at the most: what refinement leaves of two minutes."""

LEFT_OUT_VIEWS = 8
"""Views by which a left-out demonstration is solved: enough to see whether it is reproduced."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A task that is ready to be sampled: the adapted networks, at least one, and how they came about."""

    adapted: tuple[Adapted, ...]
    recalled: Recalled
    left_out: LeftOut


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
    def from_weights(
        cls, path: str | Path | None = None, *, backend: str = "onnx", device: str = "auto", threads: int = 0
    ) -> Solver:
        """A solver from a weights file, by default the shipped one.

        Args:
            backend: ``onnx`` or ``torch``.
            device: ``auto``, ``cpu`` or ``cuda[:n]``.
            threads: of the CPU, for the whole process; 0 leaves them as they are.

        Raises:
            ArcsolveError: weights, graph or device are not usable.
        """
        if threads:
            torch.set_num_threads(threads)
        weights = load_weights(Path(path) if path is not None else shipped_weights())
        if backend == "torch":
            chosen = choose_device(device)
            return cls(weights, TorchBackend(weights.config, weights.network, chosen), chosen)
        runtime = OnnxBackend(weights, device, threads)
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
            protocol=self.weights.protocol,
            weights_sha256=self.weights.sha256,
            seed=settings.seed,
            truncated=clock.truncated,
            seen_in_training=self.seen(task),
            recalled=ready.recalled,
            left_out=ready.left_out,
            adapt_steps=tuple(network.steps for network in ready.adapted),
            test=tests,
            seconds=clock.seconds(),
        )

    def prepare(
        self, task: Task, settings: Settings, clock: Clock | None = None, listener: Listener = lambda p: None
    ) -> Prepared:
        """Recall, leave-one-out and refinement: all that comes before sampling, and does not look at the tests."""
        clock = clock or Clock(settings.time_limit)
        listener(Progress("recall", 0, 1))
        latents, recalled = self._start(task, settings)
        clock.lap("recall")
        left_out = self._leave_one_out(task, settings, clock, listener)
        clock.lap("leave_one_out")
        adapted = self._refine(task, settings, latents, left_out, clock, listener)
        clock.lap("refine")
        return Prepared(adapted, recalled, left_out)

    def _backend(self, adapted: Adapted) -> Backend:
        return self.backend.adapted(adapted.tensors) if adapted.tensors else self.backend

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
        members = [(self._backend(network), network.latents) for network in ready.adapted]

        def show(number: int, state: Progress) -> None:
            listener(replace(state, done=number * state.total + state.done, total=len(members) * state.total))

        tests = []
        for pair in task.test:
            samples = []
            for number, (backend, latents) in enumerate(members):
                own = replace(settings, seed=settings.seed + number)
                report = partial(show, number)
                samples.append(self._sample(backend, latents, task.train, pair.input, own, clock, report))
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

    @cached_property
    def recall(self) -> Recall:
        """The bank as it is searched for a new task."""
        return Recall(self.weights, self.device)

    def _start(self, task: Task, settings: Settings) -> tuple[Array, Recalled]:
        """Where refinement starts: the task's own row, or what recall finds."""
        row = self.rows.get(task.id)
        if row is None:
            row = self.trained_row(task)
        if row is not None:
            return row, Recalled(task.id)
        if not settings.recall:
            return self.weights.bank.mean(axis=0), Recalled("mean")
        return self.recall.start(task.train)

    def _refine(
        self, task: Task, settings: Settings, latents: Array, left_out: LeftOut, clock: Clock, listener: Listener
    ) -> tuple[Adapted, ...]:
        """Every network that was refined to its end; the first, however short, where none was."""
        reproduced = (left_out.reproduced, left_out.tried) if left_out.tried else None
        networks: list[Adapted] = []

        def show(stage: str, done: int, total: int, exact: float) -> None:
            listener(Progress(stage, done, total, reproduced, exact))

        for number in range(settings.refined):
            stage = "refine" if settings.refined == 1 else f"refine network {number + 1}"
            adapted = adapt(
                self.weights,
                task.train,
                settings.adapt,
                latents,
                stop=left_out.steps if settings.stop else None,
                seed=settings.seed + number,
                device=self.device,
                deadline=clock.share(ADAPT_SHARE),
                progress=partial(show, stage),
            )
            clock.truncated |= adapted.truncated
            networks.append(adapted)
        # One that time cut short, or that diverged, would only spoil the vote of whole ones.
        whole = tuple(network for network in networks if not network.truncated)
        return whole or (networks[0],)

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
            steps=settings.steps_of(self.weights.config),
            noise=settings.noise_of(self.weights.config),
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
        """Not where training or joint adaptation knows the demonstrations: none of them can be left out of that."""
        if not settings.leave_one_out or not settings.adapt.steps or task.id in self.rows or self.seen(task):
            return LeftOut()
        largest = max(h * w for h, w in (canvas_size(task.train, pair.input) for pair in task.train))
        most = min(settings.leave_one_out, LEFT_OUT_CELLS // largest)
        few = replace(settings, views=min(LEFT_OUT_VIEWS, settings.views), samples=1)
        deadline = clock.share(LEAVE_ONE_OUT_SHARE)

        def answer(adapted: Adapted, known: tuple[Pair, ...], given: Grid) -> Grid:
            samples = self._sample(
                self._backend(adapted), adapted.latents, known, given, few, Clock(None), lambda p: None
            )
            return _answers([samples], known, given).attempt_1

        def show(fold: int, done: int, total: int, reproduced: tuple[int, int]) -> None:
            listener(Progress(f"leave out demonstration {fold + 1}", done, total, reproduced))

        left_out = leave_one_out(
            self.weights,
            task.train,
            settings.adapt,
            lambda known: self._start(replace(task, train=known), settings)[0],
            answer,
            most=most,
            stop=settings.stop,
            seed=settings.seed,
            device=self.device,
            out_of_time=lambda: deadline is not None and time.monotonic() > deadline,
            progress=show,
        )
        wanted = min(most, len(task.train)) if len(task.train) > 1 else 0
        clock.truncated |= deadline is not None and left_out.tried < wanted
        return left_out


def _answers(samples: Sequence[Samples], demonstrations: tuple[Pair, ...], test_input: Grid) -> TestSolution:
    """The vote over what each network sampled; the iterations shown are of one that led to the winner."""
    finals = [end for one in samples for end in zip(one.grids, one.confidences.tolist(), strict=True)]
    candidates = vote(finals, plausible(demonstrations, test_input))
    first, second = attempts(candidates, [grid for one in samples for grid in one.runners_up])
    agreeing = (one for one in samples if np.array_equal(one.steps[-1].grid, first))
    ways = count_steps([path for one in samples for path in one.paths], candidates)
    return TestSolution(first, second, tuple(candidates), next(agreeing, samples[0]).steps, ways)
