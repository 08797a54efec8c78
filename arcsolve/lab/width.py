"""Width against depth: what many trajectories find of a puzzle's answers, beside other uses of the same passes."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcsolve.arc.grid import COLOURS, Grid
from arcsolve.inference.backend import Array, Backend, Inputs
from arcsolve.lab.ambiguity import Puzzle, valid

SPLITS = ("held-out", "larger")
"""Of :func:`~arcsolve.lab.ambiguity.suite`, those to judge by."""

WIDTHS = (1, 2, 4, 8, 16, 20, 32, 64)
"""Trajectories at which coverage and accuracy are read; 20 is GRAM's."""

DEPTHS = 12
"""Supervision steps to which every network is run when depth is looked at."""

NOISES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Standard deviations from which test-time noise takes the one that finds most."""

DRAWS_AN_ANSWER = 4
"""Right outputs for each answer, of which the balance is told."""

TOGETHER = 64
"""Trajectories that are run side by side, at the most, where there are several puzzles."""

Rolled = tuple[list[NDArray[np.uint8]], Array]
"""Grids [P, K, H, W] after each step, and the last step's logits [P, K, H, W, 11]; of one puzzle without the P."""


@dataclass(frozen=True, eq=False)
class Runner:
    """A network on puzzles whose grids fill the canvas.

    Attributes:
        backend: the network.
        latents: float32 [P, C], of the one task that it knows.
    """

    backend: Backend
    latents: Array

    @property
    def steps(self) -> int:
        """Supervision steps of a trajectory: those of training."""
        return self.backend.config.steps

    def roll(
        self, puzzles: Sequence[Puzzle], count: int, steps: int, *, noise: float = 0.0, seeds: Sequence[int] = ()
    ) -> Rolled:
        """Run ``count`` trajectories of each puzzle for so many steps, without stopping where one settles.

        Args:
            puzzles: of one size.
            noise: temperature of learned noise, or standard deviation of the noise in ``h``; a random start is always
                drawn.
            seeds: of each puzzle (default: 0).
        """
        config = self.backend.config
        rngs = [np.random.default_rng(seed) for seed in seeds or [0] * len(puzzles)]
        height, width = puzzles[0].input.shape
        tokens, total = height * width + config.prefix, len(puzzles) * count
        inputs = Inputs(
            cells=np.repeat(np.stack([puzzle.input for puzzle in puzzles]).astype(np.int64), count, axis=0),
            dihedral=np.zeros(total, dtype=np.int64),
            colours=np.repeat(np.arange(COLOURS)[None], total, axis=0),
            latents=np.repeat(self.latents[None], total, axis=0),
        )

        def normal(shape: tuple[int, ...]) -> Array:
            return np.concatenate([rng.standard_normal((count, *shape), dtype=np.float32) for rng in rngs])

        shape, noise_shape = (tokens, config.width), config.noise_shape(tokens)
        h, l = (np.broadcast_to(vector, (total, *shape)).astype(np.float32) for vector in self.backend.start)
        if config.random_start:
            h = normal(shape)
        still = np.zeros((total, *noise_shape), dtype=np.float32)
        grids = []
        for _ in range(steps):
            drawn = noise * normal(noise_shape) if noise else still
            h, l, logits, _ = self.backend.step(inputs, h, l, drawn)
            decoded = logits[..., :COLOURS].argmax(-1).astype(np.uint8)
            grids.append(decoded.reshape(len(puzzles), count, height, width))
        return grids, logits.reshape(len(puzzles), count, *logits.shape[1:])

    def roll_each(
        self, puzzles: Sequence[Puzzle], count: int, steps: int, *, noise: float = 0.0, seed: int = 0
    ) -> Iterator[Rolled]:
        """The same of puzzles of any sizes, one after the other; each has a seed of its own."""
        found: dict[int, Rolled] = {}
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, puzzle in enumerate(puzzles):
            by_size.setdefault(puzzle.input.shape, []).append(i)
        size = max(1, TOGETHER // count)
        for numbers in (alike[i : i + size] for alike in by_size.values() for i in range(0, len(alike), size)):
            seeds = [own_seed(seed, i) for i in numbers]
            grids, logits = self.roll([puzzles[i] for i in numbers], count, steps, noise=noise, seeds=seeds)
            for place, i in enumerate(numbers):
                found[i] = [one[place] for one in grids], logits[place]
        yield from (found[i] for i in range(len(puzzles)))


def own_seed(seed: int, puzzle: int) -> int:
    """The seed of a puzzle's draws, by its number: no two share theirs."""
    return 100_000 * seed + puzzle


def draw_cells(logits: Array, temperature: float, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Outputs whose cells are drawn one by one from the decoder: logits [H, W, 11] -> [count, H, W]."""
    # The largest of logits with Gumbel noise is a draw from their softmax.
    noise = rng.gumbel(size=(count, *logits.shape[:2], COLOURS))
    drawn: NDArray[np.uint8] = (logits[None, ..., :COLOURS] / temperature + noise).argmax(-1).astype(np.uint8)
    return drawn


def cell_entropy(grids: NDArray[np.uint8]) -> float:
    """Mean over cells of the entropy in nats of what drawn grids [K, H, W] have there."""
    shares = np.stack([(grids == colour).mean(0) for colour in range(COLOURS)])
    return float(-np.where(shares > 0, shares * np.log(np.maximum(shares, 1e-12)), 0.0).sum(0).mean())


def matched_temperature(logits: Sequence[Array], entropy: float) -> float:
    """The temperature at which the decoder's cells have this mean entropy in nats, over puzzles.

    Args:
        logits: of each puzzle, [H, W, 11].
    """

    def mean(temperature: float) -> float:
        total = []
        for one in logits:
            scaled = one[..., :COLOURS].astype(np.float64) / temperature
            scaled -= scaled.max(-1, keepdims=True)
            share = np.exp(scaled)
            share /= share.sum(-1, keepdims=True)
            total.append(float(-(share * np.log(share + 1e-12)).sum(-1).mean()))
        return statistics.fmean(total)

    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean(middle) < entropy else (low, middle)
    return math.sqrt(low * high)


def judge(puzzle: Puzzle, grids: Sequence[Grid]) -> dict[str, Any]:
    """What outputs, in the order in which they were drawn, say of a puzzle.

    Returns:
        ``family``; ``answers``, how many there are; ``valid``, the share of the outputs that are right; ``first``,
        whether the first one is; by :data:`WIDTHS`, as far as there are as many, ``coverage``, the share of the answers
        among the first k, and ``vote``, whether the most frequent of the first k is right; ``balance``, the entropy
        over the puzzle's answers of its first right outputs, four for each answer, as a share of the largest: ``None``
        for one answer or fewer right outputs, since few of them look uneven however they are drawn.
    """
    known: dict[bytes, bool] = {}
    keys = [grid.tobytes() for grid in grids]
    for key, grid in zip(keys, grids, strict=True):
        if key not in known:
            known[key] = valid(puzzle, grid)
    answers = len(puzzle.answers)
    widths = [k for k in WIDTHS if k <= len(keys)]
    right = [key for key in keys if known[key]]
    enough, balance = DRAWS_AN_ANSWER * answers, None
    if answers > 1 and len(right) >= enough:
        shares = np.array(list(Counter(right[:enough]).values())) / enough
        balance = float(-(shares * np.log(shares)).sum() / math.log(answers))
    return {
        "family": puzzle.family,
        "answers": answers,
        "valid": len(right) / len(keys),
        "first": known[keys[0]],
        "coverage": [len({key for key in keys[:k] if known[key]}) / answers for k in widths],
        "vote": [known[Counter(keys[:k]).most_common(1)[0][0]] for k in widths],
        "balance": balance,
    }


@dataclass(frozen=True)
class Way:
    """A way to draw many outputs: a network of :data:`~arcsolve.lab.rivals.NETWORKS`, and what is drawn from it.

    Attributes:
        network: its name.
        kind: ``trajectories``; ``cells``, one trajectory whose output is drawn cell by cell; ``steps``, one trajectory
            that goes on, an output every so many steps as a trajectory has.
        tuned: which settings are tried on other puzzles first, and which of them is taken.
    """

    network: str
    kind: str = "trajectories"
    tuned: str | None = None


WAYS = {
    "deterministic": Way("deterministic", "once"),
    "test-time noise": Way("deterministic", tuned="noise"),
    "random start": Way("random-start"),
    "output sampling": Way("deterministic", "cells", tuned="entropy"),
    "best output sampling": Way("deterministic", "cells", tuned="temperature"),
    # The other one learns a puzzle's mixture of answers, in which there may be no right output at all.
    "sampled random start": Way("random-start", "cells", tuned="temperature"),
    "more steps": Way("deterministic", "steps"),
    "learned latents": Way("learned"),
}

TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Temperatures from which the best output sampling takes the one that finds most."""


def draw(
    way: Way, runner: Runner, puzzles: Sequence[Puzzle], count: int, setting: float, seed: int
) -> Iterator[NDArray[np.uint8]]:
    """``count`` outputs of each puzzle, [K, H, W], in the order of drawing.

    Args:
        setting: noise of trajectories, or temperature of cells.
    """
    steps = runner.steps
    if way.kind == "steps":
        for grids, _ in runner.roll_each(puzzles, 1, count * steps):
            yield np.concatenate(grids[steps - 1 :: steps])
    elif way.kind == "cells":
        for i, (_, logits) in enumerate(runner.roll_each(puzzles, 1, steps)):
            yield draw_cells(logits[0], setting, count, np.random.default_rng(own_seed(seed, i)))
    else:
        count = 1 if way.kind == "once" else count
        for grids, _ in runner.roll_each(puzzles, count, steps, noise=setting, seed=seed):
            yield grids[-1]


def judged(
    way: Way, runner: Runner, puzzles: Sequence[Puzzle], count: int, setting: float, seed: int
) -> list[dict[str, Any]]:
    """:func:`judge` of ``count`` outputs of each puzzle."""
    drawn = draw(way, runner, puzzles, count, setting, seed)
    return [judge(puzzle, list(grids)) for puzzle, grids in zip(puzzles, drawn, strict=True)]


def tune(way: Way, runner: Runner, puzzles: Sequence[Puzzle], entropy: float, seed: int) -> float:
    """The setting of a way, chosen on puzzles that it is not judged on.

    Args:
        entropy: of the learned latents' cells, which output sampling is to match.
    """
    config = runner.backend.config
    if way.tuned == "entropy":
        return matched_temperature([logits[0] for _, logits in runner.roll_each(puzzles, 1, runner.steps)], entropy)
    if way.tuned is None:
        return 1.0 if config.noise_width else config.noise
    tried = NOISES if way.tuned == "noise" else TEMPERATURES
    at = WIDTHS.index(20)
    found = [
        statistics.fmean(one["coverage"][at] for one in judged(way, runner, puzzles, 20, setting, seed))
        for setting in tried
    ]
    return tried[found.index(max(found))]


def by_depth(way: Way, runner: Runner, puzzles: Sequence[Puzzle], setting: float, seed: int) -> dict[str, list[float]]:
    """Means over puzzles of ``valid``, ``coverage`` and ``vote`` of 20 trajectories after 1 to :data:`DEPTHS` steps."""
    count, at = (1, 0) if way.kind == "once" else (20, WIDTHS.index(20))
    figures: dict[str, list[list[float]]] = {
        name: [[] for _ in range(DEPTHS)] for name in ("valid", "coverage", "vote")
    }
    rolled = runner.roll_each(puzzles, count, DEPTHS, noise=setting, seed=seed)
    for puzzle, (grids, _) in zip(puzzles, rolled, strict=True):
        for step, drawn in enumerate(grids):
            one = judge(puzzle, list(drawn))
            figures["valid"][step].append(one["valid"])
            figures["coverage"][step].append(one["coverage"][at])
            figures["vote"][step].append(float(one["vote"][at]))
    return {name: [round(statistics.fmean(values), 4) for values in steps] for name, steps in figures.items()}


def seconds(runner: Runner, puzzles: Sequence[Puzzle], setting: float, rounds: int = 3) -> dict[str, dict[str, float]]:
    """Seconds a puzzle: ``width``, of k trajectories, ``depth``, of one that is k times as long, by k.

    Taken in turn; of each puzzle the median over the rounds, and of those the mean.
    """
    steps = runner.steps
    runs = [("width", k, k, steps) for k in WIDTHS] + [("depth", k, 1, k * steps) for k in WIDTHS]
    taken: dict[tuple[str, int], list[list[float]]] = {(name, number): [] for name, number, *_ in runs}
    for puzzle in puzzles:
        own: dict[tuple[str, int], list[float]] = {key: [] for key in taken}
        for _ in range(rounds):
            for name, number, count, depth in runs:
                began = time.perf_counter()
                runner.roll([puzzle], count, depth, noise=setting)
                own[name, number].append(time.perf_counter() - began)
        for key, values in own.items():
            taken[key].append(values)
    found: dict[str, dict[str, float]] = {"width": {}, "depth": {}}
    for (name, number), by_puzzle in taken.items():
        found[name][str(number)] = round(statistics.fmean(map(statistics.median, by_puzzle)), 5)
    return found
