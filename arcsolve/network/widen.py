"""Widening: a narrow network and its bank become wide ones that compute the same function, to be trained further."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcsolve.errors import ArcsolveError
from arcsolve.network.config import NetworkConfig

Array = NDArray[np.float32]

UNEVEN = 0.5
"""Standard deviation of how unevenly a weight is divided among the copies of its input, as a share of an even part."""


def widen(
    config: NetworkConfig, network: dict[str, Array], bank: Array, factor: int, seed: int = 0
) -> tuple[NetworkConfig, dict[str, Array], Array]:
    """Repeat every channel, head and hidden unit ``factor`` times (Net2WiderNet, 1511.05641).

    RMSNorm of a repeated vector is the repeated RMSNorm, and heads keep their width, so rotary positions and attention
    logits stay as they were: the function is the same up to rounding. A matrix divides each weight among the copies of
    its input, unevenly and differently for each copy of its output; evenly divided, the copies would get the same
    gradients for ever.

    Args:
        config: the narrow network's sizes.
        network: its tensors by name, as in a weights file.
        bank: task latents, [tasks, P, C].
        factor: 2 or more.

    Returns:
        The wide network's sizes, tensors and bank.

    Raises:
        ArcsolveError: ``factor`` is below 2, or a tensor is not one that this knows how to repeat.
    """
    if factor < 2:
        raise ArcsolveError(f"a network is widened by a factor of 2 or more, not {factor}")
    rng = np.random.default_rng(seed)

    def columns(matrix: Array) -> Array:
        """Divide each weight among ``factor`` copies of its input: [o, i] -> [o, factor * i]."""
        parts = rng.normal(1.0, UNEVEN, (factor, *matrix.shape))
        parts += 1 - parts.mean(axis=0)
        return np.concatenate(list(parts * matrix / factor), axis=1).astype(np.float32)

    def rows(matrix: Array, parts: int) -> Array:
        """Repeat the rows of each of ``parts`` equal parts: [o, ...] -> [factor * o, ...]."""
        return np.concatenate([part for block in np.split(matrix, parts) for part in [block] * factor])

    wide: dict[str, Array] = {}
    for name, tensor in network.items():
        kind = name.split(".")[-2] if "." in name else name
        if kind in ("rotary", "copy") or (kind in ("halt", "prior", "head") and tensor.ndim == 1):
            wide[name] = tensor
        elif kind in ("colour", "slot", "dihedral", "hint", "turn", "h0", "l0", "posterior"):
            wide[name] = np.concatenate([tensor] * factor, axis=-1)
        elif kind in ("decode", "halt", "prior", "head"):
            wide[name] = columns(tensor)
        elif name == "transition.out.weight":
            wide[name] = rows(tensor, 1)  # the noise keeps its width
        elif kind == "join":
            state, output = np.split(rows(tensor, 1), 2, axis=1)
            wide[name] = np.concatenate([columns(state), columns(output)], axis=1)
        elif kind in ("qkv", "gate_up", "out", "down"):
            # The fused matrices hold queries, keys and values, or gate and value, one after the other.
            wide[name] = columns(rows(tensor, {"qkv": 3, "gate_up": 2}.get(kind, 1)))
        elif name.endswith(".attention.gain") or kind == "neighbours":
            wide[name] = rows(tensor, 1)
        else:
            raise ArcsolveError(f"the tensor {name} cannot be widened")
    return _wider(config, factor), wide, np.concatenate([bank] * factor, axis=-1)


def _wider(config: NetworkConfig, factor: int) -> NetworkConfig:
    sizes: dict[str, Any] = {name: factor * getattr(config, name) for name in ("width", "heads", "hidden")}
    return replace(config, **sizes)
