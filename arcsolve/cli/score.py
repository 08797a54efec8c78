"""``arcsolve score``: compare a submission with the true outputs, and with another submission."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from arcsolve.arc.benchmarking import read_benchmarking
from arcsolve.arc.dataset import TaskSet, load_tasks, one_line
from arcsolve.arc.scoring import Change, Hits, Score, compare, hits, percent, score_of
from arcsolve.arc.submission import Attempts, read_submission, validate_submission
from arcsolve.cli.console import Consoles, color_option
from arcsolve.cli.show import complete_source


@click.command("score")
@click.argument("submission", type=click.Path(allow_dash=True))
@click.argument("source", shell_complete=complete_source)
@click.option("--against", type=click.Path(), help="Another submission, in either format: what was gained and lost.")
@click.option("--per-task", is_flag=True, help="Also print a line for each task.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@color_option
def score_command(
    submission: str, source: str, against: str | None, per_task: bool, as_json: bool, consoles: Consoles
) -> None:
    """Score SUBMISSION on the tasks of SOURCE, whose test outputs must be known.

    SUBMISSION is a file in Kaggle's format, or a folder in that of arc-agi-benchmarking. Both usual averages are given:
    over test outputs, as Kaggle counts, and over tasks, as papers count.
    """
    tasks = load_tasks(source)
    found = hits(_read(submission, tasks), tasks)
    result = score_of(found, tasks)
    changes: dict[str, Change] = {}
    if against is not None:
        others = hits(_read(against, tasks), tasks)
        changes = {f"pass@{k}": compare(found, others, k) for k in (1, 2)}
    if as_json:
        click.echo(json.dumps(_to_json(result, found, changes), indent=2))
        return
    consoles.out.print(f"{result.data}: {result.tasks} tasks, {result.test_outputs} test outputs", soft_wrap=True)
    consoles.out.print(f"sha256 {result.hash}", soft_wrap=True)
    consoles.out.print(score_table(result))
    if per_task:
        consoles.out.print()
        consoles.out.print(_task_table(found))
    if changes:
        consoles.out.print()
        consoles.out.print(f"against {one_line(str(against))}:", soft_wrap=True)
        consoles.out.print(_change_table(changes))
        for name, change in changes.items():
            for verb, outputs in (("gained", change.gained), ("lost", change.lost)):
                if outputs:
                    listed = " ".join(f"{task_id}[{index}]" for task_id, index in outputs)
                    consoles.out.print(f"{name} {verb}: {listed}", soft_wrap=True)


def _read(path: str, tasks: TaskSet) -> dict[str, list[Attempts]]:
    answers = read_benchmarking(Path(path)) if Path(path).is_dir() else read_submission(path)
    validate_submission(answers, tasks, one_line(path))
    return answers


def _to_json(result: Score, found: Hits, changes: dict[str, Change]) -> dict[str, object]:
    by_task = {
        task_id: {"pass_at_1": rows[:, 0].tolist(), "pass_at_2": rows[:, 1].tolist()} for task_id, rows in found.items()
    }
    value = {**result.to_json(), "by_task": by_task}
    if changes:
        value["change"] = {name.replace("@", "_at_"): asdict(change) for name, change in changes.items()}
    return value


def _columns(*names: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    return table


def score_table(result: Score) -> Table:
    """Both metrics, named, as a table: a row for one attempt and a row for two."""
    table = _columns("mean over test outputs", "mean over tasks")
    for name, rate in (("pass@1", result.pass_at_1), ("pass@2", result.pass_at_2)):
        table.add_row(name, percent(rate.by_output, rate.by_output_95), percent(rate.by_task, rate.by_task_95))
    return table


def _task_table(found: Hits) -> Table:
    table = _columns("outputs", "pass@1", "pass@2")
    for task_id, rows in found.items():
        table.add_row(task_id, str(len(rows)), *(f"{share:.0%}" for share in rows.mean(axis=0)))
    return table


def _change_table(changes: dict[str, Change]) -> Table:
    table = _columns("gained", "lost", "mean over test outputs", "mean over tasks")
    for name, change in changes.items():
        means = ((change.by_output, change.by_output_95), (change.by_task, change.by_task_95))
        shown = (f"{value:+.2%} ({low:+.1%} to {high:+.1%})" for value, (low, high) in means)
        table.add_row(name, str(len(change.gained)), str(len(change.lost)), *shown)
    return table
