"""The stochastic transition: what enters the latent state by chance, and how chance learns (GRAM, 2605.19376)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arcsolve.canvas import CLASSES
from arcsolve.network.block import Block, Layout
from arcsolve.network.config import NetworkConfig

START_DEVIATION, LEAST_DEVIATION = 0.1, 1e-3
START_MEANS = 0.3
"""Spread of the posterior's means at first, in unlike states. From zero it says nothing, the noise only disturbs, and
the network learns to pass over it before the posterior has learned to speak (docs/LOG.md, 2026-11-26)."""
KL_BALANCE = 0.8
"""Share of the KL that pulls the prior towards the posterior; the rest pulls the posterior (Dreamer v2, 2010.02193)."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian over the noise: mean and standard deviation, each float32 [B, prefix, Z]."""

    mean: Tensor
    deviation: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """What standard normal ``noise`` [B, prefix, Z] comes to."""
        return self.mean + self.deviation * noise

    def detach(self) -> Gaussian:
        """The same distribution, through which nothing is learned."""
        return Gaussian(self.mean.detach(), self.deviation.detach())


def gaussian_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) in nats, summed over slots and channels: [B]."""
    spread = (q.deviation.square() + (q.mean - p.mean).square()) / p.deviation.square()
    return (p.deviation.log() - q.deviation.log() + (spread - 1) / 2).sum((1, 2))


def balanced_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) in nats, [B], whose gradient moves the prior more than the posterior."""
    return KL_BALANCE * gaussian_kl(q.detach(), p) + (1 - KL_BALANCE) * gaussian_kl(q, p.detach())


class Head(nn.Linear):
    """Reads a Gaussian off tokens; at first of deviation 0.1."""

    def __init__(self, width: int, noise_width: int) -> None:
        super().__init__(width, 2 * noise_width)

    def reset(self, spread: float) -> None:
        """Start anew, with means that differ by so much between tokens."""
        half = len(self.bias) // 2
        nn.init.zeros_(self.weight)
        nn.init.normal_(self.weight[:half], std=spread / math.sqrt(self.in_features))
        nn.init.zeros_(self.bias)
        share = START_DEVIATION - LEAST_DEVIATION
        nn.init.constant_(self.bias[half:], math.log(share / (1 - share)))

    def gaussian(self, tokens: Tensor) -> Gaussian:
        """[B, prefix, C] -> a Gaussian over [B, prefix, Z]."""
        mean, raw = self(tokens).float().chunk(2, dim=-1)
        return Gaussian(mean, LEAST_DEVIATION + raw.sigmoid())


class Posterior(nn.Module):
    """Reads off the state and the right output which noise leads there. Training only: never exported."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.prefix = config.prefix
        self.output = nn.Parameter(torch.randn(CLASSES, width))
        # Side by side, not added: the two could not be told apart again.
        self.join = nn.Linear(2 * width, width, bias=False)
        self.block = Block(config)
        self.head = Head(width, config.noise_width)

    def forward(self, u: Tensor, target: Tensor, layout: Layout) -> Gaussian:
        """Tokens [B, T, C] and the output's classes [B, H, W] -> a Gaussian over [B, prefix, Z]."""
        seen = self.output[target].flatten(1, 2).type_as(u)
        seen = torch.cat([seen.new_zeros(len(u), self.prefix, u.shape[-1]), seen], dim=1)
        read = self.block(self.join(torch.cat([u, seen], dim=-1)), layout)
        return self.head.gaussian(read[:, : self.prefix])


class StochasticTransition(nn.Module):
    """``h <- h + W (mu + sigma eps)`` at the prefix tokens, between two supervision steps.

    Where GRAM adds it: after a step, so that the prior knows what the step has worked out. Of the prefix no cell is
    decoded, so the next step carries it to the cells. ``W`` starts at zero, so that a network trained without it goes
    on as it was.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.prefix = config.prefix
        self.prior = Head(config.width, config.noise_width)
        self.posterior = Posterior(config)
        self.out = nn.Linear(config.noise_width, config.width, bias=False)

    def reset(self) -> None:
        """Back to the identity."""
        self.prior.reset(0.0)
        self.posterior.head.reset(START_MEANS)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, h: Tensor, noise: Tensor) -> Tensor:
        """``h`` after a transition drawn from the prior.

        Args:
            x, h: [B, T, C].
            noise: [B, prefix, Z], standard normal times the temperature.
        """
        return self._add(h, self.prior.gaussian((x + h)[:, : self.prefix]), noise)

    def guide(
        self, x: Tensor, h: Tensor, noise: Tensor, target: Tensor, guided: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """``h`` after a transition drawn from the posterior where ``guided`` [B] says so, else from the prior.

        Args:
            target: the output's classes, integers [B, H, W].

        Returns:
            ``h`` [B, T, C] and the KL in nats [B], 0 where not guided.
        """
        u = x + h
        p = self.prior.gaussian(u[:, : self.prefix])
        q = self.posterior(u, target, layout)
        # The prior learns from the KL alone. What comes of its own draws would teach it to draw the one answer that is
        # easiest to arrive at, and no other.
        pairs = zip(q, p.detach(), strict=True)
        chosen = Gaussian(*(torch.where(guided[:, None, None], a, b) for a, b in pairs))
        return self._add(h, chosen, noise), torch.where(guided, balanced_kl(q, p), 0.0)

    def explain(self, x: Tensor, h: Tensor, noise: Tensor, outputs: Tensor, layout: Layout) -> Tensor:
        """Log-densities under the posteriors of several outputs of what the prior draws: which of them it means.

        Args:
            outputs: classes, integers [B, K, H, W].

        Returns:
            [B, K], in nats, up to what is the same for all K.
        """
        count, most, *_ = outputs.shape
        u = x + h
        p = self.prior.gaussian(u[:, : self.prefix])
        q = self.posterior(u.repeat_interleave(most, dim=0), outputs.flatten(0, 1), layout)
        mean, deviation = (part.unflatten(0, (count, most)) for part in q)
        away = (p.draw(noise)[:, None] - mean) / deviation
        densities: Tensor = -(away.square() / 2 + deviation.log()).sum((2, 3))
        return densities

    def _add(self, h: Tensor, gaussian: Gaussian, noise: Tensor) -> Tensor:
        moved: Tensor = h[:, : self.prefix] + self.out(gaussian.draw(noise).type_as(h))
        return torch.cat([moved, h[:, self.prefix :]], dim=1)
