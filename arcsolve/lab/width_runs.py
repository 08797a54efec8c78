"""The runs behind ``arcsolve lab width``: train the rivals, draw from each in its way, and compare."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcsolve.errors import ArcsolveError
from arcsolve.inference.results import read_rows
from arcsolve.inference.torch_backend import TorchBackend, build_network
from arcsolve.lab import rivals, width
from arcsolve.lab.ambiguity import Puzzle, suite
from arcsolve.lab.width import SPLITS, WAYS, WIDTHS, Runner, Way
from arcsolve.network.weights import Weights
from arcsolve.training.objective import normal_from, objective
from arcsolve.training.pairs import PairStore, ViewDraw

CPU = torch.device("cpu")
CLAIM = "learned latents"


@dataclass(frozen=True)
class Sizes:
    """How much of everything, and for how long.

    Attributes:
        train, test, tune: puzzles of each family to train on, to judge by in each split, and to choose settings by.
        updates: of each network, by family.
        timed: puzzles of each family that are timed.
    """

    train: int = 6_000
    test: int = 144
    tune: int = 20
    updates: Mapping[str, int] = field(
        default_factory=lambda: {name: course.updates for name, course in rivals.COURSES.items()}
    )
    timed: int = 1


@dataclass(frozen=True, eq=False)
class Data:
    """A family's puzzles; those to tune by are held out, too, and none of those to judge by."""

    train: tuple[Puzzle, ...]
    tune: tuple[Puzzle, ...]
    test: dict[str, tuple[Puzzle, ...]]

    @classmethod
    def of(cls, family: str, sizes: Sizes) -> Data:
        """The same for the same sizes.

        Raises:
            ArcsolveError: the family has not as many puzzles.
        """
        try:
            train = suite(family, "train", sizes.train, seed=0)
            # Training's settings were chosen by looking at those of seeds 0 to 3 (docs/LOG.md, 2026-11-26).
            held_out = suite(family, "held-out", sizes.test + sizes.tune, seed=4)
            larger = suite(family, "larger", sizes.test, seed=4)
        except ValueError as error:
            raise ArcsolveError(str(error)) from error
        return cls(train, held_out[sizes.test :], {"held-out": held_out[: sizes.test], "larger": larger})

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
    return Runner(TorchBackend(weights.config, weights.network, CPU), weights.bank[0])


def entropy_of(runner: Runner, puzzles: Sequence[Puzzle], seed: int) -> float:
    """Mean entropy in nats of the cells of what learned latents draw, over puzzles."""
    drawn = width.draw(WAYS[CLAIM], runner, puzzles, WIDTHS[-1], 1.0, seed)
    return statistics.fmean(width.cell_entropy(grids) for grids in drawn)


def guided_accuracy(weights: Weights, puzzles: Sequence[Puzzle], seed: int) -> dict[str, float]:
    """Share of answers led to by the posterior, which is told one, and by the prior, any answer counting.

    Equal draws of noise for both, as many steps as trajectories have; a wide gap means that the posterior tells what
    the prior cannot (a leak). ``told`` is the posterior's share where only the one that it was told counts: a posterior
    that has fallen silent has no gap, either.
    """
    network = build_network(weights.config, weights.network)
    pack = rivals.pack_of(puzzles)
    store = PairStore(pack, CPU)
    steps = weights.config.steps
    rows = torch.from_numpy(weights.bank)
    found = {}
    for name, commit in (("told", 0), ("posterior", 0), ("prior", steps)):
        normal = normal_from(torch.Generator().manual_seed(seed), CPU)
        right = 0
        for side in np.unique(pack.sizes[:, 0]):
            pairs = torch.from_numpy(np.flatnonzero(pack.sizes[:, 0] == side))
            count = len(pairs)
            view = ViewDraw(torch.zeros(count, dtype=torch.long), torch.arange(10).expand(count, 10))
            batch = store.batch(pairs, view, int(side), int(side), torch.zeros(count, 2))
            batch = batch._replace(commit=torch.full((count,), commit))
            if name == "told":
                batch = batch._replace(others=None)
            with torch.no_grad():
                losses = objective(network, rows[batch.task], batch, steps=steps, normal=normal)
            right += int(losses.exact.sum())
        found[name] = right / len(pack)
    return found


def measure(
    seed: int, weights: Mapping[str, Weights], data: Data, sizes: Sizes, known: Container[tuple[str, str]] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of one seed and family: one for each way and split.

    Args:
        weights: by name of :data:`~arcsolve.lab.rivals.NETWORKS`.
        known: (way, split) of rows that are not wanted.

    Yields:
        ``way``, ``split``, ``weights_sha256``, ``setting`` (noise or temperature), ``puzzles`` (:func:`width.judge` of
        each), ``depth`` (:func:`width.by_depth`, of trajectories on held-out puzzles), ``seconds``
        (:func:`width.seconds`, likewise) and ``guided`` (:func:`guided_accuracy`, of learned noise).
    """
    runners = {name: runner_of(one) for name, one in weights.items()}
    entropy = entropy_of(runners[WAYS[CLAIM].network], data.tune, seed)
    for name, way in WAYS.items():
        wanted = [split for split in SPLITS if (name, split) not in known]
        if not wanted:
            continue
        runner = runners[way.network]
        setting = width.tune(way, runner, data.tune, entropy, seed)
        for split in wanted:
            puzzles = data.test[split]
            timed = split == "held-out" and way.kind == "trajectories"
            yield {
                "way": name,
                "split": split,
                "weights_sha256": weights[way.network].sha256,
                "setting": setting,
                "puzzles": width.judged(way, runner, puzzles, WIDTHS[-1], setting, seed),
                "depth": _depth(way, runner, puzzles, setting, seed) if split == "held-out" else None,
                "seconds": width.seconds(runner, puzzles[: sizes.timed], setting) if timed else None,
                "guided": guided_accuracy(weights[way.network], puzzles, seed) if name == CLAIM else None,
            }


def _depth(
    way: Way, runner: Runner, puzzles: Sequence[Puzzle], setting: float, seed: int
) -> dict[str, list[float]] | None:
    return width.by_depth(way, runner, puzzles, setting, seed) if way.kind in ("once", "trajectories") else None


def read(path: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run; a last line that a kill cut short is dropped from the file.

    Raises:
        ArcsolveError: the file is of other sizes or networks, or says something twice or of other puzzles, as joined
            files may.
    """

    def take(row: Any) -> dict[str, Any]:
        return {**row, "seed": int(row["seed"]), **{key: str(row[key]) for key in ("family", "way", "split")}}

    rows = read_rows(path, head, take, "arcsolve lab width", "settings")
    seen, puzzles = set(), dict[str, str]()
    for number, row in enumerate(rows, 1):
        if row["data_sha256"] != puzzles.setdefault(row["family"], row["data_sha256"]):
            raise ArcsolveError(f"{path}: line {number}: {row['family']} of other puzzles than the lines before")
        what = (row["family"], row["seed"], row["way"], row["split"])
        if what in seen:
            raise ArcsolveError(
                f"{path}: line {number}: a second row of {what[0]}, seed {what[1]}, {what[2]}, {what[3]}"
            )
        seen.add(what)
    return rows


def run(
    families: Sequence[str],
    seeds: Sequence[int],
    sizes: Sizes,
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    trained: Callable[[str, dict[str, Any]], None] = lambda what, row: None,
    finished: Callable[[dict[str, Any]], None] = lambda row: None,
    warn: Callable[[str], None] = lambda line: None,
    stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Train and measure what is not yet in ``rows``, which grow; whether all was done before ``stopped``.

    Args:
        folder: where networks are kept, one run folder each.
        trained: called with which network it is, and a line of its log.
        finished: called with each new row.

    Raises:
        ArcsolveError: ``rows`` are of other puzzles, or a family has not as many.
    """
    made: dict[str, Data] = {}
    for seed, family in product(seeds, families):
        known = {(row["way"], row["split"]) for row in rows if (row["seed"], row["family"]) == (seed, family)}
        if len(known) == len(WAYS) * len(SPLITS):
            continue
        data = made[family] = made.get(family) or Data.of(family, sizes)
        if any(row["data_sha256"] != data.hash for row in rows if row["family"] == family):
            raise ArcsolveError(f"{folder}: made with other puzzles; choose another folder")
        weights = _networks(family, seed, data, sizes, folder, trained=trained, warn=warn, stopped=stopped)
        if weights is None:
            return False
        for row in measure(seed, weights, data, sizes, known):
            rows.append({"seed": seed, "family": family, "data_sha256": data.hash, **row})
            finished(rows[-1])
            if stopped():
                return False
    return True


def _networks(
    family: str,
    seed: int,
    data: Data,
    sizes: Sizes,
    folder: Path,
    *,
    trained: Callable[[str, dict[str, Any]], None],
    warn: Callable[[str], None],
    stopped: Callable[[], bool],
) -> dict[str, Weights] | None:
    """All networks of a family and seed by name, ``None`` where ``stopped``."""
    pack, updates = rivals.pack_of(data.train), sizes.updates[family]
    weights = {}
    for name in rivals.NETWORKS:
        own = folder / f"{family}-{name}-{seed}-{updates}"
        own.mkdir(exist_ok=True)
        report = partial(trained, f"{family}, seed {seed}, {name}")
        made = rivals.train(name, seed, pack, own, updates=updates, report=report, warn=warn, stopped=stopped)
        if made is None:
            return None
        weights[name] = made
    return weights
