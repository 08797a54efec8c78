"""The vote: candidates ranked by how many trajectories reached them, and two attempts from the ranking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from arcsolve.arc.grid import Grid, grid_key
from arcsolve.inference.solution import Candidate


def vote(answers: Iterable[tuple[Grid, float]]) -> list[Candidate]:
    """Candidates ranked by (votes, mean confidence), best first, as TRM's evaluator does.

    Args:
        answers: final grid and confidence of each trajectory. Their order does not matter: confidences are summed
            sorted, and equals are ranked by size and cells.
    """
    groups: dict[tuple[tuple[int, ...], bytes], tuple[Grid, list[float]]] = {}
    for grid, confidence in answers:
        groups.setdefault(grid_key(grid), (grid, []))[1].append(confidence)
    ranked = []
    for key, (grid, confidences) in groups.items():
        mean = sum(sorted(confidences)) / len(confidences)
        ranked.append((-len(confidences), -mean, key, Candidate(grid, len(confidences), mean)))
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
