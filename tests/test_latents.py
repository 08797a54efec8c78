"""Learned noise: the transition, its objective, its graph, and how training keeps the posterior honest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from conftest import little_pack
from torch.distributions import Independent, Normal, kl_divergence

from arcsolve.arc.dataset import load_task
from arcsolve.cli.main import arcsolve
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.adaptation import AdaptSettings
from arcsolve.inference.backend import Inputs
from arcsolve.inference.export import export
from arcsolve.inference.joint import JointSettings, joint_config
from arcsolve.inference.onnx_backend import OnnxBackend
from arcsolve.inference.recall import Recall
from arcsolve.inference.sampler import sample
from arcsolve.inference.settings import Settings
from arcsolve.inference.solver import Solver
from arcsolve.inference.torch_backend import TorchBackend, build_network
from arcsolve.lab.stages import solve_arms
from arcsolve.network.config import NetworkConfig
from arcsolve.network.latents import KL_BALANCE, Gaussian, balanced_kl, gaussian_kl
from arcsolve.network.recursion import RecursiveNetwork, State
from arcsolve.network.weights import Weights, load_weights
from arcsolve.network.widen import widen
from arcsolve.training import checkpoint
from arcsolve.training.beta import EASE, FALL, LEAST, MOST, RISE, UNPAID, Beta
from arcsolve.training.command import main
from arcsolve.training.loop import Budget, run
from arcsolve.training.objective import DECODED, is_right, normal_from, objective
from arcsolve.training.pack import Pack, flatten
from arcsolve.training.pairs import Batch, PairStore, ViewDraw
from arcsolve.training.presets import PRESETS, TrainConfig
from arcsolve.training.trainer import Trainer
from arcsolve.views import random_views

CONFIG = NetworkConfig(width=32, heads=4, hidden=64, latents=2, steps=2, halting=True, noise_width=4)
CPU = torch.device("cpu")
PUZZLES = Path(__file__).parents[1] / "puzzles"


def network_of(config: NetworkConfig = CONFIG, *, disturbed: bool = True) -> RecursiveNetwork:
    """A network, with noise that does something where ``disturbed``: as it starts, ``W`` is zero."""
    torch.manual_seed(0)
    network = RecursiveNetwork(config)
    if disturbed and network.transition is not None:
        torch.nn.init.normal_(network.transition.out.weight)
        torch.nn.init.normal_(network.transition.prior.weight, std=0.1)
    return network


def batch_of(count: int = 3, side: int = 3, **more: torch.Tensor) -> tuple[Batch, torch.Tensor]:
    torch.manual_seed(1)
    cells, target = torch.randint(0, 10, (2, count, side, side))
    zeros = torch.zeros(count, dtype=torch.long)
    batch = Batch(cells, target, zeros, torch.arange(10).expand(count, 10), zeros, **more)
    return batch, torch.randn(count, CONFIG.latents, CONFIG.width)


def test_switched_on_late_a_network_computes_what_it_did() -> None:
    plain, noisy = network_of(replace(CONFIG, noise_width=0)), network_of(disturbed=False)
    shared = plain.state_dict()
    assert all(torch.equal(noisy.state_dict()[name], tensor) for name, tensor in shared.items())
    batch, latents = batch_of()
    x = plain.embed(batch.cells, batch.dihedral, batch.colours, latents)
    state = plain.start(3, x.shape[1])
    noise = torch.randn(3, CONFIG.prefix, 4)
    assert torch.equal(plain.step(x, state, 3, 3).logits, noisy.step(x, state, 3, 3, noise).logits)
    guided, kl = noisy.guide(x, state, noise, batch.target, torch.tensor([True, True, False]))
    assert torch.equal(guided.h, state.h)
    assert (kl[:2] > 0).all() and kl[2] == 0, "from the start the posterior has something to say"


def test_kl_is_that_of_gaussians_and_its_gradient_is_balanced() -> None:
    def gaussian(seed: int) -> Gaussian:
        torch.manual_seed(seed)
        return Gaussian(torch.randn(2, 3, 4).requires_grad_(), (0.1 + torch.rand(2, 3, 4)).requires_grad_())

    q, p = gaussian(0), gaussian(1)
    expected = kl_divergence(*(Independent(Normal(g.mean, g.deviation), 2) for g in (q, p)))
    torch.testing.assert_close(gaussian_kl(q, p), expected)
    torch.testing.assert_close(balanced_kl(q, p), expected)
    plain = torch.autograd.grad(gaussian_kl(q, p).sum(), [q.mean, p.mean])
    balanced = torch.autograd.grad(balanced_kl(q, p).sum(), [q.mean, p.mean])
    torch.testing.assert_close(balanced[0], (1 - KL_BALANCE) * plain[0])
    torch.testing.assert_close(balanced[1], KL_BALANCE * plain[1])


def test_only_guided_samples_look_at_the_output() -> None:
    network = network_of()
    batch, latents = batch_of()
    x = network.embed(batch.cells, batch.dihedral, batch.colours, latents)
    state = network.start(3, x.shape[1])
    noise = torch.randn(3, CONFIG.prefix, 4)
    guided = torch.tensor([True, False, False])
    (one, _), (two, _) = (
        network.guide(x, state, noise, target, guided) for target in (batch.target, batch.target.flip(0))
    )
    changed = (one.h != two.h).flatten(1).any(1)
    assert changed.tolist() == [True, False, False]
    assert torch.equal(one.h[:, CONFIG.prefix :], state.h[:, CONFIG.prefix :]), "noise is at the prefix alone"
    plain = network.transition(x, state.h, noise)  # type: ignore[misc]
    torch.testing.assert_close(one.h[1:], plain[1:])


def test_the_prior_learns_from_the_kl_alone() -> None:
    """What its own draws lead to would teach it to draw the easiest answer alone."""
    network = network_of()
    batch, latents = batch_of()
    x = network.embed(batch.cells, batch.dihedral, batch.colours, latents)
    noise, guided = torch.randn(3, CONFIG.prefix, 4), torch.tensor([True, False, False])
    moved, kl = network.guide(x, network.start(3, x.shape[1]), noise, batch.target, guided)
    prior = network.transition.prior.weight  # type: ignore[union-attr]
    assert torch.autograd.grad(moved.h.sum(), prior, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(kl.sum(), prior)[0].abs().sum() > 0


def test_temperature_scales_what_trajectories_differ_in() -> None:
    network = network_of()
    batch, latents = batch_of(count=2)
    x = network.embed(batch.cells[:1].expand(2, 3, 3), batch.dihedral, batch.colours, latents[:1].expand(2, -1, -1))
    state = network.start(2, x.shape[1])
    noise = torch.randn(2, CONFIG.prefix, 4)
    apart = []
    for temperature in (0.0, 0.01, 1.0):
        # Drawn after a step, it is carried to the cells by the next.
        first = network.step(x, state, 3, 3, temperature * noise)
        assert torch.equal(*first.logits)
        one, two = network.step(x, first.state, 3, 3).logits.detach()
        apart.append(float((one - two).abs().max()))
    assert apart[0] < 1e-5 < apart[1] < apart[2]


def losses_of(  # type: ignore[no-untyped-def]
    network: RecursiveNetwork, commit: int | None, steps: int = 2, **how: object
):
    batch, latents = batch_of()
    if commit is not None:
        batch = batch._replace(commit=torch.full((3,), commit))
    normal = normal_from(torch.Generator().manual_seed(3), CPU)
    return objective(network, latents, batch, steps=steps, normal=normal, **how)  # type: ignore[arg-type]


def test_a_batch_that_never_commits_rolls_out_the_prior_as_inference_does() -> None:
    network = network_of()
    never, unsaid = losses_of(network, 2), losses_of(network, None)
    torch.testing.assert_close(never.nats, unsaid.nats)
    torch.testing.assert_close(never.total, unsaid.total)
    assert (never.kl == 0).all() and (losses_of(network, 0, steps=3).kl > losses_of(network, 2, steps=3).kl).all()
    assert not torch.allclose(losses_of(network, 0).nats, never.nats)


def test_the_kl_is_paid_per_cell_and_by_beta() -> None:
    network = network_of()
    free, dear = (losses_of(network, 0, beta=beta) for beta in (0.0, 2.0))
    paid = 2.0 * free.kl.mean() / (2 * 9)
    torch.testing.assert_close(dear.total - free.total, paid)


def test_without_noise_it_is_the_network_without_it() -> None:
    still = losses_of(network_of(), None, still=True)
    plain = losses_of(network_of(replace(CONFIG, noise_width=0)), None)
    torch.testing.assert_close(still.total, plain.total)


def test_the_halting_head_learns_from_the_prior_alone() -> None:
    for commit, learns in ((0, False), (2, True)):
        network = network_of()
        losses_of(network, commit).total.backward()
        assert network.halt.weight.grad is not None
        assert bool(network.halt.weight.grad.abs().max() > 0) == learns


def twofold_pack() -> Pack:
    """One input with two outputs, in two tasks, and one with one."""
    given = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    other = given[:, ::-1].copy()
    return flatten(
        {"a": [(given, given, False), (given, other, False), (other, other, False)], "b": [(given, other, False)]}
    )


def test_any_known_output_of_an_input_is_right() -> None:
    store = PairStore(twofold_pack(), CPU)
    view = ViewDraw(torch.tensor([1, 1, 1, 1]), torch.arange(10).flip(0).expand(4, 10))
    batch = store.batch(torch.arange(4), view, 2, 2, torch.zeros(4, 2))
    assert batch.others is not None and batch.others.shape == (4, 2, 2, 2)
    assert torch.equal(batch.others[:, 0], batch.target)
    assert is_right(batch.target, batch).all()
    swapped = batch.target[[1, 0, 2, 3]]
    assert is_right(swapped, batch).tolist() == [True, True, True, True]
    assert is_right(batch.target[[2, 2, 0, 0]], batch).tolist() == [True, True, False, False]
    assert PairStore(little_pack(), CPU).others is None


def trainer_of(**change: object) -> Trainer:
    tiny = PRESETS["tiny"]
    network = replace(tiny.network, noise_width=4)
    change = {"depth": ((0.0, 1, 2),), **change}
    return Trainer(replace(tiny, network=network, compile=False, **change), little_pack(), CPU)  # type: ignore[arg-type]


def test_presentations_follow_the_posterior_in_the_shares_asked_for() -> None:
    trainer = trainer_of(prior_share=0.25)
    trainer.depth = (1, 4)
    for nearest, share in ((False, 0.25), (True, 0.5)):
        trainer.nearest = nearest
        commit = trainer._commit(4_000)
        assert set(commit.tolist()) == {0, 4}
        assert float((commit == 4).float().mean()) == pytest.approx(share, abs=0.05)
    assert (trainer_of(prior_share=0.0)._commit(100) == 0).all()


def test_the_posterior_is_alone_and_unpaid_until_the_share_asked_for() -> None:
    trainer, given = trainer_of(prior_share=1.0, prior_from=0.5, beta=0.2), []

    def objective(batch: Batch, *args: Any, **how: Any) -> Any:
        given.append(how["beta"])
        return SimpleNamespace(total=torch.zeros((), requires_grad=True), state=None)

    trainer.objective = objective  # type: ignore[assignment]
    for progress, commit in ((0.4, 0), (0.5, 2)):
        batch = trainer.draw(progress)
        assert batch.commit is not None and (batch.commit == commit).all()
        list(trainer.learn(batch))
    assert given == [UNPAID, 0.2]


def test_noise_comes_in_late_where_it_is_told_to() -> None:
    trainer = trainer_of(noise_from=0.5)
    assert trainer.draw(0.4).commit is None and trainer.draw(0.5).commit is not None
    before = trainer.network.transition.out.weight.clone()  # type: ignore[union-attr]
    trainer.update(0.4)
    assert torch.equal(trainer.network.transition.out.weight, before)  # type: ignore[union-attr]


def test_beta_rises_while_the_posterior_is_ahead_and_falls_where_it_gets_worse() -> None:
    beta = Beta(0.1)
    beta.follow(0.9, 0.5)
    assert beta.value == pytest.approx(0.1 * RISE) and beta.best == 0.9
    beta.follow(0.9, 0.885)
    assert beta.value == pytest.approx(0.1 * RISE / EASE), "level with the prior"
    beta.follow(None, 0.3)
    assert beta.value == pytest.approx(0.1 * RISE / EASE), "nothing to go by"
    beta.follow(0.6, 0.3)
    assert beta.value == pytest.approx(0.1 * RISE / EASE / FALL), "however far ahead, it has lost"
    for _ in range(100):
        beta.follow(0.6, 0.3)
    assert beta.value == MOST, "in time, what it once had is forgotten"
    for _ in range(300):
        beta.follow(0.1, 0.9)
    assert beta.value == LEAST


def twofold_batch() -> tuple[Batch, Batch, torch.Tensor]:
    """Two inputs with two outputs each and two with one, the same towards the other output, and latents."""
    store = PairStore(twofold_pack(), CPU)
    view = ViewDraw(torch.zeros(4, dtype=torch.long), torch.arange(10).expand(4, 10))
    batch = store.batch(torch.arange(4), view, 2, 2, torch.zeros(4, 2))
    assert batch.others is not None
    torch.manual_seed(2)
    return batch, batch._replace(target=batch.others[:, 1]), torch.randn(4, CONFIG.latents, CONFIG.width)


def test_without_a_posterior_the_nearest_known_output_counts_where_told_to() -> None:
    network = network_of(replace(CONFIG, noise_width=0, noise=0.1))
    batch, others, latents = twofold_batch()

    def nats(batch: Batch, **how: bool) -> torch.Tensor:
        return objective(network, latents, batch, steps=1, normal=normal_from(generator(), CPU), **how).nats

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    own, other = nats(batch), nats(others)
    assert (own[:2] != other[:2]).all() and torch.equal(own[2:], other[2:])
    torch.testing.assert_close(nats(batch, nearest=True), torch.minimum(own, other))


def test_what_the_prior_draws_means_the_output_that_explains_it_best() -> None:
    network = network_of()
    batch, others, latents = twofold_batch()
    drawn = torch.randn(2, 4, CONFIG.prefix, 4, generator=torch.Generator().manual_seed(3))
    x = network.embed(batch.cells, batch.dihedral, batch.colours, latents)
    state, nothing = network.start(4, x.shape[1]), torch.zeros(4, dtype=torch.bool)
    evidence, transition = torch.zeros(4, 2), network.transition
    assert transition is not None and batch.others is not None
    state = network.step(x, state, 2, 2).state
    for noise in drawn:
        found = network.explain(x, state, noise, batch.others)
        u, layout = x + state.h, network.layout(x, 2, 2)
        p = transition.prior.gaussian(u[:, : CONFIG.prefix])
        z = p.mean + p.deviation * noise
        q = [transition.posterior(u, one.target, layout) for one in (batch, others)]
        expected = torch.stack([Independent(Normal(g.mean, g.deviation), 2).log_prob(z) for g in q], dim=1)
        torch.testing.assert_close(found.diff(dim=1), expected.diff(dim=1), atol=1e-3, rtol=1e-5)
        evidence += found
        guided, _ = network.guide(x, state, noise, batch.target, nothing)
        state = network.step(x, guided, 2, 2).state

    def nats(batch: Batch, commit: int, **how: bool) -> torch.Tensor:
        noises = iter(drawn)
        batch = batch._replace(commit=torch.full((4,), commit))
        return objective(network, latents, batch, steps=3, normal=lambda shape: next(noises), **how).nats

    own, other = nats(batch, 3), nats(others, 3)
    likely = evidence - DECODED * 4 * torch.stack([own, other], dim=1)  # four cells
    meant = torch.where(likely[:, 0] > likely[:, 1], own, other)
    assert not torch.equal(meant, torch.minimum(own, other)), "and not only by what was decoded"
    torch.testing.assert_close(nats(batch, 3, nearest=True), meant)
    torch.testing.assert_close(nats(others, 3, nearest=True), meant), "whichever was the pair's own"
    torch.testing.assert_close(nats(batch, 0, nearest=True), nats(batch, 0)), "the posterior was told which one"


def test_the_nearest_counts_from_the_share_of_the_budget_asked_for() -> None:
    trainer = trainer_of(nearest_from=0.5)
    trainer.draw(0.4)
    assert not trainer.nearest
    trainer.draw(0.5)
    assert trainer.nearest
    plain = trainer_of()
    plain.draw(0.99)
    assert not plain.nearest


def test_the_log_tells_prior_and_posterior_apart_and_a_checkpoint_keeps_beta(tmp_path: Path) -> None:
    trainer = trainer_of()
    rows: list[dict[str, float]] = []
    run(trainer, Budget(updates=20), folder=tmp_path, log_updates=5, report=rows.append)
    assert all({"kl", "exact_posterior", "exact_prior", "beta"} <= row.keys() for row in rows)
    assert rows[0]["beta"] == 0.01 != rows[1]["beta"] and rows[0]["kl"] > 0
    other = trainer_of()
    checkpoint.load(other, tmp_path)
    assert other.beta == trainer.beta != Beta(0.01)


def test_one_step_has_no_transition_and_moves_no_beta(tmp_path: Path) -> None:
    trainer = trainer_of(depth=((0.0, 1, 1),))
    rows: list[dict[str, float]] = []
    run(trainer, Budget(updates=10), folder=tmp_path, log_updates=5, report=rows.append)
    assert len(rows) == 2 and not any("kl" in row or "exact_prior" in row for row in rows)
    assert trainer.beta == Beta(0.01)


def test_the_posterior_is_paid_for_between_steps() -> None:
    paid = []
    for steps in (1, 2, 3):
        trainer = trainer_of(depth=((0.0, 1, steps),))
        batch = trainer.draw(0.0)
        trainer.count(batch)
        cells, network = batch.cells[0].numel(), trainer.config.network
        step, guide = network.step_flop(cells, 1), network.posterior_flop(cells)
        assert trainer.counters.flop == pytest.approx(3 * len(batch.cells) * (steps * step + (steps - 1) * guide))
        paid.append(guide)
    assert min(paid) > 0


def test_beta_goes_on_exactly_where_a_run_stopped_between_two_lines(tmp_path: Path) -> None:
    def betas(stop: int | None) -> tuple[float, list[float], torch.Tensor]:
        folder = tmp_path / str(stop)
        folder.mkdir()
        trainer = trainer_of()
        if stop is not None:
            stops = iter([False] * stop + [True])
            assert not run(trainer, Budget(updates=24), folder=folder, log_updates=4, stopped=lambda: next(stops))
            trainer = trainer_of()
            checkpoint.load(trainer, folder)
            assert trainer.tally.sum() > 0
        assert run(trainer, Budget(updates=24), folder=folder, log_updates=4)
        kl = [json.loads(line)["kl"] for line in (folder / checkpoint.LOG).read_text().splitlines()]
        return trainer.beta.value, kl, trainer.network.halt.weight.detach()

    (whole, nats, weights), *others = (betas(stop) for stop in (None, 7, 14))
    assert whole != 0.01 and len(nats) == 6
    for beta, kl, other in others:
        assert beta == whole
        assert kl == pytest.approx(nats, rel=1e-3)
        torch.testing.assert_close(other, weights)


def test_later_runs_take_over_what_beta_had_come_to(noisy: Weights) -> None:
    assert noisy.training["beta"] == 0.01, "too short a run to move it"
    later = replace(noisy, training={**noisy.training, "beta": 0.5})
    config = replace(PRESETS["tiny"], network=replace(PRESETS["tiny"].network, noise_width=4), compile=False)
    assert Trainer(config, little_pack(), CPU, later).beta.value == 0.5
    plain = replace(later, config=replace(noisy.config, noise_width=0))
    network = {name: tensor for name, tensor in noisy.network.items() if not name.startswith("transition.")}
    assert Trainer(config, little_pack(), CPU, replace(plain, network=network)).beta.value == 0.01


def test_joint_adaptation_learns_on_the_path_that_tasks_are_solved_on(noisy: Weights) -> None:
    config = joint_config(noisy, JointSettings(presentations=1), 4, seed=0)
    trainer = Trainer(replace(config, compile=False), little_pack(), CPU, noisy)
    commit = trainer.draw(0.1).commit
    assert commit is not None and (commit == trainer.depth[1]).all()


def test_a_new_task_is_solved_with_it(noisy: Weights) -> None:
    task = load_task(str(PUZZLES / "mirror-left-right.json"))
    settings = Settings(views=2, samples=3, adapt=AdaptSettings(steps=4), leave_one_out=1, networks=1)
    solution = Solver.from_weights(noisy.path, device="cpu").solve(task, settings)
    assert sum(candidate.votes for candidate in solution.test[0].candidates) == 6
    again = Solver.from_weights(noisy.path, device="cpu").solve(task, settings)
    assert {**again.to_json(), "seconds": 0} == {**solution.to_json(), "seconds": 0}


def test_recall_gives_every_row_the_same_chance(noisy: Weights) -> None:
    loud = {**noisy.network, "transition.out.weight": np.full((32, 4), 9.0, dtype=np.float32)}
    recall = Recall(replace(noisy, network=loud), CPU)
    task = load_task(str(PUZZLES / "mirror-left-right.json"))
    nats = recall.nats(np.repeat(noisy.bank[:1], 5, axis=0), task.train)
    assert nats == pytest.approx([nats[0]] * 5, rel=1e-4)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, pack_file: Path, weights_file: Path) -> Weights:
    """Tiny weights that were trained without noise and then went on with it, with their graph."""
    folder = tmp_path_factory.mktemp("noisy")
    options = ["--pack", str(pack_file), "--preset", "tiny", "--from", str(weights_file), "--noise-width", "4"]
    assert main([*options, "--out", str(folder), "--updates", "40"]) == 0
    export(folder / "weights.safetensors")
    return load_weights(folder / "weights.safetensors")


def test_older_weights_go_on_with_it(noisy: Weights, weights_file: Path) -> None:
    assert noisy.config == replace(load_weights(weights_file).config, noise_width=4)
    assert noisy.training["initial"]["sha256"] == load_weights(weights_file).sha256
    assert float(np.abs(noisy.network["transition.out.weight"]).max()) > 0


def test_the_graph_has_the_prior_and_no_posterior(noisy: Weights) -> None:
    graph = onnx.load(noisy.path.with_suffix(".onnx"), load_external_data=False).graph
    names = {one.name for one in (*graph.initializer, *graph.input)}
    assert any("transition.prior" in name for name in names) and any("transition.out" in name for name in names)
    assert not any("posterior" in name for name in names)
    assert any("posterior" in name for name in noisy.network), "training can go on from the weights"
    assert not any("Random" in node.op_type for node in graph.node), "chance is an input"
    noise = next(one for one in graph.input if one.name == "noise")
    assert [d.dim_value for d in noise.type.tensor_type.shape.dim][1:] == [noisy.config.prefix, 4]


def test_samples_differ_by_noise_alike_in_torch_and_onnx(noisy: Weights) -> None:
    # As the network learned it, noise of forty updates hardly matters.
    loud = {"transition.out.weight": 30 * np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)}
    grid = np.arange(12, dtype=np.uint8).reshape(3, 4) % 10
    found = []
    for backend in (OnnxBackend(noisy, "cpu"), TorchBackend(noisy.config, noisy.network, CPU)):
        views = random_views(2, np.random.default_rng(0))
        how = {"samples": 6, "steps": 2, "seed": 0}
        for temperature in (1.0, 0.0):
            run = sample(backend.adapted(loud), noisy.bank[0], grid, (3, 4), views, noise=temperature, **how)
            assert len(run.grids) == (12 if temperature else 2)
            found.append([one.tobytes() for one in run.grids])
        run = sample(backend.adapted(loud), noisy.bank[0], grid, (3, 4), views, noise=1.0, **{**how, "steps": 1})
        assert len(run.grids) == 2, "the noise of a first step is for the second"
    assert found[0] == found[2] and found[1] == found[3]
    assert len(set(found[0])) > 2


def test_settings_tell_the_two_kinds_of_noise_apart(noisy: Weights) -> None:
    assert Settings().noise_of(noisy.config) == 1.0
    assert Settings(temperature=0.5).noise_of(noisy.config) == 0.5
    plain = replace(noisy.config, noise_width=0, noise=0.2)
    assert Settings(temperature=0.5).noise_of(plain) == pytest.approx(0.1)
    with pytest.raises(ArcsolveError, match="--temperature"):
        Settings(noise=0.1).noise_of(noisy.config)


def test_wider_it_computes_the_same(noisy: Weights) -> None:
    narrow = build_network(noisy.config, noisy.network)
    config, tensors, bank = widen(noisy.config, noisy.network, noisy.bank, 2)
    wide = build_network(config, tensors)
    batch, _ = batch_of()
    guided = torch.tensor([True, True, False])
    noise = torch.randn(3, noisy.config.prefix, 4)
    seen = []
    for network, rows in ((narrow, noisy.bank), (wide, bank)):
        x = network.embed(batch.cells, batch.dihedral, batch.colours, torch.from_numpy(rows[:3]))
        state, kl = network.guide(x, network.start(3, x.shape[1]), noise, batch.target, guided)
        seen.append((network.step(x, State(*state), 3, 3).logits, kl))
    torch.testing.assert_close(seen[0][0], seen[1][0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen[0][1], seen[1][1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("change", [{"noise_width": -1}, {"noise_width": True}, {"noise_width": 1.5}, {"noise": 0.1}])
def test_odd_configurations_are_refused(change: dict[str, object]) -> None:
    values = json.loads(json.dumps(CONFIG.to_json())) | change
    with pytest.raises(FormatError, match="noise"):
        NetworkConfig.from_json(values, "weights")


def test_steps_cost_what_they_cost() -> None:
    assert CONFIG.posterior_flop(9) > 0 == replace(CONFIG, noise_width=0).posterior_flop(9)
    assert CONFIG.step_flop(9) == replace(CONFIG, noise_width=0).step_flop(9)
    backend = TorchBackend(CONFIG, {n: np.array(t) for n, t in network_of().state_dict().items()}, CPU)
    shape = (1, CONFIG.prefix + 9, CONFIG.width)
    inputs = Inputs(
        np.zeros((1, 3, 3), dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        np.arange(10)[None],
        np.zeros((1, 2, 32), dtype=np.float32),
    )
    step = backend.step(
        inputs, *(np.zeros(shape, dtype=np.float32),) * 2, np.zeros((1, CONFIG.prefix, 4), dtype=np.float32)
    )
    assert step.logits.shape == (1, 3, 3, 11)


def test_the_default_run_is_without_it() -> None:
    assert TrainConfig().network.noise_width == 0 and all(
        preset.network.noise_width == 0 for preset in PRESETS.values()
    )


@pytest.mark.parametrize(
    "command",
    [
        ["solve", "PUZZLE"],
        ["batch", "PUZZLES", "-o", "OUT"],
        ["eval", "PUZZLES", "-o", "OUT"],
        ["lab", "stages", "--figure", "PUZZLES", "-o", "OUT", "network"],
        ["lab", "samples", "--figure", "PUZZLES", "-o", "OUT", "--grid-samples", "1"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_noise_that_was_not_learned_is_refused_before_any_work(
    command: list[str], noisy: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"PUZZLE": str(PUZZLES / "mirror-left-right.json"), "PUZZLES": str(PUZZLES), "OUT": str(tmp_path / "run")}

    def work(*arguments: object, **options: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(Solver, "solve", work)
    monkeypatch.setattr(Solver, "prepare", work)
    arguments = [names.get(word, word) for word in command]
    made = CliRunner().invoke(arcsolve, [*arguments, "--weights", str(noisy.path), "--noise", "0.1"])
    assert isinstance(made.exception, ArcsolveError)
    assert "have learned their noise" in str(made.exception) and "--temperature" in str(made.exception)


def test_the_arms_with_noise_of_lab_stages_are_run_with_what_was_learned(noisy: Weights) -> None:
    task = load_task(str(PUZZLES / "mirror-left-right.json"))
    solver = Solver.from_weights(noisy.path, backend="torch", device="cpu")
    base = Settings(adapt=AdaptSettings(steps=1))
    found = solve_arms(task, ["noise-4x4", "noise-1x16"], solver, None, base)
    assert set(found) == {"noise-4x4", "noise-1x16"}
