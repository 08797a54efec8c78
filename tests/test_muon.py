"""Muon: the library's steps, in whichever precision the device is fast in."""

from __future__ import annotations

import copy

import pytest
import torch

from arcsolve.training.muon import Muon, orthogonalise

SHAPES = ((24, 8), (8, 8), (24, 8), (8, 40))


def walk(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Three steps on equal gradients: how far each matrix has moved."""
    before = [p.detach().clone() for p in parameters]
    rng = torch.Generator().manual_seed(1)
    for _ in range(3):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=rng)
        optimizer.step()
    return [p.detach() - b for p, b in zip(parameters, before, strict=True)]


def matrices() -> list[torch.nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in SHAPES]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.0), (torch.float32, 0.02)])
def test_it_takes_the_steps_of_the_library(dtype: torch.dtype, tolerance: float) -> None:
    """Tall, wide, square, and two of one shape, which go together; in bfloat16 to the last bit."""
    ours, theirs = matrices(), matrices()
    library = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    moved = walk(Muon(ours, lr=1e-2, weight_decay=0.1, dtype=dtype), ours)
    for mine, other in zip(moved, walk(library, theirs), strict=True):
        assert (mine - other).norm() <= tolerance * other.norm()


def test_singular_values_come_near_one() -> None:
    made = orthogonalise(torch.randn(3, 6, 20, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(made)
    assert made.shape == (3, 6, 20)
    assert 0.5 < values.min() and values.max() < 1.5


def test_its_state_is_the_librarys() -> None:
    """Checkpoints of earlier versions go on."""
    old, new = matrices(), matrices()
    library = torch.optim.Muon(old, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    walk(library, old)
    for p, q in zip(new, old, strict=True):
        p.data.copy_(q.data)
    resumed = Muon(new, lr=1.0, weight_decay=0.0, dtype=torch.bfloat16)
    resumed.load_state_dict(copy.deepcopy(library.state_dict()))
    for mine, other in zip(walk(resumed, new), walk(library, old), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_a_matrix_without_a_gradient_stays() -> None:
    parameters = matrices()
    kept = parameters[1].detach().clone()
    for p in parameters:
        p.grad = torch.ones_like(p)
    parameters[1].grad = None
    Muon(parameters, lr=1e-2, weight_decay=0.1, dtype=torch.float32).step()
    assert torch.equal(parameters[1], kept)
