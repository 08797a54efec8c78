"""Muon (Jordan, 2024): momentum whose matrices are made orthogonal; many at once, in the device's fast precision."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration, from Jordan's post (kellerjordan.github.io/posts/muon)."""
ITERATIONS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Set all singular values near 1, by Newton-Schulz: [N, rows, columns] -> the same, in the precision given."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Muon):
    """The library's Muon with Nesterov momentum and ``match_rms_adamw`` (2502.16982), faster at the same steps.

    The library takes one matrix after the other, and always bfloat16: on a CPU without instructions for it that was
    four fifths of an update (docs/LOG.md, 2026-11-27). State and groups are the library's.

    Args:
        params: matrices.
        dtype: what the device multiplies fast.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the gradients that stand."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            moves = dict(zip(params, torch._foreach_lerp(grads, buffers, group["momentum"]), strict=True))
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            for shape in dict.fromkeys(p.shape for p in params):
                alike = [p for p in params if p.shape == shape]
                moved = orthogonalise(torch.stack([moves[p] for p in alike]).to(self.dtype)).type_as(alike[0])
                torch._foreach_add_(alike, list(moved.unbind()), alpha=-0.2 * math.sqrt(max(shape)) * group["lr"])
