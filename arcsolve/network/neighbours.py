"""A depthwise 3x3 convolution over the tokens of a canvas, the same code for every canvas."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
"""Steps to the neighbours of a 3x3 convolution, in the order of its weights."""


def grid_window(height: int, width: int, prefix: int, device: torch.device) -> Tensor:
    """Which neighbours lie on the canvas, a bit for each of the taps: integers [prefix + height * width]."""
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)[None, :]
    bits = torch.zeros(height, width, dtype=torch.int32, device=device)
    for tap, (r, c) in enumerate(TAPS):
        on = (0 <= rows + r) & (rows + r < height) & (0 <= columns + c) & (columns + c < width)
        bits += on.int() << tap
    return F.pad(bits.flatten(), (prefix, 0))


def by_taps(weight: Tensor) -> Tensor:
    """The same weights [C, 1, 3, 3], each tap's channels side by side in memory, as loops over channels read them.

    Left as it is, a compiled loop gathers them nine apart, which takes a CPU longer than the sum itself.
    """
    return weight.flatten(1).t().contiguous().t().view_as(weight)


def add_neighbours(z: Tensor, weight: Tensor, width: int, window: Tensor) -> Tensor:
    """Tokens plus a depthwise 3x3 convolution of them, as nine shifted multiply-adds, [B, T, C] -> the same.

    A neighbour lies a fixed number of tokens away, so this needs no shape but the tokens': compiled, it is the same
    code for every canvas, which the library's own, with its images, is not. The prefix stays as it is.

    Args:
        weight: [C, 1, 3, 3], in the memory order of :func:`by_taps` for speed.
        window: [T], from :func:`grid_window`.
    """
    tokens = z.shape[1]
    padded = F.pad(z, (0, 0, width + 1, width + 1))
    total = z.float()
    for tap, (row, column) in enumerate(TAPS):
        at = (row + 1) * width + column + 1
        on = (window >> tap & 1)[:, None]
        total = total + padded[:, at : at + tokens].float() * (on * weight[:, 0, row + 1, column + 1])
    return total.type_as(z)
