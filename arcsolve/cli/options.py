"""Options that ``solve``, ``eval`` and ``batch`` share, and the solver and workers they describe."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from arcsolve.inference.joint import JointSettings
    from arcsolve.inference.process_pool import ProcessPool
    from arcsolve.inference.settings import Settings
    from arcsolve.inference.solver import Solver
    from arcsolve.network.weights import Weights


class Number(click.FloatRange):
    """A range of numbers, which nan and inf are not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--weights", type=click.Path(path_type=Path), help="Weights file (default: the shipped one)."),
    click.option(
        "--backend",
        type=click.Choice(["onnx", "torch"]),
        default="onnx",
        show_default=True,
        help="What runs the network.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu or cuda[:n]; auto falls back to the CPU, cuda fails where it is not usable.",
    ),
    click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of all random draws."
    ),
    click.option("--views", type=click.IntRange(1), default=32, show_default=True, help="Views of each test input."),
    click.option("--samples", type=click.IntRange(1), default=2, show_default=True, help="Trajectories in each view."),
    click.option(
        "--steps", type=click.IntRange(1), help="Supervision steps (default: as many as the weights were trained for)."
    ),
    click.option(
        "--noise",
        type=Number(0, 100),
        help="Standard deviation of the noise in the latent state, for weights without learned noise (default: what "
        "they were trained with).",
    ),
    click.option(
        "--temperature",
        type=Number(0, 100),
        default=1.0,
        show_default=True,
        help="Factor on the noise in the latent state; 0 for none.",
    ),
    click.option(
        "--adapt-steps",
        type=click.IntRange(0),
        help="Optimizer steps on the demonstrations; 0 for none (default: 128).",
    ),
    click.option(
        "--networks",
        type=click.IntRange(1),
        default=2,
        show_default=True,
        help="Networks that are refined independently and vote together.",
    ),
    click.option(
        "--recall/--no-recall",
        default=True,
        show_default=True,
        help="Start from the trained latents that explain the demonstrations best, or from their mean.",
    ),
    click.option(
        "--leave-one-out",
        type=click.IntRange(0),
        default=3,
        show_default=True,
        help="So many demonstrations at the most (fewer or no large ones) are left out in turn: are they reproduced?",
    ),
    click.option("--stop", is_flag=True, help="Refine only for as many steps as were best for what was left out."),
    click.option("--no-leave-one-out", "leave_one_out", flag_value=0, type=int, help="The same as --leave-one-out 0."),
)

_SET_OPTIONS = (
    click.option(
        "--limit", type=click.IntRange(1), help="A fixed subset of so many tasks, stratified by size, by --seed."
    ),
    click.option("--max-side", type=click.IntRange(1, 30), help="Only tasks whose known grids have no longer side."),
    click.option(
        "--joint-presentations",
        type=click.IntRange(1),
        help="Presentations of each task in joint adaptation (default: 256).",
    ),
)

threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    help="CPU threads, of each worker (default: its share of the cores). Leave out cores that other programs keep "
    "busy: threads wait for the slowest. Answers are equal for equal numbers of threads, since sums in another order "
    "are not.",
)

_WORKER_OPTIONS = (
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Processes that solve a task each (default: one, or one for each GPU).",
    ),
    threads_option,
)


def solver_options(command: Command) -> Command:
    """Decorator: adds the options of a solver; the command receives them by name."""
    return _add(_OPTIONS, command)


def set_options(command: Command) -> Command:
    """Decorator: adds the options of commands that solve a set; the command receives them by name."""
    return _add(_SET_OPTIONS, command)


def worker_options(command: Command) -> Command:
    """Decorator: adds the options of commands that solve with workers; the command receives them by name."""
    return _add(_WORKER_OPTIONS, command)


def warn(line: str) -> None:
    """A line on standard error."""
    click.echo(f"arcsolve: {line}", err=True)


def _add(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def joint_settings(presentations: int | None) -> JointSettings:
    """How to adapt jointly; ``None`` for the default number of presentations."""
    from arcsolve.inference.joint import JointSettings

    return JointSettings() if presentations is None else JointSettings(presentations=presentations)


def make_solver(options: dict[str, Any], *, time_limit: float | None = None) -> tuple[Solver, Settings]:
    """The solver and settings that the options describe; says on standard error if it fell back to the CPU."""
    from arcsolve.inference.solver import Solver

    solver = Solver.from_weights(
        options["weights"],
        backend=options["backend"],
        device=options["device"],
        threads=options.get("threads") or 0,
    )
    if notice := getattr(solver.backend, "notice", None):
        warn(notice)
    settings = make_settings(options, time_limit)
    settings.noise_of(solver.weights.config)  # before hours of work, see that the two go together
    return solver, settings


def make_settings(options: dict[str, Any], time_limit: float | None = None) -> Settings:
    """The settings that the options describe."""
    from dataclasses import replace

    from arcsolve.inference.adaptation import AdaptSettings
    from arcsolve.inference.settings import Settings

    adapt = AdaptSettings()
    if options["adapt_steps"] is not None:
        adapt = replace(adapt, steps=options["adapt_steps"])
    return Settings(
        views=options["views"],
        samples=options["samples"],
        steps=options["steps"],
        noise=options["noise"],
        temperature=options["temperature"],
        adapt=adapt,
        recall=options["recall"],
        leave_one_out=options["leave_one_out"],
        stop=options["stop"],
        networks=options["networks"],
        seed=options["seed"],
        time_limit=time_limit,
    )


def make_pool(weights: Weights, options: dict[str, Any], adapted: Path | None = None) -> ProcessPool:
    """Workers on this machine: ``--workers``, by default one for each GPU, or one.

    Args:
        adapted: weights that were adapted jointly to the tasks, which they are to use.
    """
    import os
    from dataclasses import replace

    import torch

    from arcsolve.inference.pool import SolverSpec
    from arcsolve.inference.process_pool import ProcessPool

    device: str = options["device"]
    # A GPU named by its number is the only one that is wanted.
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [name.strip() for name in visible.split(",")][:count] if visible else [str(gpu) for gpu in range(count)]
    workers = options["workers"] or max(1, count)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = options["threads"] or (max(1, cores // workers) if workers > 1 else 0)
    spec = SolverSpec(weights.path, weights.sha256, options["backend"], device, threads, adapted=adapted)
    specs = [replace(spec, gpu=gpus[number % count] if count > 1 else None) for number in range(workers)]
    return ProcessPool(specs, warn)
