"""``arcsolve show``: draw tasks, or list them."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem
from rich.text import Text

from arcsolve.arc.dataset import OFFICIAL, TaskSet, load_tasks, one_line
from arcsolve.arc.task import Task
from arcsolve.cli.console import Consoles, color_option
from arcsolve.errors import ArcsolveError
from arcsolve.render.grids import size, task_view
from arcsolve.render.palette import style_for

DRAWN = 5


def complete_source(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Official sets, and files, which the shell itself completes."""
    sets = [CompletionItem(name) for name in OFFICIAL if name.startswith(incomplete)]
    # Files first: click's bash script forgets what came before them.
    return [CompletionItem(incomplete, type="file"), *sets]


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.argument("task_id", required=False)
@click.option("--limit", type=click.IntRange(min=1), help=f"How many tasks of a set  [default: {DRAWN}; --index: all]")
@click.option("--index", is_flag=True, help="List ids and grid sizes, a line a task, instead of drawing.")
@color_option
def show(source: str, task_id: str | None, limit: int | None, index: bool, consoles: Consoles) -> None:
    """Draw the task TASK_ID of SOURCE, or the first tasks of SOURCE.

    SOURCE is a task file, a directory of them, a combined file, - for standard input, one of the official sets
    (arc-agi-1/training, arc-agi-1/evaluation, arc-agi-2/training, arc-agi-2/evaluation), or one task of any of these
    as SOURCE:ID. Sizes are rows x columns.
    """
    tasks = load_tasks(source)
    chosen = _select(tasks, task_id)
    if limit is None:
        limit = len(chosen) if index else DRAWN
    style = style_for(consoles.out)
    for number, task in enumerate(chosen[:limit]):
        if index:
            consoles.out.print(_entry(task), soft_wrap=True)
        else:
            consoles.out.print("\n" if number else "", Text(task.id, "bold"), sep="")
            consoles.out.print(task_view(task, style))
    if len(chosen) > limit:
        consoles.err.print(f"{len(chosen) - limit} more tasks (see --limit and --index)")


def _select(tasks: TaskSet, task_id: str | None) -> tuple[Task, ...]:
    chosen = tuple(task for task in tasks if task_id in (None, task.id))
    if not chosen:
        raise ArcsolveError(f"{one_line(tasks.name)}: no task {one_line(task_id or '')}")
    return chosen


def _entry(task: Task) -> str:
    """``007bbfb7  5 demos  1 test  3x3>9x9 ...``, one item for each pair."""
    pairs = " ".join(f"{size(pair.input)}>{size(pair.output)}" for pair in (*task.train, *task.test))
    demos, tests = len(task.train), len(task.test)
    return f"{task.id}  {demos} demo{'s'[: demos > 1]}  {tests} test{'s'[: tests > 1]}  {pairs}"
