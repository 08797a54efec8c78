"""A deadline for many tasks: how much of the time that is left each task may take, and what to leave out to fit in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.adaptation import AdaptSettings
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import Solution
from arcsolve.inference.solver import ADAPT_SHARE
from arcsolve.shapes import canvas_size

RESERVE, RESERVE_LEAST, RESERVE_MOST = 0.02, 3.0, 30.0
"""Share of the deadline, and bounds of it in seconds, that is kept for what overruns and for writing."""
WRITING = 0.25
"""Share of the reserve for writing: what is not solved by then is given up."""

FLOOR_STEPS = 16
"""Fewest steps of refinement that are worth their time; where even these do not fit, fewer tasks are solved instead."""

SLACK = 2.0
"""Limit of a task by its share: to be cut off costs more answers than to overrun, which the next shares make up for."""

FIT = 0.75
"""Share of the limit that a plan fills: refinement has to end at 80% of it."""

FORGET = 0.9
"""Weight of what was learned before, from one task to the next."""

PREFIX = 19
"""Tokens beside the cells: close enough for an estimate."""

_DURATION = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(text: str) -> float:
    """Seconds of ``11h30m``, ``90m``, ``45s``, ``1h30m10s`` or ``3600``.

    Raises:
        ArcsolveError: it is no such duration above zero.
    """
    seconds, number = 0.0, ""
    units = list(_DURATION)
    try:
        for letter in text.strip().lower().replace("min", "m"):
            if letter in units:
                seconds += float(number) * _DURATION[letter]
                units, number = units[units.index(letter) + 1 :], ""
            else:
                number += letter
        seconds += float(number) if number else 0.0
        if number and len(units) < len(_DURATION):
            raise ValueError
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise ArcsolveError(f"{text!r} is no duration: expected one such as 11h30m, 90m, 45s or a number of seconds")
    return seconds


def work(task: Task, adapt: AdaptSettings) -> float:
    """What an optimizer step of a task costs, in tokens: the unit of all estimates of time."""
    known = [pair.output.size for pair in task.train if pair.output is not None]
    asked = [h * w for h, w in (canvas_size(task.train, pair.input) for pair in task.test)]
    sample = PREFIX + max(*(pair.input.size for pair in task.train), *known, *asked)
    return float(sample * max(1, min(adapt.batch, adapt.tokens // sample)))


class Deadline:
    """Shares the time that is left over the tasks that are left, by :func:`work`.

    The settings of a task are cut where they would take more than its share, by what earlier tasks took: first nothing
    is left out of its demonstrations, then one network is refined instead of several, then for fewer steps. Steps come
    last because a refinement that time cuts short is worth far less than a shorter one that was meant to be. For the
    same reason the first tasks are tried (:meth:`trial`) for what they take.

    Args:
        seconds: until the deadline.
        now: the clock, in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        reserve = min(RESERVE_MOST, max(RESERVE_LEAST, RESERVE * seconds))
        self.end = now() + seconds - reserve
        self.last = now() + seconds - WRITING * reserve
        self.refining = self.refined = 0.0  # seconds, and steps times work
        self.other = self.others = 0.0  # seconds of recall and sampling, and networks times work

    @property
    def left(self) -> float:
        """Seconds left, the reserve not counted."""
        return self.end - self.now()

    @property
    def patience(self) -> float:
        """Seconds for which it makes sense to wait for a task in hand."""
        return self.last - self.now()

    @property
    def known(self) -> bool:
        """Whether any task has shown what a step takes."""
        return self.refined > 0

    def trial(self, settings: Settings) -> Settings:
        """The least settings, to learn from."""
        adapt = replace(settings.adapt, steps=min(FLOOR_STEPS, settings.adapt.steps))
        limit = min(settings.time_limit or self.left, self.left)
        return replace(settings, networks=1, adapt=adapt, leave_one_out=0, time_limit=max(limit, 1.0))

    def plan(self, task: Task, waiting: float, settings: Settings, workers: int = 1) -> tuple[Settings, bool]:
        """Settings that fit into the task's share of the time. Their limit is wider, for an estimate may err.

        Args:
            waiting: :func:`work` of all tasks that are not begun, this one included.
            workers: that solve at the same time.

        Returns:
            The settings, and whether the answer may differ for what was cut.
        """
        size = work(task, settings.adapt)
        share = max(self.left * workers * size / waiting, self.cost(size, 1, FLOOR_STEPS), 1.0)
        limit = min(SLACK * share, max(self.left, 1.0), settings.time_limit or self.left)
        fit = min(share, FIT * limit)
        steps, networks, stopped = settings.adapt.steps, settings.refined, False
        if settings.leave_one_out:
            leaving = self.cost(size, 1, steps) * min(settings.leave_one_out, len(task.train))
            if self.cost(size, networks, steps) + leaving > fit:
                settings, stopped = replace(settings, leave_one_out=0), settings.stop
        cuts = [(count, steps) for count in range(networks, 0, -1)]
        while cuts[-1][1] > FLOOR_STEPS:
            cuts.append((1, max(FLOOR_STEPS, cuts[-1][1] * 3 // 4)))
        fitting = next((cut for cut in cuts if self.cost(size, *cut) <= fit), cuts[-1])
        adapt = replace(settings.adapt, steps=fitting[1])
        # Recall and the first samples do not look at the clock, so that near the end their time has to be set aside.
        limit = min(limit, max((self.patience - self.cost(size, fitting[0], 0)) / ADAPT_SHARE, 1.0))
        return replace(settings, networks=fitting[0], adapt=adapt, time_limit=limit), stopped or fitting != cuts[0]

    def largest(self, settings: Settings) -> float:
        """The :func:`work` of the largest task that would be done in time by the least settings."""
        unit = self.cost(1.0, 1, min(FLOOR_STEPS, settings.adapt.steps))
        return self.patience / unit if unit else math.inf

    def learn(self, task: Task, settings: Settings, solution: Solution) -> None:
        """Take into account what a task took; earlier ones count ever less, the first ones having warmed up."""
        size = work(task, settings.adapt)
        for name in ("refining", "refined", "other", "others"):
            setattr(self, name, FORGET * getattr(self, name))
        self.refining += solution.seconds.get("refine", 0.0)
        self.refined += size * sum(solution.adapt_steps)
        self.other += solution.seconds.get("recall", 0.0) + solution.seconds.get("sample", 0.0)
        self.others += size * settings.refined

    def cost(self, size: float, networks: int, steps: int) -> float:
        """Estimated seconds; 0 as long as nothing is known."""
        step = self.refining / self.refined if self.refined else 0.0
        rest = self.other / self.others if self.others else 0.0
        return size * networks * (steps * step + rest)
