"""The plot of ``arcsolve lab width``: what width and depth buy, and what they cost."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcsolve.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(path: Path, lines: list[dict[str, Any]], widths: tuple[int, ...], claim: str) -> bool:
    """Draw coverage and accuracy against trajectories and against steps, with seconds beside them.

    Args:
        lines: of :func:`arcsolve.lab.width_summary.summary`; those of held-out puzzles are drawn.
        widths: the numbers of trajectories that they tell of.
        claim: the way that is compared with the others, drawn in black.

    Returns:
        Whether matplotlib is installed (extra ``plot``); without it nothing is drawn.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    held_out = [line for line in lines if line["split"] == "held-out"]
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    for number, line in enumerate(held_out):
        # Not every way is in every panel, and one legend is for all of them.
        style: dict[str, Any] = {"color": f"C{number}", "marker": "o", "markersize": 3, "label": line["way"]}
        if line["way"] == claim:
            style |= {"color": "black", "linewidth": 2.5}
        for row, key in enumerate(("coverage", "vote")):
            shares = [100 * value for value in line[key]]
            axes[row][0].plot(widths[: len(shares)], shares, **style)
            if line["depth"] is not None:
                shares = [100 * value for value in line["depth"][key]]
                axes[row][1].plot(range(1, len(shares) + 1), shares, **style)
        if line["seconds"] is not None:
            for row, key in enumerate(("width", "depth")):
                taken = {int(count): 1_000 * value for count, value in line["seconds"][key].items()}
                axes[row][2].plot(list(taken), list(taken.values()), **style)
    names = ("answers found, %", "right by the vote, %")
    for row, name in enumerate(names):
        _label(axes[row][0], "trajectories", name)
        _label(axes[row][1], "supervision steps (20 trajectories, one without chance)", name)
        axes[row][0].set_xscale("log", base=2)
    for row, name in enumerate(("trajectories side by side", "as many times the steps, one after the other")):
        _label(axes[row][2], name, "milliseconds a puzzle")
        axes[row][2].set_xscale("log", base=2)
        axes[row][2].set_yscale("log")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    replace_file(path, text.getvalue())
    return True


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
