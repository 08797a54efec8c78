"""The training loop: spends a budget, logs, checkpoints, rolls back what went wrong and stops cleanly."""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from arcsolve.errors import ArcsolveError
from arcsolve.training import checkpoint
from arcsolve.training.trainer import Counters, Learned, Trainer

SPIKE = 0.5
"""Nats a cell over the median of the lines before, in the same stage of the ramps, that count as a spike."""

ROLLBACKS = 6
"""Rollbacks after which a run gives up: the rates are then a sixty-fourth of what they were."""


@dataclass(frozen=True)
class Budget:
    """When to stop; whichever is spent first. The schedules follow the share that is spent."""

    updates: int | None = None
    presentations: int | None = None
    seconds: float | None = None

    def spent(self, counters: Counters) -> float:
        """The share spent, 0 and up."""
        limits = (
            (self.updates, counters.updates),
            (self.presentations, counters.presentations),
            (self.seconds, counters.seconds),
        )
        return max((count / limit for limit, count in limits if limit), default=0.0)


@dataclass
class _Window:
    """Running figures since the last line of the log.

    Sums stay on the device until a line is due: reading them would make the host wait for it.
    """

    nats: Tensor | float = 0.0
    exact: Tensor | float = 0.0
    samples: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, learned: Learned) -> None:
        """An update's presentations."""
        self.nats += learned.nats.sum()
        self.exact += learned.exact.sum()
        self.samples += len(learned.nats)


class _Watch:
    """Tells a healthy loss from one that has run away, and keeps what to roll back to."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.stage: tuple[Any, ...] = ()
        self.recent: deque[float] = deque(maxlen=8)
        # The older of two: by the time a line shows a spike, the newer one may already hold its beginning.
        self.kept: deque[dict[str, Any]] = deque(maxlen=2)
        self.rollbacks = 0
        self._keep()

    def _keep(self) -> None:
        self.kept.append(copy.deepcopy(checkpoint.learned(self.trainer)))

    def healthy(self, row: dict[str, Any]) -> bool:
        """Whether a line of the log shows a loss to go on from."""
        trainer = self.trainer
        # What noise follows, and what it is judged by, makes the loss jump as more steps do.
        stage = (row["views"], row["inner_steps"], row["steps"], "kl" in row, trainer.alone, trainer.nearest)
        if stage != self.stage:
            self.stage = stage
            self.recent.clear()
        nats = row["nats"]
        usual = statistics.median(self.recent) if len(self.recent) >= 3 else math.inf
        if not math.isfinite(nats) or nats > usual + SPIKE:
            return False
        self.recent.append(nats)
        self._keep()
        return True

    def roll_back(self, row: dict[str, Any]) -> None:
        """Put the last good weights back, at half the rates.

        Raises:
            ArcsolveError: it has happened too often.
        """
        self.rollbacks += 1
        if self.rollbacks > ROLLBACKS:
            raise ArcsolveError(f"the loss is {row['nats']} by update {row['update']}, after {ROLLBACKS} rollbacks")
        checkpoint.set_learned(self.trainer, copy.deepcopy(self.kept[0]))
        self.trainer.slowed /= 2


def run(
    trainer: Trainer,
    budget: Budget,
    *,
    folder: Path | None = None,
    every: float = 300.0,
    log_updates: int = 100,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    warn: Callable[[str], None] = lambda line: None,
    stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Train until the budget is spent or ``stopped`` says so.

    A loss that is no number, or jumps, takes the run back to the last good weights at half the rates; the presentations
    spent on it stay counted.

    Args:
        folder: where checkpoints, weights and the log go; ``None`` to keep nothing.
        every: seconds between checkpoints, rounded up to the next line of the log.
        log_updates: updates between lines of the log.
        report: called with every line of the log.
        warn: called with a line for each rollback.
        stopped: asked after every update.

    Returns:
        Whether the budget was spent.

    Raises:
        ArcsolveError: the loss keeps running away, or a file cannot be written.
    """
    world, counters = trainer.world, trainer.counters
    first = world.rank == 0
    window, watch, saved = _Window(), _Watch(trainer), time.monotonic()
    base, began = counters.seconds, time.monotonic()
    lines = counters.updates // log_updates

    def keep() -> None:
        if folder is not None and first:
            checkpoint.save(trainer, folder)

    while True:
        counters.seconds = base + time.monotonic() - began
        progress, stop = world.agree([budget.spent(counters), float(stopped())])
        if progress >= 1 or stop:
            break
        learned = trainer.update(progress)
        window.add(learned)
        if counters.updates // log_updates > lines:
            lines = counters.updates // log_updates
            counters.seconds = base + time.monotonic() - began
            row = _row(trainer, window, progress)
            window = _Window()
            good = watch.healthy(row)
            trainer.tally.zero_()
            if good:
                trainer.beta.follow(row.get("exact_posterior"), row.get("exact_prior"))
            if not good:
                watch.roll_back(row)
                warn(
                    f"update {row['update']}: the loss is {row['nats']} nats a cell; "
                    f"back to the last good weights, rates now times {trainer.slowed:g}"
                )
                row |= {"rolled_back": True, "nats": row["nats"] if math.isfinite(row["nats"]) else None}
            if first:
                if folder is not None:
                    _append(folder / checkpoint.LOG, row)
                if good:
                    try:
                        report(row)
                    except BrokenPipeError:
                        keep()  # nobody reads the lines any more, which ends the run but loses nothing
                        raise
            # Only after a line that shows a healthy loss: no checkpoint may hold what is about to be rolled back.
            if good and time.monotonic() - saved > every:
                keep()
                saved = time.monotonic()
    if math.isfinite(float(window.nats)):
        keep()
    return progress >= 1


def _row(trainer: Trainer, window: _Window, progress: float) -> dict[str, Any]:
    world, counters = trainer.world, trainer.counters
    inner, steps = trainer.depth
    nats, exact = world.mean([float(window.nats) / window.samples, float(window.exact) / window.samples])
    noise = {}
    guided, guided_right, free, free_right, kl = world.mean(trainer.tally.tolist())
    if guided + free:
        noise = {
            "kl": round(kl / max(guided, 1), 4),
            "exact_posterior": round(guided_right / guided, 4) if guided else None,
            "exact_prior": round(free_right / free, 4) if free else None,
            "beta": round(trainer.kl_weight, 4),
        }
    return {
        "update": counters.updates,
        "presentations": counters.presentations,
        "seconds": round(counters.seconds, 1),
        "progress": round(progress, 4),
        "nats": round(nats, 5),
        "exact": round(exact, 4),
        "per_second": round(window.samples * world.size / (time.monotonic() - window.started), 1),
        "views": trainer.config.stage(progress),
        "inner_steps": inner,
        "steps": steps,
        **noise,
    }


def _append(path: Path, row: dict[str, Any]) -> None:
    try:
        with path.open("a") as log:
            log.write(json.dumps(row) + "\n")
    except OSError as error:
        raise ArcsolveError(f"{path}: cannot be written ({error.strerror}); the last checkpoint stands") from error
