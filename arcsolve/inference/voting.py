"""The vote: candidates ranked by how many trajectories reached them, and two attempts from the ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from arcsolve.arc.grid import Grid, grid_key
from arcsolve.arc.task import Pair
from arcsolve.inference.solution import Candidate
from arcsolve.shapes import infer_size

Plausible = Callable[[Grid], bool]
"""Whether an answer agrees with what the demonstrations leave no doubt about."""


def plausible(demonstrations: tuple[Pair, ...], test_input: Grid) -> Plausible:
    """What can be told of an answer to ``test_input`` without solving the task.

    An answer is implausible where it copies its input though no demonstration does, or breaks a certain size rule.
    """
    copies = any(pair.output is not None and np.array_equal(pair.input, pair.output) for pair in demonstrations)
    size = infer_size(demonstrations, test_input)
    shape = (size.height, size.width) if size is not None and size.certain else None

    def check(grid: Grid) -> bool:
        return (shape is None or grid.shape == shape) and (copies or not np.array_equal(grid, test_input))

    return check


def vote(answers: Iterable[tuple[Grid, float]], plausible: Plausible = lambda grid: True) -> list[Candidate]:
    """Candidates ranked by (plausibility, votes, mean confidence), best first; the last two as TRM's evaluator does.

    Args:
        answers: final grid and confidence of each trajectory. Their order does not matter: confidences are summed
            sorted, and equals are ranked by size and cells.
        plausible: candidates for which it does not hold come last.
    """
    groups: dict[tuple[tuple[int, ...], bytes], tuple[Grid, list[float]]] = {}
    for grid, confidence in answers:
        groups.setdefault(grid_key(grid), (grid, []))[1].append(confidence)
    ranked = []
    for key, (grid, confidences) in groups.items():
        mean = sum(sorted(confidences)) / len(confidences)
        sound = plausible(grid)
        ranked.append((not sound, -len(confidences), -mean, key, Candidate(grid, len(confidences), mean, sound)))
    return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1])]


def attempts(candidates: Sequence[Candidate], runners_up: Sequence[Grid]) -> tuple[Grid, Grid]:
    """Two distinct answers: the two best candidates, or the best and a runner-up where all trajectories agree.

    Args:
        candidates: ranked, at least one.
        runners_up: what to take the second answer from, by votes; each differs from its own trajectory's grid, so one
            of them differs from the only candidate.
    """
    first = candidates[0].grid
    if len(candidates) > 1:
        return first, candidates[1].grid
    others = vote((grid, 0.0) for grid in runners_up if grid_key(grid) != grid_key(first))
    return first, others[0].grid
