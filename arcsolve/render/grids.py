"""Grids side by side: titled and framed, with arrows from input to output, wrapped to the terminal's width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from arcsolve.arc.grid import Grid
from arcsolve.arc.task import Task
from arcsolve.render.palette import COLOURS, FRAME, Style

LARGE_HEIGHT = 10
"""Tallest grid, in rows, drawn with one line a row in colour; taller ones put two rows on a line."""

GAP = 3
"""Columns between neighbouring groups."""

_INKS = (*COLOURS, FRAME)
_FRAME_INK = len(COLOURS)


@dataclass(frozen=True, eq=False)
class Picture:
    """A titled grid.

    Attributes:
        grid: the grid, or ``None`` for a hidden one, drawn as ``?``.
        title: its parts; they share a line as far as the picture's width allows.
    """

    grid: Grid | None
    title: tuple[str | Text, ...]


class Strip:
    """A renderable row of groups of pictures; an arrow joins the pictures of a group.

    All pictures share one scale, the larger one where every group then still fits the width. Groups that do not fit
    beside each other go on further rows, and a group wider than the terminal is broken at its arrow. No line is wider
    than the terminal as long as that has 32 columns (30 cells and a frame) and the title's words fit.

    Args:
        groups: the pictures, by group.
        style: colours or digits.
        one_row: leave out the groups that would need a second row, and draw at the smaller scale.
    """

    def __init__(self, groups: Sequence[Sequence[Picture]], style: Style, *, one_row: bool = False) -> None:
        self.groups = groups
        self.style = style
        self.one_row = one_row

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = self._rows(self._blocks(options.max_width), options.max_width)
        for number, row in enumerate(rows):
            if number:
                if self.one_row:
                    return
                yield Text()
            yield from _row_lines(row)

    def _blocks(self, max_width: int) -> list[list[_Block]]:
        """The groups' blocks at the scale that fits."""
        small = [[_block(picture, self.style, large=False) for picture in group] for group in self.groups]
        shapes = [picture.grid.shape for group in self.groups for picture in group if picture.grid is not None]
        if self.one_row or (self.style.colour and any(height > LARGE_HEIGHT for height, _ in shapes)):
            return small
        large = [[_block(picture, self.style, large=True) for picture in group] for group in self.groups]
        return large if all(_group_width(group, self.style) <= max_width for group in large) else small

    def _rows(self, groups: list[list[_Block]], max_width: int) -> Iterator[list[_Block]]:
        row: list[_Block] = []
        for group in groups:
            width = _group_width(group, self.style)
            if row and _row_width(row) + GAP + width > max_width:
                yield row
                row = []
            if width > max_width:
                yield [group[0]]
                for block in group[1:]:
                    title = Text.assemble(_arrow(self.style), " ", block.title[0])
                    yield [_Block((title, *block.title[1:]), block.body)]
                continue
            row += [_spaces(GAP)] if row else []
            row += group[:1]
            for left, right in pairwise(group):
                row += [_arrow_block(left, right, self.style), right]
        if row:
            yield row


def draw_grid(grid: Grid | None, style: Style, *, large: bool) -> list[Text]:
    """The lines of one framed grid, all equally wide; a hidden one (``None``) is a framed ``?``.

    Args:
        grid: shape (height, width).
        style: colours or digits.
        large: 2 columns a cell instead of 1; in colour also one line a row instead of half a line.
    """
    if grid is None:
        return _boxed(["?"], style)
    if style.colour:
        return _large_cells(grid) if large else _half_cells(grid)
    return _boxed([(" " if large else "").join(map(str, row)) for row in grid.tolist()], style)


def size(grid: Grid | None) -> str:
    """``3x4`` for a grid of 3 rows and 4 columns, ``?`` for a hidden one."""
    return "?" if grid is None else f"{grid.shape[0]}x{grid.shape[1]}"


def task_view(task: Task, style: Style) -> Strip:
    """A whole task: each demonstration and each test, input and output."""
    groups = []
    for name, pairs in (("demo", task.train), ("test", task.test)):
        for number, pair in enumerate(pairs, 1):
            label = Text(f"{name} {number}", "bold")
            shown = Picture(pair.input, (label, f"input {size(pair.input)}"))
            groups.append((shown, Picture(pair.output, (f"output {size(pair.output)}",))))
    return Strip(groups, style)


@dataclass(frozen=True, eq=False)
class _Block:
    """A picture in text: title lines, which end above the first of the body's lines."""

    title: tuple[Text, ...]
    body: tuple[Text, ...]

    @property
    def width(self) -> int:
        return max(line.cell_len for line in (*self.title, *self.body))


def _block(picture: Picture, style: Style, *, large: bool) -> _Block:
    body = tuple(draw_grid(picture.grid, style, large=large))
    parts = [part if isinstance(part, Text) else Text(part) for part in picture.title]
    width = max(line.cell_len for line in (body[0], *parts))
    lines = [parts[0]]
    for part in parts[1:]:
        joined = Text.assemble(lines[-1], "  ", part)
        if joined.cell_len <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return _Block(tuple(lines), body)


def _spaces(width: int) -> _Block:
    return _Block((), (Text(" " * width),))


def _arrow(style: Style) -> Text:
    return Text("→" if style.unicode else "->")


def _arrow_block(left: _Block, right: _Block, style: Style) -> _Block:
    """An arrow half-way down the less tall of its neighbours, with a space on either side."""
    above = (min(len(left.body), len(right.body)) - 1) // 2
    return _Block((), (*[Text()] * above, Text.assemble(" ", _arrow(style), " ")))


def _group_width(group: Sequence[_Block], style: Style) -> int:
    return _row_width(group) + (len(group) - 1) * (_arrow(style).cell_len + 2)


def _row_width(row: Sequence[_Block]) -> int:
    return sum(block.width for block in row)


def _row_lines(row: Sequence[_Block]) -> Iterator[Text]:
    """The lines of blocks side by side, their bodies starting on the same line."""
    titles = max(len(block.title) for block in row)
    for number in range(-titles, max(len(block.body) for block in row)):
        line = Text(no_wrap=True, overflow="crop")
        start = 0
        for block in row:
            lines, index = (block.title, number + len(block.title)) if number < 0 else (block.body, number)
            if 0 <= index < len(lines):
                line.append(" " * (start - line.cell_len)).append_text(lines[index])
            start += block.width
        yield line


def _boxed(rows: Sequence[str], style: Style) -> list[Text]:
    across, down, corners = ("─", "│", "┌┐└┘") if style.unicode else ("-", "|", "++++")
    edge = across * len(rows[0])
    lines = [f"{down}{row}{down}" for row in rows]
    return [Text(line) for line in (corners[0] + edge + corners[1], *lines, corners[2] + edge + corners[3])]


def _large_cells(grid: Grid) -> list[Text]:
    lines = []
    for row in grid.tolist():
        line = Text("▐", FRAME)
        for colour, run in groupby(row):
            line.append("  " * len(list(run)), f"on {_INKS[colour]}")
        lines.append(line.append("▌", FRAME))
    edge = 2 * grid.shape[1]
    return [Text("▗" + "▄" * edge + "▖", FRAME), *lines, Text("▝" + "▀" * edge + "▘", FRAME)]


def _half_cells(grid: Grid) -> list[Text]:
    """Two rows on a line. An odd last row shares its line with the frame, so that no gap looks like a black row."""
    height, width = grid.shape
    odd = height % 2
    padded = np.vstack([grid, np.full((odd, width), _FRAME_INK)]).tolist()
    lines = [Text("▗" + "▄" * width + "▖", FRAME)]
    for upper, lower in zip(padded[::2], padded[1::2], strict=True):
        line = Text("▐", FRAME)
        for (top, bottom), run in groupby(zip(upper, lower, strict=True)):
            # Spaces where both rows agree, since fonts may leave a seam between a half block and its background.
            line.append((" " if top == bottom else "▀") * len(list(run)), f"{_INKS[top]} on {_INKS[bottom]}")
        lines.append(line.append("▌", FRAME))
    return lines if odd else [*lines, Text("▝" + "▀" * width + "▘", FRAME)]
