"""Pictures are read back: what a person sees in the terminal must be the grid, at any width and in any style."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import Color, ColorSystem
from rich.console import Console, RenderableType
from rich.text import Text

from arcsolve.arc.grid import Grid, as_grid
from arcsolve.arc.task import Pair, Task
from arcsolve.inference.solution import (
    Candidate,
    LatentStep,
    LeftOut,
    Neighbour,
    Recalled,
    Solution,
    TestSolution,
    TrajectoryStep,
)
from arcsolve.render.grids import Picture, Strip, draw_grid, task_view
from arcsolve.render.palette import COLOURS, FRAME, Style, style_for
from arcsolve.render.solution import changes, detail_view, progress_view, solution_view, trajectories_view
from arcsolve.render.trajectories import readings

COLOUR = Style(colour=True, unicode=True)
DIGITS = Style(colour=False, unicode=True)
ASCII = Style(colour=False, unicode=False)
STYLES = (COLOUR, DIGITS, ASCII)


def terminal(width: int = 80, system: str | None = "truecolor", **env: str) -> Console:
    environ = {"TERM": "xterm", **env}
    return Console(
        file=io.StringIO(),
        force_terminal=system is not None,
        color_system=system,  # type: ignore[arg-type]
        width=width,
        _environ=environ,
    )


def drawn(renderable: RenderableType, width: int = 80) -> list[str]:
    """The lines without their colours."""
    console = terminal(width)
    with console.capture() as capture:
        console.print(renderable)
    return Text.from_ansi(capture.get()).plain.split("\n")


def random_grid(height: int, width: int, seed: int = 0) -> Grid:
    return as_grid(np.random.default_rng(seed).integers(0, 10, (height, width)), "test")


grids = st.builds(random_grid, st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))


def half_rows(line: Text) -> tuple[list[str | None], list[str | None]]:
    """Colour of the upper and the lower half of each column of a line."""
    upper: list[str | None] = []
    lower: list[str | None] = []
    for segment in terminal(200).render(line):
        for char in segment.text.rstrip("\n"):
            pen = segment.style
            ink = pen.color.name if pen and pen.color else None
            paper = pen.bgcolor.name if pen and pen.bgcolor else None
            upper.append(ink if char in "▀█▐▌▝▘" else paper)
            lower.append(ink if char in "▄█▐▌▗▖" else paper)
    return upper, lower


@settings(max_examples=25, deadline=None)
@given(grids)
def test_half_blocks_read_back_and_are_framed(grid: Grid) -> None:
    rows = [half for line in draw_grid(grid, COLOUR, large=False) for half in half_rows(line)]
    height, width = grid.shape
    assert {len(row) for row in rows} == {width + 2}
    frame = FRAME.lower()
    # A row of frame above and below, whether the height is odd or even, and a column of it on either side.
    assert all(cell == frame for cell in (*rows[1], *rows[height + 2]))
    for row, cells in zip(rows[2:], grid.tolist(), strict=False):
        assert row == [frame, *(COLOURS[cell].lower() for cell in cells), frame]
    assert len(rows) == height + (3 if height % 2 else 4)


@settings(max_examples=12, deadline=None)
@given(grids)
def test_large_cells_read_back(grid: Grid) -> None:
    lines = draw_grid(grid, COLOUR, large=True)
    assert len(lines) == grid.shape[0] + 2
    for line, cells in zip(lines[1:-1], grid.tolist(), strict=True):
        colours, _ = half_rows(line)
        assert colours[1:-1] == [COLOURS[cell].lower() for cell in cells for _ in range(2)]


@settings(max_examples=12, deadline=None)
@given(grids, st.sampled_from([DIGITS, ASCII]), st.booleans())
def test_digits_read_back(grid: Grid, style: Style, large: bool) -> None:
    lines = [line.plain for line in draw_grid(grid, style, large=large)]
    read = [[int(char) for char in line if char.isdigit()] for line in lines[1:-1]]
    assert read == grid.tolist()
    assert style.unicode or all(line.isascii() for line in lines)


def test_digits_say_nothing_in_ascii_that_ascii_lacks() -> None:
    hidden = Task("t", (Pair(random_grid(3, 3), random_grid(4, 4)),), (Pair(random_grid(2, 2), None),))
    assert all(line.isascii() for line in drawn(task_view(hidden, ASCII)))


def test_black_cells_are_framed() -> None:
    black = as_grid([[0, 0], [0, 0]], "test")
    for large in (False, True):
        first, *_, last = (line.plain for line in draw_grid(black, COLOUR, large=large))
        assert set(first) == set("▗▄▖") and set(last) == set("▝▀▘")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(style: Style, width: int) -> None:
    big, small = random_grid(30, 30), random_grid(3, 3)
    task = Task("t", (Pair(big, big), Pair(small, big), Pair(small, small)), (Pair(big, None),))
    lines = drawn(task_view(task, style), width)
    assert max(map(len, lines)) <= width
    # Nothing was cropped either: seven grids and a question mark have both of their upper corners.
    if style.unicode:
        for corners in ("▗┌", "▖┐"):
            assert sum(line.count(corner) for line in lines for corner in corners) == 8


def test_a_pair_of_30x30_fits_80_columns_side_by_side() -> None:
    big = random_grid(30, 30)
    lines = drawn(Strip([[Picture(big, ("input 30x30",)), Picture(big, ("output 30x30",))]], COLOUR))
    assert lines[0].split() == ["input", "30x30", "output", "30x30"]
    assert len([line for line in lines if "▐" in line]) == 15
    assert max(map(len, lines)) == 32 + 3 + 32


def test_a_pair_too_wide_is_broken_at_its_arrow() -> None:
    big = random_grid(30, 30)
    lines = drawn(Strip([[Picture(big, ("input",)), Picture(big, ("output",))]], COLOUR), 40)
    assert lines[0] == "input" and "→ output" in lines


def test_hidden_output_is_a_question_mark() -> None:
    task = Task("t", (Pair(random_grid(2, 2), random_grid(2, 2)),), (Pair(random_grid(2, 2), None),))
    lines = drawn(task_view(task, COLOUR))
    assert any("│?│" in line for line in lines)
    assert any("output ?" in line for line in lines)


def test_style_follows_the_terminal() -> None:
    assert style_for(terminal(system="truecolor")) == COLOUR
    assert style_for(terminal(system="256")) == COLOUR
    assert style_for(terminal(system="standard")) == DIGITS
    assert style_for(terminal(system="truecolor", NO_COLOR="1")) == DIGITS
    assert style_for(terminal(system=None)) == DIGITS
    assert style_for(Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})) == DIGITS
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    assert style_for(Console(file=latin, force_terminal=True, color_system="truecolor", _environ={})) == ASCII


def test_colours_stay_apart_with_256_colours() -> None:
    numbers = [Color.parse(ink).downgrade(ColorSystem.EIGHT_BIT).number for ink in (*COLOURS, FRAME)]
    assert len(set(numbers)) == 11


def example() -> tuple[Task, Solution]:
    given_, right, wrong = random_grid(3, 3, 1), random_grid(4, 4, 2), random_grid(4, 4, 3)
    task = Task("ab[red]", (Pair(given_, right),) * 3, (Pair(given_, right), Pair(given_, None)))
    candidates = (Candidate(wrong, 150, 0.71), Candidate(right, 60, 0.62)) + (Candidate(given_, 1, 0.1),) * 9
    steps = (LatentStep(1, given_, 0.1, 0.2), LatentStep(2, wrong, 0.41, 0.5), LatentStep(3, wrong, 0.9, 1.0))
    solved = TestSolution(wrong, right, candidates, steps)
    missed = TestSolution(wrong, given_, candidates, steps)
    recalled = Recalled("0a1b2c3d", 0.5, 1.25, (Neighbour("0a1b2c3d", 0.5),))
    left_out = LeftOut(2, 3, 64, ((32, 0.75, 0.5), (64, 0.25, 1.0)))
    solution = Solution(
        "ab[red]", "per-task", "00", 0, True, True, recalled, left_out, (64, 64), (solved, missed), {"total": 12.34}
    )
    return task, solution


@pytest.mark.parametrize("style", STYLES)
def test_solution_tells_everything(style: Style) -> None:
    text = "\n".join(drawn(solution_view(*example(), style), 200))
    assert text.startswith(
        "ab[red]: per-task, 2 of 3 demonstrations reproduced when left out, 12.3 s, seen in training, truncated"
    )
    for part in ("150 votes", "conf 0.71", "agree 50%", "was 3x3", "unchanged", "and 3 more with 3 votes"):
        assert part in text
    # Only the first test's output is known, and one of its attempts is right.
    first, second = text.split("test 2", 1)
    assert "right" in first and "wrong" in first and "expected" not in first
    assert "right" not in second and "wrong" not in second


def test_details_tell_how_the_answer_came_about() -> None:
    text = " ".join("\n".join(drawn(detail_view(example()[1]), 200)).split())
    parts = ["from 0a1b2c3d for 64 + 64 steps", "0.500 nats", "the mean: 1.250", "total 12.3"]
    for part in (*parts, "32: 50%, 0.750, 64: 100%, 0.250"):
        assert part in text
    assert max(map(len, drawn(detail_view(example()[1]), 40))) <= 40


def test_expected_output_is_drawn_where_both_attempts_are_wrong() -> None:
    task, solution = example()
    known = Task(task.id, task.train, (task.test[0], Pair(task.test[1].input, random_grid(5, 5))))
    assert sum("expected" in line for line in drawn(solution_view(known, solution, COLOUR))) == 1


def test_solution_fits_40_columns() -> None:
    for style in STYLES:
        assert max(map(len, drawn(solution_view(*example(), style), 40))) <= 40


def test_changes_counts_cells() -> None:
    grid = as_grid([[1, 2], [3, 4]], "test")
    assert changes(grid, grid) == "unchanged"
    assert changes(grid, as_grid([[1, 2], [3, 5]], "test")) == "1 cell changed"
    assert changes(grid, as_grid([[0, 0], [3, 5]], "test")) == "3 cells changed"
    assert changes(grid, as_grid([[1]], "test")) == "was 2x2"


def test_progress_is_one_row_with_the_newest_step() -> None:
    steps = [LatentStep(n, random_grid(30, 30, n), 0.5, 0.5) for n in range(1, 9)]
    candidates = [Candidate(random_grid(30, 30), 3, 0.5)]
    lines = drawn(progress_view("sample", 3, 256, (2, 3), steps, candidates, COLOUR))
    assert "sample" in lines[0] and "3/256" in lines[0]
    assert any("step 8" in line for line in lines) and not any("step 7" in line for line in lines)
    assert len(lines) < 24
    refining = drawn(progress_view("refine", 0, 0, None, (), (), ASCII, exact=0.5))
    assert "refine" in refining[0] and "50% of the demonstrations' views" in refining[1]


def parting(votes: list[int], steps: int, side: int = 5) -> TestSolution:
    """Candidates with these votes, which all trajectories reach at the last step, from elsewhere and from the first."""
    candidates = tuple(Candidate(random_grid(side, side, seed), count, 0.5) for seed, count in enumerate(votes))
    ways = []
    for step in range(1, steps + 1):
        counts = [count * step // steps for count in votes]
        ways.append(TrajectoryStep(step, tuple(counts), sum(votes) - sum(counts), 0 if step == 1 else step))
    return TestSolution(candidates[0].grid, candidates[1].grid, candidates, (), tuple(ways))


def counted(lines: list[str]) -> dict[str, list[int]]:
    """The numbers of a drawn table by its rows' labels; of the heading, the steps."""
    rows = {}
    for line in lines:
        if found := re.match(r"(rank(?=  )|\d( attempt \d)?(?=  )|\d+ others?|elsewhere|moved)  +(.*)", line):
            rows[found[1]] = [int(number) for number in re.findall(r"\d+", found[3])]
    return rows


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("width", "steps"), [(32, [1, 16]), (50, [1, 9, 16]), (120, [1, 3, 5, 7, 9, 10, 12, 14, 16])])
def test_all_trajectories_are_drawn_at_every_step(style: Style, width: int, steps: list[int]) -> None:
    answers = parting([60, 30, 12, 9, 8, 7, 6, 5, 4], 16)
    lines = drawn(trajectories_view(2, answers, style), width)
    assert "".join(lines).startswith("trajectories, test 2: 141 over 16 steps")
    assert max(map(len, lines)) <= width
    assert style.unicode or all(line.isascii() for line in lines)
    rows = counted(lines)
    assert rows.pop("rank") == steps
    assert rows.pop("moved") == steps[1:]
    assert list(rows) == ["1 attempt 1", "2 attempt 2", "3", "4", "5", "6", "3 others", "elsewhere"]
    assert np.sum(list(rows.values()), axis=0).tolist() == [141] * len(steps)
    assert [row[-1] for row in rows.values()] == [60, 30, 12, 9, 8, 7, 15, 0]
    pictures = " ".join(lines)
    assert all(f"rank {rank}" in pictures for rank in range(1, 7)) and "rank 7" not in pictures


@pytest.mark.parametrize("style", STYLES)
def test_bars_are_proportional_and_show_a_single_trajectory(style: Style) -> None:
    lines = drawn(trajectories_view(1, parting([50, 25, 24, 1], 1), style), 80)
    bars = [line.split()[-1] for line in lines[2:6]]
    if style.unicode:
        assert bars == ["█" * 12, "█" * 6, "█████▊", "▎"]
    else:
        assert bars == ["#" * 12, "#" * 6, "#" * 6, "#"]
    assert not any(line.startswith("elsewhere") for line in lines), "none was elsewhere"
    assert lines[0].endswith("over 1 step")
    assert not any(line.startswith("moved") for line in lines), "there was no step before"


def test_candidates_tell_how_far_they_are_from_the_first() -> None:
    first = random_grid(5, 5)
    other = first.copy()
    other[2, :2] = (other[2, :2] + 1) % 10
    candidates = tuple(Candidate(grid, 2, 0.5) for grid in (first, other, random_grid(3, 4)))
    answers = TestSolution(first, other, candidates, (), (TrajectoryStep(1, (2, 2, 2), 0, 0),))
    text = " ".join(drawn(trajectories_view(1, answers, COLOUR, expected=other)))
    found = re.findall(
        r"rank \d(?!%)|\d cells apart|\dx\d|right|wrong", text.split("readings", 1)[1].split("at rank 3")[1]
    )
    assert sorted(found) == ["2 cells apart", "3x4", "5x5", "rank 1", "rank 2", "rank 3", "right", "wrong", "wrong"]
    alone = replace(answers, candidates=candidates[:1], trajectories=(TrajectoryStep(1, (2,), 0, 0),))
    assert "5x5" not in " ".join(drawn(trajectories_view(1, alone, COLOUR))), "there is nothing to compare it with"


def test_a_puzzle_with_two_readings_is_called_one() -> None:
    def told(*votes: int, implausible: int = 0) -> str | None:
        return readings(
            [Candidate(random_grid(2, 2), n, 0.5, i < len(votes) - implausible) for i, n in enumerate(votes)]
        )

    assert told(64) is None
    assert told(60, 4) is None
    assert told(51, 12, 1) is None, "12 of 64 are less than a fifth"
    assert told(50, 13, 1) == "two readings: 78% end at rank 1, 20% at rank 2"
    assert told(2, 2, 2, 2, 2) == "five readings: " + "20% end at rank 1" + "".join(
        f", 20% at rank {rank}" for rank in range(2, 6)
    )
    assert told(1, 1, 1, 1) is None, "trajectories that agree with no other are no reading"
    assert told(40, 24, implausible=1) is None, "what cannot be right is no reading"
    for votes, said in (([40, 24], True), ([60, 4], False)):
        lines = drawn(trajectories_view(1, parting(votes, 2), ASCII), 50)
        assert any(line.startswith("two readings: 62% end at rank 1, 38% at rank 2") for line in lines) == said


@pytest.mark.parametrize("style", STYLES)
def test_a_solution_draws_its_trajectories_on_request(style: Style) -> None:
    task, solution = example()
    steps = (TrajectoryStep(1, (90, 40, *[0] * 9), 89, 0), TrajectoryStep(2, (150, 60, *[1] * 9), 0, 120))
    solution = replace(solution, test=(replace(solution.test[0], trajectories=steps), solution.test[1]))
    assert not any("trajectories" in line for line in drawn(solution_view(task, solution, style)))
    for width in (40, 50, 120):
        lines = drawn(solution_view(task, solution, style, trajectories=True), width)
        assert max(map(len, lines)) <= width
        # The second test's were not recorded.
        assert [line for line in lines if "trajectories" in line] == ["trajectories, test 1: 219 over 2 steps"]
        assert lines.index("trajectories, test 1: 219 over 2 steps") > lines.index("latent iterations, test 1")
