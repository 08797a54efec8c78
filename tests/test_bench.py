"""The training benchmark: its keys, what they mean, and TRM's step as the paper has it."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from conftest import little_pack

from arcsolve.network.config import NetworkConfig
from arcsolve.training import bench, trm
from arcsolve.training.presets import PRESETS

CPU = torch.device("cpu")


@pytest.fixture
def small_trm(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRM's step on small grids, so that a test takes no minute."""
    config = NetworkConfig(width=32, heads=4, hidden=64, latents=5, inner_steps=trm.INNER_STEPS, convolution=False)
    monkeypatch.setattr(trm, "CONFIG", config)
    monkeypatch.setattr(trm, "SIDE", 6)


def test_trm_has_the_sizes_of_the_paper() -> None:
    model = trm.TinyRecursiveModel()
    blocks = sum(p.numel() for p in model.blocks.parameters())
    assert 6.5e6 < blocks < 7e6  # "7M parameters"
    assert model.start(2).y.shape == (2, 900 + 16, 512)
    # Two recursions forward and one of three times that: 25 calls of the two blocks, of 8 GFLOP each.
    assert trm.TinyRecursiveModel.step_flop() == pytest.approx(25 * 2 * 7.96e9, rel=0.01)


def test_trm_learns_from_its_last_recursion_alone(small_trm: None) -> None:
    model = trm.TinyRecursiveModel()
    calls: list[bool] = []
    original = model._function

    def count(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return original(*arguments)

    model._function = count  # type: ignore[method-assign]
    cells = torch.randint(trm.TOKEN_KINDS, (2, 36))
    carry, logits, halting = model(cells, model.start(2))
    assert calls == [False] * 10 + [True] * 5
    assert logits.shape == (2, 36, trm.TOKEN_KINDS)
    assert not carry.y.requires_grad
    trm.loss(logits, halting, cells).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in model.parameters())


def test_the_benchmark_gives_its_keys_and_its_ratios_are_those_of_its_figures(small_trm: None) -> None:
    lines: list[str] = []
    figures = bench.bench_train("tiny", PRESETS["tiny"], little_pack(), CPU, seconds=0.6, report=lines.append)
    for name in ("presentations_per_s", "tokens_per_s", "supervision_steps_per_s", "trm.supervision_steps_per_s"):
        assert figures[name] > 0
    # The tiny preset ends at two supervision steps for each presentation.
    assert figures["supervision_steps_per_s"] == pytest.approx(2 * figures["presentations_per_s"], rel=0.3)
    assert figures["share_of_peak"] == figures["flop_per_s"] / figures["peak_flop_per_s"] < 1
    assert 0 < figures["share_outside_network"] < 1
    ratio = figures["supervision_steps_per_s"] / figures["trm.supervision_steps_per_s"]
    assert figures["ratio_to_trm"] == pytest.approx(ratio, rel=0.5)
    assert figures["flop_ratio_to_trm"] > 0
    assert sum("round" in line for line in lines) == bench.ROUNDS
    json.dumps(figures)


def test_the_command_names_a_preset_that_is_not_there() -> None:
    from arcsolve.cli.bench import bench as command

    result = CliRunner().invoke(command, ["train", "--preset", "huge"])
    assert result.exit_code == 2
    assert "--preset: expected one of" in result.output
