"""The canvas: the rectangle of cells on which the network sees an input and from which an output is read."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arcsolve.arc.grid import COLOURS, Grid

OUTSIDE = COLOURS
"""Class of a canvas cell that no grid covers."""
CLASSES = COLOURS + 1

Canvas: TypeAlias = NDArray[np.uint8]
"""``uint8`` array of shape (height, width): colours 0..9 and ``OUTSIDE``."""


def place(grid: Grid, height: int, width: int, shift: tuple[int, int] = (0, 0)) -> Canvas:
    """Put a grid on a canvas of ``OUTSIDE`` cells, its top-left corner at ``shift`` (row, column).

    Returns:
        A canvas of shape (height, width).

    Raises:
        ValueError: the grid does not lie wholly on the canvas.
    """
    top, left = shift
    bottom, right = top + grid.shape[0], left + grid.shape[1]
    if min(shift) < 0 or bottom > height or right > width:
        raise ValueError(f"a grid of {grid.shape} at {shift} does not fit a canvas of {(height, width)}")
    canvas = np.full((height, width), OUTSIDE, dtype=np.uint8)
    canvas[top:bottom, left:right] = grid
    return canvas


def decode(logits: NDArray[np.floating[Any]], shifts: NDArray[np.integer[Any]]) -> list[Grid]:
    """Read B output grids off logits: fit a rectangle to the cells not ``OUTSIDE``, then cut it out.

    The rectangle's top-left corner is at the shift; its size (h, w), at least 1x1, is the one that disagrees with the
    prediction in the fewest cells, and of equals the one of smallest h, then smallest w. Reading the size off the last
    predicted row or column instead would let one wrong cell destroy the size, and with it an answer that is right
    elsewhere. Inside the rectangle a cell takes its most likely colour, also where ``OUTSIDE`` was likelier still.

    Args:
        logits: floats of shape (B, H, W, 11), sides at most 30: ten colours, then ``OUTSIDE``.
        shifts: integers of shape (B, 2): row and column of each output's top-left corner, on the canvas.

    Returns:
        B read-only grids.

    Raises:
        ValueError: a shift is not on the canvas.
    """
    classes = logits.argmax(axis=-1)
    colours = logits[..., :COLOURS].argmax(axis=-1).astype(np.uint8)
    _, height, width = classes.shape
    top, left = shifts[:, 0, None, None], shifts[:, 1, None, None]
    if (shifts < 0).any() or (shifts >= (height, width)).any():
        raise ValueError(f"a shift is not on the canvas of {(height, width)}")
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    beyond = (rows < top) | (columns < left)
    covered = ((classes != OUTSIDE) & ~beyond).cumsum(axis=1).cumsum(axis=2)
    # With the bottom-right corner at each cell: (area - covered) cells too many and (all - covered) too few.
    cost = (rows - top + 1) * (columns - left + 1) - 2 * covered
    cost[beyond] = height * width + 1
    corners = cost.reshape(len(cost), -1).argmin(axis=1)
    grids = []
    for cells, (y, x), corner in zip(colours, shifts, corners, strict=True):
        bottom, right = divmod(int(corner), width)
        grid = cells[y : bottom + 1, x : right + 1].copy()
        grid.setflags(write=False)
        grids.append(grid)
    return grids
