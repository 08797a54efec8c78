"""``arcsolve lab width``: what is drawn, how it is judged, and that rivals are compared on equal terms."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from arcsolve.cli.lab import lab
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.sampler import sample
from arcsolve.lab import rivals, width, width_runs, width_summary
from arcsolve.lab.ambiguity import FAMILIES, generate
from arcsolve.lab.width import WAYS, WIDTHS, Way, judge
from arcsolve.lab.width_runs import Data, Sizes
from arcsolve.render.width import plot
from arcsolve.training.objective import is_right
from arcsolve.views import View

SIZES = Sizes(train=8, test=2, tune=2, updates=dict.fromkeys(FAMILIES, 3), timed=1)


@pytest.fixture(scope="module")
def data() -> Data:
    return Data.of("corner", SIZES)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    network = replace(rivals.CONFIG.network, width=16, heads=2, hidden=16, latents=2)
    monkeypatch.setattr(rivals, "CONFIG", replace(rivals.CONFIG, network=network, bf16=False, compile=False, most=4))
    monkeypatch.setattr(width, "DEPTHS", 3)


def train(name: str, data: Data, folder: Path) -> Any:
    folder.mkdir()
    return rivals.train(name, 0, rivals.pack_of(data.train), folder, updates=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_is_judged_or_tuned_by_what_was_trained_on(family: str) -> None:
    def inputs(puzzles: Any) -> set[bytes]:
        return {p.input.tobytes() for p in puzzles}

    data = Data.of(family, SIZES)
    train, tune, judged = inputs(data.train), inputs(data.tune), inputs(data.test["held-out"])
    assert train.isdisjoint(tune | judged) and tune.isdisjoint(judged)
    assert len(train) == 8 and len(tune) == len(judged) == len(data.test["larger"]) == 2
    assert {p.family for p in (*data.train, *data.tune, *data.test["larger"])} == {family}
    assert Data.of(family, SIZES).hash == data.hash != Data.of(family, replace(SIZES, train=9)).hash


def test_a_familys_networks_run_as_many_steps_as_its_course_says() -> None:
    for family, course in rivals.COURSES.items():
        config = rivals.config_of("learned", family, 0)
        assert config.depth_at(1.0) == (1, course.steps) and config.prior_from == course.prior_from
        assert Sizes().updates[family] == course.updates
    assert set(rivals.COURSES) == set(FAMILIES)


def test_rivals_differ_in_their_chance_alone() -> None:
    plain = rivals.config_of("deterministic", "corner", 1)
    for name, change in rivals.NETWORKS.items():
        config = rivals.config_of(name, "corner", 1)
        same = {key: getattr(plain.network, key) for key in change.get("network", {})}
        alike = replace(config, network=replace(config.network, **same), nearest_from=plain.nearest_from)
        assert alike == plain
    assert plain.seed == 1 and plain.stage(0.5) == "identity", "a view of a training puzzle may be a held-out one"


def test_puzzles_count_alike_however_many_answers_they_have() -> None:
    rng = np.random.default_rng(0)
    puzzles = [generate("corner", 6, answers, rng) for answers in (1, 2, 3)]
    pack = rivals.pack_of(puzzles)
    assert pack.ids == ("corner",)
    given = [pack.pair(i)[0].tobytes() for i in range(len(pack))]
    assert [given.count(p.input.tobytes()) for p in puzzles] == [12, 12, 12]


def test_a_runner_does_what_the_sampler_does(small: None, data: Data, tmp_path: Path) -> None:
    """Without chance, one trajectory of the lab is one of the product's."""
    weights = train("deterministic", data, tmp_path / "a")
    runner = width_runs.runner_of(weights)
    for puzzle in data.test["held-out"]:
        (grids, logits), *_ = runner.roll_each([puzzle], 2, 2)
        latents = weights.bank[0]
        views = [View.identity()]
        how: dict[str, Any] = {"samples": 1, "steps": 2, "noise": 0.0, "seed": 0}
        run = sample(runner.backend, latents, puzzle.input, puzzle.input.shape, views, **how)
        if run.grids[0].shape == puzzle.input.shape:
            np.testing.assert_array_equal(grids[-1][0], run.grids[0])
        np.testing.assert_array_equal(grids[-1][0], grids[-1][1])
        assert logits.shape == (2, *puzzle.input.shape, 11) and len(grids) == 2


def test_puzzles_run_side_by_side_come_to_what_each_comes_to_alone(small: None, data: Data, tmp_path: Path) -> None:
    runner = width_runs.runner_of(train("learned", data, tmp_path / "a"))
    puzzles = [generate("corner", size, 2, np.random.default_rng(size)) for size in (6, 7, 6, 6)]
    together = list(runner.roll_each(puzzles, 3, 2, noise=1.0, seed=5))
    for i, (puzzle, (grids, logits)) in enumerate(zip(puzzles, together, strict=True)):
        alone, expected = runner.roll([puzzle], 3, 2, noise=1.0, seeds=[width.own_seed(5, i)])
        assert [one.shape for one in grids] == [(3, *puzzle.input.shape)] * 2 == [one[0].shape for one in alone]
        np.testing.assert_allclose(logits, expected[0], atol=1e-4)


@pytest.mark.parametrize("name", ["random-start", "learned"])
def test_trajectories_differ_where_there_is_chance(name: str, small: None, data: Data, tmp_path: Path) -> None:
    runner = width_runs.runner_of(train(name, data, tmp_path / "a"))
    puzzles = data.test["held-out"][:1]
    (_, one), (_, again), (_, other) = (
        next(runner.roll_each(puzzles, 3, 2, noise=1.0, seed=seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other) and not np.allclose(one[0], one[1])


def test_cells_are_drawn_from_the_decoder() -> None:
    logits = np.full((2, 3, 11), -20.0, dtype=np.float32)
    logits[..., 10] = 9.0  # outside the output, which no cell here is
    logits[..., 1] = np.log(3)
    logits[..., 4] = np.log(1)
    drawn = width.draw_cells(logits, 1.0, 4_000, np.random.default_rng(0))
    assert set(np.unique(drawn)) == {1, 4}
    np.testing.assert_allclose((drawn == 1).mean(0), 0.75, atol=0.05)
    cold = width.draw_cells(logits, 0.01, 100, np.random.default_rng(0))
    assert (cold == 1).all()
    assert width.cell_entropy(drawn) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), abs=0.01)
    assert width.cell_entropy(cold) == 0


def test_output_sampling_matches_the_entropy_asked_for() -> None:
    rng = np.random.default_rng(0)
    logits = [rng.normal(0, 3, (4, 4, 11)).astype(np.float32) for _ in range(3)]
    for entropy in (0.1, 0.5, 1.5):
        temperature = width.matched_temperature(logits, entropy)
        drawn = [width.cell_entropy(width.draw_cells(one, temperature, 4_000, rng)) for one in logits]
        assert np.mean(drawn) == pytest.approx(entropy, abs=0.02)


def test_what_is_drawn_is_judged_by_hand() -> None:
    puzzle = generate("corner", 6, 4, np.random.default_rng(0))
    first, second = puzzle.answers[:2]
    wrong = puzzle.input
    found = judge(puzzle, [wrong, first, first, second, wrong, wrong, wrong, first])
    assert (found["family"], found["answers"], found["first"]) == ("corner", 4, False)
    assert found["valid"] == 0.5
    assert found["coverage"] == [0.0, 0.25, 0.5, 0.5], "of 1, 2, 4 and 8"
    assert found["vote"] == [False, False, True, False]
    assert found["balance"] is None, "of four right outputs there is nothing to be said"
    many = judge(puzzle, [wrong, *[first] * 12, *[second] * 4, *[second] * 40])
    shares = np.array([0.75, 0.25])
    assert many["balance"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(4)), "of the first sixteen"
    assert judge(puzzle, list(puzzle.answers) * 4)["balance"] == pytest.approx(1.0)
    single = generate("corner", 6, 1, np.random.default_rng(0))
    assert judge(single, list(single.answers) * 8)["balance"] is None


class Steps:
    """A runner whose grids count the steps."""

    steps = 2

    class backend:  # noqa: N801
        class config:  # noqa: N801
            steps, noise_width, noise = 2, 0, 0.0

    def roll_each(self, puzzles: Any, count: int, steps: int, **how: Any) -> Any:
        grids = [np.full((count, 2, 2), step + 1, dtype=np.uint8) for step in range(steps)]
        return iter([(grids, np.zeros((count, 2, 2, 11), dtype=np.float32))] * len(puzzles))


def test_ways_draw_as_many_outputs_for_as_many_passes() -> None:
    runner: Any = Steps()
    puzzles: Any = [None]

    def drawn(*kind: str) -> Any:
        (grids,) = width.draw(Way("x", *kind), runner, puzzles, 3, 1.0, 0)
        return grids

    assert drawn("steps")[:, 0, 0].tolist() == [2, 4, 6], "after as many steps as one, two and three trajectories take"
    assert drawn()[:, 0, 0].tolist() == [2, 2, 2]
    assert len(drawn("once")) == 1
    assert drawn("cells").shape == (3, 2, 2)


def test_single_answers_are_compared_puzzle_by_puzzle() -> None:
    def verdicts(*puzzles: str) -> dict[tuple[str, int], list[bool]]:
        return {("corner", i): [hit == "1" for hit in seeds] for i, seeds in enumerate(puzzles)}

    found = width_summary.paired(verdicts("111", "110", "100", "000"), verdicts("111", "001", "011", "100"))
    assert (found["puzzles"], found["gained"], found["lost"], found["p"]) == (4, 1, 1, 1.0)
    assert found["right"] == pytest.approx(6 / 12) and found["base_right"] == pytest.approx(7 / 12)
    clear = width_summary.paired(verdicts(*["111"] * 8), verdicts(*["001"] * 8))
    assert clear["p"] == pytest.approx(2 / 2**8), "three seeds are not three times as many puzzles"
    assert width_summary.paired({}, {})["right"] is None


def test_a_tuned_setting_is_the_one_that_finds_most(monkeypatch: pytest.MonkeyPatch, data: Data) -> None:
    def draw(way: Way, runner: Any, puzzles: Any, count: int, setting: float, seed: int) -> Any:
        return (np.stack([p.answers[0] if setting == 0.3 else p.input] * count) for p in puzzles)

    monkeypatch.setattr(width, "draw", draw)
    runner: Any = Steps()
    assert width.tune(Way("x", tuned="noise"), runner, data.tune, 0.0, 0) == 0.3


def test_the_command_trains_measures_resumes_and_tells(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(width_runs, "Sizes", lambda **change: replace(SIZES, **{**change, "train": 8}))
    chosen = ("corner", "queens")
    arguments = ["width", "-o", str(tmp_path), "--seeds", "1", "--updates", "6", "--puzzles", "2"]
    arguments += [part for family in chosen for part in ("--family", family)]
    rows_a_family = len(WAYS) * 2

    calls = iter(range(100))
    whole: Callable[..., Any] = width.judge

    def judge(*a: Any) -> Any:
        if next(calls) == 60:
            raise KeyboardInterrupt
        return whole(*a)

    monkeypatch.setattr(width, "judge", judge)
    assert CliRunner().invoke(lab, arguments).exit_code == 1
    before = (tmp_path / "width.jsonl").read_text()
    assert 0 < before.count("\n") < rows_a_family
    monkeypatch.setattr(width, "judge", whole)
    with (tmp_path / "width.jsonl").open("a") as file:
        file.write('{"cut sho')
    made = CliRunner().invoke(lab, [*arguments, "--json"], catch_exceptions=False)
    assert made.exit_code == 0
    facts = json.loads(made.stdout)
    assert (tmp_path / "width.jsonl").read_text().startswith(before)
    rows = [json.loads(line) for line in (tmp_path / "width.jsonl").read_text().splitlines()]
    assert len(rows) == len({(row["family"], row["way"], row["split"]) for row in rows}) == 2 * rows_a_family
    assert facts["data_sha256"] == {row["family"]: row["data_sha256"] for row in rows}
    assert json.loads((tmp_path / "width.json").read_text()) == facts
    assert (tmp_path / "width.svg").read_text().startswith("<?xml")
    assert {line["way"] for line in facts["ways"]} == set(WAYS) and facts["seeds"] == 1
    learned = next(line for line in facts["ways"] if line["way"] == width_runs.CLAIM)
    assert set(learned["guided"]) == {"told", "posterior", "prior"} and set(learned["families"]) == set(chosen)
    means = [statistics.fmean(one["prior"] for one in learned["guided_families"].values()), learned["guided"]["prior"]]
    assert set(learned["guided_families"]) == set(chosen) and means[0] == pytest.approx(means[1])
    assert len(learned["coverage"]) == len(WIDTHS)
    # The two families' trajectories are of different length, and what is as many times as long is averaged.
    assert set(learned["seconds"]["width"]) == set(learned["seconds"]["depth"]) == {str(k) for k in WIDTHS}
    drawn = CliRunner().invoke(lab, arguments, catch_exceptions=False)
    assert all(way in drawn.stdout for way in WAYS) and "posterior" in drawn.stdout
    assert max(map(len, drawn.stdout.splitlines())) <= 80 and "…" not in drawn.stdout
    other = CliRunner().invoke(lab, [*arguments, "--updates", "4"])
    assert isinstance(other.exception, ArcsolveError) and "line 1" in str(other.exception)
    (tmp_path / "width.jsonl").write_text("{}\n")
    broken = CliRunner().invoke(lab, arguments)
    assert isinstance(broken.exception, FormatError) and "lab width" in str(broken.exception)


def test_a_posterior_that_ignores_what_it_is_told_is_found_out(
    small: None, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is told, it leads to the first answer: no gap to the prior, but the others are never reached."""
    first = {puzzle.input.tobytes(): puzzle.answers[0].astype(np.int64) for puzzle in data.train}

    def objective(network: Any, latents: Any, batch: Any, **how: Any) -> Any:
        grids = batch.cells.numpy().astype(np.uint8)
        decoded = torch.from_numpy(np.stack([first[grid.tobytes()] for grid in grids]))
        return SimpleNamespace(exact=is_right(decoded, batch))

    monkeypatch.setattr(width_runs, "objective", objective)
    found = width_runs.guided_accuracy(train("learned", data, tmp_path / "a"), data.train, 0)
    answers = statistics.fmean(1 / len(puzzle.answers) for puzzle in data.train)
    assert found == {"told": pytest.approx(answers), "posterior": 1.0, "prior": 1.0} and answers < 1


def test_training_goes_on_where_it_was_stopped(small: None, data: Data, tmp_path: Path) -> None:
    stops, pack = iter([False] * 4 + [True]), rivals.pack_of(data.train)
    assert rivals.train("learned", 0, pack, tmp_path, updates=8, stopped=lambda: next(stops)) is None
    made = rivals.train("learned", 0, pack, tmp_path, updates=8)
    assert made is not None and made.training["updates"] == 8
    whole = tmp_path / "whole"
    whole.mkdir()
    other = rivals.train("learned", 0, pack, whole, updates=8)
    assert other is not None
    for name, tensor in made.network.items():
        np.testing.assert_allclose(tensor, other.network[name], atol=1e-5)


def test_what_later_seeds_bring_is_averaged_with_what_was_kept(small: None, tmp_path: Path) -> None:
    """Rows come back from the file as JSON has them; and only what is missing is measured."""
    path, corner = tmp_path / "width.jsonl", ("corner",)

    def keep(row: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    assert width_runs.run(corner, [0], SIZES, tmp_path, [], finished=keep)
    rows = width_runs.read(path, {})
    twice = tmp_path / "twice.jsonl"
    twice.write_text(path.read_text() + path.read_text())
    with pytest.raises(ArcsolveError, match=rf"line {len(rows) + 1}: a second row of corner, seed 0, deterministic"):
        width_runs.read(twice, {})
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(path.read_text() + json.dumps({**rows[0], "seed": 1, "data_sha256": "other"}) + "\n")
    with pytest.raises(ArcsolveError, match=rf"line {len(rows) + 1}: corner of other puzzles"):
        width_runs.read(mixed, {})
    left_out = rows.pop(3)
    made: list[dict[str, Any]] = []
    assert width_runs.run(corner, [0, 1], SIZES, tmp_path, rows, finished=made.append)
    assert [(row["seed"], row["way"], row["split"]) for row in made[:1]] == [(0, left_out["way"], left_out["split"])]
    assert made[0]["puzzles"] == left_out["puzzles"] and {row["seed"] for row in made[1:]} == {1}
    lines = width_summary.summary(rows)
    assert all(line["seeds"] == 2 for line in lines) and len(lines) == 2 * len(WAYS)
    others = [{**row, "family": "rules", "setting": 7.0} for row in rows]
    for line, alone in zip(width_summary.summary(rows + others), lines, strict=True):
        assert line["seeds"] == 2 and line["coverage_seeds"] == pytest.approx(alone["coverage_seeds"]), "not by family"
        assert line["settings"] == alone["settings"] | {"rules, seed 0": 7.0, "rules, seed 1": 7.0}


def test_rows_of_other_puzzles_are_not_gone_on_with(small: None, tmp_path: Path) -> None:
    kept = [{"seed": 0, "family": "corner", "way": "learned latents", "split": "larger", "data_sha256": "other"}]
    with pytest.raises(ArcsolveError, match="made with other puzzles"):
        width_runs.run(("corner",), [0], SIZES, tmp_path, kept)


def test_more_puzzles_than_there_are_is_an_error_of_ours() -> None:
    with pytest.raises(ArcsolveError, match="too few for a count of"):
        Data.of("queens", replace(SIZES, test=3_000, tune=1))


def test_a_way_has_one_colour_in_all_panels_and_a_place_in_the_legend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    figure_module = pytest.importorskip("matplotlib.figure")
    monkeypatch.setattr(figure_module.Figure, "savefig", lambda self, file, **how: drawn.append(self))
    line = {"split": "held-out", "coverage": [0.1, 0.2], "vote": [0.3, 0.4], "depth": None, "seconds": None}
    seen = {"coverage": [0.5], "vote": [0.5]}
    timed = {"width": {"1": 0.1}, "depth": {"4": 0.1}}
    lines = [{**line, "way": way, "depth": seen, "seconds": timed} for way in list(WAYS)[1:]]
    lines.insert(0, {**line, "way": next(iter(WAYS))})
    assert plot(tmp_path / "width.svg", lines, (1, 2), width_runs.CLAIM)
    colours = {(curve.get_label(), curve.get_color()) for axes in drawn[0].axes for curve in axes.get_lines()}
    assert len(colours) == len({label for label, _ in colours}) == len({colour for _, colour in colours}) == len(WAYS)
    assert (width_runs.CLAIM, "black") in colours
    drawn[0].draw_without_rendering()
    (legend,) = drawn[0].legends
    assert drawn[0].bbox.x0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= drawn[0].bbox.x1
