"""The training objective: deep supervision, one loss for each supervision step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcsolve.canvas import CLASSES
from arcsolve.network.recursion import RecursiveNetwork, State, TaskLatents
from arcsolve.training.pairs import Batch

HALTING_WEIGHT = 0.5

DECODED = 0.2
"""What the decoder's nats weigh beside those of the noise in telling which output was meant. At 1 the easiest output
wins and fewer are ever found, at 0 draws between two outputs arrive at neither (docs/LOG.md, 2026-11-26)."""

Normal = Callable[[tuple[int, ...]], Tensor]
"""Draws a standard normal tensor of a shape, on the network's device."""


class Losses(NamedTuple):
    """``total`` is what to minimise; ``nats`` [B], ``exact`` [B] and ``state`` are the last step's.

    ``state`` is ``None`` where nobody can go on from it (:mod:`~arcsolve.training.graphs`).
    ``kl`` [B] is that of the learned noise in nats, summed over the steps; 0 without it, and where the prior drew it.
    """

    total: Tensor
    nats: Tensor
    exact: Tensor
    state: State | None
    kl: Tensor


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
    first: int = 0,
    beta: float = 1.0,
    still: bool = False,
    nearest: bool = False,
) -> Losses:
    """Run ``steps`` supervision steps and average their losses; the state is detached between them (TRM, section 4).

    Cross-entropy is averaged over a sample's cells and then over samples, so a large canvas counts as one puzzle. The
    halting head learns whether the decoded grid is right, by binary cross-entropy; right is any output that the batch
    knows for this input.

    Learned noise (GRAM, 2605.19376) is drawn between the steps, before step ``batch.commit`` and later ones from the
    posterior, which costs ``beta`` times its KL to the prior, per cell as the cross-entropy is: at 1 the two are each
    step's evidence bound. Before that, and in batches that do not say, it is drawn from the prior, as at inference. The
    halting head learns from those alone.

    Args:
        latents: [B, P, C], the samples' rows.
        normal: draws ``h0`` and the noise where the configuration has them.
        state: where to go on from; by default the start.
        first: the number of the first step, where a state is given.
        beta: weight of the KL.
        still: leave learned noise out, as if the network had none.
        nearest: where the posterior is not followed, and an input has several outputs, learn the one that chance has
            chosen, since another one would teach only their mixture: the one that is nearest to what was decoded, with
            learned noise the most likely one by what was decoded and by which posterior explains what these steps drew.
    """
    config = network.config
    count, height, width = batch.cells.shape
    hint = None if batch.shown is None else (batch.target, batch.shown)
    x = network.embed(batch.cells, batch.dihedral, batch.colours, latents, hint, batch.turned)
    if state is None:
        state = network.start(count, x.shape[1], normal(tuple(x.shape)) if config.random_start else None)
    losses = []
    divergence = torch.zeros(count, device=x.device)
    evidence: Tensor | float = 0.0
    for step in range(first, first + steps):
        state, noise, prior = state.detach(), None, None
        if config.noise_width and not still:
            shape = (count, *config.noise_shape(x.shape[1]))
            if batch.commit is None:
                noise = normal(shape)
            else:
                prior = step < batch.commit
                if step:
                    drawn = normal(shape)
                    if nearest and batch.others is not None:
                        evidence = evidence + network.explain(x, state, drawn, batch.others)
                    state, kl = network.guide(x, state, drawn, batch.target, ~prior)
                    divergence = divergence + kl
        elif config.noise:
            noise = config.noise * normal(tuple(x.shape))
        state, logits, halting = network.step(x, state, height, width, noise, inner_steps)
        nats = _nats(logits, batch.target)
        # Before the first draw there is nothing to choose an output by, and what is likely is the mixture.
        if nearest and batch.others is not None and (prior is None or step):
            each = _nats_of_each(logits, batch.others)
            if prior is None:
                nats = each.amin(1)
            else:
                assert isinstance(evidence, Tensor)
                meant = (evidence - DECODED * height * width * each.detach()).argmax(1, keepdim=True)
                nats = torch.where(prior, each.gather(1, meant)[:, 0], nats)
        exact = is_right(logits.argmax(-1), batch)
        loss = nats.mean()
        if config.halting:
            judged = F.binary_cross_entropy_with_logits(halting.float(), exact.float(), reduction="none")
            loss = loss + HALTING_WEIGHT * (judged if prior is None else judged * prior).mean()
        losses.append(loss)
    total = torch.stack(losses).mean() + beta * divergence.mean() / (steps * height * width)
    return Losses(total, nats.detach(), exact, state.detach(), divergence.detach())


def _nats(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits [B, H, W, 11] and classes [B, H, W], mean over cells: [B]."""
    cells = F.cross_entropy(logits.float().reshape(-1, CLASSES), target.reshape(-1), reduction="none")
    return cells.view(len(target), -1).mean(1)


def _nats_of_each(logits: Tensor, targets: Tensor) -> Tensor:
    """The same for several targets of each sample, classes [B, K, H, W]: [B, K]."""
    logs = logits.float().log_softmax(-1)
    return -logs.gather(-1, targets.movedim(1, -1)).mean((1, 2))


def is_right(decoded: Tensor, batch: Batch) -> Tensor:
    """Whether classes [B, H, W] are an output that the batch knows for their input: booleans [B]."""
    known = batch.target[:, None] if batch.others is None else batch.others
    return (decoded[:, None] == known).flatten(2).all(2).any(1)


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

    def forward(self, batch: Batch, steps: int, inner_steps: int, normal: Normal, **how: Any) -> Losses:
        """See :func:`objective`, where ``how`` goes."""
        rows = latents = self.bank(batch.task)
        if self.noise:
            latents = rows + self.noise * normal(tuple(rows.shape))
        losses = objective(self.network, latents, batch, steps=steps, normal=normal, inner_steps=inner_steps, **how)
        if self.kl:
            losses = losses._replace(total=losses.total + self.kl * rows.square().mean() / 2)
        return losses
