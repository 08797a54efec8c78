"""Grids: read-only ``uint8`` arrays of shape (height, width), sides 1..30, colours 0..9."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arcsolve.errors import FormatError

Grid: TypeAlias = NDArray[np.uint8]

MAX_SIDE = 30
COLOURS = 10


def grid_key(grid: Grid) -> tuple[tuple[int, ...], bytes]:
    """What two grids share exactly if they are equal, hashable and ordered."""
    return grid.shape, grid.tobytes()


def as_grid(value: Any, where: str) -> Grid:
    """Check a decoded JSON value (a list of equally long lists of colours) or an array and return it as a grid.

    Args:
        value: list of rows, or an integer array of shape (height, width).
        where: what to name in an error, such as ``bad.json: train[1].output``.

    Returns:
        A read-only ``uint8`` array of shape (height, width).

    Raises:
        FormatError: naming ``where`` and the row or cell that is wrong.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list):
        raise FormatError(f"{where}: expected a list of rows, found {_name(value)}")
    if not value:
        raise FormatError(f"{where}: the grid is empty")
    if len(value) > MAX_SIDE:
        raise FormatError(f"{where}: {len(value)} rows, at most {MAX_SIDE} are allowed")
    for r, row in enumerate(value):
        if not isinstance(row, list):
            raise FormatError(f"{where}[{r}]: expected a list of cells, found {_name(row)}")
        if not row:
            raise FormatError(f"{where}[{r}]: the row is empty")
        if len(row) > MAX_SIDE:
            raise FormatError(f"{where}[{r}]: {len(row)} cells, at most {MAX_SIDE} are allowed")
        if len(row) != len(value[0]):
            raise FormatError(f"{where}[{r}]: row has {len(row)} cells, expected {len(value[0])}")
        for c, cell in enumerate(row):
            # bool is a subclass of int, and `true` is no colour.
            if type(cell) is not int or not 0 <= cell < COLOURS:
                raise FormatError(f"{where}[{r}][{c}]: expected a colour 0..{COLOURS - 1}, found {_name(cell)}")
    grid = np.array(value, dtype=np.uint8)
    grid.setflags(write=False)
    return grid


def _name(value: Any) -> str:
    """A short description of a wrong value, never longer than a line."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    kind = names.get(type(value))
    if kind is not None:
        return kind
    text = repr(value)
    return text if len(text) <= 20 else text[:17] + "..."
