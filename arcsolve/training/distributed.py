"""Several processes as one trainer: ``torchrun`` starts them, each takes its share of every batch."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from arcsolve.errors import ArcsolveError
from arcsolve.training.objective import Normal
from arcsolve.training.pairs import Batch


@dataclass(frozen=True)
class World:
    """The processes that train together.

    All draw the same whole batch from the same seed and keep every ``size``-th sample, so a run's losses do not depend
    on how many there are (up to rounding).

    Attributes:
        rank: this process, from 0.
        size: how many.
    """

    rank: int = 0
    size: int = 1

    def share(self, whole: Tensor) -> Tensor:
        """This process's samples of a tensor over the whole batch."""
        return whole[self.rank :: self.size]

    def share_batch(self, whole: Batch) -> Batch:
        """This process's samples of a batch."""
        parts = {name: self.share(tensor) for name, tensor in whole._asdict().items() if tensor is not None}
        return Batch(**parts)

    def share_normal(self, normal: Normal) -> Normal:
        """Draws for the whole batch and keeps this process's samples of it."""
        return lambda shape: self.share(normal((shape[0] * self.size, *shape[1:])))

    def wrap(self, module: nn.Module, all_used: bool) -> nn.Module:
        """The module with its gradients averaged over the processes; ``all_used``: every parameter gets one."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=not all_used)

    def mean(self, values: list[float]) -> list[float]:
        """Means over the processes."""
        if self.size == 1:
            return values
        total = self._tensor(values)
        dist.all_reduce(total)
        return [float(value) / self.size for value in total]

    def agree(self, values: list[float]) -> list[float]:
        """The first process's values: what depends on a clock or a signal must be the same for all."""
        if self.size == 1:
            return values
        first = self._tensor(values)
        dist.broadcast(first, 0)
        return [float(value) for value in first]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.mean([float(flag)])[0] > 0

    def close(self) -> None:
        """Leave the group, once no module that :meth:`wrap` gave is in use any more.

        Gloo's threads that outlive the interpreter make it abort at exit (pytorch issue 190489), and what a wrapped
        module holds on to keeps them alive.
        """
        if self.size > 1:
            gc.collect()
            dist.barrier()
            dist.destroy_process_group()

    @staticmethod
    def _tensor(values: list[float]) -> Tensor:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return torch.tensor(values, dtype=torch.float64, device=device)


def join(device: torch.device) -> tuple[World, torch.device]:
    """The world that ``torchrun`` set up in the environment, and this process's own device in it.

    Raises:
        ArcsolveError: more processes than CUDA devices, or the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World(), device
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ArcsolveError(f"torchrun started process {local}, and there are {torch.cuda.device_count()} devices")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ArcsolveError(f"the processes of torchrun cannot reach each other ({error})") from error
    return World(dist.get_rank(), dist.get_world_size()), device
