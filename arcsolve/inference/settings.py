"""What a solve is told, what it tells while it runs, and its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from arcsolve.errors import ArcsolveError
from arcsolve.inference.adaptation import AdaptSettings
from arcsolve.inference.solution import Candidate, LatentStep
from arcsolve.network.config import NetworkConfig


@dataclass(frozen=True)
class Settings:
    """Budgets of a solve; with these and the seed a run is the same every time on one machine.

    Attributes:
        views: ``V``, views of each test input.
        samples: ``K``, trajectories in each view.
        steps: ``N``, supervision steps; ``None`` for as many as the weights were trained for.
        noise: standard deviation of the noise in ``h``, for weights without learned noise; ``None`` for what they were
            trained with.
        temperature: factor on the noise, learned or not; 0 for none.
        adapt: how to adapt.
        recall: whether to start from the trained latents that explain the demonstrations best, or from their mean.
        leave_one_out: demonstrations to leave out in turn at the most, fewer or none on large canvases, to see if they
            are reproduced; 0 for none.
        stop: whether to refine for as many steps only as were best for the demonstrations left out.
        networks: networks that are refined independently and vote together, each over as many views of its own.
        seed: of every random draw; the k-th network's draws are those of ``seed + k``.
        time_limit: seconds for the whole solve, a cap: hitting it is reported as ``truncated``.
    """

    views: int = 32
    samples: int = 2
    steps: int | None = None
    noise: float | None = None
    temperature: float = 1.0
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    recall: bool = True
    leave_one_out: int = 3
    stop: bool = False
    networks: int = 2
    seed: int = 0
    time_limit: float | None = None

    @property
    def refined(self) -> int:
        """How many networks a solve samples from: one where nothing is refined, since all would be equal."""
        return self.networks if self.adapt.steps else 1

    def steps_of(self, network: NetworkConfig) -> int:
        """Supervision steps: those asked for, or those of training."""
        return self.steps or network.steps

    def noise_of(self, network: NetworkConfig) -> float:
        """Factor on the standard normal noise that a solve of this network uses; see the sampler.

        Raises:
            ArcsolveError: ``noise`` is set and the network's noise is learned.
        """
        if network.noise_width:
            if self.noise is not None:
                raise ArcsolveError("these weights have learned their noise, whose size is set by --temperature")
            return self.temperature
        return self.temperature * (network.noise if self.noise is None else self.noise)


@dataclass(frozen=True)
class Progress:
    """Where a solve is: what a display needs.

    Attributes:
        stage: ``recall``, ``leave out demonstration k``, ``refine``, ``refine network k`` or ``sample``.
        done, total: steps or trajectories.
        reproduced: (k, of how many tried so far) left-out demonstrations, once there are any.
        exact: while refining, the share of views of the demonstrations that come out right.
        steps: the leading trajectory so far.
        candidates: ranked candidates so far.
    """

    stage: str
    done: int
    total: int
    reproduced: tuple[int, int] | None = None
    exact: float | None = None
    steps: Sequence[LatentStep] = ()
    candidates: Sequence[Candidate] = ()


Listener = Callable[[Progress], None]


class Clock:
    """Wall time of a solve by stage, and its cap in seconds (``None`` for none)."""

    def __init__(self, limit: float | None) -> None:
        self.began = self.last = time.monotonic()
        self.deadline = None if limit is None else self.began + limit
        self.truncated = False
        self.laps: dict[str, float] = {}

    def share(self, part: float) -> float | None:
        """The moment at which this part of the limit is spent."""
        return None if self.deadline is None else self.began + part * (self.deadline - self.began)

    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self.last
        self.last = now

    def seconds(self) -> dict[str, Any]:
        return {**self.laps, "total": self.last - self.began}
