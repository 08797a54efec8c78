"""Views: each one can be undone, and the convention that training shares is pinned down."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from arcsolve.arc.grid import Grid
from arcsolve.views import View, random_views

grids = arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(0, 9))
views = st.builds(View, st.integers(0, 7), st.permutations(range(10)).map(tuple))


@given(grids, views)
@settings(deadline=None)
def test_every_view_inverts(grid: Grid, view: View) -> None:
    """A transposing view undone by itself swaps the flips: right for 6 of the 8 symmetries only."""
    seen = view.apply(grid)
    assert seen.shape == view.size(*grid.shape)
    assert seen.flags.c_contiguous and not seen.flags.writeable
    np.testing.assert_array_equal(view.invert(seen), grid)


@given(grids, views)
@settings(deadline=None)
def test_inverse_composes_to_the_identity_on_both_sides(grid: Grid, view: View) -> None:
    np.testing.assert_array_equal(view.inverse.apply(view.apply(grid)), grid)
    np.testing.assert_array_equal(view.apply(view.inverse.apply(grid)), grid)
    assert view.inverse.inverse == view


def test_dihedral_convention() -> None:
    """Transpose first, then 1 = flip rows, 2 = flip columns: trained weights know the symmetries by these numbers."""
    grid = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    expected = [
        [[1, 2, 3], [4, 5, 6]],
        [[4, 5, 6], [1, 2, 3]],
        [[3, 2, 1], [6, 5, 4]],
        [[6, 5, 4], [3, 2, 1]],
        [[1, 4], [2, 5], [3, 6]],
        [[3, 6], [2, 5], [1, 4]],
        [[4, 1], [5, 2], [6, 3]],
        [[6, 3], [5, 2], [4, 1]],
    ]
    same = tuple(range(10))
    assert [View(d, same).apply(grid).tolist() for d in range(8)] == expected


def test_colours_say_who_plays_the_original() -> None:
    view = View(0, (3, 1, 2, 0, 5, 6, 4, 7, 8, 9))
    assert view.apply(np.array([[0, 4, 6]], dtype=np.uint8)).tolist() == [[3, 5, 4]]


@pytest.mark.parametrize(
    "arguments", [(8, tuple(range(10))), (0, (0,) * 10), (0, tuple(range(9))), (0, tuple(range(10)), (-1, 0))]
)
def test_a_view_that_cannot_be_undone_is_refused(arguments: tuple[int, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError):
        View(*arguments)


@given(st.integers(1, 70), st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None)
def test_random_views_are_distinct_even_and_repeatable(n: int, seed: int, keep_zero: bool) -> None:
    drawn = random_views(n, np.random.default_rng(seed), keep_zero)
    assert drawn[0] == View.identity()
    assert len(set(drawn)) == n
    counts = Counter({d: 0 for d in range(8)})
    counts.update(view.dihedral for view in drawn)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert not keep_zero or all(view.colours[0] == 0 for view in drawn)
    assert drawn == random_views(n, np.random.default_rng(seed), keep_zero)


def test_no_views_cannot_be_drawn() -> None:
    with pytest.raises(ValueError):
        random_views(0, np.random.default_rng(0))
