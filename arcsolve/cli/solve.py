"""``arcsolve solve``: one task, its answers, and how they came about."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from arcsolve.cli.console import Consoles, color_option
from arcsolve.cli.options import Number, solver_options, threads_option
from arcsolve.cli.show import complete_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arcsolve.inference.settings import Listener


@click.command(
    help="Solve the task in SOURCE: a task file, `-` for standard input, or one task of a set, as in "
    "`arc-agi-1/evaluation:ID`. Results go to standard output, progress to standard error."
)
@click.argument("source", shell_complete=complete_source)
@solver_options
@click.option(
    "--time-limit",
    type=Number(0, min_open=True),
    help="Cap in seconds, of which adaptation gets 80%; hitting it is reported. A batch in hand is finished.",
)
@threads_option
@click.option(
    "-v", "--verbose", is_flag=True, help="Also tell what it started from, losses left out, and seconds by stage."
)
@click.option(
    "--show-trajectories",
    is_flag=True,
    help="Also draw how trajectories part and which answers they reach: counts per candidate by step.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the solution as one JSON object.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Also write the JSON to this file.")
@color_option
def solve(
    source: str,
    time_limit: float | None,
    verbose: bool,
    show_trajectories: bool,
    as_json: bool,
    output: str | None,
    consoles: Consoles,
    **options: Any,
) -> None:
    from arcsolve.arc.dataset import load_task
    from arcsolve.cli.options import make_solver
    from arcsolve.files import check_folder, replace_file
    from arcsolve.render.palette import style_for
    from arcsolve.render.solution import detail_view, solution_view

    if output is not None:
        check_folder(output)
    task = load_task(source)
    solver, settings = make_solver(options, time_limit=time_limit)
    with progress(consoles) as listener:
        solution = solver.solve(task, settings, listener)
    text = json.dumps(solution.to_json(), allow_nan=False)
    if as_json:
        click.echo(text)
    else:
        style = style_for(consoles.out)
        consoles.out.print(solution_view(task, solution, style, trajectories=show_trajectories))
        if verbose:
            consoles.out.print()
            consoles.out.print(detail_view(solution))
    if output is not None:
        replace_file(output, text + "\n")


@contextmanager
def progress(consoles: Consoles) -> Iterator[Listener]:
    """A listener that draws on standard error: live on a terminal, a line for each stage elsewhere."""
    from arcsolve.inference.settings import Progress

    if not consoles.err.is_terminal:
        stages: list[str] = []

        def line(state: Progress) -> None:
            if state.stage not in stages[-1:]:
                stages.append(state.stage)
                click.echo(f"{state.stage}: {state.total} {_unit(state.stage)}", err=True)

        yield line
        return

    from rich.live import Live

    from arcsolve.render.palette import style_for
    from arcsolve.render.solution import progress_view

    style = style_for(consoles.err)
    with Live(console=consoles.err, transient=True, refresh_per_second=8) as live:

        def draw(state: Progress) -> None:
            live.update(
                progress_view(
                    state.stage,
                    state.done,
                    state.total,
                    state.reproduced,
                    state.steps,
                    state.candidates,
                    style,
                    exact=state.exact,
                )
            )

        yield draw


def _unit(stage: str) -> str:
    return {"sample": "trajectories", "recall": "search of the trained tasks"}.get(stage, "steps")
