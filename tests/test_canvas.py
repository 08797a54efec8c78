"""Canvases: what is placed can be read back, also through a few wrong cells."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from arcsolve.arc.grid import Grid
from arcsolve.canvas import CLASSES, OUTSIDE, decode, place


def read_one(logits: np.ndarray, shift: tuple[int, int] = (0, 0)) -> Grid:
    return decode(logits[None], np.array([shift]))[0]


grids = arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.integers(0, 9))
margins = st.tuples(*[st.integers(0, 5)] * 4)


@given(grids, margins)
@settings(deadline=None)
def test_place_then_decode_round_trips(grid: Grid, margin: tuple[int, int, int, int]) -> None:
    top, left, bottom, right = margin
    canvas = place(grid, grid.shape[0] + top + bottom, grid.shape[1] + left + right, (top, left))
    assert (canvas != OUTSIDE).sum() == grid.size
    read = read_one(np.eye(CLASSES)[canvas], (top, left))
    np.testing.assert_array_equal(read, grid)
    assert not read.flags.writeable


@given(st.lists(grids, min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_batch_equals_one_by_one(batch: list[Grid], random: Random) -> None:
    """Shifts differ within a batch: each canvas must be read at its own."""
    shifts = np.array([[random.randint(0, 25 - side) for side in grid.shape] for grid in batch])
    canvases = [place(grid, 25, 25, tuple(shift)) for grid, shift in zip(batch, shifts.tolist(), strict=True)]
    for read, grid in zip(decode(np.eye(CLASSES)[np.stack(canvases)], shifts), batch, strict=True):
        np.testing.assert_array_equal(read, grid)


def test_single_wrong_cells_do_not_change_the_size() -> None:
    """Reading the size off the last predicted row would give 8 rows here, or 3."""
    grid = np.arange(20, dtype=np.uint8).reshape(4, 5) % 10
    logits = np.eye(CLASSES)[place(grid, 8, 9)]
    logits[7, 0, 3] = 2.0  # A colour far outside.
    logits[3, 2, OUTSIDE] = 2.0  # A hole in the last row.
    np.testing.assert_array_equal(read_one(logits), grid)


def test_cells_before_the_shift_do_not_count() -> None:
    logits = np.eye(CLASSES)[place(np.full((2, 2), 7, dtype=np.uint8), 6, 6, (3, 3))]
    logits[:3, :, 4] = 2.0
    assert read_one(logits, (3, 3)).tolist() == [[7, 7], [7, 7]]


def test_smallest_of_equally_good_sizes_is_taken() -> None:
    assert read_one(np.eye(CLASSES)[np.full((3, 3), OUTSIDE)]).shape == (1, 1)
    assert read_one(np.eye(CLASSES)[np.array([[1, OUTSIDE, 1]])]).shape == (1, 1)


@given(arrays(np.float32, (6, 7, CLASSES), elements=st.floats(-1, 1, width=32)), st.integers(0, 5), st.integers(0, 6))
@settings(deadline=None)
def test_size_is_the_best_of_all(
    logits: np.ndarray[tuple[int, int, int], np.dtype[np.float32]], top: int, left: int
) -> None:
    mask = logits.argmax(axis=-1)[top:, left:] != OUTSIDE
    costs = {}
    for height in range(1, mask.shape[0] + 1):
        for width in range(1, mask.shape[1] + 1):
            inside = np.zeros_like(mask)
            inside[:height, :width] = True
            costs[height, width] = int((inside != mask).sum())
    assert read_one(logits, (top, left)).shape == min(costs, key=costs.__getitem__)


@pytest.mark.parametrize(
    ("height", "width", "shift"), [(2, 4, (0, 0)), (3, 3, (0, 0)), (3, 4, (1, 0)), (9, 9, (-1, 0))]
)
def test_a_grid_that_does_not_fit_is_refused(height: int, width: int, shift: tuple[int, int]) -> None:
    """Numpy would cut it or wrap it around without a word."""
    with pytest.raises(ValueError):
        place(np.zeros((3, 4), dtype=np.uint8), height, width, shift)


def test_a_shift_off_the_canvas_is_refused() -> None:
    with pytest.raises(ValueError):
        read_one(np.zeros((3, 3, CLASSES)), (3, 0))
