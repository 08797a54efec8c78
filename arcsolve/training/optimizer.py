"""Which parameter learns how: Muon for the matrices, AdamW for everything else."""

from __future__ import annotations

import torch
from torch.optim import AdamW, Optimizer

from arcsolve.network.block import Block
from arcsolve.network.device import has_bf16
from arcsolve.network.recursion import RecursiveNetwork, TaskLatents
from arcsolve.training.muon import Muon
from arcsolve.training.presets import TrainConfig


def optimizers(network: RecursiveNetwork, bank: TaskLatents, config: TrainConfig) -> list[Optimizer]:
    """Muon over the matrices of the blocks (its steps scaled to match AdamW's) or AdamW, AdamW over the rest.

    Every group keeps its full rate under ``base``, from which :func:`set_rate` sets the current one.
    """
    matrices = [
        p for module in network.modules() if isinstance(module, Block) for p in module.parameters() if p.ndim == 2
    ]
    embeddings = [network.colour, network.slot, network.dihedral]
    latents = [bank.rows] if network.turn is None else [bank.rows, network.turn]
    chosen = {id(p) for p in matrices + embeddings + latents}
    others = [p for p in network.parameters() if id(p) not in chosen]
    matrix_optimizer: Optimizer
    if config.optimizer == "muon":
        fast = torch.bfloat16 if has_bf16(matrices[0].device) else torch.float32
        matrix_optimizer = Muon(matrices, lr=config.muon_rate, weight_decay=config.weight_decay, dtype=fast)
    else:
        matrix_optimizer = AdamW(
            matrices, lr=config.muon_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95), fused=True
        )
    adam = AdamW(
        [
            {"params": embeddings, "lr": config.adam_rate, "weight_decay": config.weight_decay / 10},
            {"params": others, "lr": config.adam_rate, "weight_decay": 0.0},
            {"params": latents, "lr": config.latent_rate, "weight_decay": config.weight_decay / 10},
        ],
        betas=(0.9, 0.95),
        fused=True,
    )
    made: list[Optimizer] = [matrix_optimizer, adam]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
    return made


def set_rate(made: list[Optimizer], factor: float) -> None:
    """Set every group's learning rate to ``factor`` of its full one."""
    for optimizer in made:
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor


class Average:
    """An exponential moving average of parameters, which is what gets evaluated and shipped."""

    def __init__(self, tensors: dict[str, torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: dict[str, torch.Tensor], updates: int) -> None:
        """Move towards the current values; early on faster, so that the start is soon forgotten."""
        weight = 1 - min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(list(self.tensors.values()), [tensors[n].detach() for n in self.tensors], weight)
