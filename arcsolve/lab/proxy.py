"""A training run small enough to be repeated many times, and what it is measured by.

Forty small training tasks, or more, stand for all of them. Two figures say what a run is worth, both in nats a cell of
outputs that it never saw, since shares of right answers are far too noisy at this size: of the tasks' own test pairs
(development), and of the small meta-dev tasks after a short joint adaptation to their demonstrations (meta-dev).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from arcsolve.arc.dataset import OFFICIAL, load_tasks
from arcsolve.arc.grid import COLOURS
from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.torch_backend import build_network
from arcsolve.network.config import NetworkConfig
from arcsolve.network.recursion import TaskLatents
from arcsolve.network.weights import BANK, Weights
from arcsolve.shapes import canvas_size
from arcsolve.training.guard import split
from arcsolve.training.loop import Budget, run
from arcsolve.training.objective import normal_from, objective
from arcsolve.training.pack import Pack, flatten
from arcsolve.training.pairs import PairStore, ViewDraw
from arcsolve.training.presets import RATES, TrainConfig
from arcsolve.training.trainer import Trainer
from arcsolve.views import DIHEDRALS

TASKS, MAX_SIDE = 40, 10
UPDATES, ADAPT_UPDATES = 1_200, 200
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

FIT = (
    "hint_share", "turned_share", "latent_noise", "latent_kl", "reset", "update_each_step", "optimizer", "most",
    "tokens", *RATES,
)  # fmt: skip
"""What the fit to the meta-dev tasks takes from :data:`CONFIG`, whatever a run changes: else it would rank fits."""
FIT_RATES = (1.0, 2.0, 4.0)
"""Factors on the rates of :data:`CONFIG` that fits are tried with: weights are best fitted at rates of their own."""
FIT_DRAWS = 3
"""Fits at each of these rates, with other draws: fits of the same weights scatter by 0.04 nats, as much as a change is
worth."""


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

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        rows = self.bank.rows.detach().view(-1, self.views, *self.bank.rows.shape[1:])
        if self.initial is not None:
            # Only the first rows were copied: give every view of a task what its first one got.
            source = rows.flatten(0, 1)[: len(self.pack.ids)].clone()
            rows.copy_(source[:, None].expand_as(rows))
            self.average.tensors[BANK].copy_(self.bank.rows.detach())

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
    proxy: Proxy, config: TrainConfig, *, updates: int, adapt_updates: int = ADAPT_UPDATES, view_rows: bool = False
) -> dict[str, Any]:
    """Train once and measure.

    Returns:
        ``updates``, ``presentations``, ``flop``, ``seconds``, ``train_nats`` and ``train_exact`` (of the last hundred
        updates) and, for ``development`` and ``meta_dev``, ``_nats``, ``_exact`` and ``_outputs``; of the fits to the
        meta-dev tasks the mean at the best rates, ``meta_dev_rate``, with the nats of each in ``meta_dev_fits``.
    """
    torch._dynamo.reset()  # what earlier runs compiled would count against its limit of compilations
    kind = ViewRows if view_rows else Trainer
    trainer = kind(config, proxy.pack, CPU)
    row: dict[str, Any] = {}
    run(trainer, Budget(updates=updates), log_updates=min(100, updates), report=row.update)
    trained = snapshot(trainer, len(proxy.pack.ids))
    demonstrations = flatten(
        {t.id: [(p.input, p.output, False) for p in t.train if p.output is not None] for t in proxy.meta_dev}
    )
    adapting = replace(
        config.at_full_ramps(),
        **{name: getattr(CONFIG, name) for name in FIT},
        warmup=0.0,
        decay=0.5,
        ema=0.98,
    )
    fits: dict[float, list[Figure]] = {factor: [] for factor in FIT_RATES}
    for factor, draw in product(FIT_RATES, range(FIT_DRAWS)):
        fit = replace(adapting.with_rates(factor), seed=config.seed * FIT_DRAWS + draw)
        adapter = kind(fit, demonstrations, CPU, trained)
        run(adapter, Budget(updates=adapt_updates))
        fits[factor].append(held_out(adapter, proxy.meta_dev))
    means = {factor: _mean(figures) for factor, figures in fits.items()}
    best = min(means, key=lambda factor: means[factor].nats)
    figures = {"development": held_out(trainer, proxy.development), "meta_dev": means[best]}
    flat = {f"{name}_{key}": value for name, figure in figures.items() for key, value in figure._asdict().items()}
    counters = asdict(trainer.counters)
    kept = {key: counters[key] for key in ("updates", "presentations", "flop", "seconds")}
    learned = {"train_nats": row["nats"], "train_exact": row["exact"]}
    return {**kept, **learned, **flat, "meta_dev_rate": best, "meta_dev_fits": [one.nats for one in fits[best]]}


def _mean(figures: list[Figure]) -> Figure:
    """Of figures of the same outputs."""
    nats, exact, outputs = zip(*figures, strict=True)
    return Figure(round(fmean(nats), 5), round(fmean(exact), 5), outputs[0])


def snapshot(trainer: Trainer, tasks: int) -> Weights:
    """The averaged weights as they would be loaded; of several rows of one task their mean."""
    network, bank = trainer.averaged()
    rows = bank.reshape(tasks, -1, *bank.shape[1:]).mean(axis=1)
    return Weights(
        Path("proxy"), "", trainer.config.network, trainer.pack.ids, network, rows, frozenset(), {"protocol": "proxy"}
    )


@torch.no_grad()
def held_out(trainer: Trainer, tasks: tuple[Task, ...]) -> Figure:
    """Loss on test outputs, from each task's row, on the canvas that the solver would choose (never from the output).

    An output that does not fit that canvas counts as wrong, and not among the nats.
    """
    arrays, bank_rows = trainer.averaged()
    network, bank = build_network(trainer.config.network, arrays), torch.from_numpy(bank_rows)
    rows = {task_id: number for number, task_id in enumerate(trainer.pack.ids)}
    nats: list[Tensor] = []
    exact, outputs = 0.0, 0
    for task in tasks:
        for pair in task.test:
            assert pair.output is not None
            outputs += 1
            height, width = canvas_size(task.train, pair.input)
            if pair.output.shape[0] > height or pair.output.shape[1] > width:
                continue
            store = PairStore(flatten({task.id: [(pair.input, pair.output, False)]}), CPU)
            for symmetries, canvas in (((0, 1, 2, 3), (height, width)), ((4, 5, 6, 7), (width, height))):
                dihedral = torch.tensor(symmetries)
                view = ViewDraw(dihedral, torch.arange(COLOURS).expand(4, COLOURS))
                batch = store.batch(torch.zeros(4, dtype=torch.long), view, *canvas, torch.zeros(4, 2))
                row = torch.full((4,), rows[task.id])
                if isinstance(trainer, ViewRows):
                    row = row * trainer.views + dihedral * trainer.config.pool
                inner, steps = trainer.depth
                losses = objective(
                    network, bank[row], batch, steps=steps, inner_steps=inner, normal=normal_from(None, CPU)
                )
                nats.append(losses.nats)
                exact += float(losses.exact.sum()) / DIHEDRALS
    return Figure(round(float(torch.cat(nats).mean()), 5), round(exact / outputs, 5), outputs)
