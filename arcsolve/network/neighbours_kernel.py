"""The convolution of :mod:`~arcsolve.network.neighbours` as Triton kernels, for training on a GPU.

Compiled from PyTorch, its nine shifted reads of each token all go to the second-level cache, and that was a third of an
update on an H200 (docs/LOG.md, 2026-11-27). Here a program holds a tile of tokens by channels, whose shifted reads meet
in the first-level cache. Needs triton, which comes with PyTorch's CUDA builds.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS, CHANNELS = 32, 64
"""Tile of a program."""
PARTS = 64
"""Programs that share the sum over all tokens, for each tile of channels."""


@triton.jit(do_not_specialize=["tokens", "width"])
def _add(
    z_at, weight_at, window_at, out_at, tokens, channels, width, token_tile: tl.constexpr, channel_tile: tl.constexpr
):
    token = tl.program_id(1) * token_tile + tl.arange(0, token_tile)
    channel = tl.program_id(0) * channel_tile + tl.arange(0, channel_tile)
    there = channel < channels
    z_at += tl.program_id(2).to(tl.int64) * tokens * channels
    out_at += tl.program_id(2).to(tl.int64) * tokens * channels
    tile = token[:, None] * channels + channel[None, :]
    inside = (token < tokens)[:, None] & there[None, :]
    total = tl.load(z_at + tile, mask=inside, other=0.0).to(tl.float32)
    window = tl.load(window_at + token, mask=token < tokens, other=0)
    for tap in tl.static_range(9):
        on = (window >> tap) & 1 > 0
        away = ((tap // 3 - 1) * width + tap % 3 - 1) * channels
        value = tl.load(z_at + tile + away, mask=on[:, None] & there[None, :], other=0.0).to(tl.float32)
        total += value * tl.load(weight_at + tap * channels + channel, mask=there, other=0.0).to(tl.float32)[None, :]
    tl.store(out_at + tile, total.to(out_at.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["blocks", "tokens", "width"])
def _weight_gradient(
    gradient_at, z_at, window_at, out_at, blocks, tokens, channels, width,
    parts: tl.constexpr, token_tile: tl.constexpr, channel_tile: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * channel_tile + tl.arange(0, channel_tile)
    there = (channel < channels)[None, :]
    row = tl.program_id(2)  # of the taps: three sums in registers, where nine would not fit
    above = (row - 1) * width * channels
    left = tl.zeros((token_tile, channel_tile), tl.float32)
    middle = tl.zeros((token_tile, channel_tile), tl.float32)
    right = tl.zeros((token_tile, channel_tile), tl.float32)
    each = tl.cdiv(tokens, token_tile)
    for block in range(tl.program_id(1), blocks, parts):
        token = (block % each) * token_tile + tl.arange(0, token_tile)
        start = (block // each).to(tl.int64) * tokens * channels
        tile = start + token[:, None] * channels + channel[None, :]
        inside = token < tokens
        gradient = tl.load(gradient_at + tile, mask=inside[:, None] & there, other=0.0).to(tl.float32)
        window = tl.load(window_at + token, mask=inside, other=0) >> (3 * row)
        on = (window & 1 > 0)[:, None] & there
        left += gradient * tl.load(z_at + tile + above - channels, mask=on, other=0.0).to(tl.float32)
        on = (window & 2 > 0)[:, None] & there
        middle += gradient * tl.load(z_at + tile + above, mask=on, other=0.0).to(tl.float32)
        on = (window & 4 > 0)[:, None] & there
        right += gradient * tl.load(z_at + tile + above + channels, mask=on, other=0.0).to(tl.float32)
    at = out_at + (tl.program_id(1) * channels + channel) * 9 + row * 3
    tl.store(at, tl.sum(left, 0), mask=channel < channels)
    tl.store(at + 1, tl.sum(middle, 0), mask=channel < channels)
    tl.store(at + 2, tl.sum(right, 0), mask=channel < channels)


@torch.library.custom_op("arcsolve::add_neighbours", mutates_args=())
def add_neighbours(z: Tensor, weight: Tensor, width: int, window: Tensor) -> Tensor:
    """As :func:`arcsolve.network.neighbours.add_neighbours`."""
    count, tokens, channels = z.shape
    z, out = z.contiguous(), torch.empty(z.shape, dtype=z.dtype, device=z.device)
    grid = (triton.cdiv(channels, CHANNELS), triton.cdiv(tokens, TOKENS), count)
    taps = weight.flatten(1).t().contiguous()  # a tile's channels in a row, to be read at once
    _add[grid](z, taps, window, out, tokens, channels, width, TOKENS, CHANNELS)
    return out


@torch.library.custom_op("arcsolve::neighbours_weight_gradient", mutates_args=())
def weight_gradient(gradient: Tensor, z: Tensor, width: int, window: Tensor) -> Tensor:
    """Gradient of the weight, [C, 1, 3, 3] in float32, from that of the sum and the tokens, each [B, T, C]."""
    count, tokens, channels = z.shape
    parts = torch.empty(PARTS, channels, 1, 3, 3, dtype=torch.float32, device=z.device)
    blocks = count * triton.cdiv(tokens, TOKENS)
    grid = (triton.cdiv(channels, CHANNELS), PARTS, 3)
    _weight_gradient[grid](
        gradient.contiguous(), z.contiguous(), window, parts, blocks, tokens, channels, width, PARTS, TOKENS, CHANNELS
    )
    return parts.sum(0)


@add_neighbours.register_fake
def _(z: Tensor, weight: Tensor, width: int, window: Tensor) -> Tensor:
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)


@weight_gradient.register_fake
def _(gradient: Tensor, z: Tensor, width: int, window: Tensor) -> Tensor:
    return z.new_empty(z.shape[2], 1, 3, 3, dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, Tensor], output: Tensor) -> None:
    z, weight, ctx.width, window = inputs
    ctx.save_for_backward(z, weight, window)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
    z, weight, window = ctx.saved_tensors
    # What a token gave to its neighbours comes back the opposite way: the same sum with the taps turned about.
    to_z = add_neighbours(gradient, weight.flip(2, 3), ctx.width, window)
    to_weight = weight_gradient(gradient, z, ctx.width, window)
    return to_z, to_weight.type_as(weight), None, None


add_neighbours.register_autograd(_backward, setup_context=_keep)
