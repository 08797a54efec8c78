"""``arcsolve score``: compare a submission file with the true outputs."""

from __future__ import annotations

import json

import click
from rich.table import Table

from arcsolve.arc.dataset import load_tasks, one_line
from arcsolve.arc.scoring import Score, percent, score
from arcsolve.arc.submission import read_submission, validate_submission
from arcsolve.cli.console import Consoles, color_option
from arcsolve.cli.show import complete_source


@click.command("score")
@click.argument("submission", type=click.Path(allow_dash=True))
@click.argument("source", shell_complete=complete_source)
@click.option("--json", "as_json", is_flag=True, help="Print the score as JSON.")
@color_option
def score_command(submission: str, source: str, as_json: bool, consoles: Consoles) -> None:
    """Score the file SUBMISSION, in Kaggle's format, on the tasks of SOURCE, whose test outputs must be known.

    Both usual averages are given: over test outputs, as Kaggle counts, and over tasks, as papers count.
    """
    tasks = load_tasks(source)
    answers = read_submission(submission)
    validate_submission(answers, tasks, one_line(submission))
    result = score(answers, tasks)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        consoles.out.print(f"{result.data}: {result.tasks} tasks, {result.test_outputs} test outputs")
        consoles.out.print(f"sha256 {result.hash}", soft_wrap=True)
        consoles.out.print(score_table(result))


def score_table(result: Score) -> Table:
    """Both metrics, named, as a table: a row for one attempt and a row for two."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("mean over test outputs", justify="right")
    table.add_column("mean over tasks", justify="right")
    for name, rate in (("pass@1", result.pass_at_1), ("pass@2", result.pass_at_2)):
        table.add_row(name, percent(rate.by_output, rate.by_output_95), percent(rate.by_task, rate.by_task_95))
    return table
