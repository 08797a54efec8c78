"""Generated puzzles with several right outputs, all of them known: does a stochastic network hold several hypotheses?

What to measure on them is GRAM's (arXiv 2605.19376): validity, the share of drawn outputs that are right, and coverage,
the share of a puzzle's right outputs that are among those drawn. Puzzles with one answer are the controls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arcsolve.arc.grid import Grid, as_grid, grid_key

FAMILIES = ("rules", "corner", "queens", "colouring")
SPLITS = ("train", "held-out", "larger")
MOST = 6

# Sides of the grids: in training and held-out puzzles, and in the larger ones.
SIDES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "rules": ((7,), (8, 9)),
    # In a grid of side 5 no 2 x 2 object is clear of the 2 x 2 areas in the corners.
    "corner": ((6, 7), (8, 9, 10)),
    "queens": ((5, 6), (7,)),
    "colouring": ((4, 5), (6,)),
}

GREY = 5
_GIVEN_QUEEN, _QUEEN = 1, 2
_PROPER = (1, 2, 3)
_LEAST_HIDDEN = 3
_HELD_OUT = 64  # of 256 inputs
_TRIES = 2_000

_Array: TypeAlias = NDArray[Any]
_Made: TypeAlias = tuple[_Array, list[_Array]] | None


@dataclass(frozen=True, eq=False)
class Puzzle:
    """An input and its answers: all right outputs, 1 to ``MOST``, distinct, sorted, each of the input's shape."""

    family: str
    input: Grid
    answers: tuple[Grid, ...]


def most_answers(family: str, size: int) -> int:
    """The largest number of answers; every smaller one, from 1 on, occurs too.

    Raises:
        ValueError: no such family, or it has no such size.
    """
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}: expected {', '.join(FAMILIES)}")
    if size not in (sizes := sum(SIDES[family], ())):
        raise ValueError(f"{family}: no size {size}: expected one of {', '.join(map(str, sizes))}")
    # There are only four ways to place six queens.
    return {"rules": 2, "corner": 4, "queens": 4 if size == 6 else MOST, "colouring": MOST}[family]


def generate(family: str, size: int, answers: int, rng: np.random.Generator) -> Puzzle:
    """A puzzle with exactly that many answers, of shape (size, size).

    Raises:
        ValueError: the family has no such size, or none with so many answers.
    """
    most, (make, _) = most_answers(family, size), _WAYS[family]
    if not 1 <= answers <= most:
        raise ValueError(f"{family} of size {size}: {answers} answers: expected 1 to {most}")
    while (made := make(size, answers, rng)) is None:
        pass
    given, outputs = made
    grids = sorted((as_grid(output, "output") for output in outputs), key=grid_key)
    return Puzzle(family, as_grid(given, "input"), tuple(grids))


def valid(puzzle: Puzzle, output: Grid) -> bool:
    """Whether the family's rules allow this output; ``answers`` is not looked at."""
    return output.shape == puzzle.input.shape and _WAYS[puzzle.family][1](puzzle.input, output)


def suite(family: str, split: str, count: int, seed: int) -> tuple[Puzzle, ...]:
    """``count`` puzzles of a family, with distinct inputs.

    They are spread equally over the family's sizes, and those of a size over the numbers of answers; a smaller count
    gives the first of them. No held-out input is a training input, whatever the seeds. Beyond some 7,000 training or
    2,500 held-out puzzles the boards of five queens run out.

    Raises:
        ValueError: no such family or split, a negative seed, or more puzzles than the family has.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: expected {', '.join(SPLITS)}")
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}: expected {', '.join(FAMILIES)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), FAMILIES.index(family)])
    sizes = SIDES[family][split == "larger"]
    puzzles: list[Puzzle] = []
    seen = set()
    for i in range(count):
        size = sizes[i % len(sizes)]
        answers = 1 + i // len(sizes) % most_answers(family, size)
        for _ in range(_TRIES):
            puzzle = generate(family, size, answers, rng)
            key = grid_key(puzzle.input)
            if key not in seen and split in ("larger", _split_of(puzzle)):
                break
        else:
            raise ValueError(f"{family} of size {size} with {answers} answers: too few for a count of {count}")
        seen.add(key)
        puzzles.append(puzzle)
    return tuple(puzzles)


def _split_of(puzzle: Puzzle) -> str:
    """Training or held-out, by content alone, so that no seed can mix the two."""
    text = f"{puzzle.family} {puzzle.input.shape} ".encode() + puzzle.input.tobytes()
    return "held-out" if blake2b(text, digest_size=1).digest()[0] < _HELD_OUT else "train"


# rules: rows of an input, grey and its output; one output is missing, and the other rows leave a rule or two open.

_FREE = (1, 2, 3, 4, 6, 7, 8, 9)

# What becomes of one coloured cell, at place p of k.
_RULES: tuple[Callable[[int, int], set[int]], ...] = (
    lambda p, k: {p},
    lambda p, k: {k - 1 - p},
    lambda p, k: {(p + 1) % k},
    lambda p, k: {(p - 1) % k},
    lambda p, k: {*range(p + 1)},
    lambda p, k: {*range(p, k)},
    lambda p, k: {*range(k)} - {p},
    lambda p, k: {*range(k)},
)


def _halves(size: int) -> tuple[slice, slice]:
    """Columns of the inputs and of the outputs; what lies between them is grey."""
    k = (size - 1) // 2
    return slice(0, k), slice(size - k, size)


def _open_rules(shown: Sequence[tuple[int, set[int]]], k: int) -> list[Callable[[int, int], set[int]]]:
    """Those that lead from each of these places to these cells."""
    return [rule for rule in _RULES if all(rule(place, k) == cells for place, cells in shown)]


def _make_rules(size: int, answers: int, rng: np.random.Generator) -> _Made:
    (left, right), k = _halves(size), (size - 1) // 2
    rule, query = _RULES[rng.integers(len(_RULES))], rng.integers(size)
    # The place that is asked for is not shown: a rule is to be carried over, not a row.
    asked, *others = rng.permutation(k).tolist()
    places = rng.choice(others[: rng.integers(1, k)], size)
    left_open = _open_rules([(p, rule(p, k)) for p in np.delete(places, query).tolist()], k)
    found = {frozenset(other(asked, k)) for other in left_open}
    if len(found) != answers:
        return None
    places[query] = asked
    colours = rng.choice(_FREE, size)
    given = np.zeros((size, size), dtype=np.uint8)
    given[:, left.stop : right.start] = GREY
    given[range(size), places] = colours
    for row in range(size):
        if row != query:
            given[row, [right.start + cell for cell in rule(int(places[row]), k)]] = colours[row]
    outputs = []
    for cells in found:
        outputs.append(given.copy())
        outputs[-1][query, [right.start + cell for cell in cells]] = colours[query]
    return given, outputs


def _check_rules(given: Grid, output: Grid) -> bool:
    (left, right), k = _halves(len(given)), (len(given) - 1) // 2
    query = int(np.flatnonzero((given[:, right] == 0).all(axis=1))[0])
    places = given[:, left].argmax(axis=1).tolist()
    expected = given.copy()
    expected[query, right] = np.where(output[query, right] > 0, given[query, places[query]], 0)
    led_to = [set(np.flatnonzero(row).tolist()) for row in output[:, right]]
    asked, answer = places.pop(query), led_to.pop(query)
    left_open = _open_rules(list(zip(places, led_to, strict=True)), k)
    return np.array_equal(output, expected) and any(rule(asked, k) == answer for rule in left_open)


# corner: move the object to a corner whose outermost cell is not grey.


def _painted(side: int, rng: np.random.Generator) -> _Array:
    """A full pattern in one colour or two."""
    colours = rng.choice(_FREE, rng.integers(1, 3), replace=False)
    return rng.choice(colours, (side, side))


_CORNERS = tuple((r, c) for r in (0, -1) for c in (0, -1))
_AREA = {0: slice(0, 2), -1: slice(-2, None)}


def _make_corner(size: int, answers: int, rng: np.random.Generator) -> _Made:
    block = _painted(2, rng)
    if rng.integers(2):
        block[tuple(rng.integers(2, size=2))] = 0
    row, column = rng.integers(2, size - 3), rng.integers(size - 1)
    if rng.integers(2):
        row, column = column, row
    outside = np.zeros((size, size), dtype=np.uint8)
    corners = [_CORNERS[i] for i in rng.permutation(4)]
    for corner in corners[answers:]:
        outside[corner] = GREY
    given = outside.copy()
    given[row : row + 2, column : column + 2] = block
    outputs = []
    for r, c in corners[:answers]:
        outputs.append(outside.copy())
        outputs[-1][_AREA[r], _AREA[c]] = block
    return given, outputs


def _check_corner(given: Grid, output: Grid) -> bool:
    # With grey where it was, a blocked corner cannot show the object; with as many cells as before, all is in it.
    if (output == GREY).tolist() != (given == GREY).tolist() or np.count_nonzero(output) != np.count_nonzero(given):
        return False
    rows, columns = np.nonzero((given != 0) & (given != GREY))
    block = given[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return any(np.array_equal(output[_AREA[r], _AREA[c]], block) for r, c in _CORNERS)


# queens: complete the placement of n queens, none on a grey cell.


@lru_cache
def _placements(size: int) -> tuple[frozenset[int], ...]:
    """All ways to place the queens, each as flat cell indices."""
    found: list[list[int]] = [[]]
    for row in range(size):
        found = [
            [*columns, column]
            for columns in found
            for column in range(size)
            if all(column != c and abs(column - c) != row - r for r, c in enumerate(columns))
        ]
    return tuple(frozenset(size * row + column for row, column in enumerate(columns)) for columns in found)


def _make_queens(size: int, answers: int, rng: np.random.Generator) -> _Made:
    left = list(_placements(size))
    queens = set(rng.permutation(sorted(left[rng.integers(len(left))]))[: rng.integers(3)].tolist())
    left = [placement for placement in left if queens <= placement]
    blocked: list[int] = []
    least = rng.integers(1, size + 1)
    for cell in rng.permutation(size * size).tolist():
        if len(left) == answers and len(blocked) >= least:
            break
        kept = [placement for placement in left if cell not in placement]
        if cell not in queens and len(kept) >= answers:
            left = kept
            blocked.append(cell)
    if len(left) != answers:
        return None
    given = np.zeros((size, size), dtype=np.uint8)
    np.put(given, blocked, GREY)
    np.put(given, sorted(queens), _GIVEN_QUEEN)
    outputs = []
    for placement in left:
        outputs.append(given.copy())
        np.put(outputs[-1], sorted(placement - queens), _QUEEN)
    return given, outputs


def _check_queens(given: Grid, output: Grid) -> bool:
    added = output != given
    if (given[added] != 0).any() or (output[added] != _QUEEN).any():
        return False
    rows, columns = np.nonzero((output == _GIVEN_QUEEN) | (output == _QUEEN))
    lines = (rows, columns, rows + columns, rows - columns)
    return len(rows) == len(given) and all(len(np.unique(line)) == len(given) for line in lines)


# colouring: fill the empty cells so that no two neighbours have one colour; grey cells are walls.


@lru_cache
def _neighbours(size: int) -> tuple[tuple[int, ...], ...]:
    """Of every cell, by flat index."""
    places = [divmod(cell, size) for cell in range(size * size)]
    return tuple(tuple(i for i, (y, x) in enumerate(places) if abs(y - r) + abs(x - c) == 1) for r, c in places)


def _colourings(cells: list[int], around: tuple[tuple[int, ...], ...]) -> Iterator[list[int]]:
    """All ways to fill the cells that are 0."""
    if 0 not in cells:
        yield cells
        return
    cell = cells.index(0)
    for colour in _PROPER:
        if all(cells[other] != colour for other in around[cell]):
            yield from _colourings([*cells[:cell], colour, *cells[cell + 1 :]], around)


def _make_colouring(size: int, answers: int, rng: np.random.Generator) -> _Made:
    around = _neighbours(size)
    order = rng.permutation(size * size).tolist()
    walls = order[: rng.integers(size * size // 4 + 1)]
    cells = [GREY if i in walls else 0 for i in range(size * size)]
    # Row by row at most two neighbours are filled already, so that a colour is always left.
    for cell in range(size * size):
        if cells[cell] == 0:
            cells[cell] = int(rng.choice([c for c in _PROPER if all(cells[other] != c for other in around[cell])]))
    enough = rng.integers(_LEAST_HIDDEN, (size * size - len(walls)) * 2 // 3 + 1)
    found, hidden = [cells], 0
    # Outwards from some cell: open cells that touch depend on each other.
    middle = divmod(int(rng.integers(size * size)), size)
    order.sort(key=lambda cell: math.dist(divmod(cell, size), middle))
    for cell in (cell for cell in order if cell not in walls):
        if len(found) == answers and hidden >= enough:
            break
        trial = [*cells[:cell], 0, *cells[cell + 1 :]]
        if len(more := list(islice(_colourings(trial, around), answers + 1))) <= answers:
            cells, found, hidden = trial, more, hidden + 1
    if len(found) != answers or hidden < _LEAST_HIDDEN:
        return None
    # Open cells must depend on each other: where each could be coloured for itself, there is nothing to hold in mind.
    if answers > 1 and math.prod(len(set(options)) for options in zip(*found, strict=True)) < 2 * answers:
        return None
    grids = [np.array(flat, dtype=np.uint8).reshape(size, size) for flat in (cells, *found)]
    return grids[0], grids[1:]


def _check_colouring(given: Grid, output: Grid) -> bool:
    filled = np.isin(output, _PROPER)
    if (output != given)[given != 0].any() or not filled[given == 0].all():
        return False
    pairs = ((output[1:], output[:-1]), (output[:, 1:], output[:, :-1]))
    return not any(((a == b) & (a != GREY)).any() for a, b in pairs)


_WAYS: dict[str, tuple[Callable[[int, int, np.random.Generator], _Made], Callable[[Grid, Grid], bool]]] = {
    "rules": (_make_rules, _check_rules),
    "corner": (_make_corner, _check_corner),
    "queens": (_make_queens, _check_queens),
    "colouring": (_make_colouring, _check_colouring),
}
