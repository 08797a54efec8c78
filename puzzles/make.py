"""Write the twelve puzzles: ``python puzzles/make.py [folder]`` (default: the folder this file is in).

Each has a rule, which sees only the input grid, and a maker, which draws an input and tells the answer from how it drew
it. The two must agree on every pair, or nothing is written.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.int64]
Rng = np.random.RandomState  # the legacy generator: its stream is frozen across numpy versions
Drawn = tuple[Any, Any]  # an input and its answer
Maker = Callable[..., Drawn]
SEED = 100


def parts(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The side-connected pieces of a mask."""
    found = []
    while mask.any():
        part, size = np.arange(mask.size).reshape(mask.shape) == mask.argmax(), 0
        while part.sum() > size:
            size, wide = part.sum(), np.pad(part, 1)
            part = mask & (part | wide[2:, 1:-1] | wide[:-2, 1:-1] | wide[1:-1, 2:] | wide[1:-1, :-2])
        found.append(part)
        mask = mask & ~part
    return found


def at_edge(mask: NDArray[np.bool_]) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def mirror_left_right(grid: Grid) -> Grid:
    """Mirror the grid left to right."""
    return np.fliplr(grid)


def rotate_quarter_clockwise(grid: Grid) -> Grid:
    """Turn the grid a quarter turn clockwise."""
    return np.rot90(grid, -1)


def recolour_swap_two(grid: Grid) -> Grid:
    """Swap the two colours that are not black."""
    a, b = np.unique(grid[grid > 0])
    return np.where(grid > 0, a + b - grid, 0)


def recolour_edge_touching(grid: Grid) -> Grid:
    """Grey shapes (5) that touch the edge of the grid turn blue (1), the others green (3)."""
    return sum((part * (1 if at_edge(part) else 3) for part in parts(grid == 5)), np.zeros_like(grid))


def fill_closed_rings(grid: Grid) -> Grid:
    """Fill the black areas that are closed in on all sides with yellow (4); a ring with a gap stays empty."""
    return sum((4 * part for part in parts(grid == 0) if not at_edge(part)), grid)


def extend_lines_to_wall(grid: Grid) -> Grid:
    """Each coloured cell in the left column runs right, up to the first grey cell (5) or the edge of the grid."""
    before_wall = np.cumsum(grid == 5, axis=1) == 0
    return np.where(before_wall & (grid[:, :1] > 0), grid[:, :1], grid)


def count_to_bar(grid: Grid) -> Grid:
    """Count the blue (1), red (2) and green (3) cells; draw the counts as bars, in that order, three rows of six."""
    return np.array([[v * (i < (grid == v).sum()) for i in range(6)] for v in (1, 2, 3)])


def count_shapes_to_diagonal(grid: Grid) -> Grid:
    """For n shapes, give an n by n grid with its falling diagonal in their colour."""
    return np.diag(np.full(len(parts(grid > 0)), grid.max()))


def scale_up_by_two(grid: Grid) -> Grid:
    """Every cell becomes a block of two by two."""
    return grid.repeat(2, axis=0).repeat(2, axis=1)


def crop_inside_frame(grid: Grid) -> Grid:
    """Keep only what is inside the rectangular frame."""
    for colour in np.unique(grid[grid > 0]):
        (r0, r1), (c0, c1) = ((at.min(), at.max()) for at in np.nonzero(grid == colour))
        box = grid[r0 : r1 + 1, c0 : c1 + 1] == colour
        if min(box.shape) > 2 and box.sum() == 2 * sum(box.shape) - 4 and not box[1:-1, 1:-1].any():
            return grid[r0 + 1 : r1, c0 + 1 : c1]
    raise ValueError("no frame")


def flip_and_recolour(grid: Grid) -> Grid:
    """Flip the grid top to bottom, and turn green (3) into maroon (9)."""
    return np.where(np.flipud(grid) == 3, 9, np.flipud(grid))


def drop_and_mark_tallest(grid: Grid) -> Grid:
    """Let the cells fall to the bottom of their columns, then turn the tallest stack yellow (4)."""
    out = np.sort(grid, axis=0)
    out[:, (out > 0).sum(axis=0).argmax()] //= 2  # 8 to 4
    return out


def picture(rng: Rng, h: int, w: int, *colours: int) -> Grid:
    """About half the cells black, the others in these colours, each of which occurs."""
    while True:
        cells = [rng.randint(2) and colours[rng.randint(len(colours))] for _ in range(h * w)]
        if {0, *colours} == set(cells):
            return np.array(cells).reshape(h, w)


def blob(rng: Rng, size: int) -> Grid:
    """A random connected shape of so many cells."""
    cells = [(0, 0)]
    while len(cells) < size:
        r, c = cells[rng.randint(len(cells))]
        new = [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)][rng.randint(4)]
        cells += [] if new in cells else [new]
    (top, left), (bottom, right) = np.min(cells, axis=0), np.max(cells, axis=0)
    return np.array([[int((r, c) in cells) for c in range(left, right + 1)] for r in range(top, bottom + 1)])


def place(rng: Rng, grid: Grid, shape: Grid, edge: bool | None = None) -> None:
    """Draw a shape where it touches no other, not even at a corner, and lies at the edge or not, as asked."""
    (h, w), (a, b) = grid.shape, shape.shape
    for _ in range(500):
        r, c = rng.randint(h - a + 1), rng.randint(w - b + 1)
        near = grid[max(r - 1, 0) : r + a + 1, max(c - 1, 0) : c + b + 1]
        if not near.any() and edge in (None, 0 in (r, c) or r + a == h or c + b == w):
            grid[r : r + a, c : c + b] = shape
            return
    raise ValueError("no room for the shape: take another SEED")


def make_picture(rewrite: Callable[[list[list[int]]], Any]) -> Maker:
    """The maker whose answer is a picture's rows, rewritten."""
    return lambda rng, *spec: (rows := picture(rng, *spec).tolist(), rewrite(rows))


def make_edge(rng: Rng, h: int, w: int, edge: list[int], inside: list[int]) -> Drawn:
    answer = np.zeros((h, w), np.int64)
    for size, colour in [(size, 1) for size in edge] + [(size, 3) for size in inside]:
        place(rng, answer, blob(rng, size) * colour, colour == 1)
    return np.where(answer > 0, 5, 0), answer


def make_rings(rng: Rng, size: int, colour: int, closed: list[tuple[int, int]], gap: list[tuple[int, int]]) -> Drawn:
    answer = np.zeros((size, size), np.int64)
    for i, (a, b) in enumerate(gap + closed):
        ring = np.pad(np.full((a - 2, b - 2), 4 * (i >= len(gap))), 1, constant_values=colour)
        if i < len(gap):  # the gap is in a side, never at a corner
            ring[rng.randint(2) * (a - 1), 1 + rng.randint(b - 2)] = 0
        place(rng, answer, ring, False if i < len(gap) else None)
    return np.where(answer == 4, 0, answer), answer


def make_lines(rng: Rng, h: int, w: int, lines: list[tuple[int, int, int]]) -> Drawn:
    answer = np.array([[5 * (c > 1 and rng.randint(6) == 0) for c in range(w)] for _ in range(h)])
    for r, colour, wall in lines:  # wall: the column of the first grey cell of the row, w for none
        answer[r, : wall + 1] = [colour] * wall + [5] * (wall < w)
    return np.where((answer == 5) | (np.arange(w) == 0), answer, 0), answer


def make_bars(rng: Rng, h: int, w: int, *counts: int) -> Drawn:
    cells = np.repeat([1, 2, 3, 0], [*counts, h * w - sum(counts)])
    answer = [[colour] * n + [0] * (6 - n) for colour, n in enumerate(counts, 1)]
    return rng.permutation(cells).reshape(h, w), answer


def make_count(rng: Rng, h: int, w: int, colour: int, *sizes: int) -> Drawn:
    grid = np.zeros((h, w), np.int64)
    for size in sizes:
        place(rng, grid, blob(rng, size) * colour)
    return grid, np.diag([colour] * len(sizes))


def make_frame(rng: Rng, h: int, w: int, a: int, b: int, frame: int, *others: int) -> Drawn:
    grid, inside = picture(rng, h, w, *others), picture(rng, a, b, *others)
    r, c = rng.randint(h - a - 1), rng.randint(w - b - 1)
    grid[r : r + a + 2, c : c + b + 2] = np.pad(inside, 1, constant_values=frame)
    return grid, inside


def make_drop(rng: Rng, h: int, *heights: int) -> Drawn:
    grid, answer = np.zeros((2, h, len(heights)), np.int64)
    for c, n in enumerate(heights):
        grid[rng.permutation(h)[:n], c] = 8
        answer[h - n :, c] = 4 if n == max(heights) else 8
    return grid, answer


# A rule, its maker, and what the maker is to draw: three demonstrations or four, then the test
PUZZLES: list[tuple[Callable[[Grid], Grid], Maker, list[Any]]] = [
    (mirror_left_right, make_picture(lambda rows: [row[::-1] for row in rows]),
     [(3, 5, 1, 2), (5, 4, 3, 6, 8), (6, 6, 4, 7), (5, 7, 1, 2, 3)]),
    (rotate_quarter_clockwise, make_picture(lambda rows: list(zip(*rows[::-1], strict=True))),
     [(3, 4, 2, 5), (5, 3, 1, 4), (5, 5, 3, 6, 7), (4, 6, 2, 8, 9)]),
    (recolour_swap_two, make_picture(lambda rows: [[v and sum({*np.ravel(rows)} - {v}) for v in row] for row in rows]),
     [(4, 4, 1, 2), (5, 6, 3, 8), (6, 4, 6, 4), (6, 6, 7, 5)]),
    (recolour_edge_touching, make_edge,
     [(8, 8, [4], [2, 6]), (9, 9, [2, 5], [5]), (9, 9, [7, 1], [1, 4]), (10, 9, [3, 5], [6, 2])]),
    (fill_closed_rings, make_rings,
     [(10, 2, [(4, 5), (3, 3)], [(4, 4)]), (10, 8, [(5, 5)], [(3, 4)]),
      (10, 6, [(5, 4)], [(4, 3), (3, 4)]), (10, 3, [(4, 4), (3, 3)], [(5, 4)])]),
    (extend_lines_to_wall, make_lines,
     [(5, 7, [(1, 2, 4), (3, 3, 7)]), (8, 8, [(0, 6, 3), (2, 1, 8), (5, 4, 6), (6, 2, 2)]),
      (7, 9, [(1, 8, 9), (3, 1, 5), (6, 7, 3)]), (9, 10, [(0, 3, 6), (2, 6, 10), (4, 1, 4), (5, 2, 8), (7, 8, 3)])]),
    (count_to_bar, make_bars, [(5, 5, 2, 4, 1), (6, 5, 3, 1, 5), (7, 6, 6, 5, 2), (6, 7, 4, 2, 6)]),
    (count_shapes_to_diagonal, make_count,
     [(8, 8, 6, 4, 2, 5), (10, 10, 1, 3, 1, 4, 2, 1, 3), (9, 9, 8, 5, 1, 3, 2), (10, 10, 2, 4, 3, 2, 1, 4)]),
    (scale_up_by_two, make_picture(lambda rows: np.kron(rows, np.ones((2, 2), np.int64))),
     [(3, 3, 1, 2), (3, 4, 3, 8), (5, 4, 4, 6, 7), (4, 5, 1, 2, 9)]),
    (crop_inside_frame, make_frame,
     [(8, 8, 3, 4, 8, 1, 3), (9, 7, 4, 3, 2, 4, 6), (10, 10, 5, 3, 7, 1, 2, 5), (9, 10, 4, 5, 4, 3, 6, 8)]),
    (flip_and_recolour, make_picture(lambda rows: [[9 if v == 3 else v for v in row] for row in rows[::-1]]),
     [(4, 3, 3, 1), (5, 5, 3, 6, 8), (4, 6, 3, 1, 2), (6, 5, 3, 1, 6)]),
    (drop_and_mark_tallest, make_drop,
     [(5, 1, 3, 0, 2, 2), (6, 2, 1, 0, 1, 4, 3), (7, 5, 2, 3, 1, 4), (8, 1, 3, 2, 6, 0, 4, 5)]),
]  # fmt: skip
RULES = {rule.__name__.replace("_", "-"): rule for rule, _, _ in PUZZLES}


def build(index: int) -> dict[str, list[dict[str, Any]]]:
    """The pairs of one puzzle, each checked against its rule."""
    rule, make, specs = PUZZLES[index]
    rng, pairs = Rng(SEED + index), list[dict[str, Any]]()
    for spec in specs:
        grid, answer = (np.array(side) for side in make(rng, *spec))
        if not np.array_equal(rule(grid), answer):
            raise ValueError(f"{rule.__name__}: the rule and the drawing differ")
        pairs.append({"input": grid.tolist(), "output": answer.tolist()})
    return {"train": pairs[:-1], "test": pairs[-1:]}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    texts = [json.dumps(build(index), separators=(",", ":")) for index in range(len(PUZZLES))]
    for name, text in zip(RULES, texts, strict=True):  # one row of a grid per line
        text = re.sub(r"(?<=\[)(?=[\[{])|(?<=[\]}],)|(?<=\])(?=\])|(?<=})(?=\])", "\n", text)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
