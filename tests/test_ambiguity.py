"""Puzzles with several answers: that the answers are all the right outputs, and that suites keep their promises."""

from __future__ import annotations

import ast
from collections import Counter
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from arcsolve.arc.grid import Grid, as_grid, grid_key
from arcsolve.lab import ambiguity
from arcsolve.lab.ambiguity import FAMILIES, GREY, MOST, SIDES, SPLITS, Puzzle, generate, most_answers, suite, valid

CASES = [
    (family, size, answers)
    for family in FAMILIES
    for sides in SIDES[family]
    for size in sides
    for answers in range(1, most_answers(family, size) + 1)
]
each_case = pytest.mark.parametrize(("family", "size", "answers"), CASES)
each_family = pytest.mark.parametrize("family", FAMILIES)


def made(family: str, size: int, answers: int, count: int = 3) -> list[Puzzle]:
    rng = np.random.default_rng(5)
    return [generate(family, size, answers, rng) for _ in range(count)]


def keys(puzzles: tuple[Puzzle, ...]) -> set[tuple[object, ...]]:
    return {(puzzle.family, *grid_key(puzzle.input)) for puzzle in puzzles}


def contents(puzzles: tuple[Puzzle, ...]) -> list[object]:
    return [(p.family, grid_key(p.input), [grid_key(a) for a in p.answers]) for p in puzzles]


@each_case
def test_answers_have_the_number_and_the_form_asked_for(family: str, size: int, answers: int) -> None:
    for puzzle in made(family, size, answers):
        assert puzzle.family == family and len(puzzle.answers) == answers
        for grid in (puzzle.input, *puzzle.answers):
            assert grid.shape == (size, size) and grid.dtype == np.uint8
            assert not grid.flags.writeable
        assert len({grid_key(grid) for grid in (puzzle.input, *puzzle.answers)}) == answers + 1
        assert [*puzzle.answers] == sorted(puzzle.answers, key=grid_key)


@each_case
def test_the_rules_allow_the_answers_and_none_of_their_neighbours(family: str, size: int, answers: int) -> None:
    """Every answer with any one cell changed to any other colour is wrong unless it is an answer itself."""
    for puzzle in made(family, size, answers, count=1):
        right = {grid_key(answer) for answer in puzzle.answers}
        assert not valid(puzzle, puzzle.input)
        assert not valid(puzzle, puzzle.answers[0][:-1])
        for answer in puzzle.answers:
            assert valid(puzzle, answer)
            changed = answer.copy()
            for cell in np.ndindex(*answer.shape):
                for colour in range(10):
                    changed[cell] = colour
                    assert valid(puzzle, changed) == (grid_key(changed) in right)
                changed[cell] = answer[cell]


def filled(puzzle: Puzzle, cells: list[tuple[int, ...]], colours: tuple[int, ...]) -> Grid:
    grid = puzzle.input.copy()
    for cell, colour in zip(cells, colours, strict=True):
        grid[cell] = colour
    return grid


def right_by_brute_force(puzzle: Puzzle) -> set[object]:
    """Of all outputs that could come into question, those that :func:`valid` allows."""
    size = len(puzzle.input)
    if puzzle.family == "colouring":
        cells = [tuple(cell) for cell in np.argwhere(puzzle.input == 0).tolist()]
        outputs = [filled(puzzle, cells, colours) for colours in product((1, 2, 3), repeat=len(cells))]
    elif puzzle.family == "queens":
        outputs = []
        for columns in permutations(range(size)):
            output = puzzle.input.copy()
            for row, column in enumerate(columns):
                output[row, column] = 1 if puzzle.input[row, column] == 1 else 2
            outputs.append(output)
    elif puzzle.family == "corner":
        outputs = []
        rows, columns = np.nonzero(~np.isin(puzzle.input, (0, GREY)))
        block = puzzle.input[rows.min() : rows.min() + 2, columns.min() : columns.min() + 2]
        for row, column in product(range(size - 1), repeat=2):
            output = np.where(puzzle.input == GREY, GREY, 0).astype(np.uint8)
            output[row : row + 2, column : column + 2] = block
            outputs.append(output)
    else:
        outputs = []
        k = (size - 1) // 2
        row = np.flatnonzero(~puzzle.input[:, -k:].any(axis=1))[0]
        for colours in product((0, *np.unique(puzzle.input[row])), repeat=k):
            output = puzzle.input.copy()
            output[row, -k:] = colours
            outputs.append(output)
    return {grid_key(output) for output in outputs if valid(puzzle, output)}


@each_family
def test_brute_force_finds_the_same_answers(family: str) -> None:
    tried = 0
    for size in SIDES[family][0]:
        for answers in range(1, most_answers(family, size) + 1):
            for puzzle in made(family, size, answers, count=1 if family == "queens" else 5):
                if family != "colouring" or np.count_nonzero(puzzle.input == 0) <= 7:
                    assert right_by_brute_force(puzzle) == {grid_key(answer) for answer in puzzle.answers}
                    tried += 1
    assert tried >= 10


def test_rules_by_hand() -> None:
    """The first cell stays the first: it was copied, or all was filled up to it."""
    given = [
        [1, 0, 0, 5, 1, 0, 0],
        [4, 0, 0, 5, 4, 0, 0],
        [0, 0, 7, 5, 0, 0, 0],
        [1, 0, 0, 5, 1, 0, 0],
        [9, 0, 0, 5, 9, 0, 0],
        [2, 0, 0, 5, 2, 0, 0],
        [2, 0, 0, 5, 2, 0, 0],
    ]
    verdicts = {
        (0, 0, 7): True,
        (7, 7, 7): True,
        (7, 7, 0): False,
        (7, 0, 0): False,
        (0, 0, 1): False,
        (0, 0, 0): False,
        (1, 1, 7): False,
    }

    def verdict(answer: tuple[int, ...]) -> bool:
        puzzle = Puzzle("rules", as_grid(given, ""), ())
        output = puzzle.input.copy()
        output[2, 4:] = answer
        return valid(puzzle, output)

    assert {answer: verdict(answer) for answer in verdicts} == verdicts
    given[0] = [0, 3, 0, 5, 0, 3, 0]
    assert [answer for answer in verdicts if verdict(answer)] == [(0, 0, 7)], "the second cell, too, was copied"


def test_patterns_and_objects_are_what_they_should_be() -> None:
    for puzzle in (*made("rules", 7, 1, 40), *made("rules", 8, 2, 40), *made("rules", 9, 1, 40)):
        k = (len(puzzle.input) - 1) // 2
        inputs, outputs = puzzle.input[:, :k], puzzle.input[:, -k:]
        assert (puzzle.input[:, k:-k] == GREY).all() and GREY not in inputs and GREY not in outputs
        assert (np.count_nonzero(inputs, axis=1) == 1).all()
        (row,) = np.flatnonzero(~outputs.any(axis=1))
        places = inputs.argmax(axis=1)
        assert places[row] not in np.delete(places, row), "a rule is to be carried over, not a row"
    puzzles = made("rules", 7, 1, 60)
    assert {int(np.flatnonzero(~p.input[:, -3:].any(axis=1))[0]) for p in puzzles} == set(range(7))
    assert {len(set(p.input[:, :3].argmax(axis=1).tolist())) for p in puzzles} == {2, 3}
    for puzzle in made("corner", 6, 2, 40) + made("corner", 8, 4, 40):
        cells = np.argwhere(~np.isin(puzzle.input, (0, GREY)))
        assert len(cells) in (3, 4) and (np.ptp(cells, axis=0) == 1).all()
        near = (cells < 2) | (cells >= len(puzzle.input) - 2)
        assert not near.all(axis=1).any()
        assert np.count_nonzero(puzzle.input == GREY) == 4 - len(puzzle.answers)


def test_queens_and_colourings_vary_in_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    queens = made("queens", 6, 1, 60)
    assert {np.count_nonzero(puzzle.input == 1) for puzzle in queens} == {0, 1, 2}
    assert all(GREY in puzzle.input for puzzle in queens)
    colourings = made("colouring", 4, 2, 100)
    assert {np.count_nonzero(puzzle.input == GREY) for puzzle in colourings} == {0, 1, 2, 3, 4}
    hidden = {np.count_nonzero(puzzle.input == 0) for puzzle in colourings}
    assert min(hidden) == 3 and max(hidden) >= 7
    # Three cells can nearly always be hidden, eight often cannot.
    monkeypatch.setattr(ambiguity, "_LEAST_HIDDEN", 8)
    assert all(np.count_nonzero(puzzle.input == 0) >= 8 for puzzle in made("colouring", 4, 1, 30))


@pytest.mark.parametrize("split", SPLITS)
@each_family
def test_a_suite_is_spread_over_sizes_and_numbers_of_answers(family: str, split: str) -> None:
    puzzles = suite(family, split, 36, 0)
    assert {puzzle.family for puzzle in puzzles} == {family}
    assert len(keys(puzzles)) == len(puzzles) == 36
    sizes = SIDES[family][split == "larger"]
    own = [(len(p.input), len(p.answers)) for p in puzzles]
    assert Counter(size for size, _ in own) == dict.fromkeys(sizes, 36 // len(sizes))
    for size in sizes:
        numbers = Counter(answers for other, answers in own if other == size)
        assert sorted(numbers) == [*range(1, most_answers(family, size) + 1)]
        assert max(numbers.values()) - min(numbers.values()) <= 1


def test_splits_share_no_input_whatever_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in FAMILIES:
        assert min(SIDES[family][1]) > max(SIDES[family][0])
        assert keys(suite(family, "train", 24, 0)).isdisjoint(keys(suite(family, "held-out", 24, 0)))
    # Boards of five queens are so few that inputs recur between seeds, and would between splits.
    monkeypatch.setitem(SIDES, "queens", ((5,), (7,)))
    train, held_out = ([keys(suite("queens", split, 150, seed)) for seed in (0, 1)] for split in ("train", "held-out"))
    assert len(train[0]) == len(held_out[0]) == 150
    assert train[0] & train[1] and held_out[0] & held_out[1]
    assert (train[0] | train[1]).isdisjoint(held_out[0] | held_out[1])


@each_family
def test_equal_seeds_give_equal_suites(family: str) -> None:
    first = suite(family, "train", 10, 3)
    assert contents(first) == contents(suite(family, "train", 10, 3))
    assert keys(first) != keys(suite(family, "train", 10, 4))
    assert keys(first) < keys(suite(family, "train", 20, 3))


def test_membership_of_a_split_is_the_same_everywhere() -> None:
    """The hash must not depend on the process: these are fixed by the content of the inputs."""
    grids = [as_grid([[i, j], [0, 0]], "") for i in range(10) for j in range(10)]
    sides = [ambiguity._split_of(Puzzle("queens", grid, ())) for grid in grids]
    assert sides.count("held-out") == 20
    assert [i for i, side in enumerate(sides) if side == "held-out"][:5] == [4, 10, 12, 13, 17]


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no family 'kings': expected rules, corner, queens, colouring"):
        generate("kings", 5, 1, rng)
    with pytest.raises(ValueError, match="corner: no size 5: expected one of 6, 7, 8, 9, 10"):
        generate("corner", 5, 1, rng)
    for family, size in (("rules", 9), ("corner", 6), ("queens", 6), ("queens", 7), ("colouring", 4)):
        most = most_answers(family, size)
        assert most <= MOST
        for answers in (0, most + 1):
            with pytest.raises(ValueError, match=f"{answers} answers: expected 1 to {most}"):
                generate(family, size, answers, rng)
    with pytest.raises(ValueError, match="no split 'test': expected train, held-out, larger"):
        suite("corner", "test", 1, 0)
    with pytest.raises(ValueError, match="no family 'kings'"):
        suite("kings", "train", 1, 0)
    with pytest.raises(ValueError):
        suite("corner", "train", 1, -1)
    monkeypatch.setattr(ambiguity, "_TRIES", 1)
    with pytest.raises(ValueError, match=r"of size \d with \d answers: too few for a count of 500"):
        suite("queens", "train", 500, 0)


def test_it_needs_no_torch() -> None:
    tree = ast.parse(Path(ambiguity.__file__).read_text(encoding="utf-8"))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert "numpy" in imported and not any((name or "").startswith("torch") for name in imported)
