"""The puzzles of our own: their form, that their rules give the stored outputs, and that no other reading fits."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

FOLDER = Path(__file__).parent.parent / "puzzles"
FILES = sorted(FOLDER.glob("*.json"))
Rule = Callable[[NDArray[Any]], NDArray[Any]]
each_puzzle = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def load_make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("puzzles_make", FOLDER / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = load_make()


def pairs(path: Path) -> list[dict[str, list[list[int]]]]:
    task = json.loads(path.read_text(encoding="utf-8"))
    return [*task["train"], *task["test"]]


def test_there_are_twelve() -> None:
    assert len(FILES) == 12
    assert {path.stem for path in FILES} == set(MAKE.RULES)
    assert all(rule.__doc__ for rule in MAKE.RULES.values())


@each_puzzle
def test_form(path: Path) -> None:
    task = json.loads(path.read_text(encoding="utf-8"))
    assert set(task) == {"train", "test"}
    assert 3 <= len(task["train"]) <= 4 and len(task["test"]) == 1
    for pair in pairs(path):
        assert set(pair) == {"input", "output"}
        for grid in pair.values():
            assert 3 <= len(grid) <= 10 and 3 <= len(grid[0]) <= 10
            assert len({len(row) for row in grid}) == 1
            assert all(type(v) is int and 0 <= v <= 9 for row in grid for v in row)
        assert pair["input"] != pair["output"]
    assert len({str(pair["input"]) for pair in pairs(path)}) == len(pairs(path))


@each_puzzle
def test_rule_gives_the_outputs(path: Path) -> None:
    for pair in pairs(path):
        assert MAKE.RULES[path.stem](np.array(pair["input"])).tolist() == pair["output"]


def test_make_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make.py", str(tmp_path)])
    MAKE.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in FILES]
    for path in FILES:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def turns(after: Rule, *, skip: tuple[int, bool]) -> list[Rule]:
    """Every quarter turn, with and without a transposition first, but for the right one."""
    ways = [(k, t) for k in range(4) for t in (False, True) if (k, t) != skip]
    return [lambda g, k=k, t=t: after(np.rot90(g.T if t else g, k)) for k, t in ways]  # type: ignore[misc]


def dropped(column: Callable[[NDArray[Any]], Any]) -> Rule:
    """Drop the cells, then mark the column that this picks from the input."""

    def rule(grid: NDArray[Any]) -> NDArray[Any]:
        out = np.sort(grid, axis=0)
        out[:, column(grid)] //= 2
        return out

    return rule


def recoloured(first: Callable[[NDArray[Any]], bool]) -> Rule:
    """Grey shapes of which this holds turn 1, the others 3."""
    return lambda g: sum(((1 if first(p) else 3) * p for p in MAKE.parts(g == 5)), np.zeros_like(g))


def bars(order: Callable[[list[int], NDArray[Any]], Any]) -> Rule:
    return lambda g: np.array([[v * (i < (g == v).sum()) for i in range(6)] for v in order([1, 2, 3], g)])


def closed(pick: Callable[..., Any]) -> Rule:
    """Fill one closed area only."""
    return lambda g: g + 4 * pick((p for p in MAKE.parts(g == 0) if not MAKE.at_edge(p)), key=np.sum)


def diagonal(count: Callable[[NDArray[Any]], Any]) -> Rule:
    return lambda g: np.diag([g.max()] * int(count(g)))


def to_maroon(grid: NDArray[Any]) -> NDArray[Any]:
    return np.where(grid == 3, 9, grid)


SIZES = range(1, 10)
# Other readings of a puzzle: each must fail on a demonstration, or the test would not have one answer.
RIVALS: dict[str, list[Rule]] = {
    "mirror-left-right": turns(lambda g: g, skip=(3, True)),
    "rotate-quarter-clockwise": turns(lambda g: g, skip=(3, False)),
    "recolour-swap-two": [np.fliplr, np.flipud],
    "recolour-edge-touching": [
        *(recoloured(lambda p, n=n: p.sum() <= n) for n in SIZES),  # type: ignore[misc]
        *(recoloured(lambda p, n=n: p.sum() >= n) for n in SIZES),  # type: ignore[misc]
        recoloured(lambda p: bool(p[0].any())),
        recoloured(lambda p: bool(p[-1].any())),
        recoloured(lambda p: bool(p[0].any() or p[-1].any())),
        recoloured(lambda p: bool(p[:, 0].any() or p[:, -1].any())),
    ],
    "fill-closed-rings": [
        closed(max),
        closed(min),
        lambda g: g + 4 * sum(p for p in MAKE.parts(g == 0) if not MAKE.at_edge(p) and p.sum() > 1),
    ],
    "extend-lines-to-wall": [
        lambda g: np.where((g == 0) & (g[:, :1] > 0), g[:, :1], g),  # on behind the wall
        lambda g: np.where(g[:, :1] > 0, g[:, :1], g),  # over the wall
    ],
    "count-to-bar": [
        bars(lambda colours, g: sorted(colours, key=lambda v: (g == v).sum())),
        bars(lambda colours, g: sorted(colours, key=lambda v: -(g == v).sum())),
        bars(lambda colours, g: sorted(colours, key=g.ravel().tolist().index)),
    ],
    "count-shapes-to-diagonal": [
        diagonal(lambda g: max(p.sum() for p in MAKE.parts(g > 0))),
        diagonal(lambda g: len({int(p.sum()) for p in MAKE.parts(g > 0)})),
        diagonal(lambda g: (g > 0).any(axis=0).sum()),
        diagonal(lambda g: (g > 0).any(axis=1).sum()),
        diagonal(lambda g: g.shape[0] // 2),
        lambda g: np.fliplr(MAKE.count_shapes_to_diagonal(g)),
    ],
    "scale-up-by-two": [lambda g: np.tile(g, (2, 2))],
    "crop-inside-frame": turns(MAKE.crop_inside_frame, skip=(0, False)),
    "flip-and-recolour": [np.flipud, *turns(to_maroon, skip=(1, True))],
    "drop-and-mark-tallest": [
        lambda g: np.sort(g, axis=0),
        dropped(lambda g: -1),
        dropped(lambda g: 0),
        dropped(lambda g: (g > 0).argmax(axis=0).argmin()),
        dropped(lambda g: np.where((g > 0).any(axis=0), (g > 0).argmax(axis=0), 99).argmin()),
    ],
}


@each_puzzle
def test_no_other_reading_fits(path: Path) -> None:
    demonstrations = pairs(path)[:-1]
    assert RIVALS[path.stem]
    for number, rival in enumerate(RIVALS[path.stem]):
        fits = [np.array_equal(rival(np.array(p["input"])), np.array(p["output"])) for p in demonstrations]
        assert not all(fits), f"reading {number} fits too"
