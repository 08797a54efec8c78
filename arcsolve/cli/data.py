"""``arcsolve data pack``: training pairs from official sets and generated files into one guarded file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click


@click.group(help="Prepare training data.")
def data() -> None:
    pass


@data.command(
    help="Pack training pairs of SOURCES into one file: official sets by name (default: both training sets), `.npz` "
    "files of generated pairs, RE-ARC's `<id>.json` lists, or folders of these. A guard drops, by content, pairs of "
    "evaluation and meta-dev tasks and all test pairs."
)
@click.argument("sources", nargs=-1)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The pack to write.")
@click.option(
    "--tasks",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of task ids to keep, one a line (default: the 570 of splits/pretrain.txt).",
)
@click.option("--all-tasks", is_flag=True, help="Keep every task that the guard allows, listed or not.")
@click.option("--per-task", type=click.IntRange(1), help="At most so many generated pairs of a task, smallest first.")
@click.option(
    "--transductive",
    type=click.Choice(["arc-agi-1/evaluation", "arc-agi-2/evaluation"]),
    multiple=True,
    help="Add the demonstrations of this evaluation set, never its test pairs. Weights trained on such a pack are "
    "scored with `eval --protocol transductive` only.",
)
@click.option("--max-side", type=click.IntRange(1, 30), default=30, show_default=True, help="Leave out larger pairs.")
def pack(
    sources: tuple[str, ...],
    output: Path,
    tasks: Path | None,
    all_tasks: bool,
    per_task: int | None,
    transductive: tuple[str, ...],
    max_side: int,
) -> None:
    from arcsolve.arc.dataset import load_tasks
    from arcsolve.files import check_folder
    from arcsolve.training.guard import Guard, split
    from arcsolve.training.pack import build

    if all_tasks and tasks:
        raise click.UsageError("--tasks and --all-tasks exclude each other")
    check_folder(output)
    listed = set(tasks.read_text(encoding="utf-8").split() if tasks else split("pretrain"))
    listed.update(task.id for name in transductive for task in load_tasks(name))
    made, report = build(
        (*(sources or ("arc-agi-1/training", "arc-agi-2/training")), *transductive),
        None if all_tasks else frozenset(listed),
        Guard.official(transductive),
        per_task=per_task,
        max_side=max_side,
        progress=lambda line: click.echo(line, err=True),
    )
    made = replace(made, protocol="transductive") if transductive else made
    made.save(output)
    click.echo(
        f"{output}: {len(made)} pairs of {len(made.ids)} tasks, sha256 {made.hash}\n"
        f"guard: {report.refused_tasks} tasks and {report.refused_pairs} pairs refused; "
        f"{report.repeated} repeated pairs and {report.not_in_list} unlisted tasks left out"
    )
