"""Joint adaptation: one copy of the network learns the demonstrations of a whole set, with a row for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.files import make_folder
from arcsolve.inference.onnx_backend import OnnxBackend
from arcsolve.inference.solver import Solver
from arcsolve.inference.torch_backend import TorchBackend
from arcsolve.network.weights import Weights, load_weights
from arcsolve.training import checkpoint
from arcsolve.training.loop import Budget, run
from arcsolve.training.pack import flatten
from arcsolve.training.presets import TrainConfig
from arcsolve.training.trainer import Trainer

COMPILE_FROM = 100_000
"""Presentations from which compiling twenty canvas sizes, ten seconds each, pays."""


@dataclass(frozen=True)
class JointSettings:
    """How to adapt to a set.

    Attributes:
        presentations: of each task, in the mean over the set. Twice as many learn the demonstrations by heart.
        rate: factor on the rates of the ``cpu`` preset for the network.
        latent_rate: AdamW's rate for the rows.
    """

    presentations: int = 256
    rate: float = 0.5
    latent_rate: float = 1e-2


def joint_config(weights: Weights, settings: JointSettings, tasks: int, seed: int) -> TrainConfig:
    """The training run that adapts to a set of so many tasks: full depth, all views, rates falling in the last half."""
    network = weights.config
    return TrainConfig(
        network=network,
        sides=(6, 10, 13, 16, 20, 25, 30),
        tokens=2_400,
        most=8,
        margin=0.0,
        depth=((0.0, network.inner_steps, network.steps),),
        muon_rate=1e-3 * settings.rate,
        adam_rate=1e-3 * settings.rate,
        latent_rate=settings.latent_rate,
        warmup=0.0,
        decay=0.5,
        ema=0.99,
        bf16=True,
        compile=tasks * settings.presentations >= COMPILE_FROM,
        # As tasks are solved, and refined one by one: the posterior has no part in either.
        prior_share=1.0,
        protocol="joint",
        seed=seed,
    )


def adapt_jointly(
    weights: Weights,
    tasks: Iterable[Task],
    settings: JointSettings,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    warn: Callable[[str], None] = lambda line: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Adapt to the demonstrations of all tasks at once; test pairs are never looked at.

    Memory grows by a task's cells and some thirteen copies of its row. The run is a training run: it can be killed at
    any time, and the same call goes on where it stopped.

    Args:
        folder: where its checkpoints and the adapted weights go.
        report: called with every line of its log.

    Returns:
        The adapted weights, or ``None`` where ``stopped`` ended it early.

    Raises:
        ArcsolveError: the folder holds another run, or cannot be written.
    """
    demonstrations = {
        task.id: [(p.input, p.output, False) for p in task.train if p.output is not None] for task in tasks
    }
    pack = flatten(demonstrations)
    config = joint_config(weights, settings, len(pack.ids), seed)
    path = folder / checkpoint.WEIGHTS
    make_folder(folder)
    trainer = Trainer(config, pack, device, weights)
    if checkpoint.exists(folder):
        checkpoint.load(trainer, folder, warn)
    budget = Budget(presentations=settings.presentations * len(pack.ids))
    if not run(trainer, budget, folder=folder, every=60.0, report=report, warn=warn, stopped=stopped):
        return None
    return path


def joint_solver(base: Solver, path: Path, backend: str, threads: int = 0) -> Solver:
    """A solver on jointly adapted weights that starts every task from its own row.

    It names the weights that were adapted, and calls seen what those had seen.

    Args:
        base: a solver on the weights that ``path`` was adapted from.
        threads: of the CPU, in ONNX Runtime; 0 for one on each core.
        backend: ``onnx``, for which the exported graph lies beside ``path``, or ``torch``.

    Raises:
        ArcsolveError: ``path`` was adapted from other weights.
    """
    adapted = load_weights(path)
    initial = adapted.training["initial"]["sha256"]
    if initial != base.weights.sha256:
        raise ArcsolveError(f"{path}: adapted from other weights ({initial[:8]}); choose another folder")
    runs: OnnxBackend | TorchBackend
    if backend == "torch":
        runs = TorchBackend(adapted.config, adapted.network, base.device)
    else:
        runs = OnnxBackend(adapted, base.backend.name.partition(":")[2], threads)
    named = replace(adapted, sha256=base.weights.sha256, seen=base.weights.seen)
    rows = dict(zip(adapted.tasks, adapted.bank, strict=True))
    return Solver(named, runs, base.device, rows=rows)
