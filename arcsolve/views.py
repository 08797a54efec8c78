"""Views of a puzzle: one of the 8 symmetries, a permutation of the 10 colours, and a shift on the canvas."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np

from arcsolve.arc.grid import COLOURS, Grid

DIHEDRALS = 8
_SAME_COLOURS = tuple(range(COLOURS))


@dataclass(frozen=True)
class View:
    """One way of looking at a grid; a task's answer is the same in all of them once the view is undone.

    Attributes:
        dihedral: 0..7. Value 4 transposes, and does so first; then value 1 flips the rows (upside down) and value 2
            flips the columns (left to right). 0 changes nothing; from 4 on, height and width change places.
        colours: a permutation of 0..9; ``colours[k]`` is the colour that now plays original colour ``k``.
        shift: row and column of the grid's top-left corner on a canvas, in cells. A grid alone has no shift, so
            ``apply`` and ``invert`` leave it out.

    Raises:
        ValueError: a field is outside its range.
    """

    dihedral: int
    colours: tuple[int, ...]
    shift: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if not 0 <= self.dihedral < DIHEDRALS:
            raise ValueError(f"dihedral {self.dihedral} is not in 0..{DIHEDRALS - 1}")
        if sorted(self.colours) != list(_SAME_COLOURS):
            raise ValueError(f"{self.colours} is not a permutation of the colours 0..{COLOURS - 1}")
        if min(self.shift) < 0:
            raise ValueError(f"shift {self.shift} is negative")

    @classmethod
    def identity(cls) -> View:
        """The view that changes nothing."""
        return cls(0, _SAME_COLOURS)

    @property
    def inverse(self) -> View:
        """The view that undoes this one's symmetry and colours; its shift is (0, 0)."""
        flip_rows, flip_columns = self.dihedral & 1, self.dihedral >> 1 & 1
        dihedral = self.dihedral
        if self.dihedral >= 4:
            # Moving the transposition behind the flips, where an inverse has it, makes each flip the other one.
            dihedral = 4 + flip_columns + 2 * flip_rows
        return View(dihedral, tuple(int(k) for k in np.argsort(self.colours)))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size (height, width), in cells, of a grid of this size once it is viewed."""
        return (width, height) if self.dihedral >= 4 else (height, width)

    def apply(self, grid: Grid) -> Grid:
        """The grid as seen in this view: a read-only array of shape ``size(*grid.shape)``."""
        seen = np.array(self.colours, dtype=np.uint8)[turn(grid, self.dihedral)]
        # Fancy indexing keeps the memory order of its index; a task's hash and a vote compare bytes in row order.
        seen = np.ascontiguousarray(seen)
        seen.setflags(write=False)
        return seen

    def invert(self, grid: Grid) -> Grid:
        """The original of a grid seen in this view: ``invert(apply(grid))`` equals ``grid``."""
        return self.inverse.apply(grid)


def turn(grid: Grid, dihedral: int) -> Grid:
    """A grid in one of the 8 symmetries, numbered as in :class:`View`; a strided array over the same cells."""
    seen = grid.T if dihedral & 4 else grid
    return seen[:: -1 if dihedral & 1 else 1, :: -1 if dihedral & 2 else 1]


def random_views(n: int, rng: np.random.Generator, keep_zero: bool = False) -> list[View]:
    """Draw ``n`` distinct views, the identity first, all with shift (0, 0).

    The symmetries are spread evenly: each run of 8 views holds all of them, in random order. Every view but the first
    has a random permutation of the colours.

    Args:
        n: number of views, at least 1.
        rng: source of randomness, advanced by the call.
        keep_zero: leave colour 0, the usual background, as it is.

    Raises:
        ValueError: ``n`` is below 1, or there are not as many views.
    """
    first = 1 if keep_zero else 0
    if not 1 <= n <= DIHEDRALS * factorial(COLOURS - first):
        raise ValueError(f"cannot draw {n} distinct views")
    views = [View.identity()]
    seen = set(views)
    order = [0, *(int(k) + 1 for k in rng.permutation(DIHEDRALS - 1))]
    while len(views) < n:
        if len(views) % DIHEDRALS == 0:
            order = [int(k) for k in rng.permutation(DIHEDRALS)]
        colours = [*range(first), *(int(k) + first for k in rng.permutation(COLOURS - first))]
        view = View(order[len(views) % DIHEDRALS], tuple(colours))
        if view not in seen:
            seen.add(view)
            views.append(view)
    return views
