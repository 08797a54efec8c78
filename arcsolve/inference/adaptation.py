"""Adaptation: a copy of the network learns one task's demonstrations, its latents first and then everything."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from arcsolve.arc.task import Pair
from arcsolve.inference.backend import Array
from arcsolve.inference.torch_backend import build_network
from arcsolve.network.weights import Weights
from arcsolve.training.objective import normal_from, objective
from arcsolve.training.pack import flatten
from arcsolve.training.pairs import PairStore, draw_views


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
    """

    steps: int = 128
    latents_first: float = 0.25
    latent_rate: float = 1e-2
    network_rate: float = 1e-3
    batch: int = 8
    tokens: int = 2_500


@dataclass(frozen=True, eq=False)
class Adapted:
    """What adaptation gives: the task's latents [P, C], changed parameters by name, steps done, whether time cut in."""

    latents: Array
    tensors: dict[str, NDArray[np.float32]]
    steps: int
    truncated: bool


def adapt(
    weights: Weights,
    demonstrations: tuple[Pair, ...],
    settings: AdaptSettings,
    *,
    seed: int,
    device: torch.device,
    latents: Array | None = None,
    deadline: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Adapted:
    """Adapt a copy of the network to demonstrations; the weights stay untouched.

    Every presentation is a fresh view (8 symmetries, 9! colour maps). First the latents learn alone, then the whole
    network at a lower rate: in TRM, tuning latents alone gave nothing, and everything after a latent quarter was best.

    Args:
        demonstrations: pairs whose outputs are known; nothing else of the task is looked at.
        latents: [P, C] to start from; by default the mean of the bank (2511.02886 found it better than noise).
        deadline: ``time.monotonic()`` to stop at, even if steps are left.
        progress: called with (steps done, steps).
    """
    start = weights.bank.mean(axis=0) if latents is None else latents
    if not settings.steps:
        return Adapted(start.astype(np.float32), {}, 0, False)
    network = build_network(weights.config, weights.network).to(device)
    row = torch.tensor(start, device=device, requires_grad=True)
    pairs = flatten({"task": [(p.input, p.output, False) for p in demonstrations if p.output is not None]})
    store = PairStore(pairs, device)
    canvas = np.maximum(pairs.sizes[:, :2], pairs.sizes[:, 2:]).max(axis=0)
    count = max(1, min(settings.batch, settings.tokens // (int(canvas.prod()) + weights.config.prefix)))
    generator = torch.Generator(device).manual_seed(seed)
    host = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW([{"params": [row], "lr": settings.latent_rate}], betas=(0.9, 0.95), weight_decay=0.0)
    alone = round(settings.latents_first * settings.steps)
    network.requires_grad_(False)
    done = 0
    for done in range(settings.steps):
        if deadline is not None and time.monotonic() > deadline:
            return _result(network, row, alone, done, truncated=True)
        if done == alone:
            network.requires_grad_(True)
            optimizer.add_param_group({"params": list(network.parameters()), "lr": settings.network_rate})
        transposed = bool(host.integers(2))
        height, width = (int(side) for side in (canvas[::-1] if transposed else canvas))
        view = draw_views(count, "all", transposed, generator, torch.empty(0))
        # Each demonstration in turn, so that a batch smaller than their number still reaches them all.
        chosen = (torch.arange(count, device=device) + done * count) % len(pairs)
        shift = torch.rand(count, 2, generator=generator, device=device)
        batch = store.batch(chosen, view, height, width, shift)
        losses = objective(
            network,
            row.expand(count, *row.shape),
            batch,
            steps=weights.config.steps,
            normal=normal_from(generator, device),
        )
        if not torch.isfinite(losses.total):
            # Nothing that was learned on the way here can be trusted.
            return Adapted(start.astype(np.float32), {}, done, truncated=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress(done + 1, settings.steps)
    return _result(network, row, alone, settings.steps, truncated=False)


def _result(network: torch.nn.Module, row: torch.Tensor, alone: int, done: int, *, truncated: bool) -> Adapted:
    # Hints are shown in pretraining only, so the exported graph has no such tensor.
    parameters = ((name, tensor) for name, tensor in network.named_parameters() if name != "hint")
    changed = parameters if done > alone else ()
    return Adapted(
        latents=row.detach().cpu().numpy(),
        tensors={name: parameter.detach().cpu().numpy() for name, parameter in changed},
        steps=done,
        truncated=truncated,
    )
