"""``arcsolve eval``: a named figure: its tasks solved, scored by both metrics, with everything the score depends on."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arcsolve.cli.console import Consoles, color_option
from arcsolve.cli.options import set_options, solver_options

if TYPE_CHECKING:
    from arcsolve.arc.dataset import TaskSet
    from arcsolve.inference.evaluation import Evaluation, Figure, Outcome
    from arcsolve.inference.joint import JointSettings
    from arcsolve.inference.settings import Settings
    from arcsolve.inference.solver import Solver

STAGES = ("recall", "leave_one_out", "refine", "sample", "total")


@click.command(
    help="Solve the tasks of FIGURE and score the answers: `meta-dev` (60 held-out tasks), `development` (test pairs "
    "of trained tasks, from their own latents), an official set by name, or a path of tasks whose outputs are known, "
    "such as `puzzles`."
)
@click.argument("figure")
@solver_options
@click.option(
    "--protocol",
    type=click.Choice(["per-task", "joint", "transductive"]),
    default="per-task",
    show_default=True,
    help="Adapt to each task alone, to all at once, or use weights that were trained on the demonstrations.",
)
@click.option("--joint", "protocol", flag_value="joint", help="The same as --protocol joint.")
@click.option("--per-task", "protocol", flag_value="per-task", help="The same as --protocol per-task.")
@set_options
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folder: a JSON line for each task as it is solved, then a table and a plot. The same command goes on "
    "where it was stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figure as one JSON object.")
@color_option
def evaluate(
    figure: str,
    protocol: str,
    joint_presentations: int | None,
    limit: int | None,
    max_side: int | None,
    output: Path | None,
    as_json: bool,
    consoles: Consoles,
    **options: Any,
) -> None:
    from arcsolve.cli.options import joint_settings, make_solver
    from arcsolve.files import lock_folder, make_folder
    from arcsolve.inference import evaluation, results

    with ExitStack() as stack:
        if output is not None:
            make_folder(output)
            stack.enter_context(lock_folder(output))
        solver, settings = make_solver(options)
        chosen = evaluation.figure(figure, solver, protocol)
        chosen = replace(chosen, tasks=evaluation.limited(chosen.tasks, limit, max_side, settings.seed))
        joint = None
        if chosen.protocol == "joint":
            joint = joint_settings(joint_presentations)
            # The rows were fitted together already; adapting to each task once more is asked for by name.
            steps = options["adapt_steps"] or 0
            settings = replace(settings, adapt=replace(settings.adapt, steps=steps), recall=False, leave_one_out=0)
        elif chosen.protocol == "development":
            settings = replace(settings, adapt=replace(settings.adapt, steps=0), leave_one_out=0)
        made_with = results.made_with(solver.backend.name, settings, asdict(joint) if joint else None)
        path = None if output is None else output / results.RESULTS
        done = results.read_results(path, solver, chosen, made_with) if path is not None else {}
        runs = solver
        if joint is not None and len(done) < len(chosen.tasks):
            folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            runs = adapt_to_set(solver, chosen.tasks, joint, folder / "joint", settings.seed, options["backend"])
        result = _solve(runs, chosen, settings, done, path, made_with)
        facts = _facts(result, chosen, solver, settings, joint, made_with)
        if output is not None:
            from arcsolve.render.report import write_report

            write_report(output, facts, chosen.tasks, result.outcomes)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _print(facts, result, consoles)


def adapt_to_set(solver: Solver, tasks: TaskSet, joint: JointSettings, folder: Path, seed: int, backend: str) -> Solver:
    """The solver on the network that adapted to the whole set; a line on standard error for each hundred updates."""
    from arcsolve.inference.joint import adapt_jointly, joint_solver
    from arcsolve.training.command import stop_signal

    def report(row: dict[str, Any]) -> None:
        left = row["seconds"] / row["progress"] - row["seconds"] if row["progress"] else 0.0
        click.echo(
            f"joint adaptation {row['progress']:.0%}  {row['nats']:.3f} nats/cell  {row['exact']:.1%} of views exact  "
            f"{row['seconds']:.0f} s, about {left:.0f} s left",
            err=True,
        )

    def warn(line: str) -> None:
        click.echo(line, err=True)

    with stop_signal() as stopped:
        path = adapt_jointly(
            solver.weights,
            tasks,
            joint,
            folder,
            seed=seed,
            device=solver.device,
            report=report,
            warn=warn,
            stopped=stopped,
        )
    if path is None:
        raise KeyboardInterrupt
    return joint_solver(solver, path, backend)


def _solve(
    solver: Solver,
    chosen: Figure,
    settings: Settings,
    done: dict[str, Outcome],
    path: Path | None,
    made_with: dict[str, Any],
) -> Evaluation:
    """Solve what is not done; a line on standard error for each task."""
    from arcsolve.arc.task import Task
    from arcsolve.inference import evaluation, results
    from arcsolve.inference.solution import Solution

    began, before, total = time.monotonic(), len(done), len(chosen.tasks)
    right = sum(sum(outcome.right) for outcome in done.values())
    outputs = sum(len(outcome.right) for outcome in done.values())
    # Tasks differ in size by a hundred times, so what is left is estimated by their cells.
    work = {task.id: evaluation.cells(task) for task in chosen.tasks if task.id not in done}
    all_work, spent_work = sum(work.values()), 0

    def finished(task: Task, solution: Solution, outcome: Outcome) -> None:
        nonlocal right, outputs, spent_work
        if path is not None:
            line = results.line_of(task, solver.weights.sha256, made_with, solution=solution.to_json())
            results.append(path, line)
        right += sum(outcome.right)
        outputs += len(outcome.right)
        spent_work += work[task.id]
        spent = time.monotonic() - began
        left = spent * (all_work / spent_work - 1)
        click.echo(
            f"{len(done)}/{total}  {task.id}  {right}/{outputs} outputs right  {spent:.0f} s, about {left:.0f} s left",
            err=True,
        )

    if before:
        click.echo(f"{before} of {total} tasks are solved already", err=True)
    return evaluation.evaluate(solver, chosen, settings, done=done, finished=finished)


def _facts(
    result: Evaluation,
    chosen: Figure,
    solver: Solver,
    settings: Settings,
    joint: JointSettings | None,
    made_with: dict[str, Any],
) -> dict[str, Any]:
    from arcsolve.inference.results import told_of

    score = result.score.to_json()
    trajectories = sum(outcome.trajectories for outcome in result.outcomes.values())
    return {
        "figure": chosen.name,
        "protocol": chosen.protocol,
        "data": score["data"],
        "data_sha256": score["hash"],
        **told_of(solver.weights, solver.backend.name, settings),
        "joint_presentations": joint.presentations if joint else 0,
        "seed": settings.seed,
        "settings": made_with,
        "tasks": score["tasks"],
        "test_outputs": score["test_outputs"],
        "pass_at_1": score["pass_at_1"],
        "pass_at_2": score["pass_at_2"],
        "oracle": result.oracle,
        "size_accuracy": result.size,
        "reproduced": result.reproduced,
        "seconds_per_task": {name: result.seconds.get(name, 0.0) for name in STAGES},
        "trajectories_per_second": trajectories / sum(one.seconds["sample"] for one in result.outcomes.values()),
    }


NAMED = (
    "protocol",
    "data_sha256",
    "weights_sha256",
    "backend",
    "views",
    "samples",
    "noise",
    "steps",
    "recall",
    "adapt_steps",
    "networks",
    "leave_one_out",
    "joint_presentations",
    "seed",
)


def _print(facts: dict[str, Any], result: Evaluation, consoles: Consoles) -> None:
    from arcsolve.cli.score import score_table

    heading = f"{result.score.data}: {result.score.tasks} tasks, {result.score.test_outputs} test outputs"
    consoles.out.print(heading, soft_wrap=True)
    consoles.out.print(score_table(result.score))
    for name in NAMED:
        consoles.out.print(f"{name}: {facts[name]}", soft_wrap=True)
    consoles.out.print(f"right answer among the candidates: {result.oracle:.2%} of test outputs", soft_wrap=True)
    consoles.out.print(f"right size: {result.size:.2%} of test outputs")
    if result.reproduced is not None:
        consoles.out.print(f"demonstrations reproduced when left out: {result.reproduced:.2%}", soft_wrap=True)
    stages = ", ".join(f"{name} {facts['seconds_per_task'][name]:.1f}" for name in STAGES)
    consoles.out.print(f"seconds per task: {stages}", soft_wrap=True)
