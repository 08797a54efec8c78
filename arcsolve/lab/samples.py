"""Whether several samples of a view help more than further views at equal cost, and how to select among candidates.

One pool of trajectories, as many views and samples as the grid's largest cell has; every cell scores a part of it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arcsolve.arc.grid import Grid, grid_key
from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.results import read_rows
from arcsolve.inference.sampler import Samples, effective_samples, sample
from arcsolve.inference.settings import Clock, Settings
from arcsolve.inference.solution import Candidate
from arcsolve.inference.solver import Solver
from arcsolve.inference.voting import Plausible, attempts, plausible, vote
from arcsolve.lab.stages import paired_difference
from arcsolve.network.config import NetworkConfig
from arcsolve.shapes import canvas_size
from arcsolve.views import random_views

RULES = ("vote", "confidence", "change", "consistency")
"""How candidates are ranked; see :func:`rank`."""

NOISE = 0.1
"""Standard deviation of the noise in ``h`` for weights without any chance of their own, unless told otherwise."""

# Not for the user to choose here: the grid's, or what would mix the pools of several networks.
FIXED: dict[str, Any] = {"views": 1, "samples": 1, "leave_one_out": 0, "stop": False, "networks": 1}


@dataclass(frozen=True)
class Cell:
    """A part of a pool: the trajectories of the first views and of the first samples in each.

    Attributes:
        views, samples: how many.
        noisy: of the pool with noise, else of the one without, which has one sample in each view.
    """

    views: int
    samples: int
    noisy: bool = True

    @property
    def name(self) -> str:
        return f"{self.views}x{self.samples}" if self.noisy else f"{self.views} no noise"

    @property
    def size(self) -> int:
        return self.views * self.samples


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        views, samples: of the cells, ascending and distinct; the pool has the last of each.
        consistency: whether the demonstrations are sampled, too.
    """

    views: tuple[int, ...]
    samples: tuple[int, ...]
    consistency: bool = True

    @property
    def cells(self) -> list[Cell]:
        """Every cell, each number of views without noise first."""
        return [cell for v in self.views for cell in (Cell(v, 1, noisy=False), *(Cell(v, k) for k in self.samples))]

    @property
    def rules(self) -> tuple[str, ...]:
        return RULES if self.consistency else RULES[:-1]

    @property
    def figures(self) -> list[str]:
        """What is known of each test output in each cell: right at one and two attempts by a rule, and found at all."""
        return ["oracle", *(f"{rule}_{count}" for rule in self.rules for count in (1, 2))]

    def settings(self, base: Settings, config: NetworkConfig) -> Settings:
        """The base's settings with the pool's size, one network, and noise.

        Raises:
            ArcsolveError: all samples of a view would be the same.
        """
        settings = replace(base, **{**FIXED, "views": self.views[-1], "samples": self.samples[-1]})
        if settings.noise is None and not (config.noise_width or config.noise or config.random_start):
            settings = replace(settings, noise=NOISE)
        noise, steps = settings.noise_of(config), settings.steps_of(config)
        if self.samples[-1] > 1 and effective_samples(config, 2, noise, steps) == 1:
            if noise:
                raise ArcsolveError("after one step all samples of a view are the same: give --steps above 1")
            option = "--temperature" if config.noise_width or not settings.temperature else "--noise"
            raise ArcsolveError(f"without noise all samples of a view are the same: give {option} above 0")
        return settings

    def comparisons(self) -> list[tuple[Cell, Cell]]:
        """Pairs (cell, what it is compared with).

        Several samples in a view: one in each of as many views; and one, and one without noise, in each of the fewest
        views that make at least as many forward passes, or of the most there are. One: one without noise.
        """
        pairs = []
        for cell in (cell for cell in self.cells if cell.noisy):
            more = next((v for v in self.views if v >= cell.size), self.views[-1])
            single = {cell.views: None, more: None} if cell.samples > 1 and 1 in self.samples else {}
            pairs += [(cell, other) for other in (*(Cell(v, 1) for v in single), Cell(more, 1, noisy=False))]
        return pairs


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What one trajectory reached on a test input.

    Attributes:
        view, sample: its numbers.
        grid: the final one.
        confidence: of the final grid, 0..1.
        change: of ``h`` in the last step, root mean square.
        runner_up: a second answer for when all agree.
        solved: demonstrations that the same view solves with the same random numbers. Learned noise is at the prefix
            alone, so it is the very same, unless a random start is drawn before it; noise in ``h`` and random starts
            are of another shape where canvases differ in size.
    """

    view: int
    sample: int
    grid: Grid
    confidence: float
    change: float
    runner_up: Grid
    solved: int = 0


def trajectories(run: Samples, samples: int, solved: Mapping[int, int]) -> list[Trajectory]:
    """The trajectories of a run with so many samples in a view; ``solved`` counts demonstrations by their number."""
    # What diverged has settled least of all.
    changes = np.nan_to_num(run.changes, nan=np.inf).tolist()
    places = [(*divmod(number, samples), solved.get(number, 0)) for number in run.numbers.tolist()]
    return [
        Trajectory(view, k, grid, confidence, change, runner_up, count)
        for (view, k, count), grid, confidence, change, runner_up in zip(
            places, run.grids, run.confidences.tolist(), changes, run.runners_up, strict=True
        )
    ]


def part(pool: Iterable[Trajectory], cell: Cell) -> list[Trajectory]:
    """The trajectories of a pool that belong to a cell."""
    return [one for one in pool if one.view < cell.views and one.sample < cell.samples]


def rank(rule: str, pool: Sequence[Trajectory], check: Plausible, demonstrations: int) -> list[Candidate]:
    """Candidates, best first: implausible ones last, and equals as the vote has them.

    ``vote``: by trajectories. ``confidence``: by the highest of any trajectory. ``change``: by the lowest of any.
    ``consistency``: by trajectories, each weighted by the share of ``demonstrations`` that it solves and a little, so
    that what solves none is voted on all the same.
    """
    ranked = vote(((one.grid, one.confidence) for one in pool), check)
    if rule == "vote":
        return ranked
    groups: dict[Any, list[Trajectory]] = {}
    for one in pool:
        groups.setdefault(grid_key(one.grid), []).append(one)
    # A share and 1 / (2 x demonstrations + 1), times their denominators: sums of integers tie where they should.
    weight = 2 * demonstrations + 1
    worth: Callable[[list[Trajectory]], float] = {
        "confidence": lambda own: max(one.confidence for one in own),
        "change": lambda own: -min(one.change for one in own),
        "consistency": lambda own: sum(one.solved * weight + demonstrations for one in own),
    }[rule]
    return sorted(ranked, key=lambda candidate: (not candidate.plausible, -worth(groups[grid_key(candidate.grid)])))


def hits(
    pool: Sequence[Trajectory], rules: Sequence[str], check: Plausible, demonstrations: int, output: Grid | None
) -> dict[str, int]:
    """By figure (:attr:`Plan.figures`) 1 where these trajectories give the output, else 0."""
    found = {"oracle": int(any(_same(one.grid, output) for one in pool))}
    runners_up = [one.runner_up for one in pool]
    for rule in rules:
        first, second = attempts(rank(rule, pool, check, demonstrations), runners_up)
        found[f"{rule}_1"] = int(_same(first, output))
        found[f"{rule}_2"] = int(_same(first, output) or _same(second, output))
    return found


def _same(grid: Grid, output: Grid | None) -> bool:
    return output is not None and np.array_equal(grid, output)


def pass_at(n: int, right: int, k: int) -> float:
    """The unbiased estimate of the chance that one of ``k`` trajectories is right, from ``n`` (2107.03374)."""
    if n - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - right + 1, n + 1))


def measure(task: Task, solver: Solver, settings: Settings, plan: Plan) -> dict[str, Any]:
    """Sample one task, with noise and without, and score every cell.

    Args:
        settings: from :meth:`Plan.settings`.

    Returns:
        ``cells``: for each, by figure, a list of 0 and 1 for each test output. ``pools``, ``noisy`` and ``noiseless``:
        ``trajectories``, and of each test output how many of them are ``right``. ``seconds`` by part.
    """
    clock = Clock(None)
    ready = solver.prepare(task.blind, settings).adapted[0]
    backend = solver.backend.adapted(ready.tensors) if ready.tensors else solver.backend
    views = random_views(settings.views, np.random.default_rng(settings.seed), keep_zero=True)
    clock.lap("prepare")

    def run(given: Grid, noisy: bool) -> Samples:
        return sample(
            backend,
            ready.latents,
            given,
            canvas_size(task.train, given),
            views,
            samples=settings.samples if noisy else 1,
            steps=settings.steps_of(backend.config),
            noise=settings.noise_of(backend.config) if noisy else 0.0,
            seed=settings.seed,
        )

    found: dict[str, Any] = {
        "pools": {},
        "cells": {cell.name: {key: [] for key in plan.figures} for cell in plan.cells},
    }
    for noisy, name in ((True, "noisy"), (False, "noiseless")):
        runs = [run(pair.input, noisy) for pair in task.test]
        clock.lap(name)
        solved: Counter[int] = Counter()
        for pair in task.train if plan.consistency else ():
            one = run(pair.input, noisy)
            solved.update(one.numbers[[_same(grid, pair.output) for grid in one.grids]].tolist())
        clock.lap(f"{name}_demonstrations")
        right = []
        for pair, one in zip(task.test, runs, strict=True):
            right.append(sum(_same(grid, pair.output) for grid in one.grids))
            pool = trajectories(one, settings.samples if noisy else 1, solved)
            check = plausible(task.train, pair.input)
            for cell in (cell for cell in plan.cells if cell.noisy == noisy):
                for key, hit in hits(part(pool, cell), plan.rules, check, len(task.train), pair.output).items():
                    found["cells"][cell.name][key].append(hit)
        found["pools"][name] = {"trajectories": runs[0].trajectories, "right": right}
        clock.lap(f"{name}_selection")
    return {**found, "seconds": {name: round(spent, 2) for name, spent in clock.laps.items()}}


def header(solver: Solver, settings: Settings, plan: Plan, data: str) -> dict[str, Any]:
    """What every line of a results file must agree on."""
    told = {
        "weights_sha256": solver.weights.sha256,
        "backend": solver.backend.name,
        "data_sha256": data,
        "settings": asdict(settings),
        "grid": asdict(plan),
    }
    value: dict[str, Any] = json.loads(json.dumps(told))
    return value


def read(path: Path, head: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an earlier run measured, by task; a last line that a kill cut short is dropped from the file.

    Raises:
        ArcsolveError: the file was made with other weights, data, settings or grid.
    """

    def take(row: Any) -> tuple[str, dict[str, Any]]:
        return str(row["id"]), {key: row[key] for key in ("cells", "pools", "seconds")}

    return dict(read_rows(path, head, take, "arcsolve lab samples", "weights, data, settings or grid"))


def summary(tasks: Sequence[Task], plan: Plan, steps: int, done: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of all tasks, of which each is ``done``.

    Returns:
        ``cells``: means over test outputs by figure; ``pass``, :func:`pass_at` for as many trajectories drawn from the
        whole pool whatever their view; ``passes``, forward passes for a test input, those of demonstrations left out.
        ``differences``: in outputs right at two attempts by the vote, of :meth:`Plan.comparisons`. ``rules``: the same
        of each rule against the vote at one and two attempts in the largest cell, with noise and without.
        ``seconds``: of a task, by part.
    """
    rows = [done[task.id] for task in tasks]
    lines = []
    for cell in plan.cells:
        line: dict[str, Any] = {"cell": cell.name, **asdict(cell), "passes": cell.size * steps}
        for key in plan.figures:
            line[key] = statistics.fmean(hit for row in rows for hit in row["cells"][cell.name][key])
        pools = [row["pools"]["noisy" if cell.noisy else "noiseless"] for row in rows]
        line["pass"] = statistics.fmean(pass_at(p["trajectories"], c, cell.size) for p in pools for c in p["right"])
        lines.append(line)

    def paired(cell: Cell, key: str, other: Cell, other_key: str) -> dict[str, Any]:
        own, against = ([row["cells"][c.name][k] for row in rows] for c, k in ((cell, key), (other, other_key)))
        return paired_difference(own, against)

    differences = []
    for cell, other in plan.comparisons():
        line = {"cell": cell.name, "passes": cell.size * steps}
        line |= {"against": other.name, "against_passes": other.size * steps}
        differences.append(line | paired(cell, "vote_2", other, "vote_2"))
    largest = (Cell(plan.views[-1], plan.samples[-1]), Cell(plan.views[-1], 1, noisy=False))
    rules = [
        {"cell": cell.name, "rule": rule, "attempts": n, **paired(cell, f"{rule}_{n}", cell, f"vote_{n}")}
        for cell in largest
        for rule in plan.rules[1:]
        for n in (1, 2)
    ]
    seconds = {name: statistics.fmean(row["seconds"][name] for row in rows) for name in rows[0]["seconds"]}
    return {"cells": lines, "differences": differences, "rules": rules, "seconds": seconds}
