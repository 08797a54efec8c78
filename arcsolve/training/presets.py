"""Everything a training run can be told, and the presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from arcsolve.errors import ArcsolveError
from arcsolve.network.config import NetworkConfig

RATES = ("muon_rate", "adam_rate", "latent_rate")
"""The learning rates of a run, fields of :class:`TrainConfig`."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Points on a ramp are shares of the run's budget, 0..1, ascending from 0.

    Attributes:
        network: sizes; ``inner_steps`` and ``steps`` are the ends of the depth ramp.
        sides: sides that canvases are rounded up to.
        square: whether canvases are squares: fewer sizes to compile, more empty cells.
        max_side: pairs with a longer canvas are left out.
        tokens: cells and prefix tokens in a batch at the most.
        most: most presentations in a batch.
        generated_share: share of presentations drawn from generated pairs.
        margin: share of batches on a canvas one size larger.
        views: ramp of views: (from, stage). All from the start learns more than any ramp that was tried.
        pool: colour maps in the ``pool`` stage of views.
        depth: ramp of depth: (from, inner steps ``n``, supervision steps ``N``).
        update_each_step: an update after each supervision step (TRM) instead of one on their mean loss.
        hint_share: share of presentations that show part of the output, for networks with ``hints``.
        turned_share: share of presentations whose output, not the input, is turned into another symmetry, for networks
            with ``turns``: seven more tasks of each, which nobody had to make, and which brought nothing.
        optimizer: ``muon`` (:class:`~arcsolve.training.muon.Muon`) or ``adamw``, for the matrices.
        latent_noise: standard deviation of noise on a task's latents, drawn for each presentation: variational latents
            of a fixed width, whose KL to N(0, I) is half their square.
        latent_kl: weight of that KL, in nats for each of a task's latent channels.
        prior_share: with learned noise, share of presentations whose every transition is drawn from the prior, as at
            inference; the others follow the posterior. From ``nearest_from`` on twice as many.
        prior_from: share of the budget from which on there are any, and the KL weighs ``beta``. Until then the
            posterior is alone: a network that meets noise of no meaning, or a posterior that pays before it is of use,
            learns the mixture of a puzzle's answers and to pass over the noise.
        nearest_from: share of the budget from which on, with several known outputs of an input, what the prior leads
            to is judged by that of them which chance has chosen (:func:`~arcsolve.training.objective.objective`); by
            then the posterior must have given each its place.
        beta: weight of the learned noise's KL at first, where 1 makes the loss each step's evidence bound; it then
            follows the gap between right answers with the posterior and with the prior. It starts low, for the
            posterior to be of use before it is dear.
        noise_from: share of the budget before which learned noise is left out.
        reset: meta-adaptation cycles: (every so many updates, share of the tasks): their rows start anew at the mean,
            so that the network must stay one to which a new task can be fitted; none in the last ``decay`` of a run.
            In no preset: known tasks are learned less well by it, and new ones fitted no better.
        muon_rate: learning rate of the matrices.
        adam_rate: learning rate of embeddings, gains, convolution and heads.
        latent_rate: learning rate of the task latents; rate x expected visits should be about 2 to 3.
        weight_decay: of the matrices; embeddings have a tenth of it.
        clip: norm that gradients are clipped to.
        warmup: share of the budget over which rates rise.
        decay: share of the budget, at its end, over which rates fall to 0.
        ema: decay of the averaged weights, per update.
        bf16: autocast to bfloat16 where the device multiplies matrices faster in it.
        compile: compile the blocks where that is possible.
        graphs: on a single GPU, repeat forward and backward as CUDA graphs (:mod:`~arcsolve.training.graphs`).
        kernels: on a GPU with compiled blocks, the convolution by Triton kernels of its own
            (:mod:`~arcsolve.network.neighbours_kernel`).
        protocol: what the pairs make of the weights: ``per-task`` (the guard let them through), ``joint``
            (demonstrations of the tasks to be solved, on top of finished weights) or ``transductive``.
        seed: of initial weights and every draw.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    sides: tuple[int, ...] = (8, 12, 16, 20, 25, 30)
    square: bool = False
    max_side: int = 30
    tokens: int = 16_384
    most: int = 64
    generated_share: float = 0.3
    margin: float = 0.15
    views: tuple[tuple[float, str], ...] = ((0.0, "all"),)
    pool: int = 16
    depth: tuple[tuple[float, int, int], ...] = ((0.0, 1, 1), (0.33, 2, 2), (0.55, 2, 4), (0.75, 4, 6))
    update_each_step: bool = False
    hint_share: float = 0.0
    turned_share: float = 0.0
    latent_noise: float = 0.0
    latent_kl: float = 0.0
    prior_share: float = 0.25
    prior_from: float = 0.0
    nearest_from: float = 1.0
    beta: float = 0.01
    noise_from: float = 0.0
    reset: tuple[int, float] | None = None
    optimizer: str = "muon"
    muon_rate: float = 1e-3
    adam_rate: float = 1e-3
    latent_rate: float = 1e-2
    weight_decay: float = 0.1
    clip: float = 1.0
    warmup: float = 0.02
    decay: float = 0.25
    ema: float = 0.999
    bf16: bool = False
    compile: bool = False
    graphs: bool = False
    kernels: bool = False
    protocol: str = "per-task"
    seed: int = 0

    def stage(self, progress: float) -> str:
        """The view stage at this share of the budget."""
        return [name for start, name in self.views if start <= progress][-1]

    def depth_at(self, progress: float) -> tuple[int, int]:
        """Inner steps ``n`` and supervision steps ``N`` at this share of the budget."""
        return [(inner, steps) for start, inner, steps in self.depth if start <= progress][-1]

    def resets_at(self, before: int, updates: int, progress: float) -> bool:
        """Whether a meta-adaptation cycle begins between these numbers of updates, at this share of the budget."""
        due = self.reset is not None and before // self.reset[0] < updates // self.reset[0]
        return due and progress < 1 - self.decay

    @property
    def repeatable(self) -> bool:
        """Whether graphs are asked for and possible: nothing by chance in the network, one update for each batch."""
        network = self.network
        chance = network.random_start or network.noise or network.noise_width or self.latent_noise
        return self.graphs and not chance and not self.update_each_step

    def rate(self, progress: float) -> float:
        """Factor on the learning rates: linear warm-up, constant, linear to 0."""
        up = min(1.0, progress / self.warmup) if self.warmup else 1.0
        down = min(1.0, (1 - progress) / self.decay) if self.decay else 1.0
        return max(0.0, min(up, down))

    def with_rates(self, factor: float) -> TrainConfig:
        """The same run with every learning rate times ``factor``."""
        return replace(self, **{name: factor * getattr(self, name) for name in RATES})

    def with_width(self, width: int) -> TrainConfig:
        """The same run with another width: heads keep theirs, and their number and the hidden units go with it.

        Raises:
            ArcsolveError: the width is no multiple of a head's.
        """
        head = self.network.width // self.network.heads
        if width % head:
            raise ArcsolveError(f"--width {width}: must be a multiple of {head}")
        hidden = self.network.hidden * width // self.network.width
        return replace(self, network=replace(self.network, width=width, hidden=hidden, heads=width // head))

    def at_full_views(self) -> TrainConfig:
        """The same run with all views from the start: for weights that have climbed that ramp."""
        return replace(self, views=((0.0, *self.views[-1][1:]),))

    def at_full_ramps(self) -> TrainConfig:
        """The same run with all views and its full depth from the start."""
        return replace(self.at_full_views(), depth=((0.0, *self.depth[-1][1:]),))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint or a log."""
        return asdict(self)


_CPU = TrainConfig(
    network=NetworkConfig(width=128, heads=4, hidden=384, inner_steps=1, steps=2, halting=True),
    sides=(6, 10, 13, 16, 20, 25, 30),
    max_side=16,
    tokens=2_400,
    # Twice the updates on the same presentations are worth a seventh more time.
    most=8,
    muon_rate=1e-3,
    adam_rate=1e-3,
    latent_rate=5e-3,
    # Half of the presentations are generated: their hundreds of inputs a task teach the rule, not the pairs.
    generated_share=0.5,
    # Depth is bought late: on few presentations a shallow net learns more, and twice as many of them fit the time.
    depth=((0.0, 1, 1), (0.6, 1, 2)),
    decay=0.3,
    bf16=True,
    compile=True,
)

PRESETS = {
    "tiny": TrainConfig(
        network=NetworkConfig(width=32, heads=4, hidden=64, latents=2, inner_steps=1, steps=2, halting=True),
        sides=(5, 10, 20, 30),
        max_side=5,
        tokens=600,
        most=8,
        muon_rate=1e-2,
        adam_rate=1e-2,
        depth=((0.0, 1, 1), (0.5, 1, 2)),
        ema=0.9,
    ),
    "cpu": _CPU,
    "gpu": replace(
        _CPU,
        network=NetworkConfig(inner_steps=2, steps=2, halting=True),
        max_side=30,
        # Batches of a third of this took an H200 nearly as long: its host sets the pace (docs/LOG.md, 2026-11-27).
        tokens=49_152,
        most=384,
        muon_rate=1.5e-3,
        adam_rate=1.5e-3,
        # A third of the updates visits a row.
        latent_rate=3e-3,
        depth=((0.0, 1, 1), (0.25, 1, 2), (0.55, 2, 2)),
    ),
}

DEFAULT_UPDATES = {"tiny": 60, "cpu": 40_000, "gpu": 100_000}


def gate_config(seed: int, views: str, **switches: Any) -> TrainConfig:
    """The learning gate's run: the ``cpu`` net, shallow, one stage of views, everything optional off."""
    network = replace(_CPU.network, **{"latents": 8, "inner_steps": 1, "steps": 1, "halting": False, **switches})
    return replace(
        _CPU,
        network=network,
        max_side=10,
        sides=(5, 8, 10),
        tokens=2_000,
        most=16,
        generated_share=0.0,
        margin=0.0,
        views=((0.0, views),),
        depth=((0.0, 1, 1),),
        latent_rate=3e-2,
        decay=0.25,
        compile=False,
        seed=seed,
    )
