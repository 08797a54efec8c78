"""Refinement: a copy of the network learns one task's demonstrations, its latents first and then everything."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcsolve.arc.grid import COLOURS
from arcsolve.arc.task import Pair
from arcsolve.inference.backend import Array
from arcsolve.inference.torch_backend import build_network
from arcsolve.network.device import has_bf16
from arcsolve.network.recursion import RecursiveNetwork, training_only
from arcsolve.network.weights import Weights
from arcsolve.shapes import canvas_size
from arcsolve.training.objective import Losses, normal_from, objective
from arcsolve.training.pack import Pack, flatten
from arcsolve.training.pairs import PairStore, ViewDraw, draw_views
from arcsolve.views import DIHEDRALS


@dataclass(frozen=True)
class AdaptSettings:
    """How to adapt.

    Attributes:
        steps: optimizer steps; 0 leaves network and latents as they are.
        latents_first: share of the steps in which only the latents learn.
        latent_rate: AdamW's rate for the latents.
        network_rate: AdamW's rate for the network.
        batch: presentations in a step, before ``tokens`` limits it.
        tokens: cells and prefix tokens in a step at the most (large canvases come in smaller batches).
        sigma: standard deviation that the latents' posterior starts at (LTM, 2502.01567); 0 for plain latents.
        kl: weight of that posterior's KL to N(0, I), in nats for each latent channel.
        average: decay of the averaged parameters that are returned, per step; 0 for the last ones.
        bf16: matrices in bfloat16 where the device is faster in it.
    """

    steps: int = 128
    latents_first: float = 0.5
    latent_rate: float = 1e-2
    network_rate: float = 5e-4
    batch: int = 8
    tokens: int = 2_500
    sigma: float = 0.0
    kl: float = 1e-3
    average: float = 0.9
    bf16: bool = True


@dataclass(frozen=True, eq=False)
class Adapted:
    """What adaptation gives: latents [P, C], changed parameters by name, steps done, whether it ended early.

    It ends early when time is up, or where the loss is no number; then everything is as it was before.
    """

    latents: Array
    tensors: dict[str, NDArray[np.float32]]
    steps: int
    truncated: bool


class Refinement:
    """A copy of the network while it learns demonstrations; the weights stay untouched.

    Every presentation is a fresh view (8 symmetries, 9! colour maps). First the latents learn alone, then the whole
    network at a twentieth of their rate. In TRM, tuning latents alone gave nothing, and everything after a latent
    quarter was best; here meta-dev prefers a latent half, since the network soon learns the demonstrations by heart.
    With ``sigma``, latents are the mean and variance of a posterior, sampled for each presentation (LTM, 2502.01567).

    Args:
        demonstrations: pairs whose outputs are known; nothing else of the task is looked at.
        latents: [P, C] to start from.
        seed: of every draw; equal seeds give equal results on one machine.
    """

    def __init__(
        self,
        weights: Weights,
        demonstrations: tuple[Pair, ...],
        settings: AdaptSettings,
        latents: Array,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.device = device
        self.config = weights.config
        self.network = build_network(weights.config, weights.network).to(device).requires_grad_(False)
        self.mean = torch.tensor(latents, device=device, requires_grad=True)
        learned = [self.mean]
        self.log_variance: Tensor | None = None
        if settings.sigma:
            start = torch.full_like(self.mean, 2 * math.log(settings.sigma))
            self.log_variance = start.detach().requires_grad_(True)
            learned.append(self.log_variance)
        self.optimizer = torch.optim.AdamW(
            [{"params": learned, "lr": settings.latent_rate}], betas=(0.9, 0.95), weight_decay=0.0
        )
        pairs = pack_of(demonstrations)
        self.store = PairStore(pairs, device)
        self.canvas = np.maximum(pairs.sizes[:, :2], pairs.sizes[:, 2:]).max(axis=0)
        per_sample = int(self.canvas.prod()) + weights.config.prefix
        self.count = max(1, min(settings.batch, settings.tokens // per_sample))
        self.demonstrations = len(pairs)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.host = np.random.default_rng(seed)
        self.alone = round(settings.latents_first * settings.steps)
        self.done = 0
        # What is returned and judged: the average of the last steps, which are noisy on so few presentations.
        self.averaged = build_network(weights.config, weights.network).to(device).requires_grad_(False)
        self.averaged_mean = self.mean.detach().clone()

    def step(self) -> Losses:
        """One optimizer step; a loss that is no number changes nothing, and is for the caller to see."""
        if self.done == self.alone:
            self.network.requires_grad_(True)
            parameters = list(self.network.parameters())
            self.optimizer.add_param_group({"params": parameters, "lr": self.settings.network_rate})
        transposed = bool(self.host.integers(2))
        height, width = (int(side) for side in (self.canvas[::-1] if transposed else self.canvas))
        view = draw_views(self.count, "all", transposed, self.generator, torch.empty(0))
        # Each demonstration in turn, so that a batch smaller than their number still reaches them all.
        chosen = (torch.arange(self.count, device=self.device) + self.done * self.count) % self.demonstrations
        shift = torch.rand(self.count, 2, generator=self.generator, device=self.device)
        batch = self.store.batch(chosen, view, height, width, shift)
        normal = normal_from(self.generator, self.device)
        latents, total = self.mean.expand(self.count, *self.mean.shape), torch.zeros((), device=self.device)
        if self.log_variance is not None:
            latents = latents + (self.log_variance / 2).exp() * normal(tuple(latents.shape))
            total = self.settings.kl * gaussian_kl(self.mean, self.log_variance).mean()
        with self._precision():
            losses = objective(self.network, latents, batch, steps=self.config.steps, normal=normal)
        losses = losses._replace(total=losses.total + total)
        if torch.isfinite(losses.total):
            losses.total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.done += 1
            self._average()
        return losses

    @torch.no_grad()
    def _average(self) -> None:
        weight = 1 - min(self.settings.average, self.done / (10 + self.done))
        self.averaged_mean.lerp_(self.mean, weight)
        if self.done > self.alone:
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), weight)

    def judge(self, known: tuple[Pair, ...], pair: Pair) -> tuple[float, float]:
        """How well one pair is solved as things stand: see :func:`judge`."""
        latents = self.averaged_mean.expand(DIHEDRALS, *self.averaged_mean.shape)
        with self._precision():
            return judge(self.averaged, latents, known, pair, steps=self.config.steps)

    def result(self, *, truncated: bool = False) -> Adapted:
        """What was learned so far."""
        parameters = ((n, tensor) for n, tensor in self.averaged.named_parameters() if not training_only(n))
        changed = parameters if self.done > self.alone else ()
        return Adapted(
            latents=self.averaged_mean.cpu().numpy().copy(),
            tensors={name: parameter.cpu().numpy().copy() for name, parameter in changed},
            steps=self.done,
            truncated=truncated,
        )

    def _precision(self) -> AbstractContextManager[object]:
        fast = self.settings.bf16 and has_bf16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16) if fast else nullcontext()


def adapt(
    weights: Weights,
    demonstrations: tuple[Pair, ...],
    settings: AdaptSettings,
    latents: Array,
    *,
    stop: int | None = None,
    seed: int,
    device: torch.device,
    deadline: float | None = None,
    progress: Callable[[int, int, float], None] = lambda done, total, exact: None,
) -> Adapted:
    """Refine; see :class:`Refinement`.

    Args:
        stop: steps to do of the settings' steps; by default all.
        deadline: ``time.monotonic()`` to stop at, even if steps are left.
        progress: called with (steps done, steps, share of the presentations of the last steps that came out right).
    """
    start = latents.astype(np.float32)
    if not settings.steps:
        return Adapted(start, {}, 0, False)
    refinement = Refinement(weights, demonstrations, settings, start, seed=seed, device=device)
    exact = 0.0
    steps = settings.steps if stop is None else min(stop, settings.steps)
    while refinement.done < steps:
        if deadline is not None and time.monotonic() > deadline:
            return refinement.result(truncated=True)
        losses = refinement.step()
        if not torch.isfinite(losses.total):
            # Nothing that was learned on the way here can be trusted.
            return Adapted(start, {}, 0, truncated=True)
        exact += (float(losses.exact.float().mean()) - exact) / min(refinement.done, 8)
        progress(refinement.done, steps, exact)
    return refinement.result()


@torch.no_grad()
def judge(
    network: RecursiveNetwork,
    latents: Tensor,
    known: tuple[Pair, ...],
    pair: Pair,
    *,
    steps: int,
    inner_steps: int | None = None,
) -> tuple[float, float]:
    """How well one pair is solved in 8 symmetries: loss in nats a cell, and the share of them right in every cell.

    On the canvas that the pairs ``known`` imply; ``(inf, 0)`` where the pair's output does not fit it.

    Args:
        latents: [8, P, C], of each symmetry.
    """
    assert pair.output is not None
    height, width = canvas_size(known, pair.input)
    if pair.output.shape[0] > height or pair.output.shape[1] > width:
        return math.inf, 0.0
    device = latents.device
    store = PairStore(pack_of((pair,)), device)
    colours = torch.arange(COLOURS, device=device).expand(4, COLOURS)
    index, corner = torch.zeros(4, dtype=torch.long, device=device), torch.zeros(4, 2, device=device)
    nats = exact = 0.0
    for first, canvas in ((0, (height, width)), (4, (width, height))):
        symmetries = torch.arange(first, first + 4, device=device)
        batch = store.batch(index, ViewDraw(symmetries, colours), *canvas, corner)
        normal = normal_from(torch.Generator(device).manual_seed(0), device)
        losses = objective(network, latents[symmetries], batch, steps=steps, inner_steps=inner_steps, normal=normal)
        nats += float(losses.nats.sum()) / DIHEDRALS
        exact += float(losses.exact.sum()) / DIHEDRALS
    return nats, exact


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), element by element, in nats (2502.01567, the prior of its latents)."""
    return (mean.square() + log_variance.exp() - log_variance - 1) / 2


def pack_of(pairs: tuple[Pair, ...]) -> Pack:
    """Pairs of one task as a pack."""
    return flatten({"task": [(p.input, p.output, False) for p in pairs if p.output is not None]})
