"""Export, backends, sampling, voting, adaptation and the solver, on a tiny network."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import little_pack
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, load, save

from arcsolve.arc.dataset import load_task
from arcsolve.arc.task import Pair, Task
from arcsolve.canvas import decode
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference import sampler
from arcsolve.inference.adaptation import AdaptSettings, adapt
from arcsolve.inference.backend import Inputs
from arcsolve.inference.export import INPUTS, example_inputs, export
from arcsolve.inference.onnx_backend import OnnxBackend
from arcsolve.inference.sampler import sample
from arcsolve.inference.settings import Settings
from arcsolve.inference.solution import LatentStep, Solution, TrajectoryStep
from arcsolve.inference.solver import Solver, _answers
from arcsolve.inference.torch_backend import TorchBackend
from arcsolve.inference.voting import attempts, vote
from arcsolve.network.weights import Weights, load_weights, save_weights
from arcsolve.render.solution import headline
from arcsolve.training.presets import PRESETS
from arcsolve.training.trainer import Trainer
from arcsolve.views import View, random_views

CPU = torch.device("cpu")
PUZZLE = str(Path(__file__).parents[1] / "puzzles" / "mirror-left-right.json")
QUICK = Settings(views=4, samples=2, networks=1, adapt=AdaptSettings(steps=4))


@pytest.fixture(scope="module")
def weights(weights_file: Path) -> Weights:
    return load_weights(weights_file)


@pytest.fixture(scope="module")
def onnx(weights: Weights) -> OnnxBackend:
    return OnnxBackend(weights, "cpu")


@pytest.fixture(scope="module")
def solver(weights: Weights, onnx: OnnxBackend) -> Solver:
    return Solver(weights, onnx, CPU)


def changed(weights: Weights) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    buffers = ("h0", "l0", "rotary")
    return {
        n: a * rng.uniform(0.5, 1.5, a.shape).astype(np.float32) for n, a in weights.network.items() if n not in buffers
    }


@pytest.mark.parametrize("adapted", [False, True])
def test_torch_and_onnx_runtime_agree_step_by_step(weights: Weights, onnx: OnnxBackend, adapted: bool) -> None:
    one, two = TorchBackend(weights.config, weights.network, CPU), onnx
    if adapted:
        one, two = one.adapted(changed(weights)), two.adapted(changed(weights))
    for height, width in ((1, 1), (3, 9), (30, 30)):
        *fixed, h, l, noise = example_inputs(weights, 2, height, width, seed=height)
        for step in range(3):
            a, b = one.step(Inputs(*fixed), h, l, noise), two.step(Inputs(*fixed), h, l, noise)
            for name, x, y in zip(a._fields, a, b, strict=True):
                np.testing.assert_allclose(x, y, atol=2e-4, err_msg=f"{name} at step {step} of {height}x{width}")
            h, l = a.h, a.l


def test_adapted_tensors_reach_onnx_runtime_and_leave_the_first_session_alone(
    weights: Weights, onnx: OnnxBackend
) -> None:
    """Initializers overridden after constant folding keep their old values without a word (`add_initializer` does)."""
    *fixed, h, l, noise = example_inputs(weights, 1, 4, 4, seed=0)
    before = onnx.step(Inputs(*fixed), h, l, noise).logits
    for name, value in changed(weights).items():
        if name.startswith("halt."):
            continue
        other = onnx.adapted({name: value}).step(Inputs(*fixed), h, l, noise).logits
        assert np.abs(other - before).max() > 1e-5, f"{name} was ignored"
    np.testing.assert_array_equal(before, onnx.step(Inputs(*fixed), h, l, noise).logits)
    with pytest.raises(ValueError, match="is no tensor of this network"):
        onnx.adapted({"blocks.9.weight": np.zeros(1, dtype=np.float32)})


def test_the_graph_holds_no_weights(weights_file: Path) -> None:
    assert weights_file.with_suffix(".onnx").stat().st_size < 150_000
    assert str(Path(__file__).parents[1]).encode() not in weights_file.with_suffix(".onnx").read_bytes()


def test_unusable_weights_graphs_and_devices_are_named(weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(ArcsolveError, match=r"none\.safetensors"):
        load_weights(tmp_path / "none.safetensors")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.path.read_bytes())
    with pytest.raises(ArcsolveError, match=r"copy\.onnx: no such graph; make it with `arcsolve export"):
        OnnxBackend(load_weights(copy), "cpu")
    (tmp_path / "copy.onnx").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"copy\.onnx: not an ONNX file"):
        OnnxBackend(load_weights(copy), "cpu")
    unknown = helper.make_graph([helper.make_node("NoSuchOperator", [], ["x"])], "g", [], [])
    (tmp_path / "copy.onnx").write_bytes(helper.make_model(unknown).SerializeToString())
    with pytest.raises(FormatError, match=r"copy\.onnx: ONNX Runtime cannot load it"):
        OnnxBackend(load_weights(copy), "cpu")
    copy.write_bytes(weights.path.read_bytes()[:5000])
    with pytest.raises(FormatError, match=r"copy\.safetensors: not a weights file, or cut short"):
        load_weights(copy)
    with pytest.raises(ArcsolveError, match="expected auto, cpu or cuda"):
        OnnxBackend(weights, "tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that must not be there")
def test_cuda_by_name_without_a_gpu_fails_in_words(weights: Weights) -> None:
    with pytest.raises(ArcsolveError, match="--device cuda"):
        OnnxBackend(weights, "cuda")
    with pytest.raises(ArcsolveError, match="--device cuda:3"):
        Solver.from_weights(weights.path, backend="torch", device="cuda:3")


def test_samples_do_not_depend_on_how_they_are_batched(
    onnx: OnnxBackend, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(PUZZLE)
    views = random_views(6, np.random.default_rng(0), keep_zero=True)

    def run() -> sampler.Samples:
        grid = task.test[0].input
        latents = weights.bank[0]
        return sample(onnx, latents, grid, grid.shape, views, samples=2, steps=5, noise=0.3, seed=5)

    together = run()
    monkeypatch.setattr(onnx, "batch_tokens", 1)
    alone = run()
    assert len(together.grids) == 12
    # Trajectories come in the order of their batches, which are formed by canvas size either way.
    for one, two in zip(together.grids, alone.grids, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(together.confidences, alone.confidences, atol=1e-4)


def test_views_are_undone_before_the_vote(weights: Weights) -> None:
    """A network that copies its input answers with the test input itself, whatever the view."""

    class Copy(TorchBackend):
        def step(self, inputs, h, l, noise):  # type: ignore[no-untyped-def]
            step = super().step(inputs, h, l, noise)
            return step._replace(logits=np.eye(11, dtype=np.float32)[inputs.cells] * 9)

    backend = Copy(weights.config, weights.network, CPU)
    grid = load_task(PUZZLE).test[0].input
    views = [*random_views(9, np.random.default_rng(0)), View(3, tuple(range(10)), (2, 1))]
    canvas = (grid.shape[0] + 2, grid.shape[1] + 1)
    views = [v if v.dihedral < 4 else replace(v, shift=(0, 0)) for v in views]
    samples = sample(backend, weights.bank[0], grid, canvas, views, samples=1, steps=1, noise=0, seed=0)
    assert all(np.array_equal(answer, grid) for answer in samples.grids)
    first, second = attempts(vote(zip(samples.grids, samples.confidences, strict=True)), samples.runners_up)
    assert np.array_equal(first, grid)
    assert (second != grid).sum() == 1, "the second attempt differs in the least certain cell"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, width=32)), min_size=1, max_size=12), st.randoms())
def test_a_vote_does_not_depend_on_the_order_of_the_trajectories(
    answers: list[tuple[int, float]], chance: random.Random
) -> None:
    ballots = [(np.full((1, 1 + colour % 2), colour, dtype=np.uint8), confidence) for colour, confidence in answers]
    shuffled = list(ballots)
    chance.shuffle(shuffled)
    one, two = ([(c.grid.tolist(), c.votes, c.confidence) for c in vote(b)] for b in (ballots, shuffled))
    assert one == two
    assert sum(votes for _, votes, _ in one) == len(answers)
    assert one == sorted(one, key=lambda c: (-c[1], -c[2], c[0] and 0))


def test_adaptation_learns_the_demonstrations_and_leaves_the_weights_alone(weights: Weights) -> None:
    grid = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    pair = Pair(grid, grid)
    before = {name: array.copy() for name, array in weights.network.items()}
    steps: list[int] = []
    adapted = adapt(
        weights,
        (pair,),
        AdaptSettings(steps=120, network_rate=3e-3),
        weights.bank.mean(0),
        seed=0,
        device=CPU,
        progress=lambda done, total, exact: steps.append(done),
    )
    assert steps == list(range(1, 121))
    assert not adapted.truncated
    for name, array in weights.network.items():
        np.testing.assert_array_equal(array, before[name])
    backend = TorchBackend(weights.config, weights.network, CPU)
    views = random_views(8, np.random.default_rng(0), keep_zero=True)

    def right(model: TorchBackend, latents: np.ndarray) -> int:
        samples = sample(model, latents, grid, (2, 2), views, samples=1, steps=2, noise=0, seed=0)
        return sum(np.array_equal(answer, grid) for answer in samples.grids)

    assert right(backend.adapted(adapted.tensors), adapted.latents) > right(backend, weights.bank.mean(0))


def test_latents_learn_alone_first_and_then_everything_does(weights: Weights) -> None:
    pair = Pair(np.ones((2, 2), dtype=np.uint8), np.ones((1, 1), dtype=np.uint8))
    start = weights.bank.mean(0)
    alone = adapt(weights, (pair,), AdaptSettings(steps=4, latents_first=1.0), start, seed=0, device=CPU)
    assert alone.tensors == {}
    assert np.abs(alone.latents - weights.bank.mean(0)).max() > 1e-3
    both = adapt(weights, (pair,), AdaptSettings(steps=4), start, seed=0, device=CPU)
    assert {name for name in both.tensors if (both.tensors[name] != weights.network[name]).any()} >= {
        "colour",
        "decode.weight",
        "blocks.0.attention.qkv.weight",
    }


def test_a_loss_that_is_not_a_number_ends_adaptation_with_what_was_shipped(weights: Weights) -> None:
    pair = Pair(np.ones((2, 2), dtype=np.uint8), np.ones((2, 2), dtype=np.uint8))
    broken = np.full_like(weights.bank[0], np.nan)
    adapted = adapt(weights, (pair,), AdaptSettings(steps=8), broken, seed=0, device=CPU)
    assert adapted.truncated and adapted.tensors == {}


def test_the_second_answer_differs_where_a_stray_cell_is_the_least_certain() -> None:
    """The least certain cell of the canvas may lie outside the answer: changing it would change nothing."""
    logits = np.eye(11, dtype=np.float32)[np.full((4, 5), 10)] * 9
    logits[:2, :2] = np.eye(11, dtype=np.float32)[3] * 9
    logits[3, 4] = np.eye(11, dtype=np.float32)[7] * 9.5
    logits[3, 4, 2] = 9.4
    grid = decode(logits[None], np.zeros((1, 2), dtype=np.int64))[0]
    assert grid.shape == (2, 2)
    second = sampler._runner_up(logits, grid, (0, 0))
    assert second.shape == grid.shape and (second != grid).sum() == 1
    flat = sampler._runner_up(np.zeros((1, 1, 11), dtype=np.float32), np.zeros((1, 1), dtype=np.uint8), (0, 0))
    assert flat[0, 0] != 0


def test_a_graph_beside_weights_that_were_written_since_is_refused(weights: Weights, tmp_path: Path) -> None:
    """The graph points into the file by offset: a longer header moves every tensor, and nothing would say so."""
    path = tmp_path / "weights.safetensors"
    path.with_suffix(".onnx").write_bytes(weights.path.with_suffix(".onnx").read_bytes())
    training = {**weights.training, "note": "later"}
    save_weights(path, weights.config, weights.tasks, weights.network, weights.bank, weights.seen, training)
    with pytest.raises(FormatError, match=r"weights\.onnx: belongs to other weights; make it anew"):
        OnnxBackend(load_weights(path), "cpu")


def test_a_graph_whose_tensors_cannot_be_replaced_is_refused(weights: Weights, tmp_path: Path) -> None:
    """Such graphs were exported once; adapted tensors would have nowhere to go."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights.path.read_bytes())
    model = load(weights.path.with_suffix(".onnx"), load_external_data=False)
    inputs = [one for one in model.graph.input if one.name in INPUTS]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = path.name if entry.key == "location" else entry.value
    save(model, path.with_suffix(".onnx"))
    with pytest.raises(FormatError, match=r"weights\.onnx: of an older kind; make it anew with `arcsolve export"):
        OnnxBackend(load_weights(path), "cpu")


def test_adaptation_goes_where_it_is_told(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--device cpu` on a machine with a GPU must not adapt on the GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Solver.from_weights(weights.path, device="cpu").device == CPU


def test_a_solution_is_the_same_for_the_same_seed_and_survives_json(solver: Solver) -> None:
    task = load_task(PUZZLE)
    one, two = (solver.solve(task, QUICK).to_json() for _ in range(2))
    other = solver.solve(task, replace(QUICK, seed=1)).to_json()
    for solution in (one, two, other):
        solution.pop("seconds")
    assert one == two
    assert other["test"] != one["test"]
    value = solver.solve(task, QUICK).to_json()
    assert Solution.from_json(json.loads(json.dumps(value)), "x").to_json() == value
    test = one["test"][0]
    assert test["attempt_1"] != test["attempt_2"]
    assert sum(c["votes"] for c in test["candidates"]) == 4, "without noise in training, one trajectory for each view"
    assert one["demonstrations"]["of"] == 3
    untried = solver.solve(task, replace(QUICK, leave_one_out=0))
    assert untried.left_out.tried == 0 and "no demonstration left out" in headline(untried).plain


def test_a_test_output_changes_nothing(solver: Solver) -> None:
    """The canvas, the views, the vote: nothing may come from the answer, not even its size."""
    task = load_task(PUZZLE)
    lie = Pair(task.test[0].input, np.zeros((30, 30), dtype=np.uint8))
    values = [
        solver.solve(Task("t", task.train, tests), QUICK).to_json()["test"]
        for tests in (task.test, (lie,), (Pair(lie.input, None),))
    ]
    assert values[0] == values[1] == values[2]


def test_a_time_limit_is_reported(solver: Solver) -> None:
    solution = solver.solve(load_task(PUZZLE), replace(QUICK, time_limit=1e-6))
    assert solution.truncated
    assert len(solution.test) == 1, "there is an answer all the same"
    assert not solver.solve(load_task(PUZZLE), replace(QUICK, time_limit=1e6)).truncated


def test_a_task_from_training_is_recognised_by_content(solver: Solver, weights: Weights) -> None:
    from conftest import little_pack

    pack = little_pack()
    view = View(6, (0, 2, 3, 4, 5, 6, 7, 8, 9, 1))
    pairs = tuple(Pair(*(view.apply(grid) for grid in pack.pair(i))) for i in (0, 1))
    assert solver.seen(Task("another-name", pairs, pairs))
    assert solver.trained_row(Task("another-name", pairs, pairs)) is None
    row = solver.trained_row(Task("task0", pairs, pairs))
    assert row is not None and np.array_equal(row, weights.bank[0])
    assert not solver.seen(load_task(PUZZLE))


@pytest.mark.parametrize(
    "switches", [{"copy": True, "hints": True, "turns": True, "convolution": False}, {"told": False}]
)
def test_networks_with_other_switches_are_exported_and_solve(switches: dict[str, bool], tmp_path: Path) -> None:
    """What training alone uses has no place in the graph, and must not be handed to it after adaptation."""
    tiny = PRESETS["tiny"]
    trainer = Trainer(replace(tiny, network=replace(tiny.network, **switches)), little_pack(), CPU)
    trainer.update(0.9)
    path = tmp_path / "switched.safetensors"
    trainer.save_weights(path)
    _, difference = export(path)
    assert difference < 1e-4
    solution = Solver.from_weights(path, device="cpu").solve(load_task(PUZZLE), replace(QUICK, leave_one_out=0))
    assert len(solution.test[0].candidates) >= 1


def samples_of(*paths: str) -> sampler.Samples:
    """What a network would have sampled that took these ways: a letter of a path stands for a grid."""
    ways = tuple(tuple(np.full((1, 2), ord(letter) - ord("a"), dtype=np.uint8) for letter in path) for path in paths)
    ends = tuple(way[-1] for way in ways)
    return sampler.Samples(
        grids=ends,
        confidences=np.full(len(ways), 0.5),
        runners_up=tuple(end + np.uint8(1) for end in ends),
        steps=(LatentStep(1, ends[0], 0.5, 1.0),),
        trajectories=len(ways),
        numbers=np.arange(len(ways)),
        paths=ways,
        changes=np.zeros(len(ways)),
    )


def test_trajectories_are_counted_by_step_over_all_networks() -> None:
    """One that settled early is counted where it stays, also while another network still runs."""
    pair = Pair(np.zeros((1, 1), dtype=np.uint8), np.zeros((1, 2), dtype=np.uint8))
    test = _answers([samples_of("bbb", "abc", "bb"), samples_of("dddd", "cdbc", "b", "cbbb")], (pair,), pair.input)
    assert [(int(c.grid[0, 0]), c.votes) for c in test.candidates] == [(1, 4), (2, 2), (3, 1)]
    assert test.trajectories == (
        TrajectoryStep(1, (3, 2, 1), elsewhere=1, moved=0),  # b a b | d c b c
        TrajectoryStep(2, (5, 0, 2), elsewhere=0, moved=3),  # b b b | d d b b
        TrajectoryStep(3, (5, 1, 1), elsewhere=0, moved=2),  # b c b | d b b b
        TrajectoryStep(4, (4, 2, 1), elsewhere=0, moved=1),  # b c b | d c b b
    )


def test_every_trajectory_is_somewhere_at_every_step(solver: Solver) -> None:
    chance = replace(QUICK, networks=2, noise=0.5, steps=4, leave_one_out=0)
    solution = solver.solve(load_task(PUZZLE), chance)
    test = solution.test[0]
    assert [step.step for step in test.trajectories] == [1, 2, 3, 4]
    assert all(sum(step.counts) + step.elsewhere == 4 * 2 * 2 for step in test.trajectories)
    assert test.trajectories[-1].counts == tuple(candidate.votes for candidate in test.candidates)
    assert test.trajectories[-1].elsewhere == 0 == test.trajectories[0].moved
    assert any(step.moved for step in test.trajectories), "noise moves an untrained network"
    value = json.loads(json.dumps(solution.to_json()))
    assert value["test"][0]["trajectories"][1] == {
        "step": 2,
        "counts": list(test.trajectories[1].counts),
        "elsewhere": test.trajectories[1].elsewhere,
        "moved": test.trajectories[1].moved,
    }
    assert Solution.from_json(value, "x").test[0].trajectories == test.trajectories
    del value["test"][0]["trajectories"]
    old = Solution.from_json(value, "an older version's")
    assert old.test[0].trajectories == () and old.to_json()["test"][0]["trajectories"] == []
