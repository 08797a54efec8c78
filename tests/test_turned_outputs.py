"""Outputs turned alone: seven more tasks of each, whose presentations must be what they say they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import little_pack

from arcsolve.arc.grid import Grid
from arcsolve.canvas import OUTSIDE, place
from arcsolve.errors import ArcsolveError
from arcsolve.network.weights import load_weights
from arcsolve.network.widen import widen
from arcsolve.training import checkpoint
from arcsolve.training.pack import flatten
from arcsolve.training.pairs import BatchSampler, PairStore, ViewDraw, random_colours
from arcsolve.training.presets import PRESETS
from arcsolve.training.trainer import Trainer
from arcsolve.views import View, turn

CPU = torch.device("cpu")
TURNED = replace(PRESETS["tiny"], network=replace(PRESETS["tiny"].network, turns=True), turned_share=0.5)
SAME = torch.arange(10)[None]


def grids(*shape: int) -> tuple[Grid, Grid]:
    rng = np.random.default_rng(sum(shape))
    height, width, rows, columns = shape
    given, wanted = rng.integers(0, 10, (height, width)), rng.integers(0, 10, (rows, columns))
    return given.astype(np.uint8), wanted.astype(np.uint8)


@pytest.mark.parametrize("turned", range(8))
@pytest.mark.parametrize("dihedral", range(8))
def test_the_output_is_turned_first_and_then_seen_in_the_view(turned: int, dihedral: int) -> None:
    given, wanted = grids(4, 3, 2, 5)
    colours = (0, 2, 3, 4, 5, 6, 7, 8, 9, 1)
    view = View(dihedral, colours)
    draw = ViewDraw(torch.tensor([dihedral]), torch.tensor([colours]))
    store = PairStore(flatten({"task": [(given, wanted, False)]}), CPU)
    batch = store.batch(torch.tensor([0]), draw, 6, 6, torch.zeros(1, 2), torch.tensor([turned]))
    np.testing.assert_array_equal(batch.cells[0], place(view.apply(given), 6, 6))
    np.testing.assert_array_equal(batch.target[0], place(view.apply(turn(wanted, turned)), 6, 6))


def test_several_known_outputs_are_turned_alike() -> None:
    given, one = grids(3, 3, 2, 3)
    store = PairStore(flatten({"task": [(given, one, False), (given, 9 - one, False)]}), CPU)
    draw = ViewDraw(torch.tensor([6]), SAME)
    batch = store.batch(torch.tensor([1]), draw, 3, 3, torch.zeros(1, 2), torch.tensor([5]))
    assert batch.others is not None
    want = [place(turn(turn(output, 5), 6), 3, 3) for output in (9 - one, one)]
    np.testing.assert_array_equal(batch.others[0], np.stack(want))


def test_a_share_is_turned_and_nothing_is_cut_off() -> None:
    """A wide output that is transposed may be higher than the canvas: then its flips alone are left."""
    wide = [(*grids(3, 10, 3, 10), False)]
    square = [(*grids(10, 10, 4, 9), False)]
    pack = flatten({"square": square, "wide": wide})
    sampler = BatchSampler(
        PairStore(pack, CPU), pack, (5, 10), tokens=600, most=8, prefix=13, generated_share=0.0, margin=0.0,
        turned_share=0.5,
    )  # fmt: skip
    host, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    turned: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(200):
        batch = sampler.draw("all", generator, host, random_colours(2, generator))
        assert batch.turned is not None
        cells = (batch.target != OUTSIDE).flatten(1).sum(1)
        for task, symmetry, count in zip(batch.task.tolist(), batch.turned.tolist(), cells.tolist(), strict=True):
            assert count == (36, 30)[task]
            turned[task].append(symmetry)
    assert set(turned[0]) == set(range(8)) and 0.4 < np.mean([t > 0 for t in turned[0]]) < 0.6
    assert set(turned[1]) == {0, 1, 2, 3}


def test_turns_are_learned_resumed_and_saved_and_old_weights_go_on_with_them(
    weights_file: Path, tmp_path: Path
) -> None:
    old = load_weights(weights_file)
    trainer = Trainer(TURNED, little_pack(), CPU, old)
    assert trainer.network.turn is not None
    before = trainer.network.turn.detach().clone()
    trainer.update(0.1)
    moved = (trainer.network.turn.detach() - before).abs().amax()
    # At the rate of the rows that they are added to: AdamW's first step is as long as its rate.
    assert 0.5 < float(moved) / (TURNED.latent_rate * TURNED.rate(0.1)) < 1.5
    checkpoint.save(trainer, tmp_path)
    again = Trainer(TURNED, little_pack(), CPU, old)
    checkpoint.load(again, tmp_path)
    assert again.network.turn is not None
    torch.testing.assert_close(again.network.turn, trainer.network.turn, rtol=0, atol=0)
    weights = load_weights(tmp_path / checkpoint.WEIGHTS)
    Trainer(TURNED, little_pack(), CPU, weights)
    with pytest.raises(ArcsolveError, match="other sizes"):
        Trainer(replace(PRESETS["tiny"]), little_pack(), CPU, weights)
    config, tensors, _ = widen(weights.config, weights.network, weights.bank, 2)
    assert tensors["turn"].shape == (7, config.latents, config.width)


def test_a_network_that_cannot_be_told_is_asked_for_no_turns() -> None:
    trainer = Trainer(replace(TURNED, network=PRESETS["tiny"].network), little_pack(), CPU)
    assert trainer.draw(0.1).turned is None


def test_a_task_as_it_is_is_asked_for_as_ever() -> None:
    trainer = Trainer(TURNED, little_pack(), CPU)
    batch = trainer.draw(0.1)
    count = len(batch.cells)
    latents = torch.randn(count, TURNED.network.latents, TURNED.network.width)
    view = (batch.cells, batch.dihedral, batch.colours, latents)
    plain = trainer.network.embed(*view)
    torch.testing.assert_close(trainer.network.embed(*view, turned=torch.zeros(count, dtype=torch.long)), plain)
    asked = trainer.network.embed(*view, turned=torch.full((count,), 3))
    assert trainer.network.turn is not None
    torch.testing.assert_close(
        asked[:, : TURNED.network.latents], latents + trainer.network.turn[2].detach(), rtol=1e-5, atol=1e-5
    )
