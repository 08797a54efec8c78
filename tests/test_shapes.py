"""Size rules: right on the official data, and blind to the test outputs."""

from __future__ import annotations

import numpy as np
import pytest

from arcsolve.arc.dataset import load_tasks
from arcsolve.arc.grid import Grid
from arcsolve.arc.task import Pair
from arcsolve.shapes import SizeBound, canvas_size, infer_size, output_bound


def blank(height: int, width: int) -> Grid:
    return np.zeros((height, width), dtype=np.uint8)


def demonstrations(*sizes: tuple[int, int, int, int]) -> tuple[Pair, ...]:
    """Blank pairs of the sizes (input height, input width, output height, output width)."""
    return tuple(Pair(blank(h, w), blank(out_h, out_w)) for h, w, out_h, out_w in sizes)


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (demonstrations((3, 4, 3, 4)), (7, 8), SizeBound(7, 8, "same", True)),
        (demonstrations((3, 4, 6, 12), (2, 5, 4, 15)), (4, 4), SizeBound(8, 12, "ratio", True)),
        (demonstrations((6, 4, 3, 4), (8, 5, 4, 5)), (4, 6), SizeBound(2, 6, "ratio/same", True)),
        (demonstrations((9, 4, 1, 4), (7, 5, 1, 5)), (8, 6), SizeBound(1, 6, "constant/same", True)),
        (demonstrations((5, 7, 2, 3), (9, 11, 4, 5), (3, 3, 1, 1)), (7, 5), SizeBound(3, 2, "line", True)),
        # Two points always lie on a line, so this is a guess.
        (demonstrations((5, 5, 7, 7), (6, 6, 8, 8)), (7, 7), SizeBound(9, 9, "line", False)),
        # Six times as large, or always 18: equal inputs cannot tell.
        (demonstrations((3, 3, 18, 18), (3, 3, 18, 18)), (4, 4), SizeBound(24, 24, "ratio", False)),
        (demonstrations((3, 3, 18, 18), (3, 3, 18, 18)), (3, 3), SizeBound(18, 18, "ratio", True)),
        # One demonstration shows nothing but "same".
        (demonstrations((3, 3, 6, 6)), (3, 3), SizeBound(6, 6, "ratio", False)),
    ],
)
def test_rules_on_sizes(train: tuple[Pair, ...], test: tuple[int, int], expected: SizeBound) -> None:
    assert infer_size(train, blank(*test)) == expected


def test_content_rule_and_its_margin() -> None:
    def scene(height: int, width: int) -> Grid:
        grid = blank(12, 12)
        grid[2 : 2 + height, 3 : 3 + width] = 4
        grid[11, 0] = 5
        return grid

    train = tuple(Pair(scene(h, w), blank(h, w)) for h, w in ((3, 5), (4, 2), (6, 7)))
    inferred = infer_size(train, scene(8, 3))
    assert inferred is not None
    assert (inferred.height, inferred.width, inferred.certain) == (8, 3, False)
    bound = output_bound(train, scene(8, 3))
    assert (bound.height, bound.width) == (11, 6)
    assert canvas_size(train, scene(8, 3)) == (12, 12)


def test_no_rule_leaves_room_and_stays_on_the_largest_canvas() -> None:
    train = demonstrations((7, 7, 9, 5), (7, 7, 4, 20), (7, 7, 5, 27))
    assert infer_size(train, blank(13, 1)) is None
    assert output_bound(train, blank(13, 1)) == SizeBound(16, 30, "unknown", False)


def test_a_rule_never_gives_a_size_that_no_grid_has() -> None:
    """Doubling 20 cells gives 40, and half of 5 is no size: the rule falls away instead of breaking the canvas."""
    doubled = infer_size(demonstrations((3, 3, 6, 6), (4, 4, 8, 8)), blank(20, 20))
    assert doubled is None or max(doubled.height, doubled.width) <= 30
    halved = output_bound(demonstrations((4, 4, 2, 2), (6, 6, 3, 3)), blank(5, 5))
    assert not halved.certain


def test_same_was_never_wrong_on_training_tasks() -> None:
    """It is called certain from a single demonstration on, because of this."""
    for task in load_tasks("arc-agi-1/training"):
        if all(pair.output is not None and pair.output.shape == pair.input.shape for pair in task.train):
            for pair in task.test:
                assert pair.output is not None
                height, width = pair.output.shape
                assert infer_size(task.train, pair.input) == SizeBound(height, width, "same", True)


@pytest.mark.parametrize(
    ("name", "least_exact", "least_covered"),
    [("arc-agi-1/evaluation", 0.93, 0.99), ("arc-agi-2/evaluation", 0.77, 0.97)],
)
def test_shares_on_the_evaluation_sets(name: str, least_exact: float, least_covered: float) -> None:
    """The shares quoted in the documentation; a true size that is not covered is a task lost before the start."""
    exact, covered, certain, wrong = [], [], 0, 0
    for task in load_tasks(name):
        for pair in task.test:
            assert pair.output is not None
            height, width = pair.output.shape
            inferred = infer_size(task.train, pair.input)
            bound = output_bound(task.train, pair.input)
            exact.append(inferred is not None and (inferred.height, inferred.width) == (height, width))
            covered.append(bound.height >= height and bound.width >= width)
            certain += bound.certain
            wrong += bound.certain and not exact[-1]
    assert np.mean(exact) >= least_exact
    assert np.mean(covered) >= least_covered
    assert wrong <= 0.01 * certain
    print(
        f"{name}: exact {np.mean(exact):.4f}, covered {np.mean(covered):.4f}, {wrong} of {certain} certain ones wrong"
    )
