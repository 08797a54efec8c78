"""The data pack: all training pairs in one file, guarded and hashed."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from arcsolve.arc.dataset import OFFICIAL, load_tasks, read_json
from arcsolve.arc.grid import COLOURS, MAX_SIDE, Grid, as_grid
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.training.guard import Guard, fingerprint

FORMAT = "arcsolve-pack-1"


@dataclass(frozen=True, eq=False)
class Pack:
    """Training pairs, flat.

    Attributes:
        ids: task ids; a pair's ``task`` is an index into them.
        cells: uint8, all cells: pair by pair the input's rows, then the output's.
        offsets: int64 [N], where each pair's cells begin.
        sizes: uint8 [N, 4]: input height and width, output height and width.
        task: int32 [N].
        generated: bool [N]: made by a generator (RE-ARC, synth-rearc), not an official demonstration.
        protocol: ``per-task``, or ``transductive`` where demonstrations of an evaluation set are among the pairs.
    """

    ids: tuple[str, ...]
    cells: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.uint8]
    task: NDArray[np.int32]
    generated: NDArray[np.bool_]
    protocol: str = "per-task"

    def __len__(self) -> int:
        return len(self.task)

    def pair(self, index: int) -> tuple[Grid, Grid]:
        """The input and output grid of one pair."""
        ih, iw, oh, ow = map(int, self.sizes[index])
        start = int(self.offsets[index])
        middle = start + ih * iw
        return self.cells[start:middle].reshape(ih, iw), self.cells[middle : middle + oh * ow].reshape(oh, ow)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the ids, all arrays, and the protocol where it is not the usual one."""
        digest = hashlib.sha256(json.dumps(self.ids).encode())
        if self.protocol != "per-task":
            digest.update(self.protocol.encode())
        for array in (self.cells, self.offsets, self.sizes, self.task, self.generated):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def select(self, keep: NDArray[np.bool_]) -> Pack:
        """The pairs where ``keep`` [N] holds, and only the tasks that still have one; the cells are shared."""
        used, task = np.unique(self.task[keep], return_inverse=True)
        ids = tuple(self.ids[i] for i in used)
        arrays = (self.cells, self.offsets[keep], self.sizes[keep], task.astype(np.int32), self.generated[keep])
        return Pack(ids, *arrays, self.protocol)

    def save(self, path: Path) -> None:
        """Write to ``path``, by a rename, so that a reader never sees half a pack.

        Raises:
            ArcsolveError: the file cannot be written.
        """
        temporary = path.with_name(path.name + ".part")
        tensors = {name: getattr(self, name) for name in ("cells", "offsets", "sizes", "task")}
        tensors["generated"] = self.generated.astype(np.uint8)
        try:
            meta = {"format": FORMAT, "ids": json.dumps(self.ids), "protocol": self.protocol, "hash": self.hash}
            save_file(tensors, temporary, meta)
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise ArcsolveError(f"{path}: cannot be written ({error})") from error

    @classmethod
    def load(cls, path: Path) -> Pack:
        """Read a pack and check its hash.

        Raises:
            FormatError: not a pack, or damaged.
            ArcsolveError: the file cannot be read.
        """
        try:
            # Opened once more by hand, since the library's own error for a missing file repeats the path in its reason.
            with path.open("rb"), safe_open(path, "numpy") as file:
                meta = file.metadata() or {}
                if meta.get("format") != FORMAT:
                    raise FormatError(f"{path}: not a data pack (make one with `arcsolve data pack`)")
                arrays = {name: file.get_tensor(name) for name in ("cells", "offsets", "sizes", "task", "generated")}
        except OSError as error:
            raise ArcsolveError(f"{path}: {error.strerror or error}") from error
        except SafetensorError as error:
            raise FormatError(f"{path}: not a data pack, or cut short ({error})") from error
        arrays["generated"] = arrays["generated"].astype(bool)
        pack = cls(tuple(json.loads(meta["ids"])), **arrays, protocol=meta.get("protocol", "per-task"))
        if pack.hash != meta["hash"]:
            raise FormatError(f"{path}: the content does not match its own hash; the file is damaged")
        return pack


@dataclass(frozen=True, eq=False)
class Source:
    """One task's pairs from one place."""

    task: str
    pairs: Iterable[tuple[Grid, Grid]]
    generated: bool


@dataclass
class PackReport:
    """What packing kept and what the guard refused."""

    kept: int = 0
    repeated: int = 0
    refused_tasks: int = 0
    refused_pairs: int = 0
    not_in_list: int = 0


def build(
    sources: Sequence[str],
    allowed: frozenset[str] | None,
    guard: Guard,
    *,
    per_task: int | None = None,
    max_side: int = 30,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Pack, PackReport]:
    """Collect pairs from sources, in order, dropping what the guard refuses.

    Args:
        sources: names of official sets, or paths: ``.npz`` in the format of generated pairs, a ``<id>.json`` list of
            pairs (RE-ARC's format), or a folder of these.
        allowed: task ids to keep, ``None`` for all that the guard allows.
        per_task: at most this many generated pairs of a task, smallest canvas first.
        max_side: leave out pairs with a longer side.
        progress: called with a line for each source.

    Raises:
        ArcsolveError: a source cannot be read, or nothing is left.
    """
    report = PackReport()
    kept: dict[str, list[tuple[Grid, Grid, bool]]] = {}
    # The same puzzle stands in ARC-1 and ARC-2, often under one id: each pair counts once, whatever its source.
    seen: set[bytes] = set()
    for name in sources:
        before = report.kept
        for source in _read(name, guard, report):
            if allowed is not None and source.task not in allowed:
                report.not_in_list += 1
                continue
            fitting = [p for p in source.pairs if max(p[0].shape + p[1].shape) <= max_side]
            if source.generated and per_task is not None:
                fitting.sort(key=lambda p: max(p[0].shape[0], p[1].shape[0]) * max(p[0].shape[1], p[1].shape[1]))
            taken = 0
            for given, wanted in fitting:
                if source.generated and taken == per_task:
                    break
                mark = fingerprint(given, wanted)
                if guard.refuses_pair(mark):
                    report.refused_pairs += 1
                elif mark in seen:
                    report.repeated += 1
                else:
                    seen.add(mark)
                    kept.setdefault(source.task, []).append((given, wanted, source.generated))
                    taken += 1
            report.kept += taken
        progress(f"{name}: {report.kept - before} pairs")
    if not kept:
        raise ArcsolveError(f"no pair is left to pack from {', '.join(sources)}")
    return flatten(kept), report


def flatten(kept: Mapping[str, Sequence[tuple[Grid, Grid, bool]]]) -> Pack:
    """A pack of pairs by task: (input, output, whether it was generated)."""
    ids = tuple(sorted(kept))
    rows = [(index, *pair) for index, task in enumerate(ids) for pair in kept[task]]
    lengths = np.array([given.size + wanted.size for _, given, wanted, _ in rows], dtype=np.int64)
    return Pack(
        ids=ids,
        cells=np.concatenate([grid.ravel() for _, given, wanted, _ in rows for grid in (given, wanted)]),
        offsets=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        sizes=np.array([given.shape + wanted.shape for _, given, wanted, _ in rows], dtype=np.uint8),
        task=np.array([index for index, *_ in rows], dtype=np.int32),
        generated=np.array([made for *_, made in rows], dtype=bool),
    )


def _read(name: str, guard: Guard, report: PackReport) -> Iterator[Source]:
    """A source's tasks, less those that the guard refuses whole."""
    for source in _official(name, guard, report) if name in OFFICIAL else _path(Path(name)):
        if guard.refuses_source(source.task, source.generated):
            report.refused_tasks += 1
        else:
            yield source


def _official(name: str, guard: Guard, report: PackReport) -> Iterator[Source]:
    for task in load_tasks(name):
        if guard.refuses_task(task):
            report.refused_tasks += 1
        else:
            # Demonstrations only: a training task's test pairs are the development figure.
            yield Source(task.id, [(p.input, p.output) for p in task.train if p.output is not None], generated=False)


def _path(path: Path) -> Iterator[Source]:
    if path.is_dir():
        found = sorted(path.glob("*.npz")) + sorted(path.glob("*.json"))
        if not found:
            raise ArcsolveError(f"{path}: no .npz or .json file in this folder")
        for file in found:
            yield from _path(file)
    elif path.suffix == ".npz":
        yield from _npz(path)
    else:
        yield _pair_list(path)


def _pair_list(path: Path) -> Source:
    """RE-ARC's own format: ``<id>.json`` holds a list of pairs."""
    value = read_json(str(path))
    if not isinstance(value, list):
        raise FormatError(f"{path}: expected a list of pairs; name an official set, or give task files another way")
    pairs = []
    for i, pair in enumerate(value):
        if not isinstance(pair, dict) or not {"input", "output"} <= pair.keys():
            raise FormatError(f"{path}: [{i}]: expected an object with `input` and `output`")
        pairs.append((as_grid(pair["input"], f"{path}: [{i}].input"), as_grid(pair["output"], f"{path}: [{i}].output")))
    return Source(path.stem, pairs, generated=True)


def _npz(path: Path) -> Iterator[Source]:
    """Generated pairs of many tasks: ``ids``, ``task`` [N], ``sizes`` [N, 4], flat ``inputs`` and ``outputs``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, task, sizes, inputs, outputs = (file[k] for k in ("ids", "task", "sizes", "inputs", "outputs"))
    except OSError as error:
        raise ArcsolveError(f"{path}: {error.strerror or error}") from error
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: not an archive of generated pairs ({error})") from error
    if not len(task) or sizes.shape != (len(task), 4) or not (1 <= sizes.min() <= sizes.max() <= MAX_SIDE):
        raise FormatError(f"{path}: sizes: expected four sides of 1 to {MAX_SIDE} for each pair")
    if max(inputs.max(), outputs.max()) >= COLOURS:
        raise FormatError(f"{path}: a cell has a colour over {COLOURS - 1}")
    sides = sizes.astype(np.int64)
    ends = [np.cumsum(sides[:, 2 * k] * sides[:, 2 * k + 1]) for k in (0, 1)]
    if ends[0][-1] != len(inputs) or ends[1][-1] != len(outputs):
        raise FormatError(f"{path}: sizes and cells do not agree")

    def grids(index: int) -> tuple[Grid, Grid]:
        ih, iw, oh, ow = sides[index]
        given = inputs[ends[0][index] - ih * iw : ends[0][index]]
        wanted = outputs[ends[1][index] - oh * ow : ends[1][index]]
        return given.reshape(ih, iw), wanted.reshape(oh, ow)

    for number, task_id in enumerate(ids):
        yield Source(str(task_id), [grids(int(i)) for i in np.flatnonzero(task == number)], generated=True)
