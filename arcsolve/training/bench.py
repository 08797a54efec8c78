"""How fast training is: of a preset and, in the same run and turn by turn, of the Tiny Recursive Model's own step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from arcsolve.training import trm
from arcsolve.training.optimizer import Average
from arcsolve.training.pack import Pack
from arcsolve.training.presets import TrainConfig
from arcsolve.training.trainer import Trainer, device_name

ROUNDS = 3
PROGRESS = 0.95
"""Where on its ramps a preset is measured: all views, full depth."""

PEAK_SHAPES = ((1024, 1024, 1024), (2048, 256, 1536), (2048, 2048, 2048), (4096, 4096, 4096))
TRM_BATCH = {"cpu": 1, "cuda": 64}

Report = Callable[[str], None]


def bench_train(
    preset: str, config: TrainConfig, pack: Pack, device: torch.device, *, seconds: float, report: Report
) -> dict[str, Any]:
    """Measure a preset's training and TRM's, alternating.

    Args:
        pack: training pairs.
        seconds: of measuring each of the two; compiling comes on top.
        report: called with a line for each part.

    Returns:
        ``preset``, ``device``, ``threads``, ``dtype``, ``compiled``, ``data_sha256``; ``presentations_per_s``,
        ``tokens_per_s``, ``supervision_steps_per_s``, ``flop_per_s``; ``peak_flop_per_s``, the fastest of several
        matrix products in this dtype, and ``share_of_peak``; ``share_outside_network``, of an update's time;
        ``trm.supervision_steps_per_s``, ``trm.flop_per_s``, ``trm.share_of_peak``; ``ratio_to_trm``, of the steps per
        second; ``flop_ratio_to_trm``, how many times the arithmetic of our step TRM's takes, which is the part of
        ``ratio_to_trm`` that is owed to size.
    """
    trainer = Trainer(config, pack, device)
    dtype = torch.bfloat16 if trainer.bf16 else torch.float32
    sync = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    report(f"warming up on {len(trainer.sampler.canvases())} canvas sizes")
    for batch in trainer.sampler.each_canvas(trainer.generator, trainer.pool):
        _learn(trainer, batch)
    report("warming up TRM's step")
    model = _TrmTrainer(device, dtype, trainer.compiled)
    for _ in range(2):
        model.update()
    ours: list[tuple[float, float, float, float]] = []
    theirs: list[float] = []
    for number in range(1, ROUNDS + 1):
        ours.append(_throughput(trainer, seconds / ROUNDS, sync))
        theirs.append(_rate(model.update, seconds / ROUNDS, sync) * model.batch)
        report(f"round {number} of {ROUNDS}: {ours[-1][2]:.1f} supervision steps/s, TRM {theirs[-1]:.2f}")
    presentations, tokens, steps, flop = (statistics.median(values) for values in zip(*ours, strict=True))
    trm_steps = statistics.median(theirs)
    outside = _outside(trainer, min(seconds, 20.0), sync)
    peak = matrix_peak(device, dtype)
    trm_flop = trm_steps * model.model.step_flop()
    return {
        "preset": preset,
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "dtype": str(dtype).removeprefix("torch."),
        "compiled": trainer.compiled,
        "data_sha256": trainer.pack.hash,
        "presentations_per_s": presentations,
        "tokens_per_s": tokens,
        "supervision_steps_per_s": steps,
        "flop_per_s": flop,
        "peak_flop_per_s": peak,
        "share_of_peak": flop / peak,
        "share_outside_network": outside,
        "trm.supervision_steps_per_s": trm_steps,
        "trm.flop_per_s": trm_flop,
        "trm.share_of_peak": trm_flop / peak,
        "ratio_to_trm": statistics.median(a[2] / b for a, b in zip(ours, theirs, strict=True)),
        "flop_ratio_to_trm": model.model.step_flop() * steps / flop,
    }


def matrix_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """FLOP/s of the fastest of several matrix products on random numbers."""
    best = 0.0
    sync = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    for rows, inner, columns in (*PEAK_SHAPES, (8192, 8192, 8192)) if device.type == "cuda" else PEAK_SHAPES:
        x, matrix = (torch.randn(n, inner, device=device, dtype=dtype) for n in (rows, columns))
        product = partial(torch.nn.functional.linear, x, matrix)
        product()
        best = max(best, _rate(product, seconds, sync) * 2 * rows * inner * columns)
    return best


class _TrmTrainer:
    """TRM with what it is trained with: AdamW, averaged weights, one update for each supervision step."""

    def __init__(self, device: torch.device, dtype: torch.dtype, compiled: bool) -> None:
        self.batch = TRM_BATCH[device.type]
        self.model = trm.TinyRecursiveModel().to(device)
        if compiled:
            for block in self.model.blocks:
                block.compile(dynamic=False)
        self.precision = nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
        self.average = Average(self._parameters(), 0.999)
        self.cells = torch.randint(trm.TOKEN_KINDS, (self.batch, trm.SIDE**2), device=device)
        self.target = torch.randint(trm.TOKEN_KINDS, (self.batch, trm.SIDE**2), device=device)
        self.carry = self.model.start(self.batch)

    def _parameters(self) -> dict[str, torch.Tensor]:
        return dict(self.model.named_parameters())

    def update(self) -> None:
        """One supervision step and its update."""
        with self.precision:
            self.carry, logits, halting = self.model(self.cells, self.carry)
            total = trm.loss(logits, halting, self.target)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self._parameters(), 1)


def _rate(call: Callable[[], object], seconds: float, sync: Callable[[], None]) -> float:
    """Calls per second; the device's queue is emptied before the clock is read."""
    sync()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call()
        count += 1
        if count % 8 == 0:
            sync()  # or the host would run ahead and queue minutes of work
    sync()
    return count / (time.perf_counter() - began)


def _throughput(trainer: Trainer, seconds: float, sync: Callable[[], None]) -> tuple[float, float, float, float]:
    """Presentations, tokens, supervision steps and FLOP per second."""
    before, tokens = trainer.counters.presentations, 0
    steps, flop = trainer.counters.supervision_steps, trainer.counters.flop

    def update() -> None:
        nonlocal tokens
        batch = trainer.draw(PROGRESS)
        _learn(trainer, batch)
        trainer.count(batch)
        count, height, width = batch.cells.shape
        tokens += count * (height * width + trainer.config.network.prefix)

    began = time.perf_counter()
    _rate(update, seconds, sync)
    spent = time.perf_counter() - began
    counters = trainer.counters
    totals = (counters.presentations - before, tokens, counters.supervision_steps - steps, counters.flop - flop)
    presentations, tokens_per_s, steps_per_s, flop_per_s = (total / spent for total in totals)
    return presentations, tokens_per_s, steps_per_s, flop_per_s


def _learn(trainer: Trainer, batch: Any) -> None:
    trainer.depth = trainer.config.depth_at(PROGRESS)
    for _ in trainer.learn(batch):
        trainer.apply(PROGRESS)


def _outside(trainer: Trainer, seconds: float, sync: Callable[[], None]) -> float:
    """Share of an update's time that is not the network's forward and backward: drawing, optimizers, averages."""
    inside = outside = 0.0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        sync()
        start = time.perf_counter()
        batch = trainer.draw(PROGRESS)
        sync()
        drawn = time.perf_counter()
        outside += drawn - start
        for _ in trainer.learn(batch):
            sync()
            learned = time.perf_counter()
            inside += learned - drawn
            trainer.apply(PROGRESS)
            sync()
            drawn = time.perf_counter()
            outside += drawn - learned
    return outside / (inside + outside)
