"""``arcsolve lab``: the experiments behind the claims."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arcsolve.cli.console import Consoles, color_option, plain_table
from arcsolve.cli.lab_samples import samples
from arcsolve.cli.lab_width import width
from arcsolve.cli.options import set_options, solver_options

if TYPE_CHECKING:
    from rich.table import Table


@click.group(help="Experiments that anyone can rerun.")
def lab() -> None:
    pass


lab.add_command(samples)
lab.add_command(width)


@lab.command(
    help="Train a small network on some small tasks with one change at a time to the recipe (ARMS; default: all), and "
    "compare what it knows of outputs that it never saw. Hours on one core for all arms and three seeds; results are "
    "kept as they come, and the same command goes on where it was stopped."
)
@click.argument("arms", nargs=-1)
@click.option(
    "--pack",
    "pack_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Data pack with generated pairs, from `arcsolve data pack`.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Results, a JSON line a run.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each arm.")
@click.option("--updates", type=click.IntRange(1), help="Updates of a run (default: 1200).")
@click.option("--tasks", type=click.IntRange(1), help="Tasks to train on (default: 40).")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object.")
@color_option
def recipe(
    arms: tuple[str, ...],
    pack_path: Path,
    output: Path | None,
    seeds: int,
    updates: int | None,
    tasks: int | None,
    threads: int,
    as_json: bool,
    consoles: Consoles,
) -> None:
    import torch

    from arcsolve.files import check_folder
    from arcsolve.inference.results import append
    from arcsolve.lab import recipe as suite
    from arcsolve.lab.proxy import ADAPT, TASKS, UPDATES, Proxy
    from arcsolve.training.pack import Pack

    runs = suite.plan(arms, seeds)
    if output is not None:
        check_folder(output)
    torch.set_num_threads(threads)
    data = Proxy.of(Pack.load(pack_path), tasks or TASKS)
    count = updates or UPDATES
    done = suite.read(output, data.pack.hash, count, ADAPT) if output is not None else []
    left = len([one for one in runs if one not in {(row["arm"], row["seed"]) for row in done}])
    made, began = 0, time.monotonic()

    def finished(row: dict[str, Any]) -> None:
        nonlocal made
        made += 1
        if output is not None:
            append(output, row)
        spent = time.monotonic() - began
        click.echo(
            f"{made}/{left}  {row['arm']} seed {row['seed']}  development {row['development_nats']:.3f} nats  "
            f"meta-dev {_figure(row['meta_dev_nats'])} nats  about {spent / made * (left - made):.0f} s left",
            err=True,
        )

    wanted = {name for name, _ in runs}
    rows = suite.run_recipe(data, runs, done, updates=count, adapt=ADAPT, finished=finished)
    lines = [line for line in suite.summary(rows) if line["arm"] in wanted]
    if as_json:
        click.echo(json.dumps({"data_sha256": data.pack.hash, "updates": count, "arms": lines}))
        return
    consoles.out.print(_table(lines))
    consoles.out.print("nats a cell of unseen outputs, less is better; n seeds, compared seed by seed")


@lab.command(
    help="Solve the tasks of a figure with one stage more or less (ARMS; default: all): recall, latents, the whole "
    "network, joint or each task alone, leave-one-out's stop, views, steps, noise. Results are kept as they come, and "
    "the same command goes on where it was stopped."
)
@click.argument("arms", nargs=-1)
@click.option("--figure", default="meta-dev", show_default=True, help="The tasks, as `arcsolve eval` names them.")
@set_options
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for results, a JSON line a task, and for the jointly adapted network.",
)
@solver_options
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object.")
@color_option
def stages(
    arms: tuple[str, ...],
    figure: str,
    limit: int | None,
    max_side: int | None,
    joint_presentations: int | None,
    output: Path,
    as_json: bool,
    consoles: Consoles,
    **options: Any,
) -> None:
    from arcsolve.arc.task import Task
    from arcsolve.cli.evaluate import adapt_to_set
    from arcsolve.cli.options import joint_settings, make_solver
    from arcsolve.files import make_folder
    from arcsolve.inference import evaluation, results
    from arcsolve.inference.joint import joint_solver
    from arcsolve.lab import stages as suite

    names = suite.plan(arms)
    make_folder(output)
    solver, settings = make_solver(options)
    chosen = evaluation.figure(figure, solver)
    tasks = evaluation.limited(chosen.tasks, limit, max_side, settings.seed)
    joint = joint_settings(joint_presentations)
    head = suite.header(solver, settings, joint.presentations, tasks.hash)
    path = output / "stages.jsonl"
    done = suite.read(path, head)
    order = evaluation.spread(tasks)
    left = [task for task in order if set(names) - set(done.get(task.id, {}))]
    runs = None
    if left and any(suite.ARMS[name].joint for name in names):
        adapted = adapt_to_set(solver, tasks, joint, output / "joint", settings.seed, options["backend"])
        runs = joint_solver(solver, adapted, options["backend"])
    began, made = time.monotonic(), 0

    def finished(task: Task, found: dict[str, dict[str, Any]]) -> None:
        nonlocal made
        made += 1
        results.append(path, {"id": task.id, **head, "arms": found})
        spent = time.monotonic() - began
        right = " ".join(name for name in found if all(found[name]["pass_at_2"])) or "-"
        rest = spent / made * (len(left) - made)
        click.echo(f"{made}/{len(left)}  {task.id}  about {rest:.0f} s left  right: {right}", err=True)

    suite.run_stages(order, names, solver, runs, settings, done, finished)
    lines = suite.summary(order, names, done)
    if as_json:
        click.echo(json.dumps({**head, "data": tasks.name, "tasks": len(tasks), "arms": lines}))
        return
    consoles.out.print(f"{tasks.name}: {len(tasks)} tasks, {tasks.hash[:8]}, weights {solver.weights.sha256[:8]}")
    consoles.out.print(_stage_table(lines))


def _stage_table(lines: list[dict[str, Any]]) -> Table:
    names = ("arm", "pass@1", "pass@2", "oracle", "size", "s", "against", "won", "lost", "difference")
    table = plain_table(*names, left=("arm", "against"))
    for line in lines:
        shares = (f"{line[key]:.1%}" for key in ("pass_at_1", "pass_at_2", "oracle", "size"))
        error = "" if line["error"] is None else f" ± {line['error']:.1%}"
        compared = (line["against"], str(line["gained"]), str(line["lost"]), f"{line['difference']:+.1%}{error}")
        own = line["arm"] == line["against"]
        table.add_row(line["arm"], *shares, f"{line['seconds']:.1f}", *(() if own else compared))
    return table


def _table(lines: list[dict[str, Any]]) -> Table:
    """In 80 columns, since it is read in a pipe or a log as often as not; ``--json`` has the other figures."""
    names = ("arm", "against", "n", "dev", "difference", "meta-dev", "difference")
    table = plain_table(*names, left=("arm", "against"))
    for line in lines:
        table.add_row(
            line["arm"],
            line["against"],
            str(line["seeds"]),
            f"{line['development_nats']:.3f}",
            _difference(line["development_nats_difference"]),
            _figure(line["meta_dev_nats"]),
            _difference(line["meta_dev_nats_difference"]),
        )
    return table


def _figure(value: float | None) -> str:
    """A figure, or a dash where an arm cannot have it."""
    return "-" if value is None else f"{value:.3f}"


def _difference(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{value[0]:+.3f} ± {value[1]:.3f}"
