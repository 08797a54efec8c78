"""The training objective: deep supervision, one loss for each supervision step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcsolve.canvas import CLASSES
from arcsolve.network.recursion import RecursiveNetwork, State, TaskLatents
from arcsolve.training.pairs import Batch

HALTING_WEIGHT = 0.5

Normal = Callable[[tuple[int, ...]], Tensor]
"""Draws a standard normal tensor of a shape, on the network's device."""


class Losses(NamedTuple):
    """``total`` is what to minimise; ``nats`` [B], ``exact`` [B] and ``state`` are the last step's."""

    total: Tensor
    nats: Tensor
    exact: Tensor
    state: State


def normal_from(generator: torch.Generator | None, device: torch.device) -> Normal:
    """Draws from one generator (``None``: torch's own)."""
    return lambda shape: torch.randn(shape, generator=generator, device=device)


def objective(
    network: RecursiveNetwork,
    latents: Tensor,
    batch: Batch,
    *,
    steps: int,
    normal: Normal,
    inner_steps: int | None = None,
    state: State | None = None,
) -> Losses:
    """Run ``steps`` supervision steps and average their losses; the state is detached between them (TRM, section 4).

    Cross-entropy is averaged over a sample's cells and then over samples, so a large canvas counts as one puzzle. The
    halting head learns whether the decoded grid is right, by binary cross-entropy.

    Args:
        latents: [B, P, C], the samples' rows.
        normal: draws ``h0`` and the noise where the configuration has them.
        state: where to go on from; by default the start.
    """
    config = network.config
    count, height, width = batch.cells.shape
    hint = None if batch.shown is None else (batch.target, batch.shown)
    x = network.embed(batch.cells, batch.dihedral, batch.colours, latents, hint)
    if state is None:
        state = network.start(count, x.shape[1], normal(tuple(x.shape)) if config.random_start else None)
    losses = []
    for _ in range(steps):
        noise = config.noise * normal(tuple(x.shape)) if config.noise else None
        state, logits, halting = network.step(x, state.detach(), height, width, noise, inner_steps)
        cells = F.cross_entropy(logits.float().reshape(-1, CLASSES), batch.target.reshape(-1), reduction="none")
        nats = cells.view(count, -1).mean(1)
        exact = (logits.argmax(-1) == batch.target).flatten(1).all(1)
        loss = nats.mean()
        if config.halting:
            loss = loss + HALTING_WEIGHT * F.binary_cross_entropy_with_logits(halting.float(), exact.float())
        losses.append(loss)
    return Losses(torch.stack(losses).mean(), nats.detach(), exact, state.detach())


class Objective(nn.Module):
    """The objective as a module over network and bank, which is what ``DistributedDataParallel`` wraps.

    Args:
        noise: standard deviation of the noise on the latents.
        kl: weight of the latents' KL to N(0, I), in nats for each latent channel.
    """

    def __init__(self, network: RecursiveNetwork, bank: TaskLatents, *, noise: float = 0.0, kl: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.bank = bank
        self.noise = noise
        self.kl = kl

    def forward(self, batch: Batch, steps: int, inner_steps: int, normal: Normal, state: State | None = None) -> Losses:
        """See :func:`objective`."""
        rows = latents = self.bank(batch.task)
        if self.noise:
            latents = rows + self.noise * normal(tuple(rows.shape))
        losses = objective(
            self.network, latents, batch, steps=steps, normal=normal, inner_steps=inner_steps, state=state
        )
        if self.kl:
            losses = losses._replace(total=losses.total + self.kl * rows.square().mean() / 2)
        return losses
