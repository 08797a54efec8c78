"""Solutions: headline, answers, votes and latent iterations; and the view shown while the solver works."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from arcsolve.arc.grid import Grid
from arcsolve.arc.task import Task
from arcsolve.inference.solution import Candidate, LatentStep, Solution, TestSolution
from arcsolve.render.grids import Picture, Strip, size
from arcsolve.render.palette import Style
from arcsolve.render.trajectories import LEADERS, readings, trajectory_table

TOP_CANDIDATES = 8
"""Rows of the vote table; what is left out is counted below it."""

LIVE_CANDIDATES = 2
"""Leading candidates drawn while the solver works."""


def solution_view(task: Task, solution: Solution, style: Style, *, trajectories: bool = False) -> RenderableType:
    """A whole solution: the headline, then each test input with its answers, votes and latent iterations.

    Answers are marked right or wrong where ``task`` holds the test's output.

    Args:
        task: the task solved.
        solution: its solution, with as many ``test`` entries as the task has test pairs.
        style: colours or digits.
        trajectories: also draw where the trajectories of each test stood, by step.
    """
    parts: list[RenderableType] = [headline(solution)]
    for number, (pair, answers) in enumerate(zip(task.test, solution.test, strict=True), 1):
        parts += [Text(), test_view(number, pair.input, answers, style, expected=pair.output)]
        if trajectories and answers.trajectories:
            parts += [Text(), trajectories_view(number, answers, style, expected=pair.output)]
    return Group(*parts)


def headline(solution: Solution) -> Text:
    """One sentence: task, protocol, demonstrations reproduced, seconds, and what qualifies the result."""
    line = Text.assemble(
        (solution.task, "bold"),
        f": {solution.protocol}, {_reproduced(solution.left_out.reproduced, solution.left_out.tried)}",
    )
    if "total" in solution.seconds:
        line.append(f", {solution.seconds['total']:.1f} s")
    if solution.seen_in_training:
        line.append(", ").append("seen in training", "bold yellow")
    if solution.truncated:
        line.append(", ").append("truncated: time ran out before the step budget", "bold yellow")
    return line


def test_view(
    number: int, given: Grid, answers: TestSolution, style: Style, *, expected: Grid | None = None
) -> RenderableType:
    """One test: input and both attempts, the vote table, and the latent iterations.

    Args:
        number: 1-based number of the test.
        given: the test input.
        answers: what the solver found.
        style: colours or digits.
        expected: the test's output where it is known; it is drawn where both attempts are wrong.
    """
    attempts = (answers.attempt_1, answers.attempt_2)
    pictures = [Picture(given, (Text(f"test {number}", "bold"), f"input {size(given)}"))]
    pictures += [_answer(f"attempt {n}", grid, answers, expected) for n, grid in enumerate(attempts, 1)]
    if expected is not None and not any(np.array_equal(grid, expected) for grid in attempts):
        pictures.append(Picture(expected, ("expected", size(expected))))
    parts: list[RenderableType] = [Strip([pictures[:2], *([picture] for picture in pictures[2:])], style)]
    if answers.candidates:
        parts += [Text(), _vote_table(answers, expected)]
    if answers.steps:
        groups = [[picture] for picture in _step_pictures(answers.steps)]
        parts += [Text(), Text(f"latent iterations, test {number}", "bold"), Strip(groups, style)]
    return Group(*parts)


test_view.__test__ = False  # type: ignore[attr-defined]  # pytest collects by name


def trajectories_view(
    number: int, answers: TestSolution, style: Style, *, expected: Grid | None = None
) -> RenderableType:
    """How trajectories part: counts by step, the readings where there are several, and the leading candidates.

    Args:
        number: 1-based number of the test.
        answers: what the solver found, with at least one step of ``trajectories``.
        style: colours or digits.
        expected: the test's output where it is known; candidates are then marked right or wrong.
    """
    total, steps = sum(candidate.votes for candidate in answers.candidates), len(answers.trajectories)
    heading = f"trajectories, test {number}: {total} over {steps} step{'' if steps == 1 else 's'}"
    parts: list[RenderableType] = [Text(heading, "bold"), trajectory_table(answers, style)]
    if told := readings(answers.candidates):
        parts.append(Text(told, "bold"))
    if len(answers.candidates) > 1:
        pictures = [
            _candidate(rank, candidate, answers, expected)
            for rank, candidate in enumerate(answers.candidates[:LEADERS], 1)
        ]
        parts += [Text(), Strip([[picture] for picture in pictures], style)]
    return Group(*parts)


def progress_view(
    stage: str,
    done: int,
    total: int,
    reproduced: tuple[int, int] | None,
    steps: Sequence[LatentStep],
    candidates: Sequence[Candidate],
    style: Style,
    *,
    exact: float | None = None,
) -> RenderableType:
    """What is known so far, in a few lines, for a live display.

    Args:
        stage: what the solver is doing, such as ``adapt``.
        done: steps of the stage that are done, 0..``total``.
        total: steps of the stage; 0 where that is unknown.
        reproduced: (demonstrations reproduced when left out, demonstrations), once that is known.
        steps: latent steps so far, oldest first; the newest are drawn, newest first, as far as the width allows.
        candidates: candidates so far, best first.
        style: colours or digits.
        exact: share of views of the demonstrations that come out right, while refining.
    """
    status = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=total or None, completed=done, width=20, pulse=not total)
    status.add_row(Text(stage, "bold"), bar, f"{done}/{total}" if total else str(done))
    parts: list[RenderableType] = [status]
    if exact is not None:
        parts.append(Text(f"{exact:.0%} of the demonstrations' views come out right"))
    if reproduced is not None:
        parts.append(Text(_reproduced(*reproduced)))
    leaders = [
        Picture(candidate.grid, (f"rank {rank}", _votes(candidate.votes), _confidence(candidate.confidence)))
        for rank, candidate in enumerate(candidates[:LIVE_CANDIDATES], 1)
    ]
    pictures = leaders + _step_pictures(steps)[::-1]
    if pictures:
        parts.append(Strip([[picture] for picture in pictures], style, one_row=True))
    return Group(*parts)


def detail_view(solution: Solution) -> RenderableType:
    """How the answer came about: nearest trained tasks, losses when demonstrations are left out, seconds by stage."""
    recalled, left_out = solution.recalled, solution.left_out
    lines = [f"refined from {recalled.source} for {' + '.join(map(str, solution.adapt_steps))} steps"]
    if recalled.nats is not None and recalled.mean_nats is not None:
        lines[0] += f" ({recalled.nats:.3f} nats a cell on the demonstrations; the mean: {recalled.mean_nats:.3f})"
    if recalled.nearest:
        near = ", ".join(f"{one.task} {one.nats:.3f}" for one in recalled.nearest)
        lines.append(f"nearest trained tasks, in nats a cell: {near}")
    if left_out.curve:
        curve = ", ".join(f"{step}: {share:.0%}, {nats:.3f}" for step, nats, share in left_out.curve)
        lines.append(f"left-out demonstrations by steps, views right and nats a cell: {curve}")
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in solution.seconds.items())
    lines.append(f"seconds: {seconds}")
    return Text("\n".join(lines))


def changes(before: Grid, after: Grid, what: str = "changed") -> str:
    """What changed between two grids: ``unchanged``, ``12 cells changed``, or the former size where it differs.

    Args:
        what: what to say of cells that differ.
    """
    if before.shape != after.shape:
        return f"was {size(before)}"
    count = int(np.count_nonzero(before != after))
    return "unchanged" if not count else f"{count} cell{'s' if count > 1 else ''} {what}"


def _answer(name: str, grid: Grid, answers: TestSolution, expected: Grid | None) -> Picture:
    title: list[str | Text] = [Text(name, "bold"), size(grid)]
    for candidate in answers.candidates:
        if np.array_equal(candidate.grid, grid):
            title += [_votes(candidate.votes), _confidence(candidate.confidence)]
    if expected is not None:
        title.append(_verdict(grid, expected))
    return Picture(grid, tuple(title))


def _candidate(rank: int, candidate: Candidate, answers: TestSolution, expected: Grid | None) -> Picture:
    """A candidate's picture; any but the first tells how far apart from that it is, or its size where that differs."""
    first = answers.candidates[0].grid
    same = rank > 1 and candidate.grid.shape == first.shape
    title: list[str | Text] = [Text(f"rank {rank}", "bold"), _votes(candidate.votes)]
    title.append(changes(first, candidate.grid, "apart") if same else size(candidate.grid))
    if expected is not None:
        title.append(_verdict(candidate.grid, expected))
    return Picture(candidate.grid, tuple(title))


def _verdict(grid: Grid, expected: Grid) -> Text:
    return Text("right", "bold green") if np.array_equal(grid, expected) else Text("wrong", "bold red")


def _vote_table(answers: TestSolution, expected: Grid | None) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("rank", "size", "votes", "conf"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for rank, candidate in enumerate(answers.candidates[:TOP_CANDIDATES], 1):
        remarks = [
            Text(f"attempt {number}")
            for number, grid in enumerate((answers.attempt_1, answers.attempt_2), 1)
            if np.array_equal(grid, candidate.grid)
        ]
        if not candidate.plausible:
            remarks.append(Text("implausible", "yellow"))
        if expected is not None:
            remarks.append(_verdict(candidate.grid, expected))
        cells = (str(rank), size(candidate.grid), str(candidate.votes), f"{candidate.confidence:.2f}")
        table.add_row(*cells, Text("  ").join(remarks))
    more = answers.candidates[TOP_CANDIDATES:]
    if not more:
        return table
    return Group(table, Text(f"and {len(more)} more with {_votes(sum(candidate.votes for candidate in more))}"))


def _step_pictures(steps: Sequence[LatentStep]) -> list[Picture]:
    pictures = []
    for index, step in enumerate(steps):
        title = (f"step {step.step}", _confidence(step.confidence), f"agree {step.agreement:.0%}")
        change = changes(steps[index - 1].grid, step.grid) if index else size(step.grid)
        pictures.append(Picture(step.grid, (*title, change)))
    return pictures


def _reproduced(count: int, demonstrations: int) -> str:
    if not demonstrations:
        return "no demonstration left out to try"
    return f"{count} of {demonstrations} demonstrations reproduced when left out"


def _votes(count: int) -> str:
    return f"{count} vote{'' if count == 1 else 's'}"


def _confidence(value: float) -> str:
    return f"conf {value:.2f}"
