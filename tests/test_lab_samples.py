"""``arcsolve lab samples``: parts of one pool, ways to select among candidates, pass@k, and the command."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from arcsolve.arc.dataset import load_task
from arcsolve.arc.grid import Grid
from arcsolve.arc.task import Pair, Task
from arcsolve.cli.lab import lab
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.evaluation import Hits
from arcsolve.inference.settings import Settings
from arcsolve.inference.solver import Solver
from arcsolve.lab import samples, stages
from arcsolve.lab.samples import Cell, Plan, Trajectory
from arcsolve.network.config import NetworkConfig

PUZZLES = Path(__file__).parents[1] / "puzzles"
PLAN = Plan((1, 8, 64), (1, 4, 16))


def grid(colour: int) -> Grid:
    return np.full((1, 1), colour, np.uint8)


def end(colour: int, confidence: float = 0.5, change: float = 0.5, solved: int = 0, number: int = 0) -> Trajectory:
    return Trajectory(*divmod(number, 2), grid(colour), confidence, change, grid(9), solved)


# Most trajectories end at 1, the surest one at 2, the stillest at 3, and those that solve demonstrations at 4.
POOL = [end(1), end(1), end(1), end(2, confidence=0.9), end(3, change=0.1), end(4, solved=2), end(4, solved=2)]
FIRST = {"vote": 1, "confidence": 2, "change": 3, "consistency": 4}


def ranking(rule: str, pool: list[Trajectory], poor: int = 0) -> list[int]:
    ranked = samples.rank(rule, pool, lambda answer: int(answer[0, 0]) != poor, 2)
    return [int(candidate.grid[0, 0]) for candidate in ranked]


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    for n in range(1, 7):
        for right in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations(range(n), k))
                share = sum(min(draw) < right for draw in draws) / len(draws)
                assert samples.pass_at(n, right, k) == pytest.approx(share, abs=1e-12)
    exact = 1 - math.comb(1021, 512) / math.comb(1024, 512)
    assert samples.pass_at(1024, 3, 512) == pytest.approx(exact, abs=1e-12)


def test_a_cell_has_the_first_views_and_the_first_samples_of_each() -> None:
    pool = [end(1, number=number) for number in random.Random(0).sample(range(8), 8)]
    assert {(one.view, one.sample) for one in pool} == {(view, k) for view in range(4) for k in range(2)}
    for cell in (Cell(1, 1), Cell(3, 1), Cell(2, 2), Cell(4, 2)):
        found = {(one.view, one.sample) for one in samples.part(pool, cell)}
        assert found == {(view, k) for view in range(cell.views) for k in range(cell.samples)}
    assert [cell.name for cell in Plan((1, 2), (1, 3)).cells] == [
        "1 no noise",
        "1x1",
        "1x3",
        "2 no noise",
        "2x1",
        "2x3",
    ]


@pytest.mark.parametrize("rule", samples.RULES)
def test_each_rule_has_a_choice_of_its_own_and_no_rule_an_implausible_one(rule: str) -> None:
    first = FIRST[rule]
    for seed in range(5):
        pool = random.Random(seed).sample(POOL, len(POOL))
        assert ranking(rule, pool)[0] == first
        ranked = ranking(rule, pool, poor=first)
        assert ranked[-1] == first and ranked[0] != first
    hit = samples.hits(POOL, [rule], lambda answer: True, 2, grid(first))
    assert hit == {"oracle": 1, f"{rule}_1": 1, f"{rule}_2": 1}
    second = samples.hits(POOL, [rule], lambda answer: True, 2, grid(ranking(rule, POOL)[1]))
    assert second == {"oracle": 1, f"{rule}_1": 0, f"{rule}_2": 1}


def test_without_solved_demonstrations_consistency_is_the_vote() -> None:
    pool = [replace(one, solved=0) for one in POOL]
    assert ranking("consistency", pool) == ranking("vote", pool)
    # One that solves everything outweighs what solves nothing, but not any number of them.
    lone = end(4, solved=2)
    assert ranking("consistency", [lone, *[end(1)] * 5])[0] == 4
    assert ranking("consistency", [lone, *[end(1)] * 7])[0] == 1


def test_where_all_agree_the_second_attempt_is_a_runner_up() -> None:
    hit = samples.hits([end(1), end(1)], ["vote"], lambda answer: True, 2, grid(9))
    assert hit == {"oracle": 0, "vote_1": 0, "vote_2": 1}


def test_cells_are_compared_with_more_views_at_no_fewer_passes() -> None:
    pairs = [(cell.name, other.name) for cell, other in PLAN.comparisons()]
    by_cell = {cell.name: [other for own, other in pairs if own == cell.name] for cell in PLAN.cells if cell.noisy}
    assert by_cell == {
        "1x1": ["1 no noise"],
        "1x4": ["1x1", "8x1", "8 no noise"],
        "1x16": ["1x1", "64x1", "64 no noise"],
        "8x1": ["8 no noise"],
        "8x4": ["8x1", "64x1", "64 no noise"],
        "8x16": ["8x1", "64x1", "64 no noise"],
        "64x1": ["64 no noise"],
        "64x4": ["64x1", "64 no noise"],
        "64x16": ["64x1", "64 no noise"],
    }
    assert [other.name for _, other in Plan((1, 8), (4,)).comparisons()] == ["8 no noise", "8 no noise"]


def result(plan: Plan, **hit: list[int]) -> dict[str, Any]:
    """A task's line: nothing hit, but for these figures of the cell ``1x2``."""
    cells = {cell.name: {key: [0] for key in plan.figures} for cell in plan.cells}
    cells["1x2"] |= hit
    pools = {"noisy": {"trajectories": 4, "right": [2]}, "noiseless": {"trajectories": 2, "right": [0]}}
    return {"cells": cells, "pools": pools, "seconds": {"prepare": 1.0}}


def test_differences_are_paired_by_task() -> None:
    plan = Plan((1, 2), (1, 2), consistency=False)
    tasks = [Task(name, (), (Pair(grid(0), None),)) for name in "ab"]
    done = {"a": result(plan, vote_2=[1]), "b": result(plan)}
    done["b"]["cells"]["2x1"]["vote_2"] = [1]
    done["a"]["cells"]["2x2"]["change_1"] = [1]
    found = samples.summary(tasks, plan, 3, done)
    against = {line["against"]: line for line in found["differences"] if line["cell"] == "1x2"}
    assert list(against) == ["1x1", "2x1", "2 no noise"]
    assert {key: against["1x1"][key] for key in ("gained", "lost", "difference", "error")} == {
        "gained": 1,
        "lost": 0,
        "difference": 0.5,
        "error": 0.5,
    }
    assert against["2x1"] == {
        "cell": "1x2",
        "passes": 6,
        "against": "2x1",
        "against_passes": 6,
        "gained": 1,
        "lost": 1,
        "difference": 0.0,
        "error": 1.0,
    }
    change = next(
        line for line in found["rules"] if (line["rule"], line["attempts"], line["cell"]) == ("change", 1, "2x2")
    )
    assert (change["gained"], change["lost"], change["difference"]) == (1, 0, 0.5)
    assert {line["rule"] for line in found["rules"]} == {"confidence", "change"}
    cells = {line["cell"]: line for line in found["cells"]}
    assert cells["1x2"]["vote_2"] == 0.5 and cells["2x2"]["passes"] == 12
    assert [cells[name]["pass"] for name in ("2x2", "1x1", "2 no noise")] == [1, 0.5, 0]
    assert cells["1x2"]["pass"] == pytest.approx(1 - 1 / 6)
    assert stages.paired_difference([[1, 0]], [[0, 0]]) == {"gained": 1, "lost": 0, "difference": 0.5, "error": None}


def test_noise_is_that_of_the_weights_or_given_and_never_none_for_several_samples() -> None:
    plain, trained = NetworkConfig(), NetworkConfig(noise=0.3)
    settings = PLAN.settings(Settings(networks=4), plain)
    assert (settings.views, settings.samples, settings.networks, settings.leave_one_out) == (64, 16, 1, 0)
    assert settings.noise_of(plain) == samples.NOISE
    assert PLAN.settings(Settings(), trained).noise_of(trained) == 0.3
    learned = NetworkConfig(noise_width=4, steps=2)
    assert PLAN.settings(Settings(temperature=0.5), learned).noise_of(learned) == 0.5
    assert PLAN.settings(Settings(noise=0.0), NetworkConfig(random_start=True)).noise == 0
    assert Plan((1,), (1,)).settings(Settings(noise=0.0), plain).noise == 0
    with pytest.raises(ArcsolveError, match="are the same: give --noise above 0"):
        PLAN.settings(Settings(noise=0.0), plain)
    for config in (plain, learned):
        with pytest.raises(ArcsolveError, match="are the same: give --temperature above 0"):
            PLAN.settings(Settings(temperature=0.0), config)
    with pytest.raises(ArcsolveError, match="are the same: give --steps above 1"):
        PLAN.settings(Settings(steps=1), learned)


def test_a_task_is_measured_as_the_solver_solves_it(weights_file: Path) -> None:
    """Cells of one sample, or of all there are, are what the solver finds with as many views and samples."""
    solver = Solver.from_weights(weights_file, threads=1)
    task = load_task(str(PUZZLES / "mirror-left-right.json"))
    plan = Plan((1, 3), (1, 2))
    base = Settings()
    settings = plan.settings(replace(base, adapt=replace(base.adapt, steps=20)), solver.weights.config)
    found = samples.measure(task, solver, settings, plan)
    assert set(found["cells"]) == {cell.name for cell in plan.cells}
    assert all(set(hit) == set(plan.figures) for hit in found["cells"].values())
    assert {name: pool["trajectories"] for name, pool in found["pools"].items()} == {"noisy": 6, "noiseless": 3}
    ready = solver.prepare(task.blind, settings)
    for cell in (Cell(1, 1, noisy=False), Cell(3, 1, noisy=False), Cell(1, 2), Cell(3, 2)):
        noise = samples.NOISE if cell.noisy else 0.0
        own = replace(settings, views=cell.views, samples=cell.samples, noise=noise)
        solved = Hits.of(task, solver.answer(task.blind, ready, own))
        hit = found["cells"][cell.name]
        assert [hit["vote_1"], hit["vote_2"], hit["oracle"]] == [list(map(int, row)) for row in solved[:3]]


def test_numbers_tell_view_and_sample_and_what_diverged_comes_last(weights_file: Path) -> None:
    from arcsolve.inference.sampler import sample
    from arcsolve.views import random_views

    solver = Solver.from_weights(weights_file, threads=1)
    views = random_views(3, np.random.default_rng(0), keep_zero=True)
    given = np.zeros((2, 3), np.uint8)
    run = sample(solver.backend, solver.weights.bank[0], given, (2, 3), views, samples=2, steps=1, noise=0.1, seed=0)
    run.changes[0] = np.nan
    pool = samples.trajectories(run, 2, {5: 3})
    assert sorted((one.view, one.sample, one.solved) for one in pool) == [
        (0, 0, 0),
        (0, 1, 0),
        (1, 0, 0),
        (1, 1, 0),
        (2, 0, 0),
        (2, 1, 3),
    ]
    assert pool[0].change == math.inf
    for one, number, last in zip(pool, run.numbers, run.grids, strict=True):
        assert 2 * one.view + one.sample == number and one.grid is last


def test_the_command_measures_resumes_and_keeps_to_one_grid(weights_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ["samples", "--figure", str(PUZZLES), "--limit", "2", "--max-side", "8", "--adapt-steps", "2"]
    arguments += ["--grid-views", "2,1", "--grid-samples", "1,2", "-o", str(folder), "--weights", str(weights_file)]
    arguments += ["--threads", "1"]
    made = CliRunner().invoke(lab, [*arguments, "--json"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    assert made.stderr.count("s left  right:") == 2
    found = json.loads(made.stdout)
    assert (found["grid"], found["tasks"], found["noise"]) == (
        {"views": [1, 2], "samples": [1, 2], "consistency": True},
        2,
        samples.NOISE,
    )
    assert {"weights_sha256", "data", "data_sha256", "settings", "backend", "seconds"} <= set(found)
    names = ["1 no noise", "1x1", "1x2", "2 no noise", "2x1", "2x2"]
    assert [line["cell"] for line in found["cells"]] == names
    results = folder / "samples.jsonl"
    rows = results.read_text().splitlines(keepends=True)
    assert len(rows) == 2
    results.write_text(rows[0] + rows[1][:50])
    again = CliRunner().invoke(lab, [*arguments, "--json"], catch_exceptions=False)
    assert again.stderr.count("s left  right:") == 1
    same = ("cells", "differences", "rules")
    assert [json.loads(again.stdout)[key] for key in same] == [found[key] for key in same]
    drawn = CliRunner().invoke(lab, arguments, catch_exceptions=False).stdout
    assert all(name in drawn for name in (*names, *samples.RULES)) and "…" not in drawn
    assert max(map(len, drawn.splitlines())) <= 80
    for changed in (["--seed", "1"], ["--grid-views", "1,3"], ["--no-consistency"], ["--noise", "0.2"]):
        other = CliRunner().invoke(lab, [*arguments, *changed])
        assert isinstance(other.exception, ArcsolveError)
        assert "line 1: made with other weights, data, settings or grid" in str(other.exception)
    results.write_text('{"id": "a"}\n')
    with pytest.raises(FormatError, match="line 1: not a result of `arcsolve lab samples`"):
        CliRunner().invoke(lab, arguments, catch_exceptions=False)


def test_an_interrupt_leaves_what_was_done(weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = samples.measure, iter(range(4))

    def measure(*arguments: Any) -> dict[str, Any]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(samples, "measure", measure)
    arguments = ["samples", "--figure", str(PUZZLES), "--limit", "2", "--max-side", "8", "--adapt-steps", "0"]
    arguments += ["--grid-views", "1", "--grid-samples", "2", "-o", str(tmp_path), "--weights", str(weights_file)]
    assert CliRunner().invoke(lab, arguments).exit_code == 1
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 1
    assert CliRunner().invoke(lab, arguments, catch_exceptions=False).exit_code == 0
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("wrong", ["", "0,1", "1,,2", "-1", "1.5", "x", "99999", "²"])
def test_a_grid_that_is_none_is_refused_by_name(wrong: str, tmp_path: Path) -> None:
    made = CliRunner().invoke(lab, ["samples", "--grid-samples", wrong, "-o", str(tmp_path)])
    assert made.exit_code == 2
    assert "--grid-samples" in made.stderr and "expected numbers from 1 to 10000" in made.stderr


def test_options_that_the_grid_decides_are_not_there(tmp_path: Path) -> None:
    for option in ("--views", "--samples", "--networks", "--leave-one-out", "--joint-presentations"):
        made = CliRunner().invoke(lab, ["samples", option, "2", "-o", str(tmp_path)])
        assert made.exit_code == 2 and "No such option" in made.stderr
