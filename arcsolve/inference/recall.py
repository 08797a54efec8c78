"""Recall: which trained tasks are like a new one, and where its latents should start."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from arcsolve.arc.grid import COLOURS
from arcsolve.arc.task import Pair
from arcsolve.inference.adaptation import pack_of
from arcsolve.inference.backend import Array
from arcsolve.inference.solution import Neighbour, Recalled
from arcsolve.inference.torch_backend import build_network
from arcsolve.network.weights import Weights
from arcsolve.training.objective import normal_from, objective
from arcsolve.training.pairs import PairStore, ViewDraw, random_colours

CENTROIDS, NEIGHBOURS = 16, 8
"""Cluster centres that are scored first, and rows near the best of them that are scored then."""

TOKENS = 2_000
"""Cells and prefix tokens of the demonstrations that a row is scored on: one at the least, then as many as fit."""


class Recall:
    """The bank of trained latents, clustered once for all tasks.

    Sixteen cluster centres are scored on the demonstrations first, then the rows nearest to the best of them: all 500
    rows would take longer than adaptation itself.
    """

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.weights = weights
        self.device = device
        rows = weights.bank.reshape(len(weights.bank), -1)
        self.mean: Array = weights.bank.mean(axis=0)
        self.centroids, _ = k_means(rows, min(CENTROIDS, len(rows)), np.random.default_rng(0))
        self.network = build_network(weights.config, weights.network).to(device).requires_grad_(False)

    def start(self, demonstrations: tuple[Pair, ...]) -> tuple[Array, Recalled]:
        """Latents [P, C] that explain the demonstrations best: the mean, a centre, or a row near the best centre."""
        shape = self.mean.shape
        centres = self.centroids.reshape(-1, *shape)
        mean_nats, *centre_nats = self.nats(np.concatenate([self.mean[None], centres]), demonstrations)
        best = int(np.argmin(centre_nats))
        rows = self.weights.bank.reshape(len(self.weights.bank), -1)
        order = np.argsort(((rows - self.centroids[best]) ** 2).sum(axis=1), kind="stable")
        near = order[:NEIGHBOURS]
        near_nats = self.nats(self.weights.bank[near], demonstrations)
        nearest = sorted(
            (Neighbour(self.weights.tasks[i], nats) for i, nats in zip(near, near_nats, strict=True)),
            key=lambda one: (one.nats, one.task),
        )
        row = self.weights.tasks.index(nearest[0].task)
        found = [
            (mean_nats, "mean", self.mean),
            (centre_nats[best], "centroid", centres[best]),
            (nearest[0].nats, nearest[0].task, self.weights.bank[row]),
        ]
        nats, source, latents = min(found, key=lambda one: one[0])
        return latents.astype(np.float32), Recalled(source, nats, mean_nats, tuple(nearest))

    @torch.no_grad()
    def nats(self, rows: Array, demonstrations: tuple[Pair, ...]) -> list[float]:
        """Loss of each row [R, P, C] on the demonstrations, in nats a cell, in one view of each and its transpose."""
        pairs = pack_of(demonstrations)
        canvas = np.maximum(pairs.sizes[:, :2], pairs.sizes[:, 2:]).astype(np.int64)
        tokens = canvas.prod(axis=1) + self.weights.config.prefix
        order = np.argsort(tokens, kind="stable")
        chosen = order[: max(1, int((tokens[order].cumsum() <= TOKENS / 2).sum()))]
        store = PairStore(pairs, self.device)
        generator = torch.Generator(self.device).manual_seed(0)
        normal = normal_from(generator, self.device)
        totals = np.zeros(len(rows))
        latents = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).to(self.device)
        for pair in chosen:
            for dihedral, (height, width) in ((0, canvas[pair]), (4, canvas[pair][::-1])):
                # All rows see the same presentation, and the same chance.
                colours = random_colours(1, generator).expand(len(rows), COLOURS)
                view = ViewDraw(torch.full((len(rows),), dihedral, device=self.device), colours)
                index = torch.full((len(rows),), int(pair), device=self.device)
                corner = torch.zeros(len(rows), 2, device=self.device)
                batch = store.batch(index, view, int(height), int(width), corner)
                losses = objective(
                    self.network,
                    latents,
                    batch,
                    steps=self.weights.config.steps,
                    normal=lambda shape: normal((1, *shape[1:])).expand(shape),
                )
                totals += losses.nats.double().cpu().numpy()
        return [float(total) / (2 * len(chosen)) for total in totals]


def k_means(
    rows: NDArray[np.float32], count: int, rng: np.random.Generator, rounds: int = 20
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lloyd's algorithm (1982) from k-means++ seeds (Arthur and Vassilvitskii, 2007).

    Args:
        rows: [N, D].
        count: clusters, at most N.

    Returns:
        Centres [count, D] and each row's cluster [N].
    """
    exact = rows.astype(np.float64)

    def distances(centres: NDArray[np.float32]) -> NDArray[np.float64]:
        # |a - b|^2 by a product: the differences themselves would be N x count x D numbers.
        square = (exact**2).sum(1)[:, None] + (centres.astype(np.float64) ** 2).sum(1)[None]
        between: NDArray[np.float64] = np.maximum(square - 2 * exact @ centres.T.astype(np.float64), 0.0)
        return between

    chosen = [int(rng.integers(len(rows)))]
    while len(chosen) < count:
        far = distances(rows[chosen]).min(axis=1)
        weights = far / far.sum() if far.sum() else np.full(len(rows), 1 / len(rows))
        chosen.append(int(rng.choice(len(rows), p=weights)))
    centres = rows[chosen].copy()
    cluster = distances(centres).argmin(axis=1)
    for _ in range(rounds):
        for number in range(count):
            if (cluster == number).any():
                centres[number] = rows[cluster == number].mean(axis=0)
        moved = distances(centres).argmin(axis=1)
        if (moved == cluster).all():
            break
        cluster = moved
    return centres, cluster
