"""``arcsolve lab stages``: arms share what they can, are compared on the same tasks, and resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from arcsolve.arc.task import Pair, Task
from arcsolve.cli.lab import lab
from arcsolve.errors import ArcsolveError
from arcsolve.lab import stages


def test_stages_are_compared_on_the_same_tasks_and_resume(
    weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stages, "ARMS", {name: replace(arm, prepare=few(arm.prepare)) for name, arm in stages.ARMS.items()}
    )
    puzzles = Path(__file__).parents[1] / "puzzles"
    folder = tmp_path / "run"
    arguments = ["stages", "joint", "views-2", "--figure", str(puzzles), "--limit", "2", "--max-side", "8"]
    arguments += ["--joint-presentations", "4", "--views", "4", "-o", str(folder), "--weights", str(weights_file)]
    made = CliRunner().invoke(lab, [*arguments, "--json"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    lines = json.loads(made.stdout)["arms"]
    assert [line["arm"] for line in lines] == ["mean", "recall", "latents", "network", "joint", "views-2"]
    results = folder / "stages.jsonl"
    rows = results.read_text().splitlines(keepends=True)
    assert len(rows) == 2
    results.write_text(rows[0] + rows[1][:50])
    again = CliRunner().invoke(lab, [*arguments, "--json"], catch_exceptions=False)
    assert again.stderr.count("s left  right:") == 1
    same = ("arm", "against", "pass_at_1", "pass_at_2", "oracle", "gained", "lost")
    assert [[line[key] for key in same] for line in json.loads(again.stdout)["arms"]] == [
        [line[key] for key in same] for line in lines
    ]
    drawn = CliRunner().invoke(lab, arguments, catch_exceptions=False).stdout
    assert all(line["arm"] in drawn for line in lines) and max(map(len, drawn.splitlines())) <= 80
    other = CliRunner().invoke(lab, [*arguments, "--seed", "1"])
    assert isinstance(other.exception, ArcsolveError) and "made with other weights, data" in str(other.exception)
    with pytest.raises(ArcsolveError, match="no arm 'nothing'"):
        stages.plan(["nothing"])


def few(prepare: dict[str, Any]) -> dict[str, Any]:
    """The same preparation in at most two steps."""
    adapt = prepare.get("adapt", {})
    return {**prepare, "adapt": {**adapt, "steps": min(2, adapt.get("steps", 2))}}


def test_differences_between_stages_are_paired() -> None:
    """Two arms that each solve one of two tasks, not the same one, differ by nothing, with an error."""
    tasks = [Task(name, (), (Pair(np.zeros((1, 1), np.uint8), None),)) for name in "ab"]
    hit = {"pass_at_1": [True], "pass_at_2": [True], "oracle": [True], "size": [True], "seconds": 1.0}
    miss = {**hit, "pass_at_1": [False], "pass_at_2": [False]}
    done = {"a": {"mean": hit, "recall": miss}, "b": {"mean": miss, "recall": hit}}
    mean, recall = stages.summary(tasks, ["mean", "recall"], done)
    assert (recall["gained"], recall["lost"], recall["difference"], recall["error"]) == (1, 1, 0, 1)
    assert mean["pass_at_2"] == recall["pass_at_2"] == 0.5 and mean["error"] == 0
