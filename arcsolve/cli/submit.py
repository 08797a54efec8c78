"""``arcsolve submit``: a run's answers in the form that a benchmark wants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arcsolve.cli.options import warn
from arcsolve.cli.show import complete_source

if TYPE_CHECKING:
    from arcsolve.arc.benchmarking import Origin
    from arcsolve.inference.results import Entry


@click.command("submit")
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["kaggle", "arc-agi-benchmarking"]),
    default="kaggle",
    show_default=True,
    help="One submission.json, or a folder with a file for each task.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file, or the folder.")
@click.option(
    "--tasks", "source", shell_complete=complete_source, help="The challenges to answer (default: what RUN solved)."
)
def submit(run: Path, layout: str, output: Path, source: str | None) -> None:
    """Write the answers of RUN, a folder of `arcsolve batch`, as a submission.

    Every task and every test input of the challenges gets two attempts, in order: where RUN has no answer, the input
    itself and a black cell, which is said. Exit status 3: that is so somewhere.
    """
    from arcsolve.arc.benchmarking import is_file_name, write_benchmarking
    from arcsolve.arc.dataset import Unreadable, load_tasks, one_line
    from arcsolve.arc.submission import validate_submission, write_submission
    from arcsolve.cli.batch import INCOMPLETE
    from arcsolve.files import check_folder
    from arcsolve.inference.batch import unanswered
    from arcsolve.inference.results import RESULTS, choose, read_entries

    check_folder(output)
    summary = _summary(run, needed=source is None)
    unreadable: list[Unreadable] = []
    tasks = load_tasks(source or _source(run, summary), unreadable)
    lines = read_entries(run / RESULTS, tasks, warn)
    # In a folder with answers of several settings, those of the last run are meant.
    entries = choose(lines, summary.get("weights_sha256"), summary.get("settings"))
    answers = unanswered(tasks, unreadable)
    answers |= {task_id: entry.attempts for task_id, entry in entries.items()}
    missing = [task_id for task_id in answers if task_id not in entries]
    validate_submission(answers, tasks, one_line(str(output)), unreadable)
    name = run.resolve().name
    if layout == "kaggle":
        write_submission(output, answers)
    else:
        for odd in [task.id for task in unreadable if not is_file_name(task.id)]:
            del answers[odd]
            warn(f"{one_line(odd)} cannot be the name of a file: left out")
        write_benchmarking(output, answers, {task_id: _origin(entries.get(task_id)) for task_id in answers}, name)
    if len({(entry.weights_sha256, str(entry.settings)) for entry in entries.values()}) > 1:
        warn("the answers were made with several kinds of weights or settings")
    outputs = sum(map(len, answers.values()))
    click.echo(f"{output}: {len(answers)} tasks, {outputs} test inputs, two attempts each")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        warn(f"without an answer in {run}: {one_line(missing[0])}{more}")
        click.get_current_context().exit(INCOMPLETE)


def _summary(run: Path, *, needed: bool) -> dict[str, Any]:
    from arcsolve.arc.dataset import read_json
    from arcsolve.errors import FormatError
    from arcsolve.inference.results import RESULTS
    from arcsolve.render.report import SUMMARY

    if not needed and (run / RESULTS).exists() and not (run / SUMMARY).exists():
        return {}
    value = read_json(str(run / SUMMARY), "no such file; is this a folder of `arcsolve batch`?")
    if not isinstance(value, dict):
        raise FormatError(f"{run / SUMMARY}: expected an object")
    return value


def _source(run: Path, summary: dict[str, Any]) -> str:
    from arcsolve.errors import ArcsolveError

    source = summary.get("source")
    if not isinstance(source, str) or source == "-":
        raise ArcsolveError(f"{run}: does not say which tasks it solved; name them with --tasks")
    return source


def _origin(entry: Entry | None) -> Origin:
    from datetime import UTC, datetime

    from arcsolve.arc.benchmarking import Origin

    if entry is None:
        now = datetime.now(UTC)
        return Origin("none: no answer", {}, now, now)
    return Origin(f"arcsolve-{entry.weights_sha256[:8]}", entry.settings, entry.began, entry.finished)
