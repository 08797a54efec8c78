"""The content guard: grids are compared, up to the 8 symmetries and a permutation of the colours, not only ids."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from arcsolve.arc.dataset import OFFICIAL, load_tasks
from arcsolve.arc.grid import COLOURS, Grid
from arcsolve.arc.task import Pair, Task
from arcsolve.views import DIHEDRALS, turn

Fingerprint = bytes


def split(name: str) -> tuple[str, ...]:
    """The task ids of a split shipped with the package: ``pretrain`` or ``meta_dev``."""
    return tuple((files("arcsolve.training") / "splits" / f"{name}.txt").read_text().split())


def fingerprint(input_grid: Grid, output_grid: Grid) -> Fingerprint:
    """A 16-byte hash that all 8 symmetries and all recolourings of a pair share."""
    smallest = min(_relabelled(turn(input_grid, k), turn(output_grid, k)) for k in range(DIHEDRALS))
    mark: bytes = hashlib.blake2b(smallest, digest_size=16).digest()
    return mark


def _relabelled(input_grid: Grid, output_grid: Grid) -> bytes:
    """Sizes and cells, colours renamed in the order in which they first appear."""
    cells = np.concatenate([input_grid.ravel(), output_grid.ravel()])
    # Where each colour first appears (absent ones last): its rank there is its new name.
    first = np.full(COLOURS, cells.size, dtype=np.int64)
    first[cells[::-1]] = np.arange(cells.size - 1, -1, -1)
    names = np.empty(COLOURS, dtype=np.uint8)
    names[np.argsort(first, kind="stable")] = np.arange(COLOURS)
    renamed: bytes = names[cells].tobytes()
    return bytes(input_grid.shape + output_grid.shape) + renamed


def fingerprints(pairs: Iterable[Pair]) -> set[Fingerprint]:
    """Fingerprints of those pairs whose output is known."""
    return {fingerprint(pair.input, pair.output) for pair in pairs if pair.output is not None}


@dataclass(frozen=True)
class Guard:
    """What training must not see.

    Attributes:
        held_out: fingerprints of every pair of the evaluation sets and of the meta-dev tasks. A task that shares even
            one pair with them is refused whole, its generated pairs included.
        tests: fingerprints of the test pairs of the other sets. Only the pair itself is refused.
        ids: ids of the held-out tasks and of their twins by content, for sources such as RE-ARC whose pairs are new but
            whose task is not.
        demonstrated: those of ``ids`` whose official demonstrations may be trained on (transductive training).
            Generated pairs of them stay refused: a generator knows the rule.
    """

    held_out: frozenset[Fingerprint]
    tests: frozenset[Fingerprint]
    ids: frozenset[str]
    demonstrated: frozenset[str] = frozenset()

    @classmethod
    def official(cls, transductive: Collection[str] = ()) -> Guard:
        """The guard over ARC-1 and ARC-2: both evaluation sets, ``splits/meta_dev.txt``, and all training tests.

        Args:
            transductive: names of evaluation sets whose demonstrations may be trained on, though never their test
                pairs. Tasks that also stand in an evaluation set not named here stay refused.
        """
        meta_dev = set(split("meta_dev"))
        held_out: set[Fingerprint] = set()
        tests: set[Fingerprint] = set()
        shown: set[Fingerprint] = set()
        tasks: list[tuple[str, set[Fingerprint]]] = []
        for name in OFFICIAL:
            for task in load_tasks(name):
                marks = fingerprints(task.train + task.test)
                if task.id in meta_dev or (name.endswith("/evaluation") and name not in transductive):
                    held_out |= marks
                else:
                    tests |= fingerprints(task.test)
                    if name in transductive:
                        shown |= marks
                tasks.append((task.id, marks))
        # A twin of a held-out task under another id: its generated pairs share nothing with anyone but teach the rule.
        ids = {task_id for task_id, marks in tasks if not held_out.isdisjoint(marks)}
        demonstrated = {task_id for task_id, marks in tasks if not shown.isdisjoint(marks)} - ids
        return cls(frozenset(held_out), frozenset(tests), frozenset(ids | demonstrated), frozenset(demonstrated))

    def refuses_task(self, task: Task) -> bool:
        """Whether the task is a held-out one or its twin, by id or by the content of any of its pairs."""
        marks = fingerprints(task.train + task.test)
        return self.refuses_source(task.id, generated=False) or not self.held_out.isdisjoint(marks)

    def refuses_source(self, task_id: str, generated: bool) -> bool:
        """Whether pairs of a task of this id must not be trained on, official or generated ones."""
        return task_id in (self.ids if generated else self.ids - self.demonstrated)

    def refuses_pair(self, mark: Fingerprint) -> bool:
        """Whether a pair with this fingerprint must not be trained on."""
        return mark in self.held_out or mark in self.tests
