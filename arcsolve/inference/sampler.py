"""The sampler: V views x K trajectories x N supervision steps of one test input, in batches of one canvas size each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arcsolve.arc.grid import COLOURS, Grid, grid_key
from arcsolve.canvas import decode, place
from arcsolve.inference.backend import Array, Backend, Inputs
from arcsolve.inference.solution import Candidate, LatentStep
from arcsolve.inference.voting import Plausible, vote
from arcsolve.network.config import NetworkConfig
from arcsolve.views import View

SETTLED = 0.02
"""Change of confidence from one step to the next, at the same answer, below which a trajectory is done."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What the trajectories of one test input reached.

    Attributes:
        grids: the final grid of each trajectory, in the task's own colours and orientation.
        confidences: float64 [trajectories], each final grid's halting confidence, 0..1.
        runners_up: for each trajectory its final grid with the least certain cell in its second colour: a second
            answer for when all trajectories agree.
        steps: the leading candidate's way there, one entry for each supervision step that ran.
        trajectories: how many were asked for; ``grids`` holds fewer where a time limit cut in.
        numbers: integers [trajectories]: each one's view times the samples in a view, plus its own number in it.
        paths: of each trajectory the grids decoded after each step; one that settled held its last grid from there on.
        changes: float64 [trajectories], how much ``h`` changed in the last step that ran: root mean square, in a state
            whose own is about 1.
    """

    grids: tuple[Grid, ...]
    confidences: NDArray[np.float64]
    runners_up: tuple[Grid, ...]
    steps: tuple[LatentStep, ...]
    trajectories: int
    numbers: NDArray[np.int64]
    paths: tuple[tuple[Grid, ...], ...]
    changes: NDArray[np.float64]


@dataclass(frozen=True)
class _Trajectory:
    """One trajectory to run: a view, and the number that seeds its randomness."""

    view: View
    number: int


@dataclass(eq=False)
class _Trace:
    """Decoded grids and confidences of one trajectory by step, and the last step's runner-up and change of ``h``."""

    number: int
    grids: list[Grid]
    confidences: list[float]
    runner_up: Grid
    change: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether the last two steps gave the same answer with the same confidence."""
        if len(self.grids) < 2 or abs(self.confidences[-1] - self.confidences[-2]) > SETTLED:
            return False
        return grid_key(self.grids[-1]) == grid_key(self.grids[-2])


def sample(
    backend: Backend,
    latents: Array,
    test_input: Grid,
    canvas: tuple[int, int],
    views: Sequence[View],
    *,
    samples: int,
    steps: int,
    noise: float,
    seed: int,
    plausible: Plausible = lambda grid: True,
    out_of_time: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int, Sequence[LatentStep], Sequence[Candidate]], None] = lambda *a: None,
) -> Samples:
    """Run every view ``samples`` times and undo the views.

    A trajectory is done once its answer and its confidence settle; a batch stops early when all of its are.
    All randomness comes from (``seed``, number of the trajectory, step), so nothing depends on how they are batched.

    Args:
        latents: float32 [P, C], the task's latents.
        canvas: height and width before the view.
        samples: trajectories in each view, ``K``.
        steps: supervision steps, ``N``.
        noise: temperature of the learned noise, or standard deviation of the noise in ``h``; 0 for none.
        plausible: says which candidates rank last; see :func:`~arcsolve.inference.voting.plausible`.
        out_of_time: asked before each batch but the first; what is left is then skipped.
        progress: called after each batch with (trajectories done, of, the leading steps, candidates so far).
    """
    samples = effective_samples(backend.config, samples, noise, steps)
    plan = [_Trajectory(view, v * samples + k) for k in range(samples) for v, view in enumerate(views)]
    traces: list[_Trace] = []
    for batch in _batches(plan, canvas, backend.config.prefix, backend.batch_tokens):
        if traces and out_of_time():
            break
        traces += _run(backend, latents, test_input, canvas, batch, steps, noise, seed)
        finals = [(trace.grids[-1], trace.confidences[-1]) for trace in traces]
        progress(len(traces), len(plan), _leading(traces, plausible), vote(finals, plausible))
    return Samples(
        grids=tuple(trace.grids[-1] for trace in traces),
        confidences=np.array([trace.confidences[-1] for trace in traces]),
        runners_up=tuple(trace.runner_up for trace in traces),
        steps=_leading(traces, plausible),
        trajectories=len(plan),
        numbers=np.array([trace.number for trace in traces]),
        paths=tuple(tuple(trace.grids) for trace in traces),
        changes=np.array([trace.change for trace in traces]),
    )


def effective_samples(config: NetworkConfig, samples: int, noise: float, steps: int) -> int:
    """Trajectories worth running in a view: without chance in the network they are all the same, and one is enough.

    Noise counts where it reaches a cell: what is learned is drawn after a step, for the next one to carry there.
    """
    reaches = noise and (steps > 1 or not config.noise_width)
    return samples if reaches or config.random_start else 1


def _batches(plan: list[_Trajectory], canvas: tuple[int, int], prefix: int, tokens: int) -> list[list[_Trajectory]]:
    """Trajectories in batches of one canvas size: views that transpose, and views that do not."""
    most = max(1, tokens // (canvas[0] * canvas[1] + prefix))
    kinds: dict[tuple[int, int], list[_Trajectory]] = {}
    for trajectory in plan:
        kinds.setdefault(trajectory.view.size(*canvas), []).append(trajectory)
    return [kind[i : i + most] for kind in kinds.values() for i in range(0, len(kind), most)]


def _run(
    backend: Backend,
    latents: Array,
    test_input: Grid,
    canvas: tuple[int, int],
    batch: list[_Trajectory],
    steps: int,
    noise: float,
    seed: int,
) -> list[_Trace]:
    views = [trajectory.view for trajectory in batch]
    height, width = views[0].size(*canvas)
    inputs = Inputs(
        cells=np.stack([place(view.apply(test_input), height, width, view.shift) for view in views]).astype(np.int64),
        dihedral=np.array([view.dihedral for view in views]),
        colours=np.array([view.colours for view in views]),
        latents=np.repeat(latents[None], len(batch), axis=0),
    )
    config = backend.config
    tokens = height * width + config.prefix
    shape, noise_shape = (tokens, config.width), config.noise_shape(tokens)
    chance = [np.random.default_rng((seed, trajectory.number)) for trajectory in batch]

    def normal(shape: tuple[int, int]) -> Array:
        return np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in chance])

    still = np.zeros((len(batch), *noise_shape), dtype=np.float32)
    h, l = (np.broadcast_to(vector, (len(batch), *shape)).astype(np.float32) for vector in backend.start)
    if config.random_start:
        h = normal(shape)
    shifts = np.array([view.shift for view in views])
    traces = [_Trace(trajectory.number, [], [], test_input) for trajectory in batch]
    for _ in range(steps):
        before = h
        h, l, logits, halting = backend.step(inputs, h, l, noise * normal(noise_shape) if noise else still)
        changes = np.sqrt(np.square(h - before).mean((1, 2), dtype=np.float64))
        seen = decode(logits, shifts)
        # Logits that are not numbers give an answer all the same, which deserves none.
        confidences = np.nan_to_num(_confidence(backend, logits, halting), nan=0.0)
        for i, trace in enumerate(traces):
            if not trace.settled:
                trace.grids.append(views[i].invert(seen[i]))
                trace.confidences.append(float(confidences[i]))
                trace.change = float(changes[i])
                trace.runner_up = views[i].invert(_runner_up(logits[i], seen[i], views[i].shift))
        if all(trace.settled for trace in traces):
            break
    return traces


def _confidence(backend: Backend, logits: Array, halting: Array) -> NDArray[np.float64]:
    """The halting head's probability that a grid is right; without a trained head, that of all decoded cells."""
    if backend.config.halting:
        probability: NDArray[np.float64] = 1 / (1 + np.exp(-halting.astype(np.float64)))
        return probability
    shifted = logits - logits.max(-1, keepdims=True)
    best = -np.log(np.exp(shifted).sum(-1, dtype=np.float64))
    return np.asarray(np.exp(best.sum((1, 2))))


def _runner_up(logits: Array, grid: Grid, shift: tuple[int, int]) -> Grid:
    """The decoded grid with the cell whose two likeliest colours are closest in its second one."""
    inside = logits[shift[0] : shift[0] + grid.shape[0], shift[1] : shift[1] + grid.shape[1], :COLOURS]
    order = inside.argsort(axis=-1)
    top = np.take_along_axis(inside, order, axis=-1)
    weakest = np.unravel_index((top[..., -1] - top[..., -2]).argmin(), grid.shape)
    changed = grid.copy()
    # Of two equal colours, `argsort` and the decoder's `argmax` may each put the other one first.
    first, second = order[weakest][-1], order[weakest][-2]
    changed[weakest] = second if first == grid[weakest] else first
    changed.setflags(write=False)
    return changed


def _leading(traces: list[_Trace], plausible: Plausible) -> tuple[LatentStep, ...]:
    """The way of the most confident trajectory that ends at the leading candidate."""
    winner = grid_key(vote([(trace.grids[-1], trace.confidences[-1]) for trace in traces], plausible)[0].grid)
    leader = max((t for t in traces if grid_key(t.grids[-1]) == winner), key=lambda trace: trace.confidences[-1])
    steps = []
    for i, (grid, confidence) in enumerate(zip(leader.grids, leader.confidences, strict=True)):
        # A trajectory that settled earlier has held its last grid since.
        agreeing = sum(grid_key(trace.grids[min(i, len(trace.grids) - 1)]) == grid_key(grid) for trace in traces)
        steps.append(LatentStep(i + 1, grid, confidence, agreeing / len(traces)))
    return tuple(steps)
