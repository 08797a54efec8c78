"""Recall, refinement, leave-one-out, joint adaptation and the plausibility of answers, on a tiny network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from arcsolve.arc.dataset import TaskSet, load_task
from arcsolve.arc.grid import Grid
from arcsolve.arc.task import Pair, Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference import solver as solver_module
from arcsolve.inference.adaptation import Adapted, AdaptSettings, Refinement, adapt, gaussian_kl
from arcsolve.inference.export import export
from arcsolve.inference.joint import JointSettings, adapt_jointly, joint_solver
from arcsolve.inference.leave_one_out import CHECKS, _Fold, _summary, leave_one_out
from arcsolve.inference.recall import Recall, k_means
from arcsolve.inference.settings import Progress, Settings
from arcsolve.inference.solution import LeftOut
from arcsolve.inference.solver import Solver
from arcsolve.inference.voting import plausible, vote
from arcsolve.network.weights import Weights, load_weights, save_weights

CPU = torch.device("cpu")
PUZZLES = Path(__file__).parents[1] / "puzzles"
PUZZLE = str(PUZZLES / "mirror-left-right.json")


@pytest.fixture(scope="module")
def weights(weights_file: Path) -> Weights:
    return load_weights(weights_file)


@pytest.fixture(scope="module")
def solver(weights_file: Path) -> Solver:
    return Solver.from_weights(weights_file, device="cpu")


def grid(*rows: list[int]) -> Grid:
    return np.array(rows, dtype=np.uint8)


def test_k_means_finds_clusters_that_lie_apart() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=80)
    rows = (truth[:, None] * 10 + rng.standard_normal((80, 5))).astype(np.float32)
    centres, cluster = k_means(rows, 4, np.random.default_rng(1))
    assert len({(int(a), int(b)) for a, b in zip(truth, cluster, strict=True)}) == 4
    for number in range(4):
        np.testing.assert_allclose(centres[number], rows[cluster == number].mean(0), atol=1e-5)
    centres, _ = k_means(np.ones((3, 2), dtype=np.float32), 3, np.random.default_rng(0))
    assert np.isfinite(centres).all(), "equal rows have no distance to draw by"


def test_recall_finds_the_row_that_explains_the_demonstrations(weights: Weights) -> None:
    """A row refined on a task is put into the bank of others: it must be found, and only by its own task."""
    task = load_task(PUZZLE)
    adapted = adapt(
        weights, task.train, AdaptSettings(steps=60, latents_first=1.0, latent_rate=0.1), weights.bank.mean(0),
        seed=0, device=CPU,
    )  # fmt: skip
    names = (*weights.tasks, "twin")
    bank = np.concatenate([weights.bank, adapted.latents[None]])
    _, recalled = Recall(replace(weights, tasks=names, bank=bank), CPU).start(task.train)
    assert recalled.nearest[0].task == "twin"
    assert recalled.nats is not None and recalled.mean_nats is not None and recalled.nats < recalled.mean_nats
    assert recalled.source in ("twin", "centroid")
    assert [one.nats for one in recalled.nearest] == sorted(one.nats for one in recalled.nearest)
    _, without = Recall(weights, CPU).start(task.train)
    assert without.nats is not None and without.nats > recalled.nats


def test_recall_prefers_the_mean_where_it_explains_more(weights: Weights) -> None:
    """Rows of noise explain nothing; the mean must not lose to one of them because it is no row."""
    noise = np.random.default_rng(0).standard_normal((2, *weights.bank.shape[1:])).astype(np.float32) * 50
    bank = np.concatenate([weights.bank.mean(0)[None] * 3 - noise.sum(0)[None], noise])
    _, recalled = Recall(replace(weights, tasks=("a", "b", "c"), bank=bank), CPU).start(load_task(PUZZLE).train)
    np.testing.assert_allclose(bank.mean(0), weights.bank.mean(0), atol=1e-4)
    assert recalled.source == "mean"


def test_the_kl_of_a_posterior_is_that_of_two_gaussians() -> None:
    mean, variance = torch.tensor([0.5, -2.0]), torch.tensor([0.25, 3.0])
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, variance.sqrt()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(gaussian_kl(mean, variance.log()), expected)


def test_a_posterior_learns_its_width(weights: Weights) -> None:
    pair = Pair(grid([1, 2], [3, 4]), grid([1, 2], [3, 4]))
    settings = AdaptSettings(steps=20, latents_first=1.0, sigma=0.5, kl=0.1, latent_rate=0.05)
    refinement = Refinement(weights, (pair,), settings, weights.bank[0], seed=0, device=CPU)
    assert refinement.log_variance is not None
    before = refinement.log_variance.detach().clone()
    for _ in range(20):
        refinement.step()
    assert (refinement.log_variance.detach() - before).abs().max() > 0.1


def test_what_is_returned_is_the_average_of_the_steps(weights: Weights) -> None:
    pair = Pair(grid([1, 2], [3, 4]), grid([1, 2], [3, 4]))
    settings = AdaptSettings(steps=6, latents_first=0.0, average=0.5)
    refinement = Refinement(weights, (pair,), settings, weights.bank[0], seed=0, device=CPU)
    average = torch.tensor(weights.network["decode.weight"])
    for done in range(1, 7):
        refinement.step()
        average = average.lerp(refinement.network.decode.weight.detach(), 1 - min(0.5, done / (10 + done)))
    np.testing.assert_allclose(refinement.result().tensors["decode.weight"], average.numpy(), atol=1e-6)


def test_leave_one_out_knows_nothing_of_what_it_left_out(weights: Weights) -> None:
    """Each fold learns the others only, and all folds agree on one number of steps."""
    pairs = tuple(Pair(grid([k, k]), grid([k])) for k in (1, 2, 3))
    known: list[tuple[Pair, ...]] = []
    started: list[tuple[Pair, ...]] = []
    networks: list[Adapted] = []

    def answer(adapted: Adapted, others: tuple[Pair, ...], given: Grid) -> Grid:
        known.append(others)
        networks.append(adapted)
        assert all(not np.array_equal(given, pair.input) for pair in others)
        return grid([int(given[0, 0])])

    def start(others: tuple[Pair, ...]) -> np.ndarray:
        started.append(others)
        return weights.bank[0]

    found = leave_one_out(weights, pairs, AdaptSettings(steps=8), start, answer, most=2, seed=0, device=CPU)
    assert [network.steps for network in networks] == [8, 8]
    assert (found.reproduced, found.tried) == (2, 2)
    assert [step for step, *_ in found.curve] == [2, 4, 6, 8]
    assert found.steps == max(found.curve, key=lambda check: (check[2], check[0]))[0]
    lie = (Pair(pairs[0].input, grid([9])), *pairs[1:])
    leave_one_out(weights, lie, AdaptSettings(steps=8), start, answer, most=2, seed=0, device=CPU)
    for name, tensor in networks[0].tensors.items():
        np.testing.assert_array_equal(tensor, networks[2].tensors[name], err_msg="it learned from what it left out")
    assert any((networks[1].tensors[n] != networks[3].tensors[n]).any() for n in networks[3].tensors)
    for stop, votes in ((False, 1), (True, CHECKS)):
        known.clear()
        started.clear()
        leave_one_out(
            weights, pairs, AdaptSettings(steps=8), start, answer, most=2, stop=stop, seed=0, device=CPU
        )  # fmt: skip
        assert len(known) == 2 * votes and started == [pairs[1:], (pairs[0], pairs[2])]
    nothing = leave_one_out(weights, pairs[:1], AdaptSettings(steps=8), start, answer, most=2, seed=0, device=CPU)
    assert nothing.tried == 0 and nothing.steps is None
    late = leave_one_out(
        weights, pairs, AdaptSettings(steps=8), start, answer, most=2, seed=0, device=CPU, out_of_time=lambda: True
    )
    assert late.tried == 0


def test_the_steps_are_those_at_which_most_views_are_right_and_none_chooses_its_own() -> None:
    def fold(*checks: tuple[float, bool]) -> _Fold:
        return _Fold([(0.5, share, right) for share, right in checks])

    one = fold((0.0, False), (1.0, True), (0.5, False))
    two = fold((0.0, False), (0.5, True), (1.0, True))
    three = fold((0.0, False), (1.0, True), (0.0, False))
    found = _summary([one, two, three], [10, 20, 30], True)
    assert found.steps == 20 and [share for *_, share in found.curve] == pytest.approx([0, 2.5 / 3, 0.5])
    # Best without the first: 20; without the second: 20; without the third: 20 and 30, so the latest.
    assert (found.reproduced, found.tried) == (2, 3)
    at_the_end = _summary([one, two, three], [10, 20, 30], False)
    assert at_the_end.reproduced == 1, "an answer made with all steps is judged by what all steps reproduce"
    alone = _summary([one], [10, 20, 30], True)
    assert alone.steps == 20 and alone.reproduced == 0, "with no others, what counts is the last check"


def test_the_answer_is_made_with_the_steps_that_leave_one_out_chose(
    solver: Solver, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(PUZZLE)
    monkeypatch.setattr(solver_module, "leave_one_out", lambda *a, **k: LeftOut(1, 3, 2))
    settings = Settings(views=1, networks=1, adapt=AdaptSettings(steps=4), stop=True)
    solution = solver.solve(task, settings)
    assert solution.adapt_steps == (2,) and not solution.truncated
    assert solver.solve(task, replace(settings, stop=False)).adapt_steps == (4,)
    unchanged = solver.solve(task, Settings(views=1, adapt=AdaptSettings(steps=0)))
    assert unchanged.adapt_steps == (0,) and not unchanged.truncated and unchanged.left_out.tried == 0


def test_fewer_large_demonstrations_are_left_out(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three refinements more on grids of 30x30 would take a first-time user past two minutes."""
    asked: list[int] = []
    monkeypatch.setattr(solver_module, "leave_one_out", lambda *a, most, **k: (asked.append(most), LeftOut())[1])
    for side in (10, 20, 25, 30):
        pair = Pair(np.ones((side, side), np.uint8), np.ones((side, side), np.uint8))
        solver.prepare(Task("t", (pair,) * 4, ()), Settings(adapt=AdaptSettings(steps=1)))
    assert asked == [3, 2, 1, 0]


def test_networks_refined_independently_vote_together(solver: Solver) -> None:
    """Each is what a solve with its own seed would be, so a vote over seeds can be had from runs that stand already."""
    task = load_task(PUZZLE)
    quick = Settings(views=4, networks=1, adapt=AdaptSettings(steps=4), leave_one_out=0)
    seen: list[Progress] = []
    together = solver.solve(task, replace(quick, networks=2), seen.append)
    assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("sample", 8, 8), "progress counts both"
    assert together.adapt_steps == (4, 4)
    alone = [solver.solve(task, replace(quick, seed=seed)) for seed in (0, 1)]
    votes: dict[bytes, int] = {}
    for solution in alone:
        for candidate in solution.test[0].candidates:
            votes[candidate.grid.tobytes()] = votes.get(candidate.grid.tobytes(), 0) + candidate.votes
    assert {c.grid.tobytes(): c.votes for c in together.test[0].candidates} == votes
    ready = solver.prepare(task, replace(quick, networks=2))
    assert not np.array_equal(ready.adapted[0].latents, ready.adapted[1].latents)
    assert solver.solve(task, replace(quick, networks=3, adapt=AdaptSettings(steps=0))).adapt_steps == (0,)


def test_time_that_runs_out_leaves_the_whole_networks_to_vote(solver: Solver) -> None:
    task = load_task(PUZZLE)
    long = Settings(views=2, networks=3, adapt=AdaptSettings(steps=10_000), leave_one_out=0, time_limit=1.0)
    solution = solver.solve(task, long)
    assert solution.truncated and len(solution.adapt_steps) == 1, "the first votes, however short"


def test_an_output_too_large_for_its_canvas_is_not_reproduced_and_decides_nothing(weights: Weights) -> None:
    pairs = (Pair(grid([1]), grid([1])), Pair(grid([2]), grid([2])), Pair(grid([3]), np.full((9, 9), 3, np.uint8)))
    found = leave_one_out(
        weights, pairs, AdaptSettings(steps=4), lambda others: weights.bank[0], lambda a, o, given: given,
        most=3, seed=0, device=CPU,
    )  # fmt: skip
    assert found.tried == 3 and found.reproduced == 2
    assert all(np.isfinite(nats) for _, nats, _ in found.curve)


def test_answers_that_copy_or_break_a_certain_size_rank_last() -> None:
    given = grid([1, 2], [3, 4])
    demonstrations = (Pair(grid([1, 1], [2, 2]), grid([2, 2], [1, 1])), Pair(grid([3, 3]), grid([4, 4])))
    check = plausible(demonstrations, given)
    assert not check(given) and not check(grid([1, 2])) and check(grid([4, 3], [2, 1]))
    ranked = vote([(given, 0.9)] * 3 + [(grid([1]), 0.9)] * 2 + [(grid([4, 3], [2, 1]), 0.1)], check)
    assert [(c.votes, c.plausible) for c in ranked] == [(1, True), (3, False), (2, False)]
    copying = (*demonstrations, Pair(grid([5]), grid([5])))
    assert plausible(copying, given)(given), "a demonstration copies, so an answer may"
    unsure = (Pair(grid([1, 1]), grid([2])), Pair(grid([3, 3, 3]), grid([4, 4, 4, 4])))
    assert plausible(unsure, given)(grid([1])), "no certain rule, no verdict"


def same_tensors(one: Path, two: Path) -> None:
    a, b = load_weights(one), load_weights(two)
    np.testing.assert_array_equal(a.bank, b.bank)
    for name, array in a.network.items():
        np.testing.assert_array_equal(array, b.network[name], err_msg=name)


def test_a_set_is_adapted_to_jointly_and_resumes(weights: Weights, solver: Solver, tmp_path: Path) -> None:
    """Every task is solved from its own row; a stopped run ends like an undisturbed one; tests are never seen."""
    tasks = TaskSet("p", tuple(load_task(str(PUZZLES / f"{n}.json")) for n in ("mirror-left-right", "scale-up-by-two")))
    settings = JointSettings(presentations=40)
    options = {"seed": 0, "device": CPU}
    whole = adapt_jointly(weights, tasks, settings, tmp_path / "whole", **options)
    assert whole is not None
    answers = iter([False, False, False, True])
    stopped = adapt_jointly(weights, tasks, settings, tmp_path / "cut", stopped=lambda: next(answers), **options)
    assert stopped is None
    cut = adapt_jointly(weights, tasks, settings, tmp_path / "cut", **options)
    assert cut is not None
    same_tensors(cut, whole)
    export(whole)
    joint = joint_solver(solver, whole, "onnx")
    quick = Settings(views=2, adapt=AdaptSettings(steps=0), leave_one_out=3)
    solution = joint.solve(tasks.tasks[0], quick)
    assert solution.recalled.source == tasks.tasks[0].id and solution.left_out.tried == 0
    assert not solution.seen_in_training and solution.weights_sha256 == weights.sha256
    assert joint.weights.training["protocol"] == "joint"
    np.testing.assert_array_equal(joint.rows[tasks.tasks[0].id], load_weights(whole).bank[0])
    blinded = [Task(t.id, t.train, tuple(Pair(p.input, None) for p in t.test)) for t in tasks]
    again = adapt_jointly(weights, blinded, settings, tmp_path / "blind", **options)
    assert again is not None
    same_tensors(again, whole)
    changed = replace(weights, sha256="0" * 64)
    with pytest.raises(ArcsolveError, match="started from other weights"):
        adapt_jointly(changed, tasks, settings, tmp_path / "whole", **options)
    other = tmp_path / "other.safetensors"
    save_weights(
        other, weights.config, weights.tasks, weights.network, weights.bank, weights.seen, {"protocol": "per-task"}
    )
    with pytest.raises(ArcsolveError, match="adapted from other weights"):
        joint_solver(Solver(load_weights(other), solver.backend, CPU), whole, "onnx")
