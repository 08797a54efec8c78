"""The Tiny Recursive Model's training step, written from the paper (2510.04871, figure 3), to measure ours against.

Its block is ours without the convolution: attention with rotary positions and SwiGLU, post-norm. What differs is what
it runs on: every sample is padded to 30x30 and preceded by 16 tokens of its puzzle, width 512, and the recursion is run
three times a step, of which only the last is learned from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcsolve.network.block import Block, Layout, grid_angles, rotary_table
from arcsolve.network.config import NetworkConfig

SIDE = 30
TOKEN_KINDS = 12  # padding, end of grid, ten colours
RECURSIONS, INNER_STEPS = 3, 4
CONFIG = NetworkConfig(
    width=512, heads=8, layers=2, hidden=1536, latents=5, inner_steps=INNER_STEPS, convolution=False
)
"""Sizes; the prefix of 5 + 11 tokens is as long as TRM's 16 puzzle tokens."""


class Carry(NamedTuple):
    """The answer ``y`` and the latent ``z``, each [B, 916, 512]."""

    y: Tensor
    z: Tensor


class TinyRecursiveModel(nn.Module):
    """Two blocks, re-run; the table of puzzle embeddings is reduced to one puzzle, which only flatters its speed."""

    rotary: Tensor

    def __init__(self) -> None:
        super().__init__()
        width = CONFIG.width
        self.tokens = nn.Embedding(TOKEN_KINDS, width)
        self.puzzle = nn.Parameter(torch.randn(CONFIG.prefix, width))
        self.blocks = nn.ModuleList(Block(CONFIG) for _ in range(CONFIG.layers))
        self.head = nn.Linear(width, TOKEN_KINDS, bias=False)
        self.halt = nn.Linear(width, 1)
        self.register_buffer("rotary", rotary_table(width // CONFIG.heads))

    @staticmethod
    def step_flop() -> float:
        """FLOP of one supervision step of training on one sample: two recursions forward, one forward and backward."""
        # What `CONFIG.step_flop` counts is one recursion: n updates of z and one of y.
        recursion = CONFIG.step_flop(SIDE * SIDE)
        return (RECURSIONS - 1) * recursion + 3 * recursion

    def start(self, batch: int) -> Carry:
        """The state before the first step."""
        zeros = self.puzzle.new_zeros(batch, SIDE * SIDE + CONFIG.prefix, CONFIG.width)
        return Carry(zeros, zeros)

    def forward(self, cells: Tensor, carry: Carry) -> tuple[Carry, Tensor, Tensor]:
        """One supervision step.

        Args:
            cells: integers [B, 900].

        Returns:
            The new state (detached), logits [B, 900, 12] and halting logits [B].
        """
        angles = grid_angles(self.rotary, SIDE, SIDE, CONFIG.prefix)
        prefix = self.puzzle.expand(len(cells), -1, -1)
        x = torch.cat([prefix, self.tokens(cells)], dim=1)
        layout = Layout(angles.cos().type_as(x), angles.sin().type_as(x), SIDE, SIDE)
        with torch.no_grad():
            for _ in range(RECURSIONS - 1):
                carry = self._recursion(x, carry, layout)
        y, z = self._recursion(x, carry, layout)
        return Carry(y.detach(), z.detach()), self.head(y[:, CONFIG.prefix :]), self.halt(y[:, 0])[:, 0]

    def _recursion(self, x: Tensor, carry: Carry, layout: Layout) -> Carry:
        y, z = carry
        for _ in range(INNER_STEPS):
            z = self._function(x + y + z, layout)
        return Carry(self._function(y + z, layout), z)

    def _function(self, x: Tensor, layout: Layout) -> Tensor:
        for block in self.blocks:
            x = block(x, layout)
        return x


def loss(logits: Tensor, halting: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of all 900 cells and half the halting head's binary cross-entropy; ``target`` is [B, 900]."""
    cells = F.cross_entropy(logits.float().flatten(0, 1), target.flatten())
    right = (logits.argmax(-1) == target).all(1)
    return cells + 0.5 * F.binary_cross_entropy_with_logits(halting.float(), right.float())
