"""The networks that are compared on puzzles with several answers: alike, but for where their chance comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from arcsolve.lab.ambiguity import FAMILIES, MOST, SIDES, Puzzle
from arcsolve.network.config import NetworkConfig
from arcsolve.network.weights import Weights, load_weights
from arcsolve.training import checkpoint
from arcsolve.training.loop import Budget, run
from arcsolve.training.pack import Pack, flatten
from arcsolve.training.presets import TrainConfig
from arcsolve.training.trainer import Trainer

UPDATES = 8_000

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
    depth=((0.0, 1, 2),),
    muon_rate=2e-3,
    adam_rate=2e-3,
    latent_rate=1e-2,
    weight_decay=0.01,
    nearest_from=0.5,
    decay=0.3,
    ema=0.998,
    bf16=True,
    compile=True,
)

NETWORKS: dict[str, dict[str, Any]] = {
    # Where nothing chooses among the answers, only the nearest would be learned, and nothing be left to sample.
    "deterministic": {"nearest_from": 1.0},
    # What the nearest answer does without anything that chooses: a control.
    "committed": {},
    "random-start": {"network": {"random_start": True, "noise": 0.01}},
    "learned": {"network": {"noise_width": 32}},
}
"""What sets each network apart: no chance, twice; EqR's random start and damped noise; GRAM's learned noise."""


def config_of(name: str, seed: int) -> TrainConfig:
    """How a network of :data:`NETWORKS` is trained."""
    change = dict(NETWORKS[name])
    network = replace(CONFIG.network, **change.pop("network", {}))
    return replace(CONFIG, network=network, seed=seed, **change)


def pack_of(puzzles: Sequence[Puzzle]) -> Pack:
    """Puzzles as training pairs, one task a family; a puzzle counts about the same however many answers it has."""
    return flatten(
        {
            family: [
                (puzzle.input, answer, False)
                for puzzle in puzzles
                if puzzle.family == family
                for answer in puzzle.answers
                for _ in range(2 * MOST // len(puzzle.answers))
            ]
            for family in FAMILIES
        }
    )


def train(
    name: str,
    seed: int,
    pack: Pack,
    folder: Path,
    *,
    updates: int = UPDATES,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    warn: Callable[[str], None] = lambda line: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Weights | None:
    """Train a network in a run folder, or go on where it was stopped; its weights, ``None`` where ``stopped``.

    Args:
        folder: of this network, seed and number of updates; another number is another run.

    Raises:
        ArcsolveError: the folder is of another run, or cannot be written.
    """
    torch._dynamo.reset()  # what earlier runs compiled would count against its limit of compiled shapes
    trainer = Trainer(config_of(name, seed), pack, torch.device("cpu"))
    if checkpoint.exists(folder):
        checkpoint.load(trainer, folder, warn)
    if not run(trainer, Budget(updates=updates), folder=folder, report=report, warn=warn, stopped=stopped):
        return None
    return load_weights(folder / checkpoint.WEIGHTS)
