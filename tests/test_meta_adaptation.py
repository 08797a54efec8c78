"""What training does for adaptation's sake: rows that start anew, latents with noise, colours as they are solved in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import little_pack

from arcsolve.training.objective import Objective, normal_from
from arcsolve.training.presets import PRESETS, gate_config
from arcsolve.training.trainer import Trainer


def test_the_pool_of_colour_maps_holds_the_colours_as_given() -> None:
    """Tasks are solved in them too, so a network that saw a fixed pool must have seen them (it once had not)."""
    trainer = Trainer(PRESETS["tiny"], little_pack(), torch.device("cpu"))
    assert trainer.pool[0].tolist() == list(range(10))
    assert trainer.pool.shape == (PRESETS["tiny"].pool, 10)


def test_a_cycle_of_meta_adaptation_starts_the_next_rows_anew() -> None:
    """Rows go to the mean and their moments to 0, in turn; none once the rates fall."""
    config = replace(PRESETS["tiny"], reset=(2, 0.5))
    trainer = Trainer(config, little_pack(), torch.device("cpu"))
    rows = trainer.bank.rows
    tasks = len(rows)
    trainer.update(0.1)
    with torch.no_grad():
        rows[:] = torch.randn_like(rows) + torch.arange(tasks)[:, None, None]
    trainer.update(0.1)  # the second update, after which a cycle is due
    before = rows.detach().clone()
    assert before[:2].std(0).max() == 0 and before.std(0).min() > 0
    trainer.reset_rows()
    count = round(0.5 * tasks)
    torch.testing.assert_close(rows[:count], before.mean(0).expand(count, *before.shape[1:]))
    torch.testing.assert_close(rows[count:], before[count:])
    moments = trainer.optimizers[1].state[rows]
    assert moments["exp_avg"][:count].abs().max() == 0 and moments["exp_avg_sq"][:count].abs().max() == 0
    assert [n for n in range(1, 7) if config.resets_at(n - 1, n, 0.1)] == [2, 4, 6]
    assert config.resets_at(1, 4, 0.1), "an update after each supervision step jumps over the boundary"
    assert not config.resets_at(1, 2, 1 - config.decay)
    assert gate_config(0, "all").reset is None, "the gate runs with everything optional off"


def test_noise_on_the_latents_is_drawn_for_each_presentation_and_their_kl_is_paid() -> None:
    config = PRESETS["tiny"]
    trainer = Trainer(config, little_pack(), torch.device("cpu"))
    batch = trainer.draw(0.1)
    normal = normal_from(torch.Generator().manual_seed(0), trainer.device)

    def total(noise: float, kl: float) -> float:
        module = Objective(trainer.network, trainer.bank, noise=noise, kl=kl)
        return float(module(batch, 1, 1, normal).total.detach())

    plain = total(0.0, 0.0)
    assert total(0.0, 0.0) == plain and total(0.5, 0.0) != plain
    paid = float(trainer.bank.rows[batch.task].detach().square().mean()) / 2
    assert total(0.0, 0.1) - plain == pytest.approx(0.1 * paid, rel=1e-4)
