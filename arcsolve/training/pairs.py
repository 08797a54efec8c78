"""Pairs resident on the device, and views of them drawn and applied there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcsolve.arc.grid import COLOURS
from arcsolve.canvas import OUTSIDE
from arcsolve.training.pack import Pack
from arcsolve.views import DIHEDRALS


class ViewDraw(NamedTuple):
    """One view for each sample of a batch: dihedral [B] (all or none transposing), colours [B, 10]."""

    dihedral: Tensor
    colours: Tensor


class Batch(NamedTuple):
    """Presentations of one canvas size.

    Attributes:
        cells: integers [B, H, W], the viewed input, 10 outside it.
        target: integers [B, H, W], the viewed output, 10 outside it.
        dihedral: integers [B].
        colours: integers [B, 10].
        task: integers [B], rows of the bank.
        shown: booleans [B, H, W], cells whose target the network may see as a hint; ``None`` for no hints.
        others: integers [B, K, H, W], every output of that size that the pack knows for the same input of the same
            task, the target among them, some of them repeated; ``None`` where no input has several.
        commit: integers [B], the step, numbered from 0, from which on the transitions before it are drawn from the
            posterior; past the last step: never. ``None`` for never.
        turned: integers [B], the symmetry that the output, and not the input, was turned into before the view; 0 for
            the task's own output. ``None`` for that everywhere.
    """

    cells: Tensor
    target: Tensor
    dihedral: Tensor
    colours: Tensor
    task: Tensor
    shown: Tensor | None = None
    others: Tensor | None = None
    commit: Tensor | None = None
    turned: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Bucket:
    """Pairs whose canvas fits ``height`` x ``width``: their numbers and their weights, each [n], on the device."""

    height: int
    width: int
    pairs: Tensor
    weights: Tensor


class PairStore:
    """A pack as tensors on a device; batches are gathered from it without any Python work per presentation."""

    def __init__(self, pack: Pack, device: torch.device) -> None:
        self.device = device
        self.cells = torch.from_numpy(pack.cells.astype(np.int16)).to(device)
        sizes = torch.from_numpy(pack.sizes.astype(np.int64))
        offsets = torch.from_numpy(pack.offsets)
        self.sizes = sizes.to(device)
        self.input_at = offsets.to(device)
        self.output_at = (offsets + sizes[:, 0] * sizes[:, 1]).to(device)
        self.task = torch.from_numpy(pack.task.astype(np.int64)).to(device)
        others = _others(pack)
        self.others = None if others is None else torch.from_numpy(others).to(device)

    def batch(
        self, pairs: Tensor, view: ViewDraw, height: int, width: int, shift: Tensor, turned: Tensor | None = None
    ) -> Batch:
        """Gather pairs in views.

        Args:
            pairs: integers [B].
            height, width: the canvas after the view.
            shift: numbers [B, 2] in 0..1: where in the free rows and columns the grids' corner lies.
            turned: integers [B], symmetries of the outputs alone, before the view; they must still fit the canvas.
        """
        sizes = self.sizes[pairs]
        output = view if turned is None else view._replace(dihedral=_composed(turned, view.dihedral))
        given, wanted = _turned_sizes(sizes[:, :2], view.dihedral), _turned_sizes(sizes[:, 2:], output.dihedral)
        canvas = torch.maximum(given, wanted)
        # By parts, since numbers sent to a GPU would wait for all that it still has to do.
        free = torch.stack([height - canvas[:, 0], width - canvas[:, 1]], dim=1)
        corner = (shift * (free + 1)).long().clamp(max=free)
        where = (corner, height, width)
        others = None
        if self.others is not None:
            among = self.others[pairs]
            count = among.shape[1]
            repeated = (t.repeat_interleave(count, dim=0) for t in (wanted, *output, corner))
            size, dihedral, colours, at = repeated
            flat = self._gather(self.output_at[among.flatten()], size, ViewDraw(dihedral, colours), at, height, width)
            others = flat.view(len(pairs), count, height, width)
        return Batch(
            cells=self._gather(self.input_at[pairs], given, view, *where),
            target=self._gather(self.output_at[pairs], wanted, output, *where),
            dihedral=view.dihedral,
            colours=view.colours,
            task=self.task[pairs],
            others=others,
            turned=turned,
        )

    def draw_turns(self, pairs: Tensor, share: float, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Symmetries for the outputs of pairs, integers [B]: in ``share`` of them one of the seven that change them.

        Where a transposed output would not fit the canvas (before the view), the flips of that symmetry are left.
        """
        device = generator.device
        chosen = torch.rand(len(pairs), generator=generator, device=device) < share
        turned = torch.randint(1, DIHEDRALS, (len(pairs),), generator=generator, device=device) * chosen
        sizes = self.sizes[pairs]
        fits = (sizes[:, 3] <= height) & (sizes[:, 2] <= width)
        return torch.where(fits, turned, turned & 3)

    def _gather(self, at: Tensor, size: Tensor, view: ViewDraw, corner: Tensor, height: int, width: int) -> Tensor:
        """Viewed grids on the canvas, [B, H, W]; the arithmetic mirrors ``View.apply``: transpose, then flip."""
        h, w = size[:, 0, None, None], size[:, 1, None, None]
        r = torch.arange(height, device=self.device)[None, :, None] - corner[:, 0, None, None]
        c = torch.arange(width, device=self.device)[None, None, :] - corner[:, 1, None, None]
        inside = (r >= 0) & (r < h) & (c >= 0) & (c < w)
        dihedral = view.dihedral[:, None, None]
        r = torch.where(dihedral & 1 > 0, h - 1 - r, r)
        c = torch.where(dihedral & 2 > 0, w - 1 - c, c)
        # A stored row is as long as the grid was wide before the view.
        index = torch.where(dihedral >= 4, c * h + r, r * w + c)
        cells = self.cells[(at[:, None, None] + index).where(inside, 0)].long()
        recoloured = view.colours.gather(1, cells.flatten(1)).view_as(cells)
        return torch.where(inside, recoloured, OUTSIDE)


def _turned_sizes(sizes: Tensor, dihedral: Tensor) -> Tensor:
    """Heights and widths [B, 2] of grids in symmetries [B]: a transposition makes them change places."""
    return torch.where((dihedral >= 4)[:, None], sizes.flip(1), sizes)


def _composed(first: Tensor, then: Tensor) -> Tensor:
    """The symmetry, numbered as in :class:`~arcsolve.views.View`, that two after each other come to; integers alike."""
    # A transposition makes of flipped rows flipped columns and the other way round.
    flips = torch.where(then >= 4, (first & 1) << 1 | first >> 1 & 1, first & 3)
    return (first ^ then) & 4 | (then & 3 ^ flips)


def draw_views(count: int, stage: str, transposed: bool, generator: torch.Generator, pool: Tensor) -> ViewDraw:
    """Views for a batch, drawn on the generator's device.

    Args:
        stage: ``identity``, ``dihedral`` (8 symmetries), ``pool`` (and a fixed pool of colour maps), ``all`` (and any
            of the 9! colour maps that keep 0).
        transposed: whether this batch's symmetries transpose; one answer for the batch, so that its canvas is one.
        pool: integers [K, 10], the colour maps of the ``pool`` stage.
    """
    device = generator.device
    if stage == "identity":
        dihedral = torch.zeros(count, dtype=torch.long, device=device)
    else:
        dihedral = torch.randint(4, (count,), generator=generator, device=device) + (4 if transposed else 0)
    if stage in ("identity", "dihedral"):
        colours = torch.arange(COLOURS, device=device).expand(count, COLOURS)
    elif stage == "pool":
        colours = pool[torch.randint(len(pool), (count,), generator=generator, device=device)]
    else:
        colours = random_colours(count, generator)
    return ViewDraw(dihedral, colours)


def random_colours(count: int, generator: torch.Generator) -> Tensor:
    """Permutations of the ten colours that keep 0, integers [count, 10]."""
    keys = torch.rand(count, COLOURS - 1, generator=generator, device=generator.device)
    zero = torch.zeros(count, 1, dtype=torch.long, device=generator.device)
    return torch.cat([zero, keys.argsort(dim=1) + 1], dim=1)


def _others(pack: Pack) -> NDArray[np.int64] | None:
    """For each pair one of each output, of its size, that its task has for its input, itself first: integers [N, K].

    Rows are filled up with the pair itself. ``None`` where no input comes with several outputs.
    """
    groups: dict[tuple[int, bytes, bytes], dict[bytes, int]] = {}
    keys = []
    for i, (height, width, rows, columns) in enumerate(pack.sizes.astype(int)):
        at, middle = int(pack.offsets[i]), int(pack.offsets[i]) + height * width
        output = pack.cells[middle : middle + rows * columns].tobytes()
        key = (int(pack.task[i]), pack.sizes[i].tobytes(), pack.cells[at:middle].tobytes())
        groups.setdefault(key, {}).setdefault(output, i)
        keys.append((key, output))
    most = max(map(len, groups.values()), default=1)
    if most == 1:
        return None
    others = np.repeat(np.arange(len(pack))[:, None], most, axis=1)
    for i, (key, own) in enumerate(keys):
        different = [j for output, j in groups[key].items() if output != own]
        others[i, 1 : 1 + len(different)] = different
    return others


class BatchSampler:
    """Draws batches: a bucket of canvas sizes, pairs in it by weight, and a view of each.

    Args:
        store: the pairs.
        pack: where they came from.
        sides: the sides that canvases are rounded up to, ascending.
        square: whether canvases are squares: fewer sizes to compile, more empty cells.
        tokens: cells and prefix of one batch together, the most that it may hold.
        most: presentations in one batch at the most.
        prefix: tokens before the cells.
        generated_share: share of presentations drawn from generated pairs.
        margin: share of batches on a canvas one size larger, so that a margin says nothing about the output.
        hint_share: share of presentations that show a random part of the output (DIS, 2511.16886).
        turned_share: share of presentations whose output alone is turned.
        multiple: what the presentations in a batch must be a multiple of: processes that share it.
    """

    def __init__(
        self,
        store: PairStore,
        pack: Pack,
        sides: tuple[int, ...],
        *,
        tokens: int,
        most: int,
        prefix: int,
        generated_share: float,
        margin: float,
        square: bool = False,
        hint_share: float = 0.0,
        turned_share: float = 0.0,
        multiple: int = 1,
    ) -> None:
        self.store = store
        self.sides = sides
        self.margin = margin
        self.hint_share = hint_share
        self.turned_share = turned_share
        self.multiple = multiple
        self.prefix = prefix
        self.tokens = tokens
        self.most = most
        canvas = np.maximum(pack.sizes[:, :2], pack.sizes[:, 2:]).astype(np.int64)
        steps = np.searchsorted(np.array(sides), canvas)
        if square:
            steps = np.repeat(steps.max(axis=1, keepdims=True), 2, axis=1)
        weights = _pair_weights(pack.generated, canvas.prod(axis=1), generated_share)
        self.buckets = []
        for bh, bw in np.unique(steps, axis=0):
            members = np.flatnonzero((steps == (bh, bw)).all(axis=1))
            self.buckets.append(
                Bucket(
                    sides[bh],
                    sides[bw],
                    torch.from_numpy(members).to(store.device),
                    torch.from_numpy(weights[members]).float().to(store.device),
                )
            )
        # Small canvases come in larger batches, so they must come less often for every pair to get its share.
        shares = [float(b.weights.sum()) / self.size(b.height, b.width) for b in self.buckets]
        self.shares = torch.tensor(shares, dtype=torch.float64)

    def size(self, height: int, width: int) -> int:
        """Presentations in a batch of this canvas."""
        count = min(self.most, self.tokens // (height * width + self.prefix))
        return max(1, count // self.multiple) * self.multiple

    def draw(self, stage: str, generator: torch.Generator, host: torch.Generator, pool: Tensor) -> Batch:
        """One batch; ``generator`` lives on the device, ``host`` on the CPU (it draws what decides a shape)."""
        bucket = self.buckets[int(torch.multinomial(self.shares, 1, generator=host))]
        grow, transposed = (torch.rand(2, generator=host) < torch.tensor([self.margin, 0.5])).tolist()
        return self._fill(bucket, grow, transposed and stage != "identity", stage, generator, pool)

    def canvases(self) -> set[tuple[int, int]]:
        """The canvas sizes (height, width) that batches come in."""
        return {canvas for canvas, *_ in self._kinds()}

    def each_canvas(self, generator: torch.Generator, pool: Tensor) -> Iterator[Batch]:
        """One batch of every canvas size, in views of the last stage: for compiling them all before a measurement."""
        seen: set[tuple[int, int]] = set()
        for canvas, bucket, grow, transposed in self._kinds():
            if canvas not in seen:
                seen.add(canvas)
                yield self._fill(bucket, grow, transposed, "all", generator, pool)

    def _kinds(self) -> Iterator[tuple[tuple[int, int], Bucket, bool, bool]]:
        growing = (False, True) if self.margin else (False,)
        for bucket, grow, transposed in product(self.buckets, growing, (False, True)):
            height, width = self._canvas(bucket, grow)
            yield (width, height) if transposed else (height, width), bucket, grow, transposed

    def _canvas(self, bucket: Bucket, grow: bool) -> tuple[int, int]:
        if grow:
            return self._larger(bucket.height), self._larger(bucket.width)
        return bucket.height, bucket.width

    def _fill(
        self, bucket: Bucket, grow: bool, transposed: bool, stage: str, generator: torch.Generator, pool: Tensor
    ) -> Batch:
        height, width = canvas = self._canvas(bucket, grow)
        # Of the canvas as it is drawn, so that a canvas always comes in one batch size, for which there is one graph.
        count = self.size(height, width)
        if transposed:
            height, width = width, height
        chosen = torch.multinomial(bucket.weights, count, replacement=True, generator=generator)
        view = draw_views(count, stage, transposed, generator, pool)
        shift = torch.rand(count, 2, generator=generator, device=self.store.device)
        pairs = bucket.pairs[chosen]
        turned = self.store.draw_turns(pairs, self.turned_share, *canvas, generator) if self.turned_share else None
        batch = self.store.batch(pairs, view, height, width, shift, turned)
        return batch._replace(shown=_draw_hints(batch, self.hint_share, generator)) if self.hint_share else batch

    def _larger(self, side: int) -> int:
        return self.sides[min(self.sides.index(side) + 1, len(self.sides) - 1)]


def _draw_hints(batch: Batch, share: float, generator: torch.Generator) -> Tensor:
    """Cells to show, booleans [B, H, W]: in ``share`` of the samples, a random part of the canvas."""
    part, chosen = torch.rand(2, len(batch.cells), 1, 1, generator=generator, device=generator.device)
    cells = torch.rand(batch.cells.shape, generator=generator, device=generator.device)
    shown: Tensor = (cells < part) & (chosen < share)
    return shown


def _pair_weights(generated: NDArray[np.bool_], cells: NDArray[np.int64], share: float) -> NDArray[np.float64]:
    """Weights [N]: official pairs alike; generated ones by 1 / cells, since smaller ones teach as much for less."""
    weights = np.where(generated, 1.0 / cells, 1.0)
    for mask, part in ((generated, share), (~generated, 1 - share)):
        if mask.any() and not mask.all():
            weights[mask] *= part / weights[mask].sum()
    return weights
