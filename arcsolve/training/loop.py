"""The training loop: draws batches, updates, averages, logs, checkpoints and stops when the budget is spent."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcsolve.errors import ArcsolveError
from arcsolve.files import replace_file
from arcsolve.network.recursion import RecursiveNetwork, TaskLatents
from arcsolve.network.weights import BANK, NETWORK, Weights, save_weights
from arcsolve.training.guard import fingerprint
from arcsolve.training.objective import objective
from arcsolve.training.optimizer import Average, optimizers, set_rate
from arcsolve.training.pack import Pack
from arcsolve.training.pairs import BatchSampler, PairStore, random_colours
from arcsolve.training.presets import TrainConfig

_STATE = frozenset("config pack counters depth network bank average optimizers host generator pool".split())


@dataclass(frozen=True)
class Budget:
    """When to stop; whichever is spent first. The schedules follow the share that is spent."""

    updates: int | None = None
    presentations: int | None = None
    seconds: float | None = None

    def spent(self, counters: Counters) -> float:
        """The share spent, 0 and up."""
        limits = (
            (self.updates, counters.updates),
            (self.presentations, counters.presentations),
            (self.seconds, counters.seconds),
        )
        return max((count / limit for limit, count in limits if limit), default=0.0)


@dataclass
class Counters:
    """What the run has done so far."""

    updates: int = 0
    presentations: int = 0
    supervision_steps: int = 0
    seconds: float = 0.0
    flop: float = 0.0


@dataclass
class Window:
    """Running figures since the last line of the log."""

    nats: Tensor | float = 0.0
    exact: Tensor | float = 0.0
    presentations: int = 0
    started: float = field(default_factory=time.monotonic)


class Trainer:
    """One run: a network, its bank of task latents and everything needed to go on exactly where it stopped.

    Args:
        config: the run's settings.
        pack: training pairs; those with a side over ``config.max_side`` are left out.
        device: where to train.
        initial: weights to start from; rows of tasks that they know are kept, the others start at the bank's mean.

    Raises:
        ArcsolveError: no pair fits, or ``initial`` has other sizes.
    """

    def __init__(self, config: TrainConfig, pack: Pack, device: torch.device, initial: Weights | None = None) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.pack = pack.select(pack.sizes.max(axis=1) <= config.max_side)
        if not len(self.pack):
            raise ArcsolveError(f"no pair of the pack has all sides within {config.max_side}")
        self.device = device
        network = RecursiveNetwork(config.network)
        bank = TaskLatents(len(self.pack.ids), config.network)
        self.initial = initial
        official = (self.pack.pair(i) for i in range(len(self.pack)) if not self.pack.generated[i])
        self.seen = frozenset(fingerprint(*pair) for pair in official) | (initial.seen if initial else frozenset())
        if initial is not None:
            _start_from(network, bank, self.pack.ids, initial)
        self.network, self.bank = network.to(device), bank.to(device)
        self.optimizers = optimizers(self.network, self.bank, config)
        self.average = Average(self._tensors(), config.ema)
        # Two generators: shapes are decided on the CPU, so that the device is never waited for.
        self.host = torch.Generator().manual_seed(config.seed)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.pool = random_colours(16, self.generator)
        self.sampler = BatchSampler(
            PairStore(self.pack, device),
            self.pack,
            config.sides,
            tokens=config.tokens,
            most=config.most,
            prefix=config.network.prefix,
            generated_share=config.generated_share,
            margin=config.margin,
        )
        self.counters = Counters()
        self.depth = config.depth_at(0.0)
        if config.compile:
            for block in self.network.blocks:
                block.compile()

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {NETWORK + n: p for n, p in self.network.named_parameters()}
        return tensors | {BANK: self.bank.rows}

    def update(self, progress: float) -> tuple[Tensor, Tensor]:
        """One optimizer update; returns the batch's last-step loss [B] in nats a cell and whether it was exact [B]."""
        config = self.config
        inner, steps = self.depth = config.depth_at(progress)
        batch = self.sampler.draw(config.stage(progress), self.generator, self.host, self.pool)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            losses = objective(
                self.network,
                self.bank(batch.task),
                batch,
                steps=steps,
                inner_steps=inner,
                generator=self.generator,
            )
        losses.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self._tensors().values()), config.clip)
        set_rate(self.optimizers, config.rate(progress))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self._tensors(), self.counters.updates)
        count, height, width = batch.cells.shape
        self.counters.updates += 1
        self.counters.presentations += count
        self.counters.supervision_steps += count * steps
        self.counters.flop += 3 * count * steps * config.network.step_flop(height * width, inner)
        return losses.nats, losses.exact

    def run(
        self,
        budget: Budget,
        *,
        folder: Path | None = None,
        every: float = 300.0,
        log_updates: int = 100,
        report: Callable[[dict[str, Any]], None] = lambda row: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train until the budget is spent or ``stopped`` says so.

        Args:
            folder: where checkpoints, weights and the log go; ``None`` to keep nothing.
            every: seconds between checkpoints.
            log_updates: updates between lines of the log.
            report: called with every line of the log.
            stopped: asked after every update.

        Raises:
            ArcsolveError: the loss is no longer a number.
        """
        window, saved = Window(), time.monotonic()
        base, began = self.counters.seconds, time.monotonic()
        while (progress := budget.spent(self.counters)) < 1 and not stopped():
            nats, exact = self.update(progress)
            self.counters.seconds = base + time.monotonic() - began
            # Sums stay on the device until a line is due: reading them would make the host wait for it.
            window.nats += nats.sum()
            window.exact += exact.sum()
            window.presentations += len(nats)
            if self.counters.updates % log_updates == 0:
                row = self._row(window, progress)
                if not math.isfinite(row["nats"]):
                    raise ArcsolveError(f"the loss is {row['nats']} by update {row['update']}; lower the rates")
                if folder is not None:
                    with (folder / "log.jsonl").open("a") as log:
                        log.write(json.dumps(row) + "\n")
                report(row)
                window = Window()
            if folder is not None and time.monotonic() - saved > every:
                self.save(folder)
                saved = time.monotonic()
        if folder is not None:
            self.save(folder)

    def _row(self, window: Window, progress: float) -> dict[str, Any]:
        inner, steps = self.config.depth_at(progress)
        return {
            "update": self.counters.updates,
            "presentations": self.counters.presentations,
            "seconds": round(self.counters.seconds, 1),
            "progress": round(progress, 4),
            "nats": round(float(window.nats) / window.presentations, 5),
            "exact": round(float(window.exact) / window.presentations, 4),
            "per_second": round(window.presentations / (time.monotonic() - window.started), 1),
            "views": self.config.stage(progress),
            "inner_steps": inner,
            "steps": steps,
        }

    def save(self, folder: Path) -> None:
        """Checkpoint: ``state.pt`` to go on exactly, ``weights.safetensors`` (averaged) to use; both by a rename."""
        state = {
            "config": json.dumps(self.config.to_json()),
            "pack": self.pack.hash,
            "counters": asdict(self.counters),
            "depth": self.depth,
            "network": self.network.state_dict(),
            "bank": self.bank.state_dict(),
            "average": self.average.tensors,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "host": self.host.get_state(),
            "generator": self.generator.get_state(),
            "pool": self.pool,
        }
        temporary = folder / "state.pt.part"
        torch.save(state, temporary)
        temporary.replace(folder / "state.pt")
        self.save_weights(folder / "weights.safetensors")

    def load(self, folder: Path) -> None:
        """Go on exactly from :meth:`save`; lines of the log that were written after it are dropped.

        Raises:
            ArcsolveError: the checkpoint is unreadable, or belongs to other settings or data.
        """
        path = folder / "state.pt"
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # torch raises half a dozen kinds for a damaged file
            raise ArcsolveError(f"{path}: not a checkpoint, or cut short ({type(error).__name__})") from error
        if missing := sorted(_STATE - state.keys()):
            raise ArcsolveError(f"{path}: lacks {missing[0]!r}; was it made by another version?")
        if state["config"] != json.dumps(self.config.to_json()):
            raise ArcsolveError(f"{path}: made with other settings; use a new folder, or the same preset and options")
        if state["pack"] != self.pack.hash:
            raise ArcsolveError(f"{path}: made with another data pack")
        self.counters = Counters(**state["counters"])
        self.depth = state["depth"]
        self.network.load_state_dict(state["network"])
        self.bank.load_state_dict(state["bank"])
        self.average.tensors = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.host.set_state(state["host"].cpu())
        self.generator.set_state(state["generator"].cpu())
        self.pool = state["pool"]
        log = folder / "log.jsonl"
        if log.exists():
            # A kill may have cut the last line short.
            lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            kept = [line for line in lines if json.loads(line)["update"] <= self.counters.updates]
            replace_file(log, "".join(kept))

    def save_weights(self, path: Path) -> None:
        """Write the averaged weights with their provenance."""
        arrays = {name: tensor.float().cpu().numpy() for name, tensor in self.average.tensors.items()}
        bank = arrays.pop(BANK)
        network = {name.removeprefix(NETWORK): array for name, array in arrays.items()}
        network |= {name: buffer.cpu().numpy() for name, buffer in self.network.named_buffers()}
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
                "protocol": "per-task",
                "data_sha256": self.pack.hash,
                "device": str(self.device),
                "config": self.config.to_json(),
                **asdict(self.counters),
                "initial": {"sha256": initial.sha256, "training": initial.training} if initial else None,
            },
        )


def _start_from(network: RecursiveNetwork, bank: TaskLatents, ids: tuple[str, ...], initial: Weights) -> None:
    """Copy weights into a new network and bank; buffers too, since the network has learned around them."""
    if initial.bank.shape[1:] != bank.rows.shape[1:]:
        raise ArcsolveError(f"{initial.path}: these weights have other sizes than this run's network")
    try:
        network.load_state_dict({name: torch.from_numpy(array) for name, array in initial.network.items()})
    except RuntimeError as error:
        raise ArcsolveError(f"{initial.path}: these weights have other sizes than this run's network") from error
    known = {task: row for row, task in enumerate(initial.tasks)}
    rows = torch.from_numpy(initial.bank)
    with torch.no_grad():
        for index, task in enumerate(ids):
            bank.rows[index] = rows[known[task]] if task in known else rows.mean(0)
