"""The training objective: deep supervision, one loss for each supervision step."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from arcsolve.canvas import CLASSES
from arcsolve.network.recursion import RecursiveNetwork
from arcsolve.training.pairs import Batch

HALTING_WEIGHT = 0.5


class Losses(NamedTuple):
    """``total`` is what to minimise; ``nats`` [B] and ``exact`` [B] are the last step's, for the log."""

    total: Tensor
    nats: Tensor
    exact: Tensor


def objective(
    network: RecursiveNetwork,
    latents: Tensor,
    batch: Batch,
    *,
    steps: int,
    inner_steps: int | None = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """Run ``steps`` supervision steps and average their losses; the state is detached between them (TRM, section 4).

    Cross-entropy is averaged over a sample's cells and then over samples, so a large canvas counts as one puzzle. The
    halting head learns whether the decoded grid is right, by binary cross-entropy.

    Args:
        latents: [B, P, C], the samples' rows.
        generator: on the network's device; draws ``h0`` and the noise where the configuration has them.
    """
    config = network.config
    count, height, width = batch.cells.shape
    x = network.embed(batch.cells, batch.dihedral, batch.colours, latents)

    def normal() -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device)

    state = network.start(count, x.shape[1], normal() if config.random_start else None)
    losses = []
    for _ in range(steps):
        noise = config.noise * normal() if config.noise else None
        state, logits, halting = network.step(x, state.detach(), height, width, noise, inner_steps)
        cells = F.cross_entropy(logits.float().reshape(-1, CLASSES), batch.target.reshape(-1), reduction="none")
        nats = cells.view(count, -1).mean(1)
        exact = (logits.argmax(-1) == batch.target).flatten(1).all(1)
        loss = nats.mean()
        if config.halting:
            right = exact.to(halting.dtype)
            loss = loss + HALTING_WEIGHT * F.binary_cross_entropy_with_logits(halting.float(), right.float())
        losses.append(loss)
    return Losses(torch.stack(losses).mean(), nats.detach(), exact)
