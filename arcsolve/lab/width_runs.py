"""The runs behind ``arcsolve lab width``: train the rivals, draw from each in its way, and compare."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.results import DAMAGED, whole_lines
from arcsolve.inference.torch_backend import TorchBackend, build_network
from arcsolve.lab import rivals, width
from arcsolve.lab.ambiguity import Puzzle, suite
from arcsolve.lab.width import WAYS, WIDTHS, Runner, Way
from arcsolve.network.weights import Weights
from arcsolve.training.objective import normal_from, objective
from arcsolve.training.pack import Pack
from arcsolve.training.pairs import PairStore, ViewDraw

SPLITS = ("held-out", "larger")
CPU = torch.device("cpu")
BASELINE = "deterministic"
CLAIM, CONTROL = "learned latents", "output sampling"


@dataclass(frozen=True)
class Sizes:
    """How much of everything, and for how long.

    Attributes:
        train, test, tune: puzzles of each family to train on, to judge by in each split, and to choose settings by.
        updates: of each network.
        timed: puzzles of each family that are timed.
    """

    train: int = 4_000
    test: int = 60
    tune: int = 20
    updates: int = rivals.UPDATES
    timed: int = 1


@dataclass(frozen=True, eq=False)
class Data:
    """The puzzles of a study; those to tune by are held out, too, and none of those to judge by."""

    train: tuple[Puzzle, ...]
    tune: tuple[Puzzle, ...]
    test: dict[str, tuple[Puzzle, ...]]

    @classmethod
    def of(cls, sizes: Sizes) -> Data:
        """The same for the same sizes."""
        held_out = suite("held-out", sizes.test + sizes.tune, seed=0)
        first = tuple(width.in_turn(held_out, sizes.test))
        test = {"held-out": first, "larger": suite("larger", sizes.test, seed=0)}
        return cls(suite("train", sizes.train, seed=0), tuple(p for p in held_out if p not in first), test)

    @cached_property
    def pack(self) -> Pack:
        """The training puzzles as pairs."""
        return rivals.pack_of(self.train)

    @cached_property
    def hash(self) -> str:
        """Of all inputs and answers, sha256."""
        digest = hashlib.sha256()
        for puzzle in (*self.train, *self.tune, *(p for split in SPLITS for p in self.test[split])):
            digest.update(puzzle.family.encode())
            for grid in (puzzle.input, *puzzle.answers):
                digest.update(bytes(grid.shape) + grid.tobytes())
        return digest.hexdigest()


def runner_of(weights: Weights) -> Runner:
    """A network ready to be run, in torch on the CPU."""
    return Runner(
        TorchBackend(weights.config, weights.network, CPU), dict(zip(weights.tasks, weights.bank, strict=True))
    )


def entropy_of(runner: Runner, puzzles: Sequence[Puzzle], seed: int) -> float:
    """Mean entropy in nats of the cells of what learned latents draw, over puzzles."""
    way = WAYS[CLAIM]
    return statistics.fmean(width.cell_entropy(width.draw(way, runner, p, WIDTHS[-1], 1.0, seed)) for p in puzzles)


def guided_accuracy(weights: Weights, puzzles: Sequence[Puzzle], seed: int) -> dict[str, float]:
    """Share of answers led to by the posterior, which is told one, and by the prior, any answer counting.

    Equal draws of noise for both; a wide gap means that the posterior tells what the prior cannot (a leak).
    """
    network = build_network(weights.config, weights.network)
    pack = rivals.pack_of(puzzles)
    store = PairStore(pack, CPU)
    steps = weights.config.steps
    rows = torch.from_numpy(weights.bank)[[weights.tasks.index(name) for name in pack.ids]]
    found = {}
    for name, commit in (("posterior", 0), ("prior", steps)):
        normal = normal_from(torch.Generator().manual_seed(seed), CPU)
        right = 0
        for side in np.unique(pack.sizes[:, 0]):
            pairs = torch.from_numpy(np.flatnonzero(pack.sizes[:, 0] == side))
            count = len(pairs)
            view = ViewDraw(torch.zeros(count, dtype=torch.long), torch.arange(10).expand(count, 10))
            batch = store.batch(pairs, view, int(side), int(side), torch.zeros(count, 2))
            batch = batch._replace(commit=torch.full((count,), commit))
            with torch.no_grad():
                losses = objective(network, rows[batch.task], batch, steps=steps, normal=normal)
            right += int(losses.exact.sum())
        found[name] = right / len(pack)
    return found


def measure(seed: int, weights: Mapping[str, Weights], data: Data, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Rows of one seed: one for each way and split.

    Args:
        weights: by name of :data:`~arcsolve.lab.rivals.NETWORKS`.

    Yields:
        ``way``, ``split``, ``weights_sha256``, ``setting`` (noise or temperature), ``puzzles`` (:func:`width.judge` of
        each), ``depth`` (:func:`width.by_depth`, of trajectories), ``seconds`` (:func:`width.seconds`, of held-out
        puzzles) and ``guided`` (:func:`guided_accuracy`, of learned noise).
    """
    runners = {name: runner_of(one) for name, one in weights.items()}
    entropy = entropy_of(runners[WAYS[CLAIM].network], data.tune, seed)
    for name, way in WAYS.items():
        runner = runners[way.network]
        setting = width.tune(way, runner, data.tune, entropy, seed)
        for split in SPLITS:
            puzzles = data.test[split]
            judged = [
                width.judge(p, list(width.draw(way, runner, p, WIDTHS[-1], setting, seed + 1_000 * i)))
                for i, p in enumerate(puzzles)
            ]
            few = list(width.in_turn(puzzles, sizes.timed))
            yield {
                "way": name,
                "split": split,
                "weights_sha256": weights[way.network].sha256,
                "setting": setting,
                "puzzles": judged,
                "depth": _depth(way, runner, puzzles, setting, seed),
                "seconds": width.seconds(runner, few) if split == "held-out" and way.kind == "trajectories" else None,
                "guided": guided_accuracy(weights[way.network], puzzles, seed) if name == CLAIM else None,
            }


def _depth(
    way: Way, runner: Runner, puzzles: Sequence[Puzzle], setting: float, seed: int
) -> dict[str, list[float]] | None:
    return width.by_depth(way, runner, puzzles, setting, seed) if way.kind in ("once", "trajectories") else None


def read(path: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run; a last line that a kill cut short is dropped from the file.

    Raises:
        ArcsolveError: the file is of other puzzles, sizes or networks.
    """
    rows = []
    for number, line in enumerate(whole_lines(path), 1):
        try:
            row = json.loads(line)
            same = all(row[key] == value for key, value in head.items())
            rows.append({**row, "seed": int(row["seed"]), "way": str(row["way"]), "split": str(row["split"])})
        except DAMAGED as error:
            raise FormatError(f"{path}: line {number}: not a result of `arcsolve lab width` ({error})") from error
        if not same:
            raise ArcsolveError(f"{path}: line {number}: made with other puzzles or settings; choose another folder")
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each split and way: means over puzzles and seeds.

    Returns:
        ``split``, ``way``, ``seeds``, ``setting``; ``valid``, ``first``, ``coverage`` and ``vote`` by width,
        ``coverage_seeds``, coverage@20 of each seed; ``balance``; ``families`` and ``answers``, the same of each family
        and number of answers (``valid``, ``coverage`` at 20, ``vote`` at 20 or at the one there is); ``single``, the
        first output of single-answer puzzles against the deterministic network's; ``depth``, ``seconds``, ``guided``.
    """
    lines = []
    for split in SPLITS:
        base = _puzzles(rows, split, BASELINE)
        for way in WAYS:
            own = [row for row in rows if (row["split"], row["way"]) == (split, way)]
            if not own:
                continue
            puzzles = [p for row in own for p in row["puzzles"]]
            line = {"split": split, "way": way, "seeds": len(own)}
            line["setting"] = statistics.fmean(row["setting"] for row in own)
            line |= _means(puzzles) | {"balance": _mean([p["balance"] for p in puzzles if p["balance"] is not None])}
            line["coverage_seeds"] = [_means(row["puzzles"])["coverage"][_at(row["puzzles"])] for row in own]
            for name, key in (("families", "family"), ("answers", "answers")):
                kinds = sorted({p[key] for p in puzzles})
                line[name] = {str(kind): _brief([p for p in puzzles if p[key] == kind]) for kind in kinds}
            line["single"] = paired(_puzzles(rows, split, way), base)
            for name in ("depth", "seconds", "guided"):
                line[name] = _average([row[name] for row in own if row[name] is not None])
            lines.append(line)
    return lines


def paired(
    own: Mapping[tuple[int, int], dict[str, Any]], base: Mapping[tuple[int, int], dict[str, Any]]
) -> dict[str, Any]:
    """First outputs on single-answer puzzles, seed by seed and puzzle by puzzle, against the baseline's.

    Returns:
        ``right`` and ``base_right``, shares; ``gained`` and ``lost``, puzzles; ``p``, two-sided, McNemar's exact.
    """
    both = [(own[key]["first"], base[key]["first"]) for key in own if key in base and own[key]["answers"] == 1]
    gained, lost = sum(a and not b for a, b in both), sum(b and not a for a, b in both)
    tail = sum(math.comb(gained + lost, i) for i in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    return {
        "right": _mean([float(a) for a, _ in both]),
        "base_right": _mean([float(b) for _, b in both]),
        "gained": gained,
        "lost": lost,
        "p": min(1.0, 2 * tail),
    }


def _puzzles(rows: Sequence[dict[str, Any]], split: str, way: str) -> dict[tuple[int, int], dict[str, Any]]:
    chosen = (row for row in rows if (row["split"], row["way"]) == (split, way))
    return {(row["seed"], i): puzzle for row in chosen for i, puzzle in enumerate(row["puzzles"])}


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


def run(
    seeds: Iterable[int],
    data: Data,
    sizes: Sizes,
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    trained: Callable[[str, int, dict[str, Any]], None] = lambda name, seed, row: None,
    finished: Callable[[dict[str, Any]], None] = lambda row: None,
    warn: Callable[[str], None] = lambda line: None,
    stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Train and measure what is not yet in ``rows``, which grow; whether all was done before ``stopped``.

    Args:
        folder: where networks are kept, one run folder each.
        trained: called with a network's name, its seed and a line of its log.
        finished: called with each new row.
    """
    for seed in seeds:
        known = {(row["way"], row["split"]) for row in rows if row["seed"] == seed}
        if len(known) == len(WAYS) * len(SPLITS):
            continue
        weights: dict[str, Weights] = {}
        for name in rivals.NETWORKS:
            own = folder / f"{name}-{seed}"
            own.mkdir(exist_ok=True)
            report = partial(trained, name, seed)
            made = rivals.train(
                name, seed, data.pack, own, updates=sizes.updates, report=report, warn=warn, stopped=stopped
            )
            if made is None:
                return False
            weights[name] = made
        for row in measure(seed, weights, data, sizes):
            if stopped():
                return False
            if (row["way"], row["split"]) not in known:
                rows.append({"seed": seed, **row})
                finished(rows[-1])
    return True
