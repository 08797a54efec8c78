"""``arcsolve lab samples``: several trajectories in a view against more views, and ways to select a candidate."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arcsolve.cli.console import Consoles, color_option, plain_table
from arcsolve.cli.options import set_options, solver_options

if TYPE_CHECKING:
    from rich.table import Table

LEFT = ("cell", "against", "rule")


def _counts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Positive integers with commas between them, as an ascending tuple without doubles."""
    texts = [text.strip() for text in value.split(",")]
    if not all(text.isascii() and text.isdigit() and 0 < int(text) <= 10_000 for text in texts):
        raise click.BadParameter(f"{value!r}: expected numbers from 1 to 10000, such as 1,8,64")
    return tuple(sorted({int(text) for text in texts}))


@click.command(
    help="Solve the tasks of a figure with several samples of each view, and with more views instead: one pool of "
    "noisy trajectories for each test input, of which every cell of the grid takes a part, and one without noise. Also "
    "compares ways to select among the candidates. Results are kept as they come, and the same command goes on where "
    "it was stopped."
)
@click.option("--figure", default="meta-dev", show_default=True, help="The tasks, as `arcsolve eval` names them.")
@click.option(
    "--grid-views", callback=_counts, metavar="N,N,...", default="1,8,64", show_default=True, help="Numbers of views."
)
@click.option(
    "--grid-samples",
    callback=_counts,
    metavar="N,N,...",
    default="1,4,16",
    show_default=True,
    help="Samples in each view.",
)
@click.option(
    "--consistency/--no-consistency",
    default=True,
    show_default=True,
    help="Sample the demonstrations, too, and weigh votes by how many a view solves: as costly for each as a test "
    "input.",
)
@set_options
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for results, a JSON line a task.",
)
@solver_options
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: one for each core).")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@color_option
def samples(
    figure: str,
    grid_views: tuple[int, ...],
    grid_samples: tuple[int, ...],
    consistency: bool,
    limit: int | None,
    max_side: int | None,
    output: Path,
    as_json: bool,
    consoles: Consoles,
    **options: Any,
) -> None:
    from arcsolve.cli.options import make_solver
    from arcsolve.files import lock_folder, make_folder
    from arcsolve.inference import evaluation, results
    from arcsolve.lab import samples as suite

    plan = suite.Plan(grid_views, grid_samples, consistency)
    make_folder(output)
    with lock_folder(output):
        solver, base = make_solver({**options, **suite.FIXED})
        settings = plan.settings(base, solver.weights.config)
        chosen = evaluation.figure(figure, solver)
        tasks = evaluation.limited(chosen.tasks, limit, max_side, settings.seed)
        head = suite.header(solver, settings, plan, tasks.hash)
        path = output / "samples.jsonl"
        done = suite.read(path, head)
        order = evaluation.spread(tasks)
        left = [task for task in order if task.id not in done]
        began = time.monotonic()
        for made, task in enumerate(left, 1):
            done[task.id] = suite.measure(task, solver, settings, plan)
            results.append(path, {"id": task.id, **head, **done[task.id]})
            rest = (time.monotonic() - began) / made * (len(left) - made)
            right = " ".join(name for name, hit in done[task.id]["cells"].items() if all(hit["vote_2"])) or "-"
            click.echo(f"{made}/{len(left)}  {task.id}  about {rest:.0f} s left  right: {right}", err=True)
    noise = settings.noise_of(solver.weights.config)
    found = suite.summary(order, plan, settings.steps_of(solver.weights.config), done)
    if as_json:
        click.echo(json.dumps({**head, "data": tasks.name, "tasks": len(tasks), "noise": noise, **found}))
        return
    out = consoles.out
    out.print(f"{tasks.name}: {len(tasks)} tasks, {tasks.hash[:8]}, weights {solver.weights.sha256[:8]}")
    out.print(f"views x samples with noise {noise:g}; percent right at one and two attempts")
    out.print(_cells(found["cells"], plan.rules))
    out.print("pass@k: k = views x samples trajectories of the pool, whatever their views")
    if consistency:
        out.print("consistency: as many passes again for each demonstration")
    out.print()
    out.print(_differences(found["differences"]))
    out.print("outputs right at two attempts by the vote; ± a standard error over tasks")
    out.print()
    out.print(_rules(found["rules"]))
    out.print("each rule against the vote on the same candidates")
    out.print("seconds a task: " + ", ".join(f"{name} {spent:.1f}" for name, spent in found["seconds"].items()))


# The grid tells how many views and samples; the other fixed ones, and joint adaptation, have no part in it.
_ABSENT = ("views", "samples", "leave_one_out", "stop", "networks", "joint_presentations")
samples.params = [option for option in samples.params if option.name not in _ABSENT]


def _cells(lines: list[dict[str, Any]], rules: tuple[str, ...]) -> Table:
    table = plain_table("cell", "passes", "oracle", "pass@k", *rules, left=LEFT)
    for line in lines:
        # No signs: with them the table would be wider than a pipe's 80 columns.
        one, oracle, *right = (
            100 * line[key] for key in ("pass", "oracle", *(f"{rule}_{n}" for rule in rules for n in (1, 2)))
        )
        both = (f"{a:.1f} {b:5.1f}" for a, b in zip(right[::2], right[1::2], strict=True))
        table.add_row(line["cell"], str(line["passes"]), f"{oracle:.1f}", f"{one:.1f}", *both)
    return table


def _differences(lines: list[dict[str, Any]]) -> Table:
    table = plain_table("cell", "passes", "against", "passes", "gained", "lost", "difference", left=LEFT)
    for line in lines:
        own, other = str(line["passes"]), str(line["against_passes"])
        table.add_row(line["cell"], own, line["against"], other, *_paired(line))
    return table


def _rules(lines: list[dict[str, Any]]) -> Table:
    table = plain_table("cell", "rule", "attempts", "gained", "lost", "difference", left=LEFT)
    for line in lines:
        table.add_row(line["cell"], line["rule"], str(line["attempts"]), *_paired(line))
    return table


def _paired(line: dict[str, Any]) -> tuple[str, str, str]:
    error = "" if line["error"] is None else f" ± {line['error']:.1%}"
    return str(line["gained"]), str(line["lost"]), f"{line['difference']:+.1%}{error}"
