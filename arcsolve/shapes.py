"""Size rules: how large a test output can be, inferred from the demonstrations and the test input alone.

No function here sees a test output. Drawing a canvas from the test output's own size, as some published loaders do,
tells the network part of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from arcsolve.arc.grid import COLOURS, MAX_SIDE, Grid
from arcsolve.arc.task import Pair

MARGIN = 3
"""Least margin, in cells per axis, added where a size is not certain; a quarter of the side if that is more."""

Size = tuple[int, int]
Measures = dict[str, Size]

_RATIOS = (*(Fraction(1, k) for k in range(2, 16)), *(Fraction(k) for k in range(2, MAX_SIDE + 1)))
_SLOPES = (Fraction(1), Fraction(1, 2), Fraction(2), Fraction(3), Fraction(4))


@dataclass(frozen=True)
class SizeBound:
    """An output size, or an upper bound of it.

    Attributes:
        height: 1..30, in cells.
        width: 1..30, in cells.
        rule: the rule behind it, such as ``same``, ``constant``, ``ratio/same`` (height/width), a content rule's
            name, or ``unknown``.
        certain: the rule leaves no doubt, so the size is taken as exact. Evidence, not proof: it can be wrong.
    """

    height: int
    width: int
    rule: str
    certain: bool


def canvas_size(train: tuple[Pair, ...], test_input: Grid) -> Size:
    """The (height, width) of a canvas, in cells, that holds the test input and the bound of its output."""
    bound = output_bound(train, test_input)
    return max(test_input.shape[0], bound.height), max(test_input.shape[1], bound.width)


def output_bound(train: tuple[Pair, ...], test_input: Grid) -> SizeBound:
    """An upper bound of a test output's size: the inferred size, with a margin where it is not certain.

    Where no rule fits, the bound is the largest of the demonstrations' outputs and the test input, plus the margin.

    Args:
        train: the demonstrations, at least one.
        test_input: shape (height, width).
    """
    inferred = infer_size(train, test_input)
    if inferred is None:
        outputs = [_shape(pair.output) for pair in train]
        height, width = (max(test_input.shape[axis], *(size[axis] for size in outputs)) for axis in (0, 1))
        return SizeBound(_with_margin(height), _with_margin(width), "unknown", False)
    if inferred.certain:
        return inferred
    return SizeBound(_with_margin(inferred.height), _with_margin(inferred.width), inferred.rule, False)


def infer_size(train: tuple[Pair, ...], test_input: Grid) -> SizeBound | None:
    """The most plausible size of a test output, without a margin; ``None`` where no rule fits every demonstration.

    Rules on sizes alone come first: per axis same, ratio (times or divided by an integer), constant, line (a
    constant added to the side times a small factor). They are certain where at least two demonstrations agree (three
    for a line) and all rules that fit name the same size, or where every output is as large as its input. Then come
    rules on content, such as the bounding box of the largest object, which are never certain.

    Args:
        train: the demonstrations, at least one.
        test_input: shape (height, width).
    """
    if all(pair.input.shape == _shape(pair.output) for pair in train):
        return SizeBound(*_shape(test_input), "same", True)
    axes = []
    for axis in (0, 1):
        sides = [(pair.input.shape[axis], _shape(pair.output)[axis]) for pair in train]
        axes.append(list(_axis_rules(sides, test_input.shape[axis])))
    if not all(axes):
        return _infer_from_content(train, test_input)
    (row_rule, height), (column_rule, width) = axes[0][0], axes[1][0]
    rule = row_rule if row_rule == column_rule else f"{row_rule}/{column_rule}"
    # A line has two parameters, so any two demonstrations of different sizes lie on one.
    enough = 3 if "line" in rule else 2
    certain = len(train) >= enough and all(len({side for _, side in rules}) == 1 for rules in axes)
    return SizeBound(height, width, rule, certain)


def _shape(grid: Grid | None) -> Size:
    assert grid is not None, "a demonstration always has its output"
    return grid.shape[0], grid.shape[1]


def _with_margin(side: int) -> int:
    return min(MAX_SIDE, side + max(MARGIN, side // 4))


def _axis_rules(sides: list[Size], side: int) -> Iterator[tuple[str, int]]:
    """Every rule that maps input to output side in all demonstrations, most plausible first, with the side it gives."""
    first_input, first_output = sides[0]
    lines = [("same", Fraction(1), Fraction(0))]
    lines += [("ratio", slope, Fraction(0)) for slope in _RATIOS]
    lines.append(("constant", Fraction(0), Fraction(first_output)))
    lines += [("line", slope, first_output - slope * first_input) for slope in _SLOPES]
    for name, slope, offset in lines:
        predicted = slope * side + offset
        fits = all(slope * source + offset == target for source, target in sides)
        if fits and predicted.denominator == 1 and 1 <= predicted <= MAX_SIDE:
            yield name, int(predicted)


def _infer_from_content(train: tuple[Pair, ...], test_input: Grid) -> SizeBound | None:
    fitting: Measures | None = None
    for pair in train:
        size = _shape(pair.output)
        equal = {name: found for name, found in _measures(pair.input).items() if found == size}
        fitting = equal if fitting is None else {name: size for name, size in fitting.items() if name in equal}
        if not fitting:
            return None
    here = _measures(test_input)
    for name in fitting or ():
        if name in here:
            return SizeBound(*here[name], name, False)
    return None


def _measures(grid: Grid) -> Measures:
    """Sizes that an output may have, by name, read from the content of an input; most plausible first."""
    counts = np.bincount(grid.ravel(), minlength=COLOURS)
    by_count = [int(colour) for colour in np.argsort(-counts, kind="stable") if counts[colour]]
    sizes: Measures = {}
    # The background is black in most tasks and the commonest colour in most others.
    objects = {background: _object_sizes(grid, background) for background in {0, by_count[0]}}
    for name, background in (("black", 0), ("common", by_count[0])):
        sizes |= {f"{rule} ({name} background)": size for rule, size in objects[background].items()}
    sizes |= _separated_sizes(grid)
    sizes |= {f"box of colour {colour}": _box(np.argwhere(grid == colour)) for colour in by_count}
    sizes["box of the rarest colour"] = _box(np.argwhere(grid == by_count[-1]))
    sizes["box of the second colour"] = _box(np.argwhere(grid == by_count[min(1, len(by_count) - 1)]))
    sizes["runs"] = (_runs(grid), _runs(grid.T))
    height, width = grid.shape
    for name, count in (
        ("colours", len(by_count)),
        ("colours less one", len(by_count) - 1),
        ("cells", int(counts[1:].sum())),
    ):
        sizes[f"input x {name}"] = (height * count, width * count)
        sizes[f"1 x {name}"], sizes[f"{name} x 1"], sizes[f"{name} squared"] = (1, count), (count, 1), (count, count)
    sizes |= {"transposed": (width, height), "sheared": (height, height + width - 1)}
    sizes |= {"height squared": (height, height), "width squared": (width, width)}
    sizes["each side squared"] = (height * height, width * width)
    return {name: size for name, size in sizes.items() if 1 <= min(size) and max(size) <= MAX_SIDE}


def _object_sizes(grid: Grid, background: int) -> Measures:
    """Bounding boxes of objects: connected cells, diagonals included, of one colour or of any but the background."""
    covered = grid != background
    if not covered.any():
        return {}
    sizes: Measures = {}
    whole = _box(np.argwhere(covered))
    for name, key in (("one-coloured object", grid), ("object", np.zeros_like(grid))):
        objects = _components(covered, key)
        boxes = [_box(cells) for cells in objects]
        colours = [len(np.unique(grid[tuple(cells.T)])) for cells in objects]
        sizes[f"largest {name}"] = boxes[int(np.argmax([len(cells) for cells in objects]))]
        sizes[f"{name} of most colours"] = boxes[int(np.argmax(colours))]
        sizes[f"smallest {name}"] = boxes[int(np.argmin([len(cells) for cells in objects]))]
        unique = [box for box in boxes if boxes.count(box) == 1]
        if len(unique) == 1:
            sizes[f"{name} of unlike size"] = unique[0]
        sizes[f"{name} count squared"] = (len(objects), len(objects))
    sizes["box of everything"] = whole
    sizes["inside of the box"] = (whole[0] - 2, whole[1] - 2)
    return sizes


def _separated_sizes(grid: Grid) -> Measures:
    """Sizes in a grid cut by full one-coloured lines: the largest part, and the number of parts down and across."""
    common = np.bincount(grid.ravel()).argmax()
    gaps = []
    for lines in (grid, grid.T):
        cuts = [i for i, line in enumerate(lines) if line[0] != common and (line == line[0]).all()]
        edges = [-1, *cuts, len(lines)]
        gaps.append([b - a - 1 for a, b in pairwise(edges) if b - a > 1])
    rows, columns = gaps
    if not rows or not columns or len(rows) == len(columns) == 1:
        return {}
    return {"part": (max(rows), max(columns)), "parts": (len(rows), len(columns))}


def _components(covered: NDArray[np.bool_], key: Grid) -> list[NDArray[np.int64]]:
    """8-connected groups of covered cells with equal ``key``: arrays of (row, column), each of shape (cells, 2)."""
    height, width = covered.shape
    open_cells = covered.copy()
    groups = []
    for start in np.argwhere(covered).tolist():
        if not open_cells[tuple(start)]:
            continue
        open_cells[tuple(start)] = False
        group = [start]
        for row, column in group:  # Grows while it is walked: breadth first.
            for r in range(max(0, row - 1), min(height, row + 2)):
                for c in range(max(0, column - 1), min(width, column + 2)):
                    if open_cells[r, c] and key[r, c] == key[row, column]:
                        open_cells[r, c] = False
                        group.append([r, c])
        groups.append(np.array(group))
    return groups


def _box(cells: NDArray[np.int64]) -> Size:
    height, width = np.ptp(cells, axis=0) + 1
    return int(height), int(width)


def _runs(grid: Grid) -> int:
    """Number of runs of equal rows."""
    return 1 + int((grid[1:] != grid[:-1]).any(axis=1).sum())
