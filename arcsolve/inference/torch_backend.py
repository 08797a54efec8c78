"""The reference backend: the network in torch, on any torch device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcsolve.errors import FormatError
from arcsolve.inference.backend import CPU_TOKENS, GPU_TOKENS, Array, Inputs, Step
from arcsolve.network.config import NetworkConfig
from arcsolve.network.recursion import RecursiveNetwork, State


class TorchBackend:
    """Runs the network in torch.

    Args:
        config: sizes.
        tensors: parameters and buffers by name, as in a weights file.
        device: a torch device.
    """

    def __init__(self, config: NetworkConfig, tensors: dict[str, NDArray[Any]], device: torch.device) -> None:
        self.name = f"torch:{device}"
        self.config = config
        self.device = device
        self.batch_tokens = CPU_TOKENS if device.type == "cpu" else GPU_TOKENS
        self.tensors = tensors
        self.start = (tensors["h0"], tensors["l0"])
        self.network = build_network(config, tensors).to(device).requires_grad_(False)

    def step(self, inputs: Inputs, h: Array, l: Array, noise: Array) -> Step:
        """See :class:`~arcsolve.inference.backend.Backend`."""
        with torch.inference_mode():
            cells, dihedral, colours, latents = (self._tensor(array) for array in inputs)
            x = self.network.embed(cells, dihedral, colours, latents)
            state = State(self._tensor(h), self._tensor(l))
            _, height, width = inputs.cells.shape
            state, logits, halting = self.network.step(x, state, height, width, self._tensor(noise))
        return Step(*(array.cpu().numpy() for array in (state.h, state.l, logits, halting)))

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def adapted(self, tensors: dict[str, NDArray[Any]]) -> TorchBackend:
        """See :class:`~arcsolve.inference.backend.Backend`."""
        if unknown := sorted(set(tensors) - set(self.tensors)):
            raise ValueError(f"{unknown[0]} is no tensor of this network")
        return TorchBackend(self.config, self.tensors | tensors, self.device)


def build_network(config: NetworkConfig, tensors: dict[str, NDArray[Any]]) -> RecursiveNetwork:
    """A torch network with these tensors (copied).

    Raises:
        FormatError: a name or shape does not fit the configuration.
    """
    network = RecursiveNetwork(config)
    try:
        network.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise FormatError(f"the weights do not fit their own configuration: {reason}") from error
    return network
