"""The learning gate: no long run starts before the real code has learned a few tasks by heart, then in all views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from arcsolve.errors import ArcsolveError
from arcsolve.training.loop import Budget, run
from arcsolve.training.pack import Pack
from arcsolve.training.presets import TrainConfig, gate_config
from arcsolve.training.trainer import Trainer

TASKS = 32
WINDOW = 100
GOALS = {"identity": (0.95, 3_000), "all": (0.80, 6_000)}
"""For each stage of views: the share of presentations that must be exact, and the updates within which."""


def gate_pack(pack: Pack, tasks: int = TASKS) -> Pack:
    """Official pairs of the first ``tasks`` task ids whose canvases all fit 10 x 10.

    Raises:
        ArcsolveError: the pack has too few such tasks.
    """
    large = np.unique(pack.task[(pack.sizes > 10).any(axis=1) & ~pack.generated])
    small = np.setdiff1d(np.unique(pack.task[~pack.generated]), large)
    if len(small) < tasks:
        raise ArcsolveError(f"the gate needs {tasks} tasks within 10 x 10, and this pack has {len(small)}")
    return pack.select(np.isin(pack.task, small[:tasks]) & ~pack.generated)


def run_gate(
    pack: Pack,
    *,
    views: str,
    seed: int = 0,
    updates: int | None = None,
    config: TrainConfig | None = None,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    **switches: Any,
) -> dict[str, Any]:
    """Train on the gate's tasks until the goal is reached or the updates are spent.

    Args:
        views: ``identity`` or ``all``.
        updates: the most updates; the goal's own by default.
        config: settings in place of the gate's own.
        switches: fields of the network's configuration to turn on, such as ``random_start=True``.

    Returns:
        ``views``, ``switches``, ``passed``, ``exact`` (share of the last 100 updates' presentations), ``updates``,
        ``presentations``, ``per_pair`` (presentations of each pair) and ``seconds``.
    """
    goal, limit = GOALS[views]
    trainer = Trainer(config or gate_config(seed, views, **switches), gate_pack(pack), torch.device("cpu"))
    latest: dict[str, Any] = {"exact": 0.0}

    def keep(row: dict[str, Any]) -> None:
        latest.update(row)
        report(row)

    budget = Budget(updates=updates or limit)
    run(trainer, budget, log_updates=WINDOW, report=keep, stopped=lambda: latest["exact"] >= goal)
    return {
        "views": views,
        "switches": switches,
        "passed": latest["exact"] >= goal,
        "exact": latest["exact"],
        "goal": goal,
        "updates": trainer.counters.updates,
        "presentations": trainer.counters.presentations,
        "per_pair": round(trainer.counters.presentations / len(trainer.pack)),
        "seconds": round(trainer.counters.seconds),
    }
