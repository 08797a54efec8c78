"""Forward and backward as CUDA graphs: on a GPU, small batches cost the host more to start than the chip to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from arcsolve.training.objective import Losses
from arcsolve.training.pairs import Batch

Run = Callable[[Batch, int, int], Losses]
"""Forward and backward of a batch with so many supervision steps and inner steps; gradients are added up."""
Recorder = Callable[[Callable[[], Losses]], Callable[[], Losses]]
"""Makes of a function one that repeats its work on the same memory."""


class Graphs:
    """Repeats forward and backward of each canvas and depth on memory of its own.

    The first batch of a kind runs as ever, which also loads what its kernels need, the second is recorded; from then on
    a batch is copied to where the recording reads it and the recording is replayed. What was recorded at another depth
    is forgotten, since the depth only rises.

    Args:
        run: must draw nothing by chance, and never wait for the device.
        parameters: whose gradients stay where they are, and are set to zero before each run.
        record: how to record.
    """

    def __init__(self, run: Run, parameters: Iterable[Tensor], record: Recorder) -> None:
        self.run = run
        self.parameters = list(parameters)
        self.record = record
        self.depth: tuple[int, int] | None = None
        self.met: set[torch.Size] = set()
        self.recorded: dict[torch.Size, tuple[Batch, Callable[[], Losses]]] = {}

    def __call__(self, batch: Batch, steps: int, inner_steps: int) -> Losses:
        """Losses of a batch, valid until the next one; the gradients stand. There is no state to go on from."""
        if self.depth != (steps, inner_steps):
            self.depth = (steps, inner_steps)
            self.met.clear()
            self.recorded.clear()
        kind = batch.cells.shape
        if kind not in self.met:
            self.met.add(kind)
            return self._once(batch)
        if kind not in self.recorded:
            own = Batch._make(None if tensor is None else tensor.clone() for tensor in batch)
            self.recorded[kind] = own, self.record(lambda: self._once(own))
        own, replay = self.recorded[kind]
        for to, tensor in zip(own, batch, strict=True):
            if to is not None and tensor is not None:
                to.copy_(tensor)
        return replay()

    def _once(self, batch: Batch) -> Losses:
        assert self.depth is not None
        standing = [p.grad for p in self.parameters if p.grad is not None]
        if standing:
            torch._foreach_zero_(standing)
        losses = self.run(batch, *self.depth)
        # Neither the history nor the state may stay: a recording would keep their memory for good.
        return losses._replace(total=losses.total.detach(), state=None)


class CudaRecorder:
    """Records on a stream of its own; all recordings share one pool of memory, since no two run at once."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Losses]) -> Callable[[], Losses]:
        graph = torch.cuda.CUDAGraph()
        # By hand: the library's context manager empties the allocator's cache each time.
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):
            graph.capture_begin(pool=self.pool)
            try:
                losses = work()
            finally:
                graph.capture_end()

        def replay() -> Losses:
            graph.replay()
            return losses

        return replay
