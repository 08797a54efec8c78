"""Recorded forward and backward passes: the same as if each batch had run on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from arcsolve.network.config import NetworkConfig
from arcsolve.training.graphs import Graphs
from arcsolve.training.objective import Losses
from arcsolve.training.pack import Pack
from arcsolve.training.presets import PRESETS, TrainConfig
from arcsolve.training.trainer import Trainer

CONFIG = replace(
    PRESETS["tiny"],
    network=NetworkConfig(width=16, heads=2, hidden=32, latents=2, inner_steps=1, steps=2, halting=True),
    sides=(4, 6),
    margin=0.5,
    graphs=True,
)


def trained(config: TrainConfig, pack: Pack, device: str, record: Callable[..., Graphs] | None = None) -> Trainer:
    trainer = Trainer(config, pack, torch.device(device))
    if record is not None:
        trainer.graphs = record(trainer)
    for number in range(24):
        trainer.update(number / 24)
    return trainer


def test_recorded_batches_teach_the_same(pack_file: Path) -> None:
    """Of several canvases, and over a change of depth. A stand-in for the GPU does the recorded work anew."""
    recorded: list[tuple[torch.Size, tuple[int, int]]] = []

    def stand_in(trainer: Trainer) -> Graphs:
        def record(work: Callable[[], Losses]) -> Callable[[], Losses]:
            recorded.append((trainer.graphs.met.copy(), trainer.depth))  # type: ignore[union-attr, arg-type]
            return work

        return Graphs(trainer._run, trainer.tensors().values(), record)

    pack = Pack.load(pack_file)
    alone, together = trained(CONFIG, pack, "cpu"), trained(CONFIG, pack, "cpu", stand_in)
    assert {depth for _, depth in recorded} == {(1, 1), (1, 2)} and len(recorded) >= 4
    for name, tensor in alone.tensors().items():
        assert torch.equal(tensor, together.tensors()[name]), name
    assert alone.counters.presentations == together.counters.presentations


def test_gradients_stay_where_a_recording_reads_them(pack_file: Path) -> None:
    trainer = Trainer(CONFIG, Pack.load(pack_file), torch.device("cpu"))
    trainer.graphs = Graphs(trainer._run, trainer.tensors().values(), lambda work: work)
    trainer.update(0.0)
    places = [p.grad.data_ptr() for p in trainer.tensors().values() if p.grad is not None]
    for number in range(8):
        trainer.update(number / 8)
    assert places == [p.grad.data_ptr() for p in trainer.tensors().values() if p.grad is not None]


def test_what_cannot_be_repeated_is_not_recorded() -> None:
    assert CONFIG.repeatable and not replace(CONFIG, graphs=False).repeatable
    for network in ({"random_start": True}, {"noise": 0.1}, {"noise_width": 4}):
        assert not replace(CONFIG, network=replace(CONFIG.network, **network)).repeatable
    assert not replace(CONFIG, update_each_step=True).repeatable


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_replays_what_it_would_have_run(pack_file: Path) -> None:
    pack = Pack.load(pack_file)
    replayed = trained(CONFIG, pack, "cuda")
    assert replayed.graphs is not None and replayed.graphs.recorded
    alone = trained(replace(CONFIG, graphs=False), pack, "cuda").tensors()
    for name, tensor in replayed.tensors().items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-3)
