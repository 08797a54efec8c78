"""The trainer: a network, its bank and optimizers; draws a batch, learns from it, averages, keeps count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arcsolve.arc.grid import COLOURS
from arcsolve.errors import ArcsolveError
from arcsolve.network.block import Block
from arcsolve.network.device import can_compile, has_bf16
from arcsolve.network.recursion import RecursiveNetwork, State, TaskLatents, starts_absent
from arcsolve.network.weights import BANK, NETWORK, Weights, save_weights
from arcsolve.network.widen import widen
from arcsolve.training.beta import UNPAID, Beta
from arcsolve.training.distributed import World
from arcsolve.training.graphs import CudaRecorder, Graphs
from arcsolve.training.guard import fingerprint
from arcsolve.training.objective import Losses, Objective, normal_from
from arcsolve.training.optimizer import Average, optimizers, set_rate
from arcsolve.training.pack import Pack
from arcsolve.training.pairs import Batch, BatchSampler, PairStore, random_colours
from arcsolve.training.presets import TrainConfig

COMPILATIONS = 128
"""Of the blocks, in one process and over all networks; past its own limit of 8, torch would quietly compile no more."""


@dataclass
class Counters:
    """What the run has done so far."""

    updates: int = 0
    presentations: int = 0
    supervision_steps: int = 0
    seconds: float = 0.0
    flop: float = 0.0


class Learned(NamedTuple):
    """Of an update's presentations in this process: last-step loss [B] in nats a cell, and whether exact [B].

    ``kl`` [B] is that of learned noise in nats, over all steps.
    """

    nats: Tensor
    exact: Tensor
    kl: Tensor


class Trainer:
    """One run: a network, its bank of task latents and everything needed to go on exactly where it stopped.

    Args:
        config: the run's settings.
        pack: training pairs; those with a side over ``config.max_side`` are left out.
        device: where to train.
        initial: weights to start from, widened where the network is a multiple of theirs; rows of tasks that they know
            are kept, the others start at the bank's mean.
        world: the processes that train together.

    Raises:
        ArcsolveError: no pair fits, or ``initial`` has other sizes.
    """

    def __init__(
        self,
        config: TrainConfig,
        pack: Pack,
        device: torch.device,
        initial: Weights | None = None,
        world: World | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.world = world or World()
        self.pack = pack.select(pack.sizes.max(axis=1) <= config.max_side)
        if not len(self.pack):
            raise ArcsolveError(f"no pair of the pack has all sides within {config.max_side}")
        self.initial = initial
        official = (self.pack.pair(i) for i in range(len(self.pack)) if not self.pack.generated[i])
        self.seen = frozenset(fingerprint(*pair) for pair in official) | (initial.seen if initial else frozenset())
        network, bank = RecursiveNetwork(config.network), self._bank()
        if initial is not None:
            start_from(network, bank, self.pack.ids, initial)
        self.network, self.bank = network.to(device), bank.to(device)
        self.optimizers = optimizers(self.network, self.bank, config)
        self.average = Average(self.tensors(), config.ema)
        # Two generators: shapes are decided on the CPU, so that the device is never waited for.
        self.host = torch.Generator().manual_seed(config.seed)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.pool = random_colours(config.pool, self.generator)
        self.pool[0] = torch.arange(COLOURS, device=device)  # the colours as given, in which tasks are solved
        self.sampler = BatchSampler(
            PairStore(self.pack, device),
            self.pack,
            config.sides,
            tokens=config.tokens,
            most=config.most,
            prefix=config.network.prefix,
            generated_share=config.generated_share,
            margin=config.margin,
            square=config.square,
            hint_share=config.hint_share,
            turned_share=config.turned_share if config.network.turns else 0.0,  # nobody could know of it
            multiple=self.world.size,
        )
        self.counters = Counters()
        self.slowed = 1.0  # factor on the rates after rollbacks
        self.depth = config.depth_at(0.0)
        self.nearest = self.alone = False
        self.beta = Beta(_beta_of(initial, config))
        # What the next line of the log is to steer it by: presentations from the posterior, right ones of them, the
        # same from the prior, and the sum of the KL. A checkpoint keeps them, since a run may stop between two lines.
        self.tally = torch.zeros(5, device=device)
        self.bf16 = config.bf16 and has_bf16(device)
        self.compiled = config.compile and can_compile(device)
        if self.compiled:
            torch._dynamo.config.recompile_limit = COMPILATIONS
            # Once for all canvases: each of its own would take minutes on a CPU, and most of a short lease on a GPU.
            self.network.any_canvas = True
            blocks = [module for module in self.network.modules() if isinstance(module, Block)]
            if config.kernels and device.type == "cuda":
                from arcsolve.network.neighbours_kernel import add_neighbours  # triton is only where there is a GPU

                for block in blocks:
                    block.mlp.add = add_neighbours
            for block in blocks:
                block.compile(dynamic=True)
        self.objective: nn.Module = self.world.wrap(
            Objective(self.network, self.bank, noise=config.latent_noise, kl=config.latent_kl),
            config.network.halting and not config.network.noise_width,
        )

        self.graphs: Graphs | None = None
        if config.repeatable and device.type == "cuda" and self.world.size == 1:
            self.graphs = Graphs(self._run, self.tensors().values(), CudaRecorder())

    def _bank(self) -> TaskLatents:
        return TaskLatents(len(self.pack.ids), self.config.network)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is trained, by its name in a weights file."""
        tensors: dict[str, Tensor] = {NETWORK + n: p for n, p in self.network.named_parameters()}
        return tensors | {BANK: self.bank.rows}

    @property
    def protocol(self) -> str:
        """What these pairs make of the weights, or what the weights that it started from were already."""
        before = self.initial.protocol if self.initial else "per-task"
        made = (self.config.protocol, self.pack.protocol, before)
        return next((protocol for protocol in made if protocol != "per-task"), "per-task")

    def update(self, progress: float) -> Learned:
        """Learn from one batch: one optimizer update, or one after each supervision step where so configured."""
        before = self.counters.updates
        batch = self.draw(progress)
        kl = torch.zeros(len(batch.cells), device=self.device)
        for losses in self.learn(batch):
            self.apply(progress)
            kl = kl + losses.kl
        learned = Learned(losses.nats, losses.exact, kl)
        if batch.commit is not None and self.depth[1] > 1:  # with one step there is no transition
            guided, right = batch.commit < self.depth[1], losses.exact
            counts = guided, guided & right, ~guided, ~guided & right, kl
            self.tally += torch.stack([count.sum() for count in counts])
        self.count(batch)
        if self.config.resets_at(before, self.counters.updates, progress):
            self.reset_rows()
        return learned

    @torch.no_grad()
    def reset_rows(self) -> None:
        """Start the next tasks in turn anew, at the bank's mean and without what the optimizer knew of them."""
        assert self.config.reset is not None
        every, share = self.config.reset
        rows = self.bank.rows
        count = max(1, round(share * len(rows)))
        first = count * (self.counters.updates // every - 1)
        chosen = torch.arange(first, first + count, device=self.device) % len(rows)
        rows[chosen] = rows.mean(0)
        for optimizer in self.optimizers:
            for moment in optimizer.state.get(rows, {}).values():
                if moment.shape == rows.shape:
                    moment[chosen] = 0

    def draw(self, progress: float) -> Batch:
        """This process's share of the next batch."""
        self.depth = self.config.depth_at(progress)
        self.nearest, self.alone = progress >= self.config.nearest_from, progress < self.config.prior_from
        whole = self.sampler.draw(self.config.stage(progress), self.generator, self.host, self.pool)
        if self.config.network.noise_width and progress >= self.config.noise_from:
            whole = whole._replace(commit=self._commit(len(whole.cells)))
        return self.world.share_batch(whole)

    @property
    def kl_weight(self) -> float:
        """What the KL of the batch drawn last weighs."""
        return UNPAID if self.alone else self.beta.value

    def _commit(self, count: int) -> Tensor:
        """The transition from which each of ``count`` presentations follows the posterior; one too many for never."""
        # The posterior learns to speak from many presentations, what the prior leads to is settled by many others.
        share = 0.0 if self.alone else self.config.prior_share * (2 if self.nearest else 1)
        never = torch.rand(count, generator=self.generator, device=self.device) < share
        return torch.where(never, self.depth[1], 0)

    def learn(self, batch: Batch) -> Iterator[Losses]:
        """Forward and backward; the gradients stand at every yield, where they are to be applied."""
        inner, steps = self.depth
        if self.graphs is not None:
            yield self.graphs(batch, steps, inner)
            return
        rounds, each = (steps, 1) if self.config.update_each_step else (1, steps)
        state: State | None = None
        how = {"beta": self.kl_weight, "still": batch.commit is None, "nearest": self.nearest}
        for first in range(rounds):
            losses = self._run(batch, each, inner, state=state, first=first, **how)
            yield losses
            state = losses.state

    def _run(self, batch: Batch, steps: int, inner_steps: int, **how: Any) -> Losses:
        normal = self.world.share_normal(normal_from(self.generator, self.device))
        precision = torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with precision:
            losses: Losses = self.objective(batch, steps, inner_steps, normal, **how)
        losses.total.backward()  # type: ignore[no-untyped-call]
        return losses

    def apply(self, progress: float) -> None:
        """One step of every optimizer on the gradients that stand, and of the averaged weights."""
        tensors = self.tensors()
        torch.nn.utils.clip_grad_norm_(list(tensors.values()), self.config.clip)
        set_rate(self.optimizers, self.slowed * self.config.rate(progress))
        for optimizer in self.optimizers:
            optimizer.step()
            if self.graphs is None:  # which keeps gradients in their place, and sets them to zero itself
                optimizer.zero_grad(set_to_none=True)
        self.average.update(tensors, self.counters.updates)
        self.counters.updates += 1

    def count(self, batch: Batch) -> None:
        """Add a batch, as it is over all processes, to the counters."""
        (inner, steps), (count, height, width) = self.depth, batch.cells.shape
        count *= self.world.size
        self.counters.presentations += count
        self.counters.supervision_steps += count * steps
        flop = steps * self.config.network.step_flop(height * width, inner)
        if batch.commit is not None:  # it guides from one step to the next
            flop += (steps - 1) * self.config.network.posterior_flop(height * width)
        self.counters.flop += 3 * count * flop

    def averaged(self) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Copies of the averaged network, by name as in a weights file, and of the averaged bank's rows."""
        arrays = {name: np.array(tensor.float().cpu()) for name, tensor in self.average.tensors.items()}
        bank = arrays.pop(BANK)
        network = {name.removeprefix(NETWORK): array for name, array in arrays.items()}
        return network | {name: np.array(buffer.cpu()) for name, buffer in self.network.named_buffers()}, bank

    def save_weights(self, path: Path) -> None:
        """Write the averaged weights with their provenance.

        Raises:
            ArcsolveError: the file cannot be written.
        """
        network, bank = self.averaged()
        initial = self.initial
        # Of a run stopped on its depth ramp, the depth that it reached: more steps than trained break the network.
        inner, steps = self.depth
        save_weights(
            path,
            replace(self.config.network, inner_steps=inner, steps=steps),
            self.pack.ids,
            network,
            bank,
            self.seen,
            {
                "protocol": self.protocol,
                "data_sha256": self.pack.hash,
                "device": device_name(self.device),
                "config": self.config.to_json(),
                **asdict(self.counters),
                **({"beta": self.beta.value} if self.config.network.noise_width else {}),
                "initial": {"sha256": initial.sha256, "training": initial.training} if initial else None,
            },
        )


def _beta_of(initial: Weights | None, config: TrainConfig) -> float:
    """The KL's weight at first: what weights that have learned noise had come to."""
    known = initial is not None and initial.config.noise_width and initial.training.get("beta")
    return float(known) if known else config.beta


def device_name(device: torch.device) -> str:
    """What a score or a ledger calls the device: ``cpu``, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def start_from(network: RecursiveNetwork, bank: TaskLatents, ids: tuple[str, ...], initial: Weights) -> None:
    """Copy weights into a new network and bank, widened where the network is a multiple of theirs.

    Buffers too, since the network has learned around them.

    Raises:
        ArcsolveError: the sizes do not fit.
    """
    tensors, latents = initial.network, initial.bank
    factor, rest = divmod(network.config.width, initial.config.width)
    if factor > 1 and not rest:
        _, tensors, latents = widen(initial.config, tensors, latents, factor)
    absent = {name: value for name, value in network.state_dict().items() if starts_absent(name)}
    other_sizes = f"{initial.path}: these weights have other sizes than this run's network"
    if latents.shape[1:] != bank.rows.shape[1:]:
        raise ArcsolveError(other_sizes)
    try:
        network.load_state_dict(absent | {name: torch.from_numpy(array) for name, array in tensors.items()})
    except RuntimeError as error:
        raise ArcsolveError(other_sizes) from error
    known = {task: row for row, task in enumerate(initial.tasks)}
    rows = torch.from_numpy(latents)
    with torch.no_grad():
        for index, task in enumerate(ids):
            bank.rows[index] = rows[known[task]] if task in known else rows.mean(0)
