"""Training: views on the device, the schedule, exact resume after a kill, clean stops, damaged checkpoints."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import little_pack
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from arcsolve.canvas import place
from arcsolve.errors import ArcsolveError
from arcsolve.network.weights import load_weights
from arcsolve.network.widen import widen
from arcsolve.training import checkpoint
from arcsolve.training.command import SWITCHES, main
from arcsolve.training.gate import gate_pack, run_gate
from arcsolve.training.loop import Budget, run
from arcsolve.training.objective import normal_from, objective
from arcsolve.training.pairs import BatchSampler, PairStore, ViewDraw, draw_views, random_colours
from arcsolve.training.presets import PRESETS, gate_config
from arcsolve.training.trainer import Counters, Trainer
from arcsolve.views import View

CPU = torch.device("cpu")
TINY = PRESETS["tiny"]


@settings(max_examples=60, deadline=None)
@given(
    pair=st.integers(0, 11),
    dihedral=st.integers(0, 7),
    colours=st.permutations(range(10)),
    room=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    shift=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_views_drawn_on_the_device_are_the_views_of_the_solver(
    pair: int, dihedral: int, colours: list[int], room: tuple[int, int], shift: tuple[float, float]
) -> None:
    """Two implementations of one convention: if they part, the network is trained on views that nobody undoes."""
    pack = little_pack()
    view = View(dihedral, tuple(colours))
    given_grid, wanted = (view.apply(grid) for grid in pack.pair(pair))
    height, width = given_grid.shape[0] + room[0], given_grid.shape[1] + room[1]
    corner = (int(shift[0] * (room[0] + 1)), int(shift[1] * (room[1] + 1)))
    batch = PairStore(pack, CPU).batch(
        torch.tensor([pair]),
        ViewDraw(torch.tensor([dihedral]), torch.tensor([colours])),
        height,
        width,
        torch.tensor([shift], dtype=torch.float64),
    )
    np.testing.assert_array_equal(batch.cells[0], place(given_grid, height, width, corner))
    np.testing.assert_array_equal(batch.target[0], place(wanted, height, width, corner))


def test_batches_hold_every_pair_in_its_share_and_keep_black_black() -> None:
    pack = little_pack()
    sampler = BatchSampler(
        PairStore(pack, CPU), pack, (5, 10), tokens=600, most=8, prefix=13, generated_share=0.5, margin=0.2
    )
    host, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    pool = random_colours(16, generator)
    seen = torch.zeros(len(pack.ids))
    for _ in range(200):
        batch = sampler.draw("all", generator, host, pool)
        seen += torch.bincount(batch.task, minlength=len(seen))
        assert (batch.colours[:, 0] == 0).all()
        assert batch.cells.shape == batch.target.shape
    assert (seen / seen.sum() - 1 / len(seen)).abs().max() < 0.05
    (bucket,) = sampler.buckets
    generated = torch.from_numpy(pack.generated)[bucket.pairs]
    assert float(bucket.weights[generated].sum() / bucket.weights.sum()) == pytest.approx(0.5)


@pytest.mark.parametrize(("stage", "distinct"), [("identity", 1), ("dihedral", 1), ("pool", 3)])
def test_a_stage_of_views_draws_no_more_than_it_says(stage: str, distinct: int) -> None:
    generator = torch.Generator().manual_seed(0)
    view = draw_views(64, stage, False, generator, random_colours(3, generator))
    assert len(view.colours.unique(dim=0)) == distinct
    assert view.dihedral.unique().numel() == (1 if stage == "identity" else 4)


def test_ramps_and_rates_follow_the_budget() -> None:
    ramp = ((0.0, "identity"), (0.02, "dihedral"), (0.08, "pool"), (0.2, "all"))
    config = replace(PRESETS["gpu"], views=ramp)
    assert [config.stage(p) for p in (0, 0.05, 0.1, 0.5)] == ["identity", "dihedral", "pool", "all"]
    assert config.depth_at(0.99) == (config.network.inner_steps, config.network.steps)
    assert config.rate(config.warmup / 2) == pytest.approx(0.5)
    assert config.rate(0.5) == 1
    assert config.rate(1.0) == 0
    counters = Counters(updates=10, presentations=40, seconds=9.0)
    assert Budget(updates=100, presentations=80).spent(counters) == 0.5
    assert Budget(seconds=10.0).spent(counters) == 0.9


def test_the_loss_of_a_network_that_is_certain_and_right_is_zero() -> None:
    """Guards the target's place: a shift between logits and target would leave a loss."""
    pack = little_pack()
    store = PairStore(pack, CPU)
    batch = store.batch(
        torch.arange(4), draw_views(4, "identity", False, torch.Generator(), torch.empty(0)), 4, 3, torch.zeros(4, 2)
    )
    trainer = Trainer(TINY, pack, CPU)
    original = trainer.network.step

    def certain(*arguments: object, **options: object) -> object:
        out = original(*arguments, **options)  # type: ignore[arg-type]
        return out._replace(logits=torch.nn.functional.one_hot(batch.target, 11) * 50.0)

    trainer.network.step = certain  # type: ignore[assignment, method-assign]
    losses = objective(trainer.network, trainer.bank(batch.task), batch, steps=2, normal=normal_from(None, CPU))
    assert losses.nats.max() < 1e-6
    assert losses.exact.all()


def test_the_same_seed_gives_the_same_losses_and_another_seed_others() -> None:
    def losses(seed: int) -> list[float]:
        trainer = Trainer(replace(TINY, seed=seed), little_pack(), CPU)
        return [float(trainer.update(0.3).nats.mean()) for _ in range(4)]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_a_run_that_is_killed_ends_where_an_undisturbed_one_does(pack_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "arcsolve.training", "--pack", str(pack_file), "--preset", "tiny"]
    command += ["--updates", "150", "--every", "0.2"]
    whole = tmp_path / "whole"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    killed = tmp_path / "killed"
    with subprocess.Popen([*command, "--out", str(killed)], stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while not (killed / "state.pt").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
    at_kill = torch.load(killed / "state.pt", weights_only=True)["counters"]["updates"]
    assert 0 < at_kill < 150
    second = subprocess.run([*command, "--out", str(killed)], check=True, capture_output=True, text=True)
    assert f"going on from update {at_kill}" in second.stderr
    one, two = (load_file(folder / "weights.safetensors") for folder in (whole, killed))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, two[name], err_msg=name)
    rows = [json.loads(line)["update"] for line in (killed / "log.jsonl").read_text().splitlines()]
    assert rows == [100], "a resumed log must hold every line once"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_checkpoint(number: int, pack_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "arcsolve.training", "--pack", str(pack_file), "--preset", "tiny"]
    command += ["--updates", "1000000", "--every", "0.1", "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "run" / "state.pt").exists() and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    load_weights(tmp_path / "run" / "weights.safetensors")


def test_weights_of_a_run_stopped_on_its_ramp_claim_the_depth_that_it_reached(tmp_path: Path) -> None:
    """More supervision steps than trained break a network, so the weights must not promise them."""
    trainer = Trainer(TINY, little_pack(), CPU)
    for progress, steps in ((0.1, 1), (0.9, 2)):
        trainer.update(progress)
        checkpoint.save(trainer, tmp_path)
        assert load_weights(tmp_path / "weights.safetensors").config.steps == steps


def test_a_log_that_a_kill_cut_short_does_not_stop_a_resume(pack_file: Path, tmp_path: Path) -> None:
    arguments = ["--pack", str(pack_file), "--preset", "tiny", "--out", str(tmp_path), "--updates"]
    assert main([*arguments, "100"]) == 0
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"update": 200}\n{"update": 2')
    assert main([*arguments, "101"]) == 0
    assert [json.loads(line)["update"] for line in log.read_text().splitlines()] == [100]


def test_a_damaged_checkpoint_and_other_settings_are_named(pack_file: Path, tmp_path: Path) -> None:
    arguments = ["--pack", str(pack_file), "--preset", "tiny", "--out", str(tmp_path), "--updates", "3"]
    assert main(arguments) == 0
    with pytest.raises(ArcsolveError, match=r"state\.pt: made with other settings"):
        main([*arguments, "--seed", "5"])
    state = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(state[: len(state) // 2])
    with pytest.raises(ArcsolveError, match=r"state\.pt: not a checkpoint, or cut short"):
        main(arguments)


def test_a_run_can_start_from_weights_and_keeps_the_rows_it_knows(weights_file: Path, tmp_path: Path) -> None:
    pack = little_pack()
    pack = replace(pack, ids=("new", *pack.ids[1:]))
    initial = replace(load_weights(weights_file), seen=frozenset({b"sixteen bytes ok"}))
    trainer = Trainer(TINY, pack, CPU, initial)
    np.testing.assert_array_equal(trainer.bank.rows[1].detach(), initial.bank[1])
    np.testing.assert_allclose(trainer.bank.rows[0].detach(), initial.bank.mean(0), atol=1e-6)
    trainer.save_weights(tmp_path / "next.safetensors")
    following = load_weights(tmp_path / "next.safetensors")
    assert following.training["initial"] == {"sha256": initial.sha256, "training": initial.training}
    for name, value in initial.network.items():
        np.testing.assert_array_equal(following.network[name], value)
    assert following.seen > initial.seen  # whatever was ever trained on stays known as seen
    with pytest.raises(ArcsolveError, match="other sizes"):
        Trainer(replace(TINY, network=replace(TINY.network, width=64)), pack, CPU, initial)


def test_a_run_from_weights_starts_at_the_ends_of_the_ramps() -> None:
    """Guards against taking a trained network back to one view and a shallow depth."""
    config = replace(TINY, views=((0.0, "identity"), (0.5, "all"))).at_full_ramps()
    assert config.stage(0.0) == "all"
    assert config.depth_at(0.0) == TINY.depth_at(1.0) == (1, 2)


def test_every_rate_is_scaled() -> None:
    slower = TINY.with_rates(0.5)
    for name in (name for name in TINY.to_json() if name.endswith("_rate")):
        assert getattr(slower, name) == getattr(TINY, name) / 2


def test_the_gate_passes_what_learns_and_fails_what_cannot() -> None:
    """Guards against a gate that always passes: with rates of nothing it must not."""
    pack = little_pack(tasks=32, side=3)
    assert len(gate_pack(pack)) == 64  # generated pairs are left out
    config = replace(gate_config(0, "identity"), network=TINY.network, muon_rate=1e-2, adam_rate=1e-2)
    asleep = replace(config, muon_rate=0.0, adam_rate=0.0, latent_rate=0.0)
    assert not run_gate(pack, views="identity", config=asleep, updates=200)["passed"]
    learned = run_gate(pack, views="identity", config=config, updates=200)
    assert learned["exact"] > 0.2
    for name, switch in SWITCHES.items():
        assert gate_config(0, "all", **switch).network != gate_config(0, "all").network, name
    with pytest.raises(ArcsolveError, match="the gate needs 32 tasks"):
        run_gate(little_pack(tasks=3), views="identity")


def _loop(trainer: Trainer, updates: int, **options: object) -> list[str]:
    lines: list[str] = []
    run(trainer, Budget(updates=updates), log_updates=10, warn=lines.append, **options)  # type: ignore[arg-type]
    return lines


def test_a_loss_that_is_no_number_rolls_back_to_good_weights_at_half_the_rates(tmp_path: Path) -> None:
    trainer = Trainer(TINY, little_pack(), CPU)

    def poison(row: dict[str, object]) -> None:
        if row["update"] == 40:
            with torch.no_grad():
                trainer.network.decode.weight.fill_(torch.nan)

    (line,) = _loop(trainer, 80, report=poison, folder=tmp_path)
    assert "update 50: the loss is nan" in line
    assert "rates now times 0.5" in line
    assert all(tensor.isfinite().all() for tensor in trainer.tensors().values())
    assert load_weights(tmp_path / "weights.safetensors").training["updates"] == 80
    rows = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows if row.get("rolled_back")] == [50]
    assert rows[4]["nats"] is None


def test_a_loss_that_jumps_rolls_back_and_a_new_stage_does_not_count_as_a_jump() -> None:
    ramp = ((0.0, "identity"), (0.1, "dihedral"), (0.2, "all"))
    trainer = Trainer(replace(TINY, views=ramp), little_pack(), CPU)

    def upset(row: dict[str, object]) -> None:
        if row["update"] == 140:
            with torch.no_grad():
                trainer.network.decode.weight.mul_(-20)

    # More views begin at 10% and 20%, depth at 50%: none of these may be taken for a spike.
    lines = _loop(trainer, 200, report=upset)
    assert [line.partition(":")[0] for line in lines] == ["update 150"]


def test_a_loss_that_never_recovers_is_an_error() -> None:
    trainer = Trainer(TINY, little_pack(), CPU)

    def poison(batch: object) -> None:
        with torch.no_grad():
            trainer.network.decode.weight.fill_(torch.nan)

    trainer.count = poison  # type: ignore[assignment, method-assign]
    with pytest.raises(ArcsolveError, match="the loss is nan by update 70, after 6 rollbacks"):
        _loop(trainer, 500)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    pack_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--pack", str(pack_file), "--preset", "tiny", "--out", str(tmp_path), "--updates"]
    assert main([*arguments, "3"]) == 0
    assert main([*arguments, "5"]) == 0
    state = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(state[: len(state) // 2])
    capsys.readouterr()
    assert main([*arguments, "6"]) == 0
    said = capsys.readouterr().err
    assert "state.pt: not a checkpoint, or cut short" in said
    assert "going on from the one before it, state.previous.pt" in said
    assert "going on from update 3" in said


def test_a_full_disk_is_named_and_the_checkpoint_before_it_still_loads(pack_file: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: writing past it fails just the same."""
    command = [sys.executable, "-m", "arcsolve.training", "--pack", str(pack_file), "--preset", "tiny"]
    command += ["--out", str(tmp_path), "--updates"]
    subprocess.run([*command, "4"], check=True, capture_output=True)
    limit = (tmp_path / "state.pt").stat().st_size // 2
    full = subprocess.run(
        [*command, "8"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert full.returncode == 1
    assert "state.pt: the checkpoint cannot be written" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list(tmp_path.glob("*.part"))
    again = subprocess.run([*command, "5"], check=True, capture_output=True, text=True)
    assert "going on from update 4" in again.stderr


def test_a_run_goes_on_where_the_checkpoint_was_made_on_another_device(tmp_path: Path) -> None:
    trainer = Trainer(TINY, little_pack(), CPU)
    trainer.update(0.1)
    checkpoint.save(trainer, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    # A CUDA generator's state has 16 bytes, which a CPU's generator does not take.
    state |= {"device": "cuda", "generator": torch.zeros(16, dtype=torch.uint8)}
    torch.save(state, tmp_path / "state.pt")
    resumed, said = Trainer(TINY, little_pack(), CPU), []
    checkpoint.load(resumed, tmp_path, said.append)
    assert "was made on cuda" in said[0]
    for name, tensor in trainer.tensors().items():
        torch.testing.assert_close(resumed.tensors()[name], tensor, rtol=0, atol=0)
    resumed.update(0.2)


def test_an_update_after_each_supervision_step_learns_from_every_one() -> None:
    trainer = Trainer(replace(TINY, update_each_step=True), little_pack(), CPU)
    trainer.update(0.9)  # two supervision steps there
    assert trainer.counters.updates == 2
    assert trainer.counters.supervision_steps == 2 * trainer.counters.presentations


def test_hints_show_a_part_of_the_output_and_only_in_training() -> None:
    config = replace(TINY, hint_share=0.5, network=replace(TINY.network, hints=True))
    trainer = Trainer(config, little_pack(), CPU)
    shown = torch.cat([trainer.draw(0.9).shown.float().flatten(1).mean(1) for _ in range(40)])  # type: ignore[union-attr]
    assert 0.3 < float((shown == 0).float().mean()) < 0.7
    assert 0.15 < float(shown.mean()) < 0.35
    before = trainer.network.hint.detach().clone()  # type: ignore[union-attr]
    trainer.update(0.9)
    assert not torch.equal(trainer.network.hint.detach(), before)  # type: ignore[union-attr]


def test_a_canvas_always_comes_in_one_batch_size_and_squares_are_square() -> None:
    """Every further shape would be compiled: half a minute each on a GPU."""
    pack = little_pack()
    for square in (False, True):
        sampler = BatchSampler(
            PairStore(pack, CPU),
            pack,
            (3, 4, 8),
            tokens=200,
            most=8,
            prefix=13,
            generated_share=0.5,
            margin=0.5,
            square=square,
        )
        host, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
        drawn = {tuple(sampler.draw("all", generator, host, torch.empty(0)).cells.shape) for _ in range(100)}
        assert {shape[1:] for shape in drawn} == sampler.canvases()
        assert len(drawn) == len(sampler.canvases())
        assert {tuple(b.cells.shape) for b in sampler.each_canvas(generator, torch.empty(0))} == drawn
        assert square == all(height == width for _, height, width in drawn)


def test_a_narrow_network_widened_computes_the_same(weights_file: Path) -> None:
    narrow = load_weights(weights_file)
    pack = replace(little_pack(), ids=narrow.tasks)
    config = replace(TINY, network=replace(TINY.with_width(96).network, steps=2))
    wide = Trainer(config, pack, CPU, narrow)
    same = Trainer(TINY, pack, CPU, narrow)
    with torch.no_grad():
        batch = same.draw(1.0)
        losses = [
            objective(t.network, t.bank(batch.task), batch, steps=2, normal=normal_from(None, CPU)).nats
            for t in (same, wide)
        ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    # Copies that divide their inputs evenly would stay copies: one update must part them.
    wide.update(0.5)
    first, second, _ = wide.network.blocks[0].attention.out.weight.detach().chunk(3)
    assert not torch.allclose(first, second)
    halves = wide.network.decode.weight.detach().chunk(3, dim=1)
    assert not torch.allclose(halves[0], halves[1], rtol=1e-3)
    with pytest.raises(ArcsolveError, match="a factor of 2 or more"):
        widen(narrow.config, narrow.network, narrow.bank, 1)


def test_two_processes_learn_what_one_does(pack_file: Path, tmp_path: Path) -> None:
    """DistributedDataParallel over gloo: one step's loss and gradient equal the single process's."""
    program = tmp_path / "one_step.py"
    program.write_text(
        "import sys, torch\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from arcsolve.training.distributed import join\n"
        "from arcsolve.training.pack import Pack\n"
        "from arcsolve.training.presets import PRESETS\n"
        "from arcsolve.training.trainer import Trainer\n"
        "torch.set_num_threads(1)\n"
        "def one_step(world, device):\n"
        "    tiny = PRESETS['tiny']\n"
        "    network = replace(tiny.network, random_start=True, noise=0.1, hints=True, turns=True)\n"
        "    config = replace(tiny, network=network, hint_share=0.5, turned_share=0.5, tokens=4_000)\n"
        "    trainer = Trainer(config, Pack.load(Path(sys.argv[1])), device, world=world)\n"
        "    batch = trainer.draw(0.9)\n"
        "    (losses,) = trainer.learn(batch)\n"
        "    loss = world.mean([float(losses.total.detach())])[0]\n"
        "    grads = {n: t.grad for n, t in trainer.tensors().items()}\n"
        "    if world.rank == 0:\n"
        "        found = {'loss': loss, 'grads': grads, 'size': world.size, 'count': len(batch.cells)}\n"
        "        torch.save(found, sys.argv[2])\n"
        "world, device = join(torch.device('cpu'))\n"
        "one_step(world, device)\n"
        "world.close()\n"
    )
    results = []
    for number, launcher in enumerate(([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"])):
        out = tmp_path / f"{number}.pt"
        command = [sys.executable, *launcher, str(program), str(pack_file), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        results.append(torch.load(out, weights_only=True))
    one, two = results
    assert (one["size"], two["size"]) == (1, 2)
    assert one["count"] == 2 * two["count"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert one["grads"].keys() == two["grads"].keys()
    for name, gradient in one["grads"].items():
        torch.testing.assert_close(two["grads"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_reader_that_goes_away_loses_nothing(pack_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "arcsolve.training", "--pack", str(pack_file), "--preset", "tiny", "--json"]
    command += ["--updates", "1000000", "--every", "1000", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in errors
    assert load_weights(tmp_path / "weights.safetensors").training["updates"] >= 100


def test_from_weights_goes_on_with_their_network_and_the_depth_of_the_preset(pack_file: Path, tmp_path: Path) -> None:
    arguments = ["--pack", str(pack_file), "--preset", "tiny", "--updates", "2", "--out"]
    assert main([*arguments, str(tmp_path / "narrow"), "--width", "16"]) == 0
    narrow = tmp_path / "narrow" / "weights.safetensors"
    assert load_weights(narrow).config.width == 16
    for name, more, width in (("same", [], 16), ("wide", ["--width", "48"], 48)):
        assert main([*arguments, str(tmp_path / name), "--from", str(narrow), *more]) == 0
        config = load_weights(tmp_path / name / "weights.safetensors").config
        assert (config.width, config.heads, config.steps) == (width, width // 8, TINY.network.steps)
    with pytest.raises(ArcsolveError, match="must be a multiple of 8"):
        main([*arguments, str(tmp_path / "odd"), "--width", "33"])
