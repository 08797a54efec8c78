"""How trajectories part: counts and bars by step for each leading candidate, and whether there are several readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from arcsolve.inference.solution import Candidate, TestSolution
from arcsolve.render.palette import Style

LEADERS = 6
"""Candidates with a row of their own and a picture; the rest are summed."""

READING = 0.2
"""Share of all trajectories from which on a plausible candidate is a reading of the puzzle."""

LEAST_BAR, LONGEST_BAR = 6, 24
"""Columns of a bar that stands for all trajectories: where fewer would be left, steps are left out instead."""

_GAP = 2
_EIGHTHS = " ▏▎▍▌▋▊▉"
_NUMBERS = ("two", "three", "four", "five")


def readings(candidates: Sequence[Candidate]) -> str | None:
    """``two readings: 55% end at rank 1, 30% at rank 2``; ``None`` where fewer than two hold a substantial share.

    Args:
        candidates: ranked, best first. An implausible one is no reading, nor is one where a single trajectory ends,
            which with few trajectories is a large share.
    """
    total = sum(candidate.votes for candidate in candidates)
    # Shares, not counts: a fifth is exactly 0.2 as a quotient, while 0.2 times a count may come out above its fifth.
    held = [
        (rank, candidate.votes / total)
        for rank, candidate in enumerate(candidates, 1)
        if candidate.plausible and candidate.votes > 1 and candidate.votes / total >= READING
    ]
    if len(held) < 2:
        return None
    (rank, share), *others = held
    rest = "".join(f", {share:.0%} at rank {rank}" for rank, share in others)
    return f"{_NUMBERS[len(others) - 1]} readings: {share:.0%} end at rank {rank}{rest}"


def trajectory_table(answers: TestSolution, style: Style) -> _Table:
    """A renderable table: of each leading candidate the trajectories that stood there, by step.

    Below the candidates come the sum of the other ones, the trajectories elsewhere (where there ever were any), and
    how many have moved since the step before. Where not all steps fit, the first, the last and some between are drawn.

    Args:
        answers: what the solver found, with at least one step of ``trajectories``.
        style: whether bars may leave ASCII.
    """
    steps = answers.trajectories
    rows = []
    for index, candidate in enumerate(answers.candidates[:LEADERS]):
        remarks = [
            f" attempt {number}"
            for number, grid in enumerate((answers.attempt_1, answers.attempt_2), 1)
            if np.array_equal(grid, candidate.grid)
        ]
        rows.append(_Row("".join([str(index + 1), *remarks]), tuple(step.counts[index] for step in steps)))
    if more := len(answers.candidates[LEADERS:]):
        name = f"{more} other{'' if more == 1 else 's'}"
        rows.append(_Row(name, tuple(sum(step.counts[LEADERS:]) for step in steps)))
    if any(step.elsewhere for step in steps):
        rows.append(_Row("elsewhere", tuple(step.elsewhere for step in steps)))
    total = sum(steps[0].counts) + steps[0].elsewhere
    moved = ("-", *(str(step.moved) for step in steps[1:]))
    return _Table(tuple(rows), moved, tuple(step.step for step in steps), total, style)


@dataclass(frozen=True)
class _Row:
    """A label, and trajectories by step."""

    label: str
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Table:
    """The rows, moves by step, the steps' numbers, and how many trajectories a whole bar stands for."""

    rows: tuple[_Row, ...]
    moved: tuple[str, ...]
    steps: tuple[int, ...]
    total: int
    style: Style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        digits = len(str(self.total))
        labels = max(len("moved"), *(len(row.label) for row in self.rows))
        heads = [f"step {step}" for step in self.steps]
        room = options.max_width - labels
        # The first and the last step are drawn at any width: there, bars give way.
        fit = max(2, room // (_GAP + max(digits + 1 + LEAST_BAR, len(heads[-1]))))
        shown = _spread(len(heads), fit)
        bar = min(room // len(shown) - _GAP - digits - 1, LONGEST_BAR)
        cell = max(digits + 1 + bar if bar > 0 else digits, *(len(heads[index]) for index in shown))

        def line(label: str, cells: Sequence[str], pen: str = "") -> Text:
            text = label.ljust(labels) + "".join(" " * _GAP + one.ljust(cell) for one in cells)
            return Text(text.rstrip(), pen, no_wrap=True, overflow="crop")

        yield line("rank", [heads[index] for index in shown], "bold")
        for row in self.rows:
            counts = [row.counts[index] for index in shown]
            yield line(row.label, [f"{n:{digits}} {_bar(n / self.total, bar, self.style)}" for n in counts])
        if len(self.steps) > 1:
            yield line("moved", [self.moved[index].rjust(digits) for index in shown], "dim")


def _spread(count: int, most: int) -> list[int]:
    """Indices 0..``count`` - 1; of more than ``most``, at least 2, the first, the last and evenly spread ones."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _bar(share: float, width: int, style: Style) -> str:
    """A bar that fills its share of ``width`` columns, in eighths where it may; anything above 0 is seen."""
    if width <= 0 or not share:
        return ""
    if not style.unicode:
        return "#" * max(1, round(share * width))
    whole, eighths = divmod(max(1, round(share * width * 8)), 8)
    return "█" * whole + (_EIGHTHS[eighths] if eighths else "")
