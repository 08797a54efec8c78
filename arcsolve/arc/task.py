"""Pairs and tasks as frozen records."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from arcsolve.arc.grid import Grid


@dataclass(frozen=True, eq=False)
class Pair:
    """One input grid and its output, which is ``None`` where it is hidden."""

    input: Grid
    output: Grid | None


@dataclass(frozen=True, eq=False)
class Task:
    """A puzzle: demonstration pairs, whose outputs are always there, and test pairs, whose outputs may be hidden.

    Attributes:
        id: the file's stem, or the key in a combined file.
        train: the demonstrations, at least one.
        test: the test pairs, at least one.
    """

    id: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    @property
    def blind(self) -> Task:
        """The task without its test outputs: what a solver is handed, and what its answers depend on."""
        return Task(self.id, self.train, tuple(Pair(pair.input, None) for pair in self.test))

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over the content of all grids, sizes included; the id takes no part."""
        digest = hashlib.sha256()
        for name, pairs in (("train", self.train), ("test", self.test)):
            for pair in pairs:
                digest.update(name.encode())
                for grid in (pair.input, pair.output):
                    digest.update(b"hidden" if grid is None else bytes(grid.shape) + grid.tobytes())
        return digest.hexdigest()
