"""The weight of the learned noise's KL, steered by what the posterior and the prior lead to."""

from __future__ import annotations

from dataclasses import dataclass

GAP = 0.02
"""How much more often the posterior may lead to a right output than the prior, before the weight rises."""

LOSS = 0.25
"""How much the posterior may lose of its best share of right outputs, before the weight falls. Training is rough: a
tenth comes and goes."""

RISE, EASE, FALL = 1.15, 1.05, 1.5
LEAST, MOST = 1e-3, 0.3
"""Where the weight stays: near 1, where the loss is the evidence bound, the posterior is silenced (docs/LOG.md)."""

UNPAID = 1e-6
"""What the KL weighs while the posterior is alone: too little to pull it. The KL stays at hundreds of nats meanwhile
(docs/LOG.md), and falls once it has its weight."""

FORGET = 0.99


@dataclass
class Beta:
    """The weight and what steers it, one line of the log after the other.

    A posterior that is ahead of the prior tells the network what it will not be told at inference: the weight rises.
    Where the posterior itself gets worse, the weight was too much for it: it falls, faster than it rose, since a
    posterior that has fallen silent is not heard of again. Where the two are level, it eases.

    Attributes:
        value: the weight.
        best: the posterior's best share of right outputs, slowly forgotten.
    """

    value: float
    best: float = 0.0

    def follow(self, posterior: float | None, prior: float | None) -> None:
        """Move by the shares of right outputs, 0..1, that the two led to since the line before, if both are known."""
        if posterior is None or prior is None:
            return
        if posterior < self.best - LOSS:
            factor = 1 / FALL
        elif posterior - prior > GAP:
            factor = RISE
        else:
            factor = 1 / EASE
        self.value = min(MOST, max(LEAST, self.value * factor))
        self.best = max(posterior, FORGET * self.best)
