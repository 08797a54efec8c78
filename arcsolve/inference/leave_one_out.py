"""Leave-one-out: how well demonstrations are reproduced by a network that adapted to the others only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from arcsolve.arc.grid import Grid
from arcsolve.arc.task import Pair
from arcsolve.inference.adaptation import Adapted, AdaptSettings, Refinement
from arcsolve.inference.backend import Array
from arcsolve.inference.solution import LeftOut
from arcsolve.network.weights import Weights

CHECKS = 4
"""How often in a refinement the left-out demonstration is looked at, evenly spread."""


@dataclass
class _Fold:
    """One demonstration left out: at each check loss in nats a cell, share of 8 views right, whether the vote is right.

    Votes that nobody will read are not held, and are not right.
    """

    checks: list[tuple[float, float, bool]] = field(default_factory=list)


def leave_one_out(
    weights: Weights,
    demonstrations: tuple[Pair, ...],
    settings: AdaptSettings,
    start: Callable[[tuple[Pair, ...]], Array],
    answer: Callable[[Adapted, tuple[Pair, ...], Grid], Grid],
    *,
    most: int,
    stop: bool = False,
    seed: int,
    device: torch.device,
    out_of_time: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int, int, tuple[int, int]], None] = lambda fold, done, total, reproduced: None,
) -> LeftOut:
    """Refine on all demonstrations but one, for each in turn, watching the one left out.

    A fold that time cuts short is not counted. Whether a demonstration is reproduced is read off at the end or, with
    ``stop``, where the *other* ones came out best.

    Args:
        settings: what the task itself is refined with.
        start: latents [P, C] to start from, given the demonstrations that are known.
        answer: an adapted network's answer to an input, given the demonstrations that it knows.
        most: demonstrations to leave out at the most, first ones first.
        stop: whether the answer will be made with as many steps as were best here, or with all.
        progress: called with (fold, steps done, steps, (reproduced, tried) of the folds before).
    """
    folds: list[_Fold] = []
    checks = sorted({max(1, round(settings.steps * (k + 1) / CHECKS)) for k in range(CHECKS)})
    for fold, left_out in enumerate(demonstrations[:most] if len(demonstrations) > 1 else ()):
        others = demonstrations[:fold] + demonstrations[fold + 1 :]
        refinement = Refinement(weights, others, settings, start(others), seed=seed, device=device)
        watched = _Fold()
        before = _summary(folds, checks, stop)
        while refinement.done < settings.steps and not out_of_time():
            if not torch.isfinite(refinement.step().total):
                break
            if refinement.done in checks:
                nats, share = refinement.judge(others, left_out)
                right = False
                if stop or refinement.done == settings.steps:
                    grid = answer(refinement.result(), others, left_out.input)
                    right = left_out.output is not None and np.array_equal(grid, left_out.output)
                watched.checks.append((nats, share, right))
            progress(fold, refinement.done, settings.steps, (before.reproduced, before.tried))
        if refinement.done < settings.steps:
            break
        folds.append(watched)
    return _summary(folds, checks, stop)


def _summary(folds: list[_Fold], steps: list[int], stop: bool) -> LeftOut:
    if not folds:
        return LeftOut()
    # An output too large for its canvas costs infinitely many nats at any step.
    fitting = [[nats for nats, *_ in fold.checks] for fold in folds if math.isfinite(fold.checks[0][0])]
    nats = np.mean(fitting, axis=0) if fitting else np.full(len(steps), np.inf)
    shares = np.array([[share for _, share, _ in fold.checks] for fold in folds])
    # A demonstration that chose its own check would flatter itself: for each, the others choose.
    chosen = [_latest_best(np.delete(shares, number, axis=0)) if stop else -1 for number in range(len(folds))]
    return LeftOut(
        reproduced=sum(fold.checks[check][2] for fold, check in zip(folds, chosen, strict=True)),
        tried=len(folds),
        steps=steps[_latest_best(shares)],
        curve=tuple((step, float(a), float(b)) for step, a, b in zip(steps, nats, shares.mean(axis=0), strict=True)),
    )


def _latest_best(shares: NDArray[np.float64]) -> int:
    """The check (of [folds, checks]) with most views right, of equals the latest; the last where there are no folds.

    Not the one of least loss: refinement grows sure of itself, so the loss of what it gets wrong soon rises, while it
    still gets more and more right.
    """
    total = shares.sum(axis=0)
    return len(total) - 1 - int(total[::-1].argmax())
