"""The recursive network: one small function, re-run on its own latent state (Tiny Recursive Model, 2510.04871)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arcsolve.arc.grid import COLOURS
from arcsolve.canvas import CLASSES
from arcsolve.network.block import Block, Layout, grid_angles, rms_norm, rotary_table
from arcsolve.network.config import NetworkConfig
from arcsolve.network.latents import StochasticTransition
from arcsolve.network.neighbours import by_taps, grid_window
from arcsolve.views import DIHEDRALS


class State(NamedTuple):
    """The latent state: ``h`` holds the answer, ``l`` the scratch work; each [B, T, C]."""

    h: Tensor
    l: Tensor

    def detach(self) -> State:
        """The same values without history: supervision steps do not backpropagate into each other."""
        return State(self.h.detach(), self.l.detach())


class StepOutput(NamedTuple):
    """What one supervision step gives: the new state, logits [B, H, W, 11] and halting logit [B]."""

    state: State
    logits: Tensor
    halting: Tensor


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a small table [K, C]: integers [...] -> [..., C].

    Where a GPU is to learn the table, by a product: of the gradients of thousands of cells that share a row, the
    library adds one after the other.
    """
    if not (table.is_cuda and torch.is_grad_enabled()):
        return table[index]
    chosen = index[..., None] == torch.arange(len(table), device=index.device)
    with torch.autocast("cuda", enabled=False):
        return chosen.type_as(table) @ table


class RecursiveNetwork(nn.Module):
    """Two blocks, re-run: ``n`` times ``l <- f(l + h + x)``, then ``h <- f(h + l)``, then decode ``h``.

    The input ``x`` is a prefix (task latents, the view's dihedral, the view's ten colours) and the canvas cells. Token
    ``k`` of the ten says which colour now plays original colour ``k``, in the same embedding as the cells, so all views
    of a task share its latents.
    """

    h0: Tensor
    l0: Tensor
    rotary: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.colour = nn.Parameter(torch.randn(CLASSES, width))
        self.slot = nn.Parameter(torch.randn(COLOURS, width))
        self.dihedral = nn.Parameter(torch.randn(DIHEDRALS, width))
        # These start as if they were not there, so weights that were trained without them can go on with them.
        self.hint = nn.Parameter(torch.zeros(CLASSES, width)) if config.hints else None
        self.copy = nn.Parameter(torch.zeros(1)) if config.copy else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.decode = nn.Linear(width, CLASSES, bias=False)
        self.halt = nn.Linear(width, 1)
        self.register_buffer("h0", torch.randn(width))
        self.register_buffer("l0", torch.randn(width))
        self.register_buffer("rotary", rotary_table(width // config.heads))
        _initialise(self)
        # Confidence starts at 1%: a net that knows nothing should not claim even odds.
        nn.init.zeros_(self.halt.weight)
        nn.init.constant_(self.halt.bias, -5.0)
        # Whether the blocks are compiled, once for all canvases.
        self.any_canvas = False
        self.layouts: dict[tuple[int, int], Layout] = {}
        # What follows comes last, so that equal seeds give equal networks with and without it.
        self.transition = None
        if config.noise_width:
            self.transition = StochasticTransition(config)
            _initialise(self.transition)
            self.transition.reset()
        # Of the size of a task's latents from the start, since no presentation of a task as it is has them.
        self.turn = nn.Parameter(torch.randn(DIHEDRALS - 1, config.latents, width)) if config.turns else None

    def embed(
        self,
        cells: Tensor,
        dihedral: Tensor,
        colours: Tensor,
        latents: Tensor,
        hint: tuple[Tensor, Tensor] | None = None,
        turned: Tensor | None = None,
    ) -> Tensor:
        """The input tokens ``x``.

        Args:
            cells: integers [B, H, W], 0..9 and 10 for "outside the input".
            dihedral: integers [B], the view's symmetry.
            colours: integers [B, 10]; entry ``k`` is the colour that plays original colour ``k``.
            latents: [B, P, C], the task's latents.
            hint: the output's classes, integers [B, H, W], and where they are shown, booleans [B, H, W]; training only,
                and only with ``config.hints``.
            turned: integers [B], the symmetry in which the output is asked for, beside the view's; training only, and
                only with ``config.turns``.

        Returns:
            [B, P + 11 + H * W, C].
        """
        if not self.config.told:
            dihedral = torch.zeros_like(dihedral)
            colours = torch.arange(COLOURS, device=colours.device).expand_as(colours)
        if turned is not None and self.turn is not None:
            wanted = torch.cat([torch.zeros_like(self.turn[:1]), self.turn]).flatten(1)
            latents = latents + look_up(wanted, turned).view_as(latents)
        roles = look_up(self.colour, colours) + self.slot
        prefix = torch.cat([latents, self.dihedral[dihedral][:, None], roles], dim=1)
        canvas = look_up(self.colour, cells)
        if hint is not None and self.hint is not None:
            output, shown = hint
            canvas = canvas + self.hint[output] * shown[..., None]
        return torch.cat([prefix, canvas.flatten(1, 2)], dim=1)

    def start(self, batch: int, tokens: int, noise: Tensor | None = None) -> State:
        """The state before the first step, [B, T, C] each: fixed vectors, or ``h0`` from ``noise`` [B, T, C]."""
        shape = (batch, tokens, self.config.width)
        h = self.h0.expand(shape) if noise is None else noise
        return State(h, self.l0.expand(shape))

    def layout(self, x: Tensor, height: int, width: int) -> Layout:
        """Where the tokens of ``x`` lie."""
        # Kept for compiled blocks alone: an exported graph's sides are no numbers to look up.
        if self.any_canvas and (height, width) in self.layouts:
            return self.layouts[height, width]
        angles = grid_angles(self.rotary, height, width, self.config.prefix)
        window = grid_window(height, width, self.config.prefix, x.device) if self.any_canvas else None
        layout = Layout(angles.cos().type_as(x), angles.sin().type_as(x), height, width, window)
        if self.any_canvas:
            self.layouts[height, width] = layout
        return layout

    def guide(self, x: Tensor, state: State, noise: Tensor, target: Tensor, guided: Tensor) -> tuple[State, Tensor]:
        """A transition that may look at the output, between :meth:`step` without noise and the next; training only.

        See :meth:`~arcsolve.network.latents.StochasticTransition.guide`.
        """
        assert self.transition is not None
        layout = self.layout(x, *target.shape[1:])
        h, kl = self.transition.guide(x, state.h, noise, target, guided, layout)
        return State(h, state.l), kl

    @torch.no_grad()
    def explain(self, x: Tensor, state: State, noise: Tensor, outputs: Tensor) -> Tensor:
        """Log-densities of a transition from the prior had it been towards each of ``outputs``; training only.

        See :meth:`~arcsolve.network.latents.StochasticTransition.explain`.
        """
        assert self.transition is not None
        layout = self.layout(x, *outputs.shape[2:])
        densities: Tensor = self.transition.explain(x, state.h, noise, outputs, layout)
        return densities

    def _function(self, x: Tensor, layout: Layout) -> Tensor:
        for block in self.blocks:
            x = block(x, layout)
        return x

    def step(
        self,
        x: Tensor,
        state: State,
        height: int,
        width: int,
        noise: Tensor | None = None,
        inner_steps: int | None = None,
    ) -> StepOutput:
        """One supervision step.

        Args:
            x: [B, T, C] from :meth:`embed`.
            noise: with ``config.noise_width`` [B, prefix, Z], for a transition drawn from the prior after the step,
                which the next one carries to the cells; else [B, T, C], added to the new ``h`` as it is, damped by the
                caller (EqR). ``None`` for none.
            inner_steps: ``n``, where a depth ramp runs fewer than ``config.inner_steps``.
        """
        layout = self.layout(x, height, width)
        h, l = state
        for _ in range(inner_steps or self.config.inner_steps):
            l = self._function(l + h + x, layout)
        h = self._function(h + l, layout)
        if self.transition is None and noise is not None:
            h = h + noise
        read = h if self.copy is None else h + self.copy * x
        logits = self.decode(read[:, self.config.prefix :].reshape(len(h), height, width, -1))
        # The trunk learns to solve, not to please the halting head: no gradient flows back from it.
        halting = self.halt(rms_norm(h[:, 0].detach()))[:, 0]
        if self.transition is not None and noise is not None:
            h = self.transition(x, h, noise)
        return StepOutput(State(h, l), logits, halting)


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
            module.weight.data = by_taps(module.weight.data)


def starts_absent(name: str) -> bool:
    """Whether weights without a parameter can go on with it: it starts absent, or must be asked for."""
    return name in ("copy", "hint", "turn") or name.startswith("transition.")


def training_only(name: str) -> bool:
    """Whether a parameter is of use to training alone, and no graph has it."""
    return name in ("hint", "turn") or name.startswith("transition.posterior.")


class TaskLatents(nn.Module):
    """The bank: one row of ``P`` latent tokens for each training task, shared by all its views (mdlARC)."""

    def __init__(self, tasks: int, config: NetworkConfig) -> None:
        super().__init__()
        # Unit variance, like every other input token: rows that start at zero hardly move in the visits they get.
        self.rows = nn.Parameter(torch.randn(tasks, config.latents, config.width))

    def forward(self, task: Tensor) -> Tensor:
        """Rows of tasks: integers [B] -> [B, P, C]."""
        return self.rows[task]
