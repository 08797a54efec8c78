"""A training run small enough to be repeated many times, and what it is measured by.

Forty small training tasks, or more, stand for all of them. Two figures say what a run is worth, both in nats a cell of
outputs that it never saw, since shares of right answers are far too noisy at this size: of the tasks' own test pairs
(development), and of the small meta-dev tasks, each after a refinement on its own demonstrations, as the solver's
(meta-dev).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

from arcsolve.arc.dataset import OFFICIAL, load_tasks
from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.adaptation import AdaptSettings, Refinement, judge
from arcsolve.inference.recall import Recall
from arcsolve.inference.torch_backend import build_network
from arcsolve.network.config import NetworkConfig
from arcsolve.network.recursion import TaskLatents
from arcsolve.network.weights import Weights
from arcsolve.training.guard import split
from arcsolve.training.loop import Budget, run
from arcsolve.training.pack import Pack
from arcsolve.training.presets import TrainConfig
from arcsolve.training.trainer import Trainer
from arcsolve.views import DIHEDRALS

TASKS, MAX_SIDE = 40, 10
UPDATES = 1_200
CPU = torch.device("cpu")

CONFIG = TrainConfig(
    network=NetworkConfig(width=64, heads=2, hidden=192, inner_steps=1, steps=1),
    sides=(6, 10),
    max_side=MAX_SIDE,
    tokens=2_000,
    most=16,
    margin=0.0,
    views=((0.0, "identity"), (0.02, "dihedral"), (0.08, "pool"), (0.2, "all")),
    depth=((0.0, 1, 1),),
    bf16=True,
    compile=True,
)

ADAPT = AdaptSettings()
"""How the network is refined on a meta-dev task: as the solver does unless told otherwise."""


class Figure(NamedTuple):
    """Mean over held-out outputs in 8 symmetries: nats a cell, share of grids right in every cell, and outputs."""

    nats: float
    exact: float
    outputs: int


@dataclass(frozen=True, eq=False)
class Proxy:
    """The data of the runs: pairs to train on, and the tasks behind the two figures."""

    pack: Pack
    development: tuple[Task, ...]
    meta_dev: tuple[Task, ...]

    @classmethod
    def of(cls, pack: Pack, tasks: int = TASKS) -> Proxy:
        """Choose from a data pack: every n-th of the tasks whose official pairs are all small, so many of them.

        Raises:
            ArcsolveError: the pack has too few such tasks.
        """
        known = {task.id: task for name in OFFICIAL if name.endswith("training") for task in load_tasks(name)}
        official = ~pack.generated
        large = set(pack.task[official & (pack.sizes > MAX_SIDE).any(axis=1)].tolist())
        small = [i for i in np.unique(pack.task[official]) if i not in large and _small(known.get(pack.ids[i]))]
        if len(small) < tasks:
            raise ArcsolveError(f"the proxy needs {tasks} tasks within {MAX_SIDE} x {MAX_SIDE}; this has {len(small)}")
        chosen = [small[k * len(small) // tasks] for k in range(tasks)]
        kept = pack.select(np.isin(pack.task, chosen) & (pack.sizes <= MAX_SIDE).all(axis=1))
        held_out = [known[name] for name in split("meta_dev") if _small(known[name])]
        return cls(kept, tuple(known[name] for name in kept.ids), tuple(held_out))


def _small(task: Task | None) -> bool:
    if task is None:
        return False
    grids = [grid for pair in task.train + task.test for grid in (pair.input, pair.output) if grid is not None]
    return all(max(grid.shape) <= MAX_SIDE for grid in grids)


class ViewRows(Trainer):
    """TRM's way: no word about the view in the prefix, but a row of its own for each of a capped set of views."""

    @property
    def views(self) -> int:
        """Views of a task."""
        return DIHEDRALS * self.config.pool

    def _bank(self) -> TaskLatents:
        return TaskLatents(len(self.pack.ids) * self.views, self.config.network)

    def draw(self, progress: float) -> Any:
        batch = super().draw(progress)
        colours = (batch.colours[:, None] == self.pool[None]).all(-1).int().argmax(1)
        return batch._replace(task=batch.task * self.views + batch.dihedral * self.config.pool + colours)


def measure(
    proxy: Proxy, config: TrainConfig, *, updates: int, adapt: AdaptSettings, view_rows: bool = False
) -> dict[str, Any]:
    """Train once and measure.

    Returns:
        ``updates``, ``presentations``, ``flop``, ``seconds``, ``train_nats`` and ``train_exact`` (of the last hundred
        updates) and, for ``development`` and ``meta_dev``, ``_nats``, ``_exact`` and ``_outputs``. Those of meta-dev
        are ``None`` with ``view_rows``: refinement fits one row, and a network that is not told the view needs many.
    """
    torch._dynamo.reset()  # what earlier runs compiled would count against its limit of compilations
    trainer = (ViewRows if view_rows else Trainer)(config, proxy.pack, CPU)
    row: dict[str, Any] = {}
    run(trainer, Budget(updates=updates), log_updates=min(100, updates), report=row.update)
    figures = {
        "development": held_out(trainer, proxy.development),
        "meta_dev": None if view_rows else refined(snapshot(trainer), proxy.meta_dev, adapt, config.seed),
    }
    flat = {f"{name}_{key}": getattr(figure, key, None) for name, figure in figures.items() for key in Figure._fields}
    counters = asdict(trainer.counters)
    kept = {key: counters[key] for key in ("updates", "presentations", "flop", "seconds")}
    return {**kept, "train_nats": row["nats"], "train_exact": row["exact"], **flat}


def snapshot(trainer: Trainer) -> Weights:
    """The averaged weights as they would be loaded."""
    network, bank = trainer.averaged()
    protocol = {"protocol": "proxy"}
    return Weights(Path("proxy"), "", trainer.config.network, trainer.pack.ids, network, bank, frozenset(), protocol)


def refined(weights: Weights, tasks: tuple[Task, ...], settings: AdaptSettings, seed: int) -> Figure:
    """Loss on test outputs of unknown tasks, each after recall and refinement on its demonstrations alone.

    An output that does not fit its canvas counts as in :func:`held_out`.
    """
    recall = Recall(weights, CPU)
    judged = []
    for task in tasks:
        latents, _ = recall.start(task.train)
        refinement = Refinement(weights, task.train, settings, latents, seed=seed, device=CPU)
        while refinement.done < settings.steps and bool(torch.isfinite(refinement.step().total)):
            pass
        judged += [refinement.judge(task.train, pair) for pair in task.test]
    return _figure(judged)


def held_out(trainer: Trainer, tasks: tuple[Task, ...]) -> Figure:
    """Loss on test outputs, from each task's row, on the canvas that the solver would choose (never from the output).

    An output that does not fit that canvas counts as wrong, and not among the nats.
    """
    arrays, bank = trainer.averaged()
    network = build_network(trainer.config.network, arrays)
    inner, steps = trainer.depth
    judged = []
    for task in tasks:
        rows = np.full(DIHEDRALS, trainer.pack.ids.index(task.id))
        if isinstance(trainer, ViewRows):
            rows = rows * trainer.views + np.arange(DIHEDRALS) * trainer.config.pool
        latents = torch.from_numpy(bank[rows])
        judged += [judge(network, latents, task.train, p, steps=steps, inner_steps=inner) for p in task.test]
    return _figure(judged)


def _figure(judged: Sequence[tuple[float, float]]) -> Figure:
    """Of the outputs' nats and shares of right views; those that fit no canvas are infinitely many nats."""
    nats, exact = zip(*judged, strict=True)
    return Figure(round(fmean(filter(isfinite, nats)), 5), round(fmean(exact), 5), len(judged))
