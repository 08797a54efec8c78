"""The network's sizes: everything that must agree between training, export and inference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from arcsolve.arc.grid import COLOURS
from arcsolve.errors import FormatError

MAX_POSITIONS = 32  # rows or columns that the rotary table covers: 30, and a margin


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a :class:`~arcsolve.network.recursion.RecursiveNetwork`.

    Attributes:
        width: channels of every token.
        heads: attention heads; ``width / heads`` must be a multiple of 4 for 2D rotary positions.
        layers: transformer blocks in the one function ``f`` that is re-run.
        hidden: channels inside the SwiGLU.
        latents: task-latent tokens in the prefix.
        inner_steps: ``n``, updates of ``l`` before each update of ``h``.
        steps: ``N``, supervision steps this network was trained for; more than these break it.
        random_start: whether ``h0 ~ N(0, 1)`` (EqR) instead of a fixed vector.
        noise: standard deviation of the noise added to ``h`` at each transition, 0 for none.
        noise_width: channels of the learned noise at each prefix token (GRAM, 2605.19376), 0 for none.
        halting: whether the halting head was trained; without it confidence is the decoder's own.
        told: whether the prefix says which symmetry and colours the view has; else it says the same for all views.
        convolution: whether the SwiGLU's hidden channels see their 3x3 neighbours.
        copy: whether the decoder also reads the input tokens, by one learned factor that starts at 0.
        hints: whether training may show part of the output beside the input (DIS, 2511.16886); never at inference.
        turns: whether training may ask for the output turned, by latents added to a task's own; never at inference.
    """

    width: int = 512
    heads: int = 8
    layers: int = 2
    hidden: int = 1536
    latents: int = 8
    inner_steps: int = 1
    steps: int = 1
    random_start: bool = False
    noise: float = 0.0
    noise_width: int = 0
    halting: bool = False
    told: bool = True
    convolution: bool = True
    copy: bool = False
    hints: bool = False
    turns: bool = False

    @property
    def prefix(self) -> int:
        """Tokens before the cells: task latents, one dihedral token, ten colour tokens."""
        return self.latents + 1 + COLOURS

    def noise_shape(self, tokens: int) -> tuple[int, int]:
        """Shape of one sample's noise in one step: learned noise has the prefix alone, other noise all of ``h``."""
        return (self.prefix, self.noise_width) if self.noise_width else (tokens, self.width)

    def step_flop(self, cells: int, inner_steps: int | None = None) -> float:
        """FLOP of one supervision step forward on one sample of so many cells; training costs about three times that.

        A multiply-add counts as two. Matrix products, attention and the convolution count, elementwise work does not.
        """
        return self.layers * self._block_flop(cells) * ((inner_steps or self.inner_steps) + 1)

    def posterior_flop(self, cells: int) -> float:
        """FLOP of the posterior's block and of what joins state and output before it, in a step's forward pass."""
        if not self.noise_width:
            return 0.0
        return self._block_flop(cells) + 4.0 * (cells + self.prefix) * self.width**2

    def _block_flop(self, cells: int) -> float:
        tokens = cells + self.prefix
        matrices = 4 * self.width**2 + 3 * self.width * self.hidden
        convolution = 18 * cells * self.hidden if self.convolution else 0
        return float(2 * tokens * matrices + 4 * tokens**2 * self.width + convolution)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest or a safetensors header."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str) -> NetworkConfig:
        """Rebuild from :meth:`to_json`.

        Raises:
            FormatError: naming ``where`` and the key that is missing, unknown or out of range.
        """
        known = cls.__dataclass_fields__
        if unknown := sorted(set(values) - set(known)):
            raise FormatError(f"{where}: unknown network setting {unknown[0]!r}; was this made by a newer arcsolve?")
        config = cls(**values)
        sizes = ("width", "heads", "layers", "hidden", "latents", "inner_steps", "steps")
        for name in sizes:
            if not isinstance(values[name], int) or values[name] < 1:
                raise FormatError(f"{where}: network setting {name} is {values[name]!r}, expected 1 or more")
        if isinstance(config.noise_width, bool) or not isinstance(config.noise_width, int) or config.noise_width < 0:
            raise FormatError(f"{where}: network setting noise_width is {config.noise_width!r}, expected 0 or more")
        if config.noise_width and config.noise:
            raise FormatError(f"{where}: network settings noise and noise_width are both set, expected one of them")
        if isinstance(config.noise, bool) or not isinstance(config.noise, int | float) or not config.noise >= 0:
            raise FormatError(f"{where}: network setting noise is {config.noise!r}, expected 0 or more")
        switches = ("random_start", "halting", "told", "convolution", "copy", "hints", "turns")
        if odd := [name for name in switches if not isinstance(getattr(config, name), bool)]:
            raise FormatError(
                f"{where}: network setting {odd[0]} is {getattr(config, odd[0])!r}, expected true or false"
            )
        if config.width % config.heads or (config.width // config.heads) % 4:
            raise FormatError(f"{where}: width {config.width} does not divide into {config.heads} heads of 4k channels")
        return config
