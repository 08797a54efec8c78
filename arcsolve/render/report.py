"""A run folder's report: a table of the figure and of its tasks, and a plot of accuracy against seconds per task."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from arcsolve.arc.dataset import TaskSet
from arcsolve.arc.scoring import percent
from arcsolve.files import replace_file
from arcsolve.inference.evaluation import Outcome

SUMMARY, TABLE, PLOT = "summary.json", "table.md", "accuracy.svg"


def write_report(folder: Path, facts: dict[str, Any], tasks: TaskSet, outcomes: Mapping[str, Outcome]) -> None:
    """Write ``summary.json``, ``table.md`` and, where matplotlib is installed (extra ``plot``), ``accuracy.svg``.

    Args:
        facts: the figure and all that it depends on, as ``arcsolve eval --json`` prints it.

    Raises:
        ArcsolveError: a file cannot be written.
    """
    replace_file(folder / SUMMARY, json.dumps(facts, indent=1) + "\n")
    replace_file(folder / TABLE, table(facts, tasks, outcomes))
    if importlib.util.find_spec("matplotlib") is not None:
        plot(folder / PLOT, facts, *curve(tasks, outcomes))


def table(facts: dict[str, Any], tasks: TaskSet, outcomes: Mapping[str, Outcome]) -> str:
    """The figure in Markdown, then a line for each task."""
    lines = [f"# {facts['data']}", "", "| | mean over test outputs (95%) | mean over tasks (95%) |", "|---|---|---|"]
    for name in ("pass_at_1", "pass_at_2"):
        rate = facts[name]
        shares = (percent(rate[kind], rate[f"{kind}_95"]) for kind in ("by_output", "by_task"))
        lines.append(f"| {name.replace('_at_', '@')} | {' | '.join(shares)} |")
    lines += ["", "| | |", "|---|---|"]
    shown = ("pass_at_1", "pass_at_2", "seconds_per_task", "settings")
    lines += [f"| {name} | {value} |" for name, value in facts.items() if name not in shown]
    lines += [f"| settings: {name} | {value} |" for name, value in facts["settings"].items()]
    lines += [f"| seconds per task: {name} | {value:.2f} |" for name, value in facts["seconds_per_task"].items()]
    lines += ["", "| task | right | of | left out: reproduced | of | votes of attempt 1 | start | seconds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for task in tasks:
        one = outcomes[task.id]
        votes = " ".join(map(str, one.votes))
        cells = (task.id, sum(one.right), len(one.right), one.reproduced, one.tried, votes, one.source)
        lines.append(f"| {' | '.join(map(str, cells))} | {one.seconds['total']:.1f} |")
    return "\n".join(lines) + "\n"


def curve(tasks: TaskSet, outcomes: Mapping[str, Outcome]) -> tuple[list[float], list[float]]:
    """Seconds, ascending, and the share of test outputs right from tasks that took no longer."""
    rows = sorted((outcomes[task.id].seconds["total"], sum(outcomes[task.id].right)) for task in tasks)
    outputs = sum(len(task.test) for task in tasks)
    return [seconds for seconds, _ in rows], (np.cumsum([right for _, right in rows]) / outputs).tolist()


def plot(path: Path, facts: dict[str, Any], seconds: list[float], share: list[float]) -> None:
    """Draw accuracy against seconds per task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    axes.step([0.0, *seconds], [0.0, *(100 * value for value in share)], where="post")
    axes.set_xlabel("seconds per task")
    axes.set_ylabel("test outputs right with two attempts, %")
    axes.set_title(f"{facts['data']}: {facts['protocol']}, weights {facts['weights_sha256'][:8]}", fontsize=9)
    axes.set_ylim(0)
    axes.set_xlim(0)
    axes.grid(alpha=0.3)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    replace_file(path, text.getvalue())
