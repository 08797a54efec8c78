"""What the solver returns: frozen records and their JSON form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from arcsolve.arc.grid import Grid, as_grid


@dataclass(frozen=True, eq=False)
class Candidate:
    """One distinct output grid with the trajectories that reached it.

    Attributes:
        grid: the output grid, in the task's own colours and orientation.
        votes: number of trajectories that ended here.
        confidence: mean halting confidence of those trajectories, 0..1.
        plausible: whether it neither copies its input, where no demonstration does, nor breaks a certain size rule.
    """

    grid: Grid
    votes: int
    confidence: float
    plausible: bool = True


@dataclass(frozen=True, eq=False)
class LatentStep:
    """The latent state of the leading trajectory, decoded after one supervision step.

    Attributes:
        step: 1-based number of the supervision step.
        grid: the grid decoded at this step, in the task's own colours and orientation.
        confidence: the halting head's probability that this grid is right, 0..1.
        agreement: share of all trajectories whose decoded grid at this step equals ``grid``, 0..1.
    """

    step: int
    grid: Grid
    confidence: float
    agreement: float


@dataclass(frozen=True)
class TrajectoryStep:
    """Where all trajectories of a test input stood after one supervision step.

    One that settled early stands at its last grid from there on, so that at every step ``counts`` and ``elsewhere``
    add up to the number of trajectories; at the last one ``counts`` are the votes.

    Attributes:
        step: 1-based number of the supervision step.
        counts: [candidates], trajectories at each candidate's grid, in the candidates' order.
        elsewhere: trajectories at grids that no trajectory ends at; 0 at the last step.
        moved: trajectories whose grid is not the one of the step before; 0 at the first step.
    """

    step: int
    counts: tuple[int, ...]
    elsewhere: int
    moved: int


@dataclass(frozen=True)
class Neighbour:
    """A trained task and its row's loss on the new task's demonstrations, in nats a cell."""

    task: str
    nats: float


@dataclass(frozen=True)
class Recalled:
    """What refinement started from.

    Attributes:
        source: a trained task's id, ``centroid`` or ``mean``: what the latents are.
        nats: their loss on the demonstrations, in nats a cell; ``None`` where it was not measured.
        mean_nats: the loss of the bank's mean.
        nearest: trained tasks by their rows' loss, best first.
    """

    source: str
    nats: float | None = None
    mean_nats: float | None = None
    nearest: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """What leaving demonstrations out has shown.

    Attributes:
        reproduced: of the demonstrations tried, those that came out right.
        tried: demonstrations that were left out in turn; 0 where there was only one, or no time.
        steps: where most views of the left-out demonstrations were right; ``None`` where none was tried.
        curve: (steps, mean loss in nats a cell, mean share of views right) at each check.
    """

    reproduced: int = 0
    tried: int = 0
    steps: int | None = None
    curve: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class TestSolution:
    """The answers to one test input.

    Attributes:
        attempt_1, attempt_2: two distinct answers.
        candidates: ranked by (plausible, votes, confidence), best first.
        steps: the leading trajectory's, in order.
        trajectories: where all of them stood, by step; empty where an older version wrote the solution.
    """

    __test__ = False  # the name starts with Test, and pytest collects by name

    attempt_1: Grid
    attempt_2: Grid
    candidates: tuple[Candidate, ...]
    steps: tuple[LatentStep, ...]
    trajectories: tuple[TrajectoryStep, ...] = ()


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved task.

    Attributes:
        task: the task's id.
        protocol: ``per-task``, ``joint`` or ``transductive``: what training and adaptation have seen.
        weights_sha256: hash of the weights file.
        seed: seed of every random draw.
        truncated: whether a time limit cut a step budget short.
        seen_in_training: whether the task, by content, was in the weights' training data.
        recalled: what refinement started from.
        left_out: demonstrations left out in turn, and how many were reproduced from the others alone.
        adapt_steps: optimizer steps of each network that answered.
        test: one entry for each test input, in order.
        seconds: wall time in seconds by stage (``recall``, ``leave_one_out``, ``refine``, ``sample``, ``total``).
    """

    task: str
    protocol: str
    weights_sha256: str
    seed: int
    truncated: bool
    seen_in_training: bool
    recalled: Recalled
    left_out: LeftOut
    adapt_steps: tuple[int, ...]
    test: tuple[TestSolution, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fixed ``--json`` form, made of plain lists, numbers and strings."""
        return {
            "task": self.task,
            "protocol": self.protocol,
            "weights_sha256": self.weights_sha256,
            "seed": self.seed,
            "truncated": self.truncated,
            "seen_in_training": self.seen_in_training,
            "demonstrations": {
                "reproduced": self.left_out.reproduced,
                "of": self.left_out.tried,
                "best_steps": self.left_out.steps,
                "checks": [
                    {"steps": step, "nats": _finite(nats), "views_right": share}
                    for step, nats, share in self.left_out.curve
                ],
            },
            "recalled": {
                "source": self.recalled.source,
                "nats": _finite(self.recalled.nats),
                "mean_nats": _finite(self.recalled.mean_nats),
                "nearest": [{"task": n.task, "nats": _finite(n.nats)} for n in self.recalled.nearest],
            },
            "adapt_steps": list(self.adapt_steps),
            "test": [
                {
                    "attempt_1": test.attempt_1.tolist(),
                    "attempt_2": test.attempt_2.tolist(),
                    "candidates": [
                        {
                            "grid": c.grid.tolist(),
                            "votes": c.votes,
                            "confidence": round(c.confidence, 6),
                            "plausible": c.plausible,
                        }
                        for c in test.candidates
                    ],
                    "steps": [
                        {
                            "step": s.step,
                            "grid": s.grid.tolist(),
                            "confidence": round(s.confidence, 6),
                            "agreement": round(s.agreement, 6),
                        }
                        for s in test.steps
                    ],
                    "trajectories": [
                        {"step": t.step, "counts": list(t.counts), "elsewhere": t.elsewhere, "moved": t.moved}
                        for t in test.trajectories
                    ],
                }
                for test in self.test
            ],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Solution:
        """The inverse of :meth:`to_json`; ``trajectories``, which older versions did not write, may be missing.

        Raises:
            FormatError: a grid is malformed; names ``where``.
            KeyError: any other key is missing.
        """
        tests = []
        for i, test in enumerate(value["test"]):
            place = f"{where}: test[{i}]"
            tests.append(
                TestSolution(
                    attempt_1=as_grid(test["attempt_1"], f"{place}.attempt_1"),
                    attempt_2=as_grid(test["attempt_2"], f"{place}.attempt_2"),
                    candidates=tuple(
                        Candidate(
                            as_grid(c["grid"], f"{place}.candidates"), c["votes"], c["confidence"], c["plausible"]
                        )
                        for c in test["candidates"]
                    ),
                    steps=tuple(
                        LatentStep(s["step"], as_grid(s["grid"], f"{place}.steps"), s["confidence"], s["agreement"])
                        for s in test["steps"]
                    ),
                    trajectories=tuple(
                        TrajectoryStep(t["step"], tuple(t["counts"]), t["elsewhere"], t["moved"])
                        for t in test.get("trajectories", ())
                    ),
                )
            )
        return cls(
            task=value["task"],
            protocol=value["protocol"],
            weights_sha256=value["weights_sha256"],
            seed=value["seed"],
            truncated=value["truncated"],
            seen_in_training=value["seen_in_training"],
            recalled=Recalled(
                value["recalled"]["source"],
                value["recalled"]["nats"],
                value["recalled"]["mean_nats"],
                tuple(Neighbour(n["task"], n["nats"]) for n in value["recalled"]["nearest"]),
            ),
            left_out=LeftOut(
                value["demonstrations"]["reproduced"],
                value["demonstrations"]["of"],
                value["demonstrations"]["best_steps"],
                tuple(
                    (check["steps"], math.inf if check["nats"] is None else check["nats"], check["views_right"])
                    for check in value["demonstrations"]["checks"]
                ),
            ),
            adapt_steps=tuple(value["adapt_steps"]),
            test=tuple(tests),
            seconds=value["seconds"],
        )


def _finite(value: float | None) -> float | None:
    """A number as JSON has it; ``None`` for none, and for infinity, which JSON lacks."""
    return None if value is None or not math.isfinite(value) else round(value, 6)
