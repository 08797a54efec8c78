"""One transformer block, post-norm: attention with 2D rotary positions, then SwiGLU with a depthwise convolution."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcsolve.network.config import MAX_POSITIONS, NetworkConfig
from arcsolve.network.neighbours import add_neighbours


def rms_norm(x: Tensor) -> Tensor:
    """RMSNorm (1910.07467) over the last axis, without a gain, computed in fp32: [..., C] -> [..., C]."""
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)).type_as(x)


def rotary_table(head_width: int) -> Tensor:
    """Angles of 1D rotary positions (2104.09864): [MAX_POSITIONS, head_width / 4], for one of the two axes."""
    count = head_width // 4
    # Grids have sides up to 30, so the slowest wave needs a length of about 100 cells, not the 10,000 words of text.
    frequencies = 100.0 ** (-torch.arange(count) / max(count - 1, 1))
    return torch.arange(MAX_POSITIONS)[:, None] * frequencies[None, :]


def grid_angles(table: Tensor, height: int, width: int, prefix: int) -> Tensor:
    """Angles for a prefix without positions and the cells of a grid, row by row.

    Args:
        table: [MAX_POSITIONS, A], from :func:`rotary_table`.

    Returns:
        [prefix + height * width, 2 A]: the first half turns with the row, the second with the column.
    """
    rows = table[:height, None, :].expand(height, width, -1)
    columns = table[None, :width, :].expand(height, width, -1)
    cells = torch.cat([rows, columns], dim=-1).reshape(height * width, -1)
    return torch.cat([cells.new_zeros(prefix, cells.shape[-1]), cells])


class Layout(NamedTuple):
    """Where a batch's tokens lie: a prefix without positions, then the cells of a canvas, row by row.

    Attributes:
        cos, sin: of the rotary positions, each [T, head width / 2].
        height, width: of the canvas.
        window: which of a token's 3x3 neighbours there are, a bit each, [T]
            (:func:`~arcsolve.network.neighbours.grid_window`); for blocks that are compiled for all canvases at once,
            and ``None`` for all others.
    """

    cos: Tensor
    sin: Tensor
    height: int
    width: int
    window: Tensor | None = None


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention (1706.03762), [B, heads, T, D] each -> the same."""
    if q.device.type == "cpu" and torch.is_grad_enabled():
        # The fused kernel's backward pass is four times slower on a CPU than these products, which keep the [T, T]
        # scores: small, since training's batches hold few tokens there.
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
        return scores.float().softmax(-1).type_as(v) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens; positions enter by rotating queries and keys."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        # RMSNorm bounds the logits, so a head that must pick out one cell needs a gain it can learn.
        self.gain = nn.Parameter(torch.ones(config.heads))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T, C] with cos and sin [T, C / heads / 2] -> [B, T, C]."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        q = self._rotate(q, cos, sin) * self.gain[:, None, None].type_as(q)
        mixed = attend(q, self._rotate(k, cos, sin), v)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out

    @staticmethod
    def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class ConvSwiGLU(nn.Module):
    """SwiGLU (2002.05202) whose hidden channels also see their 3x3 neighbours (URM, 2512.14693)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.prefix = config.prefix
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)
        self.add = add_neighbours  # or the kernel of the same name, where a trainer says so
        self.neighbours = None
        if config.convolution:
            self.neighbours = nn.Conv2d(config.hidden, config.hidden, 3, padding=1, groups=config.hidden, bias=False)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """[B, T, C] -> the same; the convolution leaves the prefix alone."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        z = F.silu(gate) * up
        if self.neighbours is None:
            return self.down(z)  # type: ignore[no-any-return]
        if layout.window is not None:
            return self.down(self.add(z, self.neighbours.weight, layout.width, layout.window))  # type: ignore[no-any-return]
        prefix, cells = z[:, : self.prefix], z[:, self.prefix :]
        # In this memory order the permuted view is already channels-last, which the convolution reads without a copy.
        image = cells.reshape(x.shape[0], layout.height, layout.width, -1).permute(0, 3, 1, 2)
        seen = self.neighbours(image).permute(0, 2, 3, 1).reshape(cells.shape)
        out: Tensor = self.down(torch.cat([prefix, cells + seen], dim=1))
        return out


class Block(nn.Module):
    """Attention and MLP, each added and then normalised (post-norm keeps a re-run state bounded)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = ConvSwiGLU(config)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = rms_norm(x + self.attention(x, layout.cos, layout.sin))
        return rms_norm(x + self.mlp(x, layout))
