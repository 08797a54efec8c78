"""``arcsolve eval``: a named figure: its tasks solved, scored by both metrics, with everything the score depends on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arcsolve.cli.console import Consoles, color_option
from arcsolve.cli.options import solver_options

if TYPE_CHECKING:
    from arcsolve.inference.evaluation import Evaluation, Figure
    from arcsolve.inference.solver import Settings, Solver

_NAMED = (
    "protocol",
    "data_sha256",
    "weights_sha256",
    "backend",
    "views",
    "samples",
    "noise",
    "steps",
    "adapt_steps",
    "seed",
)


@click.command(
    help="Solve the tasks of FIGURE and score the answers: `meta-dev` (60 held-out tasks, by adaptation), "
    "`development` (test pairs of trained tasks, from their own latents), an official set by name, or a "
    "path of tasks whose outputs are known, such as `puzzles`."
)
@click.argument("figure")
@solver_options
@click.option("--limit", type=click.IntRange(1), help="A fixed subset of so many tasks, stratified by canvas size.")
@click.option("--max-side", type=click.IntRange(1, 30), help="Only tasks whose known grids have no longer side.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Results file, a JSON line for each task as it is solved; the same command goes on where it was stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figure as one JSON object.")
@color_option
def evaluate(
    figure: str,
    limit: int | None,
    max_side: int | None,
    output: Path | None,
    as_json: bool,
    consoles: Consoles,
    **options: Any,
) -> None:
    from dataclasses import replace

    from arcsolve.arc.task import Task
    from arcsolve.cli.options import make_solver
    from arcsolve.cli.score import score_table
    from arcsolve.files import check_folder
    from arcsolve.inference import evaluation
    from arcsolve.inference.solution import Solution

    if output is not None:
        check_folder(output)
    solver, settings = make_solver(options)
    chosen = evaluation.figure(figure, solver)
    chosen = replace(chosen, tasks=evaluation.limited(chosen.tasks, limit, max_side))
    done = evaluation.read_results(output, solver, chosen, settings) if output is not None else {}
    began, before, total = time.monotonic(), len(done), len(chosen.tasks)
    known = {task.id: task for task in chosen.tasks}
    right = sum(sum(evaluation.hits(known[i], solution)) for i, solution in done.items())
    outputs = sum(len(known[i].test) for i in done)

    def finished(task: Task, solution: Solution) -> None:
        nonlocal right, outputs
        if output is not None:
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(evaluation.line_of(task, solution, settings)) + "\n")
        right += sum(evaluation.hits(task, solution))
        outputs += len(task.test)
        spent = time.monotonic() - began
        left = spent / (len(done) - before) * (total - len(done))
        click.echo(
            f"{len(done)}/{total}  {task.id}  {right}/{outputs} outputs right  {spent:.0f} s, about {left:.0f} s left",
            err=True,
        )

    result = evaluation.evaluate(solver, chosen, settings, done=done, finished=finished)
    facts = _facts(result, chosen, solver, settings)
    if as_json:
        click.echo(json.dumps(facts))
        return
    heading = f"{result.score.data}: {result.score.tasks} tasks, {result.score.test_outputs} test outputs"
    consoles.out.print(heading, soft_wrap=True)
    consoles.out.print(score_table(result.score))
    for name in _NAMED:
        consoles.out.print(f"{name}: {facts[name]}", soft_wrap=True)
    consoles.out.print(f"right answer among the candidates: {result.oracle:.2%} of test outputs")
    if result.reproduced is not None:
        consoles.out.print(f"demonstrations reproduced when left out: {result.reproduced:.2%}")


def _facts(result: Evaluation, chosen: Figure, solver: Solver, settings: Settings) -> dict[str, Any]:
    from arcsolve.inference.sampler import effective_samples

    score = result.score.to_json()
    solutions = result.solutions.values()
    trajectories = sum(candidate.votes for s in solutions for test in s.test for candidate in test.candidates)
    return {
        "figure": chosen.name,
        "protocol": chosen.protocol,
        "data": score["data"],
        "data_sha256": score["hash"],
        "weights_sha256": solver.weights.sha256,
        "backend": solver.backend.name,
        "views": settings.views,
        "samples": effective_samples(solver.weights.config, settings.samples, solver.noise(settings)),
        "noise": solver.noise(settings),
        "steps": settings.steps or solver.weights.config.steps,
        "adapt_steps": settings.adapt.steps if chosen.adapts else 0,
        "seed": settings.seed,
        "tasks": score["tasks"],
        "test_outputs": score["test_outputs"],
        "pass_at_1": score["pass_at_1"],
        "pass_at_2": score["pass_at_2"],
        "oracle": result.oracle,
        "reproduced": result.reproduced,
        "seconds_per_task": sum(s.seconds["total"] for s in solutions) / len(solutions),
        "trajectories_per_second": trajectories / sum(s.seconds["sample"] for s in solutions),
    }
