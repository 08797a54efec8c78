"""``arcsolve batch``: a set of tasks solved, with a submission at hand at any time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arcsolve.cli.console import Consoles, color_option
from arcsolve.cli.options import Number, solver_options, warn, worker_options
from arcsolve.cli.show import complete_source
from arcsolve.cli.signals import sigterm_interrupts

if TYPE_CHECKING:
    from arcsolve.arc.dataset import TaskSet
    from arcsolve.arc.task import Task
    from arcsolve.cli.pace import Pace
    from arcsolve.inference.batch import Batch
    from arcsolve.inference.deadline import Deadline
    from arcsolve.inference.pool import Pool
    from arcsolve.inference.settings import Settings
    from arcsolve.network.weights import Weights

INCOMPLETE = 3


@click.command(
    help="Solve every task of SOURCE: a task file, a directory of them, a combined file, `-` for standard input, or an "
    "official set by name. The same command goes on where it was stopped. Exit status 3: some tasks have no answer.",
    context_settings={"default_map": {"leave_one_out": 0}},
)
@click.argument("source", shell_complete=complete_source)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Run folder: results.jsonl, a line for each task as it is solved; submission.json, complete at any time; "
    "summary.json.",
)
@click.option(
    "--deadline",
    metavar="DURATION",
    help="Be done in 11h30m, 90m or 45s from now: the time that is left is shared over the tasks that are left.",
)
@click.option("--time-limit", type=Number(0, min_open=True), help="Cap in seconds for each task.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Solve on this Ray cluster: auto, host:port or ray://host:port. There --workers is by default as many as its "
    "GPUs, or its CPUs, allow, and --threads 1.",
)
@worker_options
@solver_options
@click.option("--json", "as_json", is_flag=True, help="Also print each line of results.jsonl as it is written.")
@color_option
def batch(
    source: str,
    output: Path,
    deadline: str | None,
    time_limit: float | None,
    ray: str | None,
    as_json: bool,
    consoles: Consoles,
    **options: Any,
) -> None:
    began = time.monotonic()  # before the imports, which take seconds
    from arcsolve.arc.dataset import Unreadable, load_tasks, one_line
    from arcsolve.cli.pace import Pace
    from arcsolve.files import lock_folder, make_folder
    from arcsolve.inference.batch import Batch, solve_all
    from arcsolve.inference.deadline import Deadline, parse_duration
    from arcsolve.inference.results import made_with

    seconds = None if deadline is None else parse_duration(deadline)
    unreadable: list[Unreadable] = []
    tasks = load_tasks(source, unreadable)
    make_folder(output)
    clock = None if seconds is None else Deadline(seconds - (time.monotonic() - began))
    with lock_folder(output), _pool(options, ray, time_limit, clock) as (pool, weights, backend, settings):
        made = made_with(backend, settings, weights.protocol)
        run = Batch(
            tasks,
            unreadable,
            output,
            weights.sha256,
            made,
            keep_cut=deadline is not None,
            warn=warn,
        )
        facts = {**_facts(source, tasks, weights, backend, settings, deadline), "settings": made}
        _write_summary(output, facts, run, began)
        lines = run.record_unreadable()
        for line in lines:
            click.echo(f"{one_line(line['id'])}: failed: {line['error']}", err=True)
        try:
            with _progress(consoles, run, Pace(run, settings, clock), as_json, lines) as finished:
                solve_all(run, pool, settings, deadline=clock, finished=finished)
        finally:
            # Whatever ended it: what is solved is in the submission.
            run.write_submission()
            summary = _write_summary(output, facts, run, began)
            _tell(summary, output)
    if summary["failed"] or summary["unanswered"]:
        click.get_current_context().exit(INCOMPLETE)


@contextmanager
def _pool(
    options: dict[str, Any], ray: str | None, time_limit: float | None, deadline: Deadline | None
) -> Iterator[tuple[Pool, Weights, str, Settings]]:
    """Workers, the weights they hold, the backend's name without a device's number, and the settings."""
    from arcsolve.cli.options import make_pool, make_settings
    from arcsolve.inference.pool import Ready
    from arcsolve.network.weights import load_weights, shipped_weights

    weights = load_weights(options["weights"] or shipped_weights())
    settings = make_settings(options, time_limit)
    settings.noise_of(weights.config)  # before anything starts, see that the two go together
    with ExitStack() as stack:
        take_sigterm = stack.enter_context(sigterm_interrupts())
        pool: Pool
        if ray is not None:
            from arcsolve.inference.pool import SolverSpec
            from arcsolve.inference.ray_pool import RayPool

            threads = options["threads"] or 0
            spec = SolverSpec(weights.path, weights.sha256, options["backend"], options["device"], threads)
            pool = workers = RayPool(ray, spec, options["workers"])
            take_sigterm()
            stack.callback(pool.close)
            kind = workers.device
        else:
            pool = processes = make_pool(weights, options)
            stack.callback(pool.close)
            slow = Ready("", "cpu", "no worker has started within the deadline")
            backend, _, notice = processes.ready(deadline.left if deadline else None) or slow
            kind = "cuda" if "cuda" in backend else "cpu"
            if notice:
                warn(notice)
        yield pool, weights, f"{options['backend']}:{kind}", settings


def _facts(
    source: str, tasks: TaskSet, weights: Weights, backend: str, settings: Settings, deadline: str | None
) -> dict[str, Any]:
    from arcsolve.inference.results import told_of

    return {
        "source": _absolute(source),
        "protocol": weights.protocol,
        "data_sha256": tasks.hash,
        **told_of(weights, backend, settings),
        "seed": settings.seed,
        "time_limit": settings.time_limit,
        "deadline": deadline,
    }


def _absolute(source: str) -> str:
    """The source as `submit` finds it from another folder."""
    from arcsolve.arc.dataset import OFFICIAL

    path, colon, task_id = source.rpartition(":")
    if source not in OFFICIAL and os.path.lexists(source):
        return os.path.abspath(source)
    if colon and path not in OFFICIAL and os.path.lexists(path):
        return f"{os.path.abspath(path)}:{task_id}"
    return source


def _write_summary(output: Path, facts: dict[str, Any], run: Batch, began: float) -> dict[str, Any]:
    from arcsolve.files import replace_file
    from arcsolve.render.report import SUMMARY

    summary = {
        **facts,
        "tasks": len(run.answers),
        "solved": len(run.solved),
        "cut": len(run.cut),
        "truncated": len(run.truncated),
        "otherwise": sorted(run.otherwise),
        "failed": run.failed,
        "unanswered": sorted(run.answers.keys() - run.answered - run.failed.keys()),
        "seconds": round(time.monotonic() - began, 1),
    }
    replace_file(output / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def _tell(summary: dict[str, Any], output: Path) -> None:
    from arcsolve.inference.batch import SUBMISSION

    parts = [f"{summary['solved']} of {summary['tasks']} tasks solved"]
    parts += [f"{summary['cut']} of them on a budget cut by the deadline"] if summary["cut"] else []
    parts += [f"{summary['truncated']} of them out of time"] if summary["truncated"] else []
    parts += [f"{len(summary['otherwise'])} answered with other weights or settings"] if summary["otherwise"] else []
    parts += [f"{len(summary['failed'])} failed"] if summary["failed"] else []
    parts += [f"{len(summary['unanswered'])} not reached"] if summary["unanswered"] else []
    stand_ins = (
        " (stand-ins for what has no answer; the same command goes on)"
        if summary["failed"] or summary["unanswered"]
        else ""
    )
    click.echo(f"{', '.join(parts)}: {output / SUBMISSION}{stand_ins}", err=True)


@contextmanager
def _progress(
    consoles: Consoles, run: Batch, pace: Pace, as_json: bool, lines: list[dict[str, Any]]
) -> Iterator[Callable[[Task, dict[str, Any], float], None]]:
    """What to do with each finished task: a line on standard error, above a bar on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    total, done = len(run.todo), 0
    if total < len(run.tasks):
        click.echo(f"{len(run.tasks) - total} of {len(run.tasks)} tasks are solved already", err=True)
    if as_json:
        for line in lines:
            click.echo(json.dumps(line))
    bar = Progress(
        BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"), console=consoles.err, transient=True
    )
    shown = bar.add_task("", total=total, left="")

    def finished(task: Task, line: dict[str, Any], size: float) -> None:
        nonlocal done
        done += 1
        left = pace.finished(size)
        text = f"{done}/{total}  {task.id}  {_outcome(line)}"
        if consoles.err.is_terminal:
            consoles.err.print(text, soft_wrap=True)
            bar.update(shown, advance=1, left=left)
        else:
            click.echo(f"{text}  {left}", err=True)
        if as_json:
            click.echo(json.dumps(line))

    if consoles.err.is_terminal and total:
        with bar:
            yield finished
    else:
        yield finished


def _outcome(line: dict[str, Any]) -> str:
    if "error" in line:
        return f"failed: {line['error']}"
    tests = line["solution"]["test"]
    shares = [test["candidates"][0]["votes"] / sum(one["votes"] for one in test["candidates"]) for test in tests]
    votes = " ".join(f"{share:.0%}" for share in shares)
    return f"{line['solution']['seconds']['total']:.1f} s  votes {votes}{_short(line)}"


def _short(line: dict[str, Any]) -> str:
    if line["cut"]:
        return "  budget cut"
    return "  out of time" if line["solution"]["truncated"] else ""
