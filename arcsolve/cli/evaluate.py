"""``arcsolve eval``: a named figure: its tasks solved, scored by both metrics, with everything the score depends on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arcsolve.cli.console import Consoles, color_option
from arcsolve.cli.options import set_options, solver_options, warn, worker_options
from arcsolve.cli.signals import sigterm_interrupts
from arcsolve.errors import ArcsolveError

if TYPE_CHECKING:
    from arcsolve.arc.dataset import TaskSet
    from arcsolve.arc.task import Task
    from arcsolve.cli.pace import Pace
    from arcsolve.inference.batch import Batch
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
@worker_options
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
    from arcsolve.cli.options import joint_settings, make_pool, make_solver
    from arcsolve.cli.pace import Pace
    from arcsolve.files import lock_folder, make_folder
    from arcsolve.inference import evaluation, results
    from arcsolve.inference.batch import Batch, solve_all

    with ExitStack() as stack:
        stack.enter_context(sigterm_interrupts())
        if output is not None:
            make_folder(output)
            stack.enter_context(lock_folder(output))
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
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
        sha256 = solver.weights.sha256
        # What one task gets from joint adaptation depends on all the others.
        together = {**asdict(joint), "set": chosen.tasks.blind.hash} if joint else None
        made_with = results.made_with(solver.backend.name, settings, chosen.protocol, together)
        results.check_results(folder / results.RESULTS, chosen.tasks, sha256, made_with)
        run = Batch(chosen.tasks, (), folder, sha256, made_with, keep_cut=False, warn=warn)
        outcomes = results.read_outcomes(run.results, chosen.tasks, sha256, made_with)
        run.solved &= outcomes.keys()
        if run.todo:
            adapted = None
            if joint is not None:
                adapted = adapt_to_set(solver, chosen.tasks, joint, folder / "joint", settings.seed, options["backend"])
            pool = make_pool(solver.weights, options, adapted)
            stack.callback(pool.close)
            ready = pool.ready()
            if ready is not None and ready[:2] != (solver.backend.name, solver.device.type):
                raise ArcsolveError(f"a worker runs on {ready.backend}, this process on {solver.backend.name}")
            report = _report(run, outcomes, Pace(run, settings), lasting=output is not None)
            solve_all(run, pool, settings, finished=report)
            run.write_submission()
        if run.failed:
            task_id, error = next(iter(run.failed.items()))
            raise ArcsolveError(f"{len(run.failed)} tasks failed, so there is no score; {task_id}: {error}")
        result = evaluation.summarise(chosen.tasks, outcomes)
        facts = _facts(result, chosen, solver, settings, joint, made_with)
        if output is not None:
            from arcsolve.render.report import write_report

            write_report(output, facts, chosen.tasks, result.outcomes)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _print(facts, result, consoles)


def adapt_to_set(solver: Solver, tasks: TaskSet, joint: JointSettings, folder: Path, seed: int, backend: str) -> Path:
    """Weights that adapted to the whole set, with their graph; a line on standard error for each hundred updates."""
    from arcsolve.inference.export import export
    from arcsolve.inference.joint import adapt_jointly
    from arcsolve.training.command import stop_signal

    def report(row: dict[str, Any]) -> None:
        left = row["seconds"] / row["progress"] - row["seconds"] if row["progress"] else 0.0
        click.echo(
            f"joint adaptation {row['progress']:.0%}  {row['nats']:.3f} nats/cell  {row['exact']:.1%} of views exact  "
            f"{row['seconds']:.0f} s, about {left:.0f} s left",
            err=True,
        )

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
    if backend == "onnx":
        export(path)
    return path


def _report(
    run: Batch, outcomes: dict[str, Outcome], pace: Pace, *, lasting: bool
) -> Callable[[Task, dict[str, Any], float], None]:
    """What to do with each finished task: a line on standard error, with the score so far.

    Args:
        outcomes: of the tasks that are solved already; those of the others join them.
        lasting: whether the results are kept, so that they are worth the time after a failure.
    """
    from arcsolve.inference.evaluation import Outcome
    from arcsolve.inference.solution import Solution

    total = len(run.tasks)
    if run.solved:
        click.echo(f"{len(run.solved)} of {total} tasks are solved already", err=True)

    def finished(task: Task, line: dict[str, Any], size: float) -> None:
        if "error" in line:
            said = f"failed: {line['error']}"
        else:
            outcomes[task.id] = Outcome.of(task, Solution.from_json(line["solution"], task.id))
            right = [hit for outcome in outcomes.values() for hit in outcome.right]
            said = f"{sum(right)}/{len(right)} outputs right"
        click.echo(f"{len(run.solved)}/{total}  {task.id}  {said}  {pace.finished(size)}", err=True)
        if "error" in line and not lasting:
            raise ArcsolveError(f"{task.id}: {line['error']}; with -o the others would be solved all the same")

    return finished


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
    "temperature",
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
