"""Deadlines: durations as people write them, shares of the time that is left, and what is cut to fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from arcsolve.arc.task import Pair, Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.adaptation import AdaptSettings
from arcsolve.inference.deadline import FLOOR_STEPS, Deadline, parse_duration, work
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import LeftOut, Recalled, Solution


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("11h30m", 41_400),
        ("90m", 5_400),
        ("45s", 45),
        ("1h0m10s", 3_610),
        ("3600", 3_600),
        ("1.5h", 5_400),
        ("9 min", 540),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "5x", "30m11h", "h", "nan", "inf", "1h30", "1m2m", "m5"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ArcsolveError, match="is no duration"):
        parse_duration(text)


def sized(side: int) -> Task:
    grid = np.zeros((side, side), dtype=np.uint8)
    return Task(f"t{side}", (Pair(grid, grid),), (Pair(grid, None),))


class Time:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def spent(settings: Settings, refine: float, other: float = 0.0) -> Solution:
    steps = (settings.adapt.steps,) * settings.refined
    seconds = {"refine": refine, "recall": other, "sample": 0.0}
    return Solution("t", "per-task", "0", 0, False, False, Recalled("mean"), LeftOut(), steps, (), seconds)


FULL = Settings(leave_one_out=3)


def test_without_need_nothing_is_cut_and_the_limit_is_twice_the_share() -> None:
    deadline = Deadline(1000, Time())
    small = sized(5)
    deadline.learn(small, FULL, spent(FULL, refine=1.0))
    planned, cut = deadline.plan(small, 4 * work(small, FULL.adapt), FULL)
    assert not cut and planned == replace(FULL, time_limit=pytest.approx(2 * 980 / 4))


def test_what_does_not_fit_is_cut_in_order() -> None:
    small = sized(5)
    size = work(small, FULL.adapt)
    known = Deadline(1000, Time())
    known.learn(small, FULL, spent(FULL, refine=256.0))  # a second a step

    def plan(waiting: float) -> tuple[int, int, int, bool]:
        planned, cut = known.plan(small, size * waiting, FULL)
        return planned.leave_one_out, planned.networks, planned.adapt.steps, cut

    assert plan(1) == (3, 2, 128, False)  # three quarters of 980 s for 256 and one of 128 left out
    assert plan(3) == (0, 2, 128, False)  # the same answer without what was left out
    assert plan(6) == (0, 1, 128, True)
    assert plan(10) == (0, 1, 96, True)
    assert plan(40) == (0, 1, 22, True)
    assert plan(1000) == (0, 1, FLOOR_STEPS, True)  # fewer tasks rather than less


def test_the_reserve_is_for_what_overruns_and_for_writing() -> None:
    clock = Time()
    for seconds, reserve in ((10, 3), (1000, 20), (40_000, 30)):
        deadline = Deadline(seconds, clock)
        assert (deadline.left, deadline.patience) == (seconds - reserve, seconds - reserve / 4)


def test_to_stop_without_what_was_left_out_is_a_cut() -> None:
    small, known = sized(5), Deadline(1000, Time())
    known.learn(small, FULL, spent(FULL, refine=256.0))
    planned, cut = known.plan(small, 3 * work(small, FULL.adapt), replace(FULL, stop=True))
    assert cut and planned.leave_one_out == 0


def test_larger_tasks_get_more_and_what_is_not_used_goes_to_the_others() -> None:
    clock = Time()
    deadline = Deadline(100, clock)
    small, large = sized(3), sized(30)
    sizes = [work(task, AdaptSettings()) for task in (small, large)]
    assert sizes[1] > 5 * sizes[0]
    (a, _), (b, _) = (deadline.plan(task, 6 * sum(sizes), FULL, workers=2) for task in (small, large))
    assert a.time_limit is not None and b.time_limit is not None
    assert b.time_limit / a.time_limit == pytest.approx(sizes[1] / sizes[0])
    assert a.time_limit + b.time_limit == pytest.approx(2 * 97 * 2 / 6)
    clock.now = 20.0
    later, _ = deadline.plan(small, sizes[0], FULL, workers=2)
    assert later.time_limit == pytest.approx(77)  # two workers, but no task may go beyond the end
    clock.now = 99.0
    assert deadline.left < 0


def test_a_tasks_own_limit_still_counts() -> None:
    small = sized(5)
    planned, _ = Deadline(1000, Time()).plan(small, work(small, FULL.adapt), replace(FULL, time_limit=7.0))
    assert planned.time_limit == 7.0
