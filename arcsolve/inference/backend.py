"""What the sampler needs of a network, whoever runs it: one supervision step on numpy arrays."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from arcsolve.network.config import NetworkConfig

Array = NDArray[np.float32]
Integers = NDArray[np.int64]

CPU_TOKENS, GPU_TOKENS = 16_384, 131_072
"""``batch_tokens`` of a CPU (more would leave its caches) and of a GPU (0.3 GB a tensor at width 512)."""


class Inputs(NamedTuple):
    """What stays the same over a trajectory's steps.

    Attributes:
        cells: integers [B, H, W], the viewed input on its canvas, 10 outside it.
        dihedral: integers [B], the view's symmetry.
        colours: integers [B, 10]; entry ``k`` is the colour that plays original colour ``k``.
        latents: float32 [B, P, C], the task's latents.
    """

    cells: Integers
    dihedral: Integers
    colours: Integers
    latents: Array


class Step(NamedTuple):
    """What one supervision step gives: ``h`` and ``l`` [B, T, C], logits [B, H, W, 11], halting logits [B]."""

    h: Array
    l: Array
    logits: Array
    halting: Array


class Backend(Protocol):
    """Runs one supervision step. Implementations hold the network's tensors and no other state."""

    name: str
    """``onnx`` or ``torch``, and the device."""

    config: NetworkConfig

    batch_tokens: int
    """Tokens of a batch of trajectories that suit the device."""

    start: tuple[Array, Array]
    """The vectors ``h0`` and ``l0`` [C] that a trajectory starts from."""

    def step(self, inputs: Inputs, h: Array, l: Array, noise: Array) -> Step:
        """One supervision step; ``noise`` [B, ...], shaped as the configuration says, is the only source of chance.

        Learned noise comes standard normal, times a temperature; other noise is added to the new ``h`` as it is.
        """
        ...

    def adapted(self, tensors: dict[str, NDArray[Any]]) -> Backend:
        """The same network with other values for its tensors, by parameter name; this one stays as it was.

        Raises:
            ValueError: a name or shape is not the network's.
        """
        ...
