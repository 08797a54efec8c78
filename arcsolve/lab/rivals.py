"""The networks that are compared on puzzles with several answers: alike, but for where their chance comes from, and
what of the answers they learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from arcsolve.lab.ambiguity import MOST, SIDES, Puzzle
from arcsolve.network.config import NetworkConfig
from arcsolve.network.weights import Weights, load_weights
from arcsolve.training import checkpoint
from arcsolve.training.loop import Budget, run
from arcsolve.training.pack import Pack, flatten
from arcsolve.training.presets import TrainConfig
from arcsolve.training.trainer import Trainer


@dataclass(frozen=True)
class Course:
    """What learned noise needs to learn a family within half an hour of a core; its rivals get the same.

    Attributes:
        updates: of a whole run.
        steps: supervision steps of its last fifth, and of the trained network. Cells that constrain one another settle
            late; where every answer is near, more steps lead from one to the other.
        prior_from: share of a run in which the posterior is alone: until it is heard. Longer, it strays from what the
            prior can know.
    """

    updates: int
    steps: int
    prior_from: float


COURSES = {
    "rules": Course(2_700, 6, 0.3),
    "corner": Course(2_400, 6, 0.15),
    "queens": Course(3_500, 8, 0.3),
    "colouring": Course(2_000, 8, 0.3),
}

LINES = 100
"""Of a run's log, with each of which beta moves: with as many in short runs, it comes as far."""

CONFIG = TrainConfig(
    network=NetworkConfig(width=64, heads=2, hidden=192, latents=4, inner_steps=1, steps=2, halting=True),
    # Every grid fills its canvas: what is asked here is which answer, not how large it is.
    sides=tuple(sorted({side for sides, _ in SIDES.values() for side in sides})),
    square=True,
    max_side=max(side for sides, _ in SIDES.values() for side in sides),
    tokens=4_000,
    most=32,
    generated_share=0.0,
    margin=0.0,
    # A view of a training puzzle may be a held-out one.
    views=((0.0, "identity"),),
    muon_rate=2e-3,
    adam_rate=2e-3,
    latent_rate=1e-2,
    weight_decay=0.01,
    # A posterior that speaks is hard to silence, and what it says beyond which answer it is the prior cannot know.
    beta=0.05,
    nearest_from=0.4,
    # Under full rates a posterior that is heard goes on to be wrong now and then, and the prior stays further behind.
    decay=0.7,
    ema=0.998,
    bf16=True,
    compile=True,
)

NETWORKS: dict[str, dict[str, Any]] = {
    # Where nothing chooses among the answers, only the nearest would be learned, and nothing be left to sample.
    "deterministic": {"nearest_from": 1.0},
    "random-start": {"network": {"random_start": True, "noise": 0.01}},
    "learned": {"network": {"noise_width": 32}},
}
"""What sets each network apart: no chance; EqR's random start and damped noise; GRAM's learned noise."""


def config_of(name: str, family: str, seed: int) -> TrainConfig:
    """How a network of :data:`NETWORKS` is trained on a family of puzzles."""
    change = dict(NETWORKS[name])
    network = replace(CONFIG.network, **change.pop("network", {}))
    course = COURSES[family]
    # To stay at an answer has to be learned, which takes half of a run: an untrained step may leave it again.
    depth = ((0.0, 1, 2), (0.5, 1, 4), (0.8, 1, course.steps))
    return replace(CONFIG, network=network, depth=depth, prior_from=course.prior_from, seed=seed, **change)


def pack_of(puzzles: Sequence[Puzzle]) -> Pack:
    """Puzzles of a family as the training pairs of one task; each counts about the same however many answers it has."""
    pairs = [
        (puzzle.input, answer, False)
        for puzzle in puzzles
        for answer in puzzle.answers
        for _ in range(2 * MOST // len(puzzle.answers))
    ]
    return flatten({puzzles[0].family: pairs})


def train(
    name: str,
    seed: int,
    pack: Pack,
    folder: Path,
    *,
    updates: int,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    warn: Callable[[str], None] = lambda line: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Weights | None:
    """Train a network in a run folder, or go on where it was stopped; its weights, ``None`` where ``stopped``.

    Args:
        pack: of one family of puzzles.
        folder: of this network, family, seed and number of updates; another number is another run.

    Raises:
        ArcsolveError: the folder is of another run, or cannot be written.
    """
    torch._dynamo.reset()  # what earlier runs compiled would count against its limit of compilations
    (family,) = pack.ids
    trainer = Trainer(config_of(name, family, seed), pack, torch.device("cpu"))
    if checkpoint.exists(folder):
        checkpoint.load(trainer, folder, warn)
    budget, every = Budget(updates=updates), max(1, updates // LINES)
    if not run(trainer, budget, folder=folder, log_updates=every, report=report, warn=warn, stopped=stopped):
        return None
    return load_weights(folder / checkpoint.WEIGHTS)
