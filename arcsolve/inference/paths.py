"""Where trajectories stood on their way: counted by candidate after each supervision step."""

from __future__ import annotations

from collections.abc import Sequence

from arcsolve.arc.grid import Grid, grid_key
from arcsolve.inference.solution import Candidate, TrajectoryStep


def count_steps(paths: Sequence[Sequence[Grid]], candidates: Sequence[Candidate]) -> tuple[TrajectoryStep, ...]:
    """Trajectories at each candidate's grid by step, for as many steps as the longest path has.

    Args:
        paths: of each trajectory the grids decoded after each step, at least one; a shorter path stays at its last.
        candidates: the distinct last grids of the paths, in any order.
    """
    places = {grid_key(candidate.grid): index for index, candidate in enumerate(candidates)}
    ways = [[grid_key(grid) for grid in path] for path in paths]
    steps = []
    for index in range(max(map(len, ways), default=0)):
        counts = [0] * len(places)
        elsewhere = moved = 0
        for way in ways:
            place = places.get(way[min(index, len(way) - 1)])
            if place is None:
                elsewhere += 1
            else:
                counts[place] += 1
            moved += 0 < index < len(way) and way[index] != way[index - 1]
        steps.append(TrajectoryStep(index + 1, tuple(counts), elsewhere, moved))
    return tuple(steps)
