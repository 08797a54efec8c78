"""What each stage of solving an unseen task is worth: the same tasks, one stage more or less, paired differences."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.evaluation import Hits
from arcsolve.inference.results import read_rows
from arcsolve.inference.settings import Settings
from arcsolve.inference.solver import Prepared, Solver


@dataclass(frozen=True)
class Arm:
    """One way to solve a task.

    Attributes:
        prepare: changes to the settings up to sampling; those of refinement under ``adapt``.
        sample: changes to the settings of sampling.
        against: the arm to compare with, which differs in one stage.
        joint: start from the row of a network that adapted to the whole set.
    """

    against: str
    prepare: dict[str, Any]
    sample: dict[str, Any]
    joint: bool = False

    def settings(self, base: Settings) -> Settings:
        """The base's settings with this arm's."""
        changes = {**self.prepare, **self.sample}
        adapt = replace(base.adapt, **changes.pop("adapt", {}))
        return replace(base, adapt=adapt, **changes)

    @property
    def preparation(self) -> str:
        """Arms with an equal one share the adapted network."""
        return json.dumps([self.joint, self.prepare], sort_keys=True)


BASE = "network"
_NONE = {"adapt": {"steps": 0}}
_FIXED: dict[str, Any] = {"leave_one_out": 0, "networks": 1}

ARMS = {
    "mean": Arm("mean", {**_FIXED, **_NONE, "recall": False}, {}),
    "recall": Arm("mean", {**_FIXED, **_NONE}, {}),
    "latents": Arm("recall", {**_FIXED, "adapt": {"latents_first": 1.0}}, {}),
    BASE: Arm("latents", _FIXED, {}),
    "no-recall": Arm(BASE, {**_FIXED, "recall": False}, {}),
    "posterior": Arm(BASE, {**_FIXED, "adapt": {"sigma": 0.3}}, {}),
    "half-steps": Arm(BASE, {**_FIXED, "adapt": {"steps": 64}}, {}),
    "stopped": Arm(BASE, {**_FIXED, "leave_one_out": 3, "stop": True}, {}),
    **{f"networks-{n}": Arm(BASE, {**_FIXED, "networks": n}, {}) for n in (2, 4)},
    "joint": Arm(BASE, {**_FIXED, **_NONE}, {}, joint=True),
    "joint-network": Arm(BASE, {**_FIXED, "adapt": {"steps": 64, "latents_first": 0.0}}, {}, joint=True),
    **{f"views-{n}": Arm(BASE, _FIXED, {"views": n}) for n in (1, 2, 4, 8, 16, 64)},
    "one-step": Arm(BASE, _FIXED, {"steps": 1}),
    "four-steps": Arm(BASE, _FIXED, {"steps": 4}),
    "noise-16x1": Arm("views-16", _FIXED, {"views": 16, "samples": 1, "noise": 0.1}),
    "noise-4x4": Arm("views-16", _FIXED, {"views": 4, "samples": 4, "noise": 0.1}),
    "noise-1x16": Arm("views-16", _FIXED, {"views": 1, "samples": 16, "noise": 0.1}),
}

FIGURES = ("pass_at_1", "pass_at_2", "oracle", "size")


def plan(names: Sequence[str]) -> list[str]:
    """The arms by name, by default all, with those that they are compared with; those that share a network together.

    Raises:
        ArcsolveError: an arm that is not known.
    """
    if unknown := [name for name in names if name not in ARMS]:
        raise ArcsolveError(f"no arm {unknown[0]!r}: expected {', '.join(ARMS)}")
    wanted = set(names) or set(ARMS)
    while missing := {ARMS[name].against for name in wanted} - wanted:
        wanted |= missing
    return [name for name in ARMS if name in wanted]


def solve_arms(
    task: Task, names: Sequence[str], solver: Solver, joint: Solver | None, base: Settings
) -> dict[str, dict[str, Any]]:
    """Solve one task in each arm.

    Returns:
        By arm: for each test output whether it was hit, by name of the figure, and ``seconds``.
    """
    prepared: dict[str, tuple[Prepared, float]] = {}
    found: dict[str, dict[str, Any]] = {}
    hidden = task.blind
    for name in names:
        arm = ARMS[name]
        runs = joint if arm.joint else solver
        assert runs is not None
        settings = arm.settings(base)
        if runs.weights.config.noise_width:
            settings = replace(settings, noise=None)  # where it is learned, the arms with noise have that
        if arm.preparation not in prepared:
            began = time.monotonic()
            prepared[arm.preparation] = (runs.prepare(hidden, settings), time.monotonic() - began)
        ready, seconds = prepared[arm.preparation]
        began = time.monotonic()
        tests = runs.answer(hidden, ready, settings)
        hits = {figure: list(hit) for figure, hit in zip(FIGURES, Hits.of(task, tests), strict=True)}
        found[name] = {**hits, "seconds": round(seconds + time.monotonic() - began, 2)}
    return found


def header(solver: Solver, base: Settings, joint_presentations: int, data: str) -> dict[str, Any]:
    """What every line of a results file must agree on."""
    return {
        "weights_sha256": solver.weights.sha256,
        "backend": solver.backend.name,
        "data_sha256": data,
        "joint_presentations": joint_presentations,
        "settings": json.loads(json.dumps(asdict(base))),
    }


def read(path: Path, head: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """By task, the arms of an earlier run; a last line that a kill cut short is dropped from the file.

    Raises:
        ArcsolveError: the file was made with other weights, data or settings.
    """
    done: dict[str, dict[str, dict[str, Any]]] = {}

    def take(row: Any) -> None:
        done.setdefault(row["id"], {}).update(row["arms"])

    read_rows(path, head, take, "arcsolve lab stages", "weights, data or settings")
    return done


def run_stages(
    tasks: Sequence[Task],
    names: Sequence[str],
    solver: Solver,
    joint: Solver | None,
    base: Settings,
    done: dict[str, dict[str, dict[str, Any]]],
    finished: Callable[[Task, dict[str, dict[str, Any]]], None] = lambda task, arms: None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Solve every task in those arms that are not ``done``; ``finished`` is called with what is new of each."""
    for task in tasks:
        missing = [name for name in names if name not in done.get(task.id, {})]
        if missing:
            arms = solve_arms(task, missing, solver, joint, base)
            done.setdefault(task.id, {}).update(arms)
            finished(task, arms)
    return done


def summary(tasks: Sequence[Task], names: Sequence[str], done: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each arm: means over test outputs, seconds a task, and the paired difference in outputs right.

    ``difference`` is of outputs right with two attempts against the arm ``against``: gained, lost, and the standard
    error of the difference of the shares over tasks.
    """
    lines = []
    for name in names:
        own = [done[task.id][name] for task in tasks]
        other = [done[task.id][ARMS[name].against] for task in tasks]
        line: dict[str, Any] = {"arm": name, "against": ARMS[name].against}
        line |= {key: statistics.fmean(hit for row in own for hit in row[key]) for key in FIGURES}
        line["seconds"] = statistics.fmean(row["seconds"] for row in own)
        line |= paired_difference([row["pass_at_2"] for row in own], [row["pass_at_2"] for row in other])
        lines.append(line)
    return lines


def paired_difference(own: Sequence[Sequence[bool]], other: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Of hits by task and test output: outputs gained and lost, and the difference of the shares, averaged over tasks.

    ``error`` is that difference's standard error over tasks, ``None`` for a single one.
    """
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(own, other, strict=True)]
    by_task = [statistics.fmean(int(a) - int(b) for a, b in outputs) for outputs in pairs]
    return {
        "gained": sum(a > b for outputs in pairs for a, b in outputs),
        "lost": sum(a < b for outputs in pairs for a, b in outputs),
        "difference": statistics.fmean(by_task),
        "error": statistics.stdev(by_task) / len(by_task) ** 0.5 if len(by_task) > 1 else None,
    }
