"""What the rows of ``arcsolve lab width`` say: means by split and way, and a paired test of single answers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, TypeAlias

from arcsolve.lab.width import SPLITS, WAYS, WIDTHS

BASELINE = "deterministic"

Verdicts: TypeAlias = dict[tuple[str, int], list[bool]]
"""Of each puzzle, by family and number, whether its first output was right, for each seed."""


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each split and way: means over puzzles and seeds.

    Returns:
        ``split``, ``way``, ``seeds``, how many; ``settings``, of each family and seed; ``valid``, ``first``,
        ``coverage`` and ``vote`` by width, ``coverage_seeds``, coverage@20 of each seed; ``balance`` and how many
        puzzles it is of (``balanced``); ``families`` and ``answers``, figures of each family and number of answers
        (``valid``, ``coverage`` at 20, ``vote`` at 20 or at the one there is); ``single``, the first output of
        single-answer puzzles against the deterministic network's; ``depth``, ``seconds``, ``guided``;
        ``guided_families``, the last of each family.
    """
    lines = []
    for split in SPLITS:
        base = _single(rows, split, BASELINE)
        for way in WAYS:
            own = [row for row in rows if (row["split"], row["way"]) == (split, way)]
            if not own:
                continue
            puzzles = [p for row in own for p in row["puzzles"]]
            by_seed: dict[int, list[dict[str, Any]]] = {}
            for row in own:
                by_seed.setdefault(row["seed"], []).extend(row["puzzles"])
            line = {"split": split, "way": way, "seeds": len(by_seed)}
            line["settings"] = {f"{row['family']}, seed {row['seed']}": row["setting"] for row in own}
            balances = [p["balance"] for p in puzzles if p["balance"] is not None]
            line |= _means(puzzles) | {"balance": _mean(balances), "balanced": len(balances)}
            line["coverage_seeds"] = [_means(some)["coverage"][_at(some)] for _, some in sorted(by_seed.items())]
            for name, key in (("families", "family"), ("answers", "answers")):
                kinds = sorted({p[key] for p in puzzles})
                line[name] = {str(kind): _brief([p for p in puzzles if p[key] == kind]) for kind in kinds}
            line["single"] = paired(_single(rows, split, way), base)
            for name in ("depth", "seconds", "guided"):
                line[name] = _average([row[name] for row in own if row[name] is not None])
            told = [row for row in own if row["guided"] is not None]
            line["guided_families"] = {
                family: _average([row["guided"] for row in told if row["family"] == family])
                for family in dict.fromkeys(row["family"] for row in told)
            }
            lines.append(line)
    return lines


def paired(own: Verdicts, base: Verdicts) -> dict[str, Any]:
    """First outputs on single-answer puzzles against the baseline's, puzzle by puzzle.

    A puzzle counts once, as most seeds have it: the seeds' networks see the same puzzles, so they are no further cases.

    Args:
        own, base: what to compare; puzzles that only one of them has do not count.

    Returns:
        ``right`` and ``base_right``, shares over puzzles and seeds; ``puzzles``; ``gained`` and ``lost``, those that
        most seeds of one have right and of the other not; ``p``, two-sided, McNemar's exact.
    """
    numbers = sorted(own.keys() & base.keys())
    most = [[2 * sum(side[i]) > len(side[i]) for side in (own, base)] for i in numbers]
    gained, lost = sum(a and not b for a, b in most), sum(b and not a for a, b in most)
    tail = sum(math.comb(gained + lost, i) for i in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    return {
        "right": _mean([float(hit) for i in numbers for hit in own[i]]),
        "base_right": _mean([float(hit) for i in numbers for hit in base[i]]),
        "puzzles": len(numbers),
        "gained": gained,
        "lost": lost,
        "p": min(1.0, 2 * tail),
    }


def _single(rows: Sequence[dict[str, Any]], split: str, way: str) -> Verdicts:
    found: Verdicts = {}
    for row in rows:
        if (row["split"], row["way"]) == (split, way):
            for i, puzzle in enumerate(row["puzzles"]):
                if puzzle["answers"] == 1:
                    found.setdefault((row["family"], i), []).append(puzzle["first"])
    return found


def _at(puzzles: Sequence[dict[str, Any]]) -> int:
    """Where in the widths 20 is, or the only one there is."""
    return min(WIDTHS.index(20), len(puzzles[0]["coverage"]) - 1)


def _means(puzzles: Sequence[dict[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {key: statistics.fmean(p[key] for p in puzzles) for key in ("valid", "first")}
    for key in ("coverage", "vote"):
        means[key] = [statistics.fmean(values) for values in zip(*(p[key] for p in puzzles), strict=True)]
    return means


def _brief(puzzles: Sequence[dict[str, Any]]) -> dict[str, float]:
    means, at = _means(puzzles), _at(puzzles)
    return {"valid": means["valid"], "coverage": means["coverage"][at], "vote": means["vote"][at]}


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _average(values: Sequence[Any]) -> Any:
    """Nested dictionaries and lists of numbers, averaged leaf by leaf; ``None`` of none."""
    if not values:
        return None
    if isinstance(values[0], dict):
        return {key: _average([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], list):
        return [_average(list(several)) for several in zip(*values, strict=True)]
    return statistics.fmean(values)
