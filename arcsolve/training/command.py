"""The ``train`` command's options and its run. Plain ``argparse``, so that it also works where only torch is installed:
``python -m arcsolve.training``."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from arcsolve.files import make_folder
from arcsolve.network.device import choose_device
from arcsolve.network.weights import Weights, load_weights
from arcsolve.training import checkpoint
from arcsolve.training.distributed import World, join
from arcsolve.training.gate import GOALS, run_gate
from arcsolve.training.loop import Budget, run
from arcsolve.training.pack import Pack
from arcsolve.training.presets import DEFAULT_UPDATES, PRESETS, TrainConfig
from arcsolve.training.trainer import Trainer

Report = Callable[[dict[str, Any]], None]
SWITCHES: dict[str, dict[str, Any]] = {
    "random_start": {"random_start": True},
    "noise": {"noise": 0.01},
    "halting": {"halting": True},
}


def parser() -> argparse.ArgumentParser:
    """The options of ``arcsolve train``."""
    made = argparse.ArgumentParser(
        prog="arcsolve train",
        description="Train the network on a data pack. The same command goes on where a run was stopped or killed. "
        "Several GPUs: torchrun --nproc-per-node=2 -m arcsolve.training ...",
    )
    made.add_argument("--pack", type=Path, required=True, help="data pack, from `arcsolve data pack`")
    made.add_argument("--out", type=Path, help="run folder: checkpoint, weights, log (default: runs/PRESET)")
    made.add_argument("--preset", choices=sorted(PRESETS), default="cpu", help="settings (default: cpu)")
    made.add_argument("--device", default="auto", help="auto, cpu or cuda[:n] (default: auto)")
    made.add_argument("--seed", type=int, default=0, help="seed of weights and draws")
    made.add_argument("--updates", type=_positive(int), help="stop after so many optimizer updates")
    made.add_argument("--presentations", type=_positive(int), help="stop after so many presentations")
    made.add_argument("--minutes", type=_positive(float), help="stop after so much wall time, resumed time included")
    made.add_argument("--every", type=_positive(float), default=300.0, help="seconds between checkpoints (300)")
    made.add_argument(
        "--from", dest="initial", type=Path, help="weights to go on from, with their network, at the ends of the ramps"
    )
    made.add_argument("--ramp-depth", action="store_true", help="with --from: climb the ramp of depth once more")
    made.add_argument("--rate", type=_positive(float), default=1.0, help="factor on the preset's learning rates (1)")
    made.add_argument("--max-side", type=_positive(int), help="leave out pairs with a longer side")
    made.add_argument(
        "--width",
        type=_positive(int),
        help="channels instead of the preset's or the weights' (more heads of the same width); weights of a narrower "
        "network are widened, which does not change what they compute",
    )
    made.add_argument(
        "--noise-width",
        type=_positive(int),
        help="channels of learned noise at each prefix token (GRAM), such as 32; weights without it go on as they were "
        "until it is learned",
    )
    made.add_argument("--threads", type=_positive(int), help="CPU threads (default: all)")
    made.add_argument(
        "--gate",
        action="store_true",
        help="run the learning gate alone, on the CPU (of the rest, only --seed and --updates count)",
    )
    made.add_argument("--gate-switch", choices=sorted(SWITCHES), help="run the gate with views and this switched on")
    made.add_argument("--json", action="store_true", help="print every line of the log as JSON on standard output")
    return made


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
        return value

    convert.__name__ = kind.__name__  # what argparse names in an error
    return convert


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Raises:
        ArcsolveError: the pack, the device, the folder or the settings are not usable.
    """
    options = parser().parse_args(arguments)
    pack = Pack.load(options.pack)
    if options.gate or options.gate_switch:
        return _gate(pack, options)
    initial = load_weights(options.initial) if options.initial else None
    config = _config(options, initial)
    if options.threads:
        torch.set_num_threads(options.threads)
    world, device = join(choose_device(options.device))
    try:
        return _train(options, config, pack, device, world, initial)
    finally:
        world.close()


def _train(
    options: argparse.Namespace,
    config: TrainConfig,
    pack: Pack,
    device: torch.device,
    world: World,
    initial: Weights | None,
) -> int:
    folder: Path = options.out or Path("runs") / options.preset
    make_folder(folder)
    trainer = Trainer(config, pack, device, initial, world)
    say: Callable[[str], None] = (lambda line: None) if world.rank else _say
    if checkpoint.exists(folder):
        checkpoint.load(trainer, folder, say)
        say(f"{folder}: going on from update {trainer.counters.updates}")
    if config.compile and not trainer.compiled:
        say("no C++ compiler (or Triton) is installed: training goes on uncompiled, at about half the speed")
    if trainer.compiled:
        say("the network is compiled, once for all canvas sizes, which takes about a minute the first time")
    with stop_signal() as stopped, _progress(options.json) as report:
        done = run(
            trainer, _budget(options), folder=folder, every=options.every, report=report, warn=say, stopped=stopped
        )
    if not done:
        say(f"{folder}: stopped at update {trainer.counters.updates}; the same command goes on")
        return 130
    say(f"{folder / checkpoint.WEIGHTS}: {trainer.counters.presentations} presentations")
    return 0


def _config(options: argparse.Namespace, initial: Weights | None) -> TrainConfig:
    config = replace(PRESETS[options.preset].with_rates(options.rate), seed=options.seed)
    if initial is not None:
        # The weights say what network they are; the preset, how deep it is run and how it is trained.
        how = ("inner_steps", "steps", "halting", "random_start", "noise")
        taken = {name: getattr(config.network, name) for name in how}
        taken["turns"] = config.network.turns or initial.config.turns
        config = replace(config, network=replace(initial.config, **taken))
    if options.noise_width:
        # Two kinds of noise would hide each other.
        network = replace(config.network, noise_width=options.noise_width, noise=0.0)
        config = replace(config, network=network)
    if options.max_side:
        config = replace(config, max_side=options.max_side)
    if options.width:
        config = config.with_width(options.width)
    if initial is None:
        return config
    return config.at_full_views() if options.ramp_depth else config.at_full_ramps()


def _budget(options: argparse.Namespace) -> Budget:
    seconds = options.minutes * 60 if options.minutes else None
    if options.updates or options.presentations or seconds:
        return Budget(options.updates, options.presentations, seconds)
    return Budget(updates=DEFAULT_UPDATES[options.preset])


def _gate(pack: Pack, options: argparse.Namespace) -> int:
    runs: list[tuple[str, dict[str, Any]]]
    runs = [("all", SWITCHES[options.gate_switch])] if options.gate_switch else [(views, {}) for views in GOALS]
    passed = True
    for views, switches in runs:
        report: Report = (lambda row: None) if options.json else _print_row
        result = run_gate(pack, views=views, seed=options.seed, updates=options.updates, report=report, **switches)
        print(json.dumps(result), flush=True)
        if not result["passed"]:
            share, goal = result["exact"], result["goal"]
            print(f"gate failed: views {views}: {share:.1%} exact, the goal is {goal:.0%}", file=sys.stderr)
        passed = passed and result["passed"]
    return 0 if passed else 1


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the run after the update in hand; a second Ctrl-C ends it at once."""
    caught: list[int] = []

    def catch(number: int, frame: types.FrameType | None) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['progress']:6.1%}  update {row['update']}  {row['presentations']} presentations"
        f"  {row['nats']:.4f} nats/cell  {row['exact']:.1%} exact  {row['per_second']:.0f}/s"
        f"  views {row['views']}  n={row['inner_steps']} N={row['steps']}{told_of_noise(row)}",
        file=sys.stderr,
        flush=True,
    )


def told_of_noise(row: dict[str, Any]) -> str:
    """What learned noise adds to a line: only the prior's share is what inference will have."""
    shares = {name: row.get(f"exact_{name}") for name in ("posterior", "prior")}
    told = "".join(f"  {name} {share:.1%}" for name, share in shares.items() if share is not None)
    return f"{told}  KL {row['kl']:.1f} nats  beta {row['beta']:.3g}" if "beta" in row else told


@contextmanager
def _progress(as_json: bool) -> Iterator[Report]:
    """How lines of the log are shown: JSON on stdout, a bar where there are rich and a terminal, else plain lines."""
    if as_json:
        yield lambda row: print(json.dumps(row), flush=True)
        return
    if not sys.stderr.isatty():
        yield _print_row
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    except ImportError:
        yield _print_row
        return
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(row: dict[str, Any]) -> None:
            text = f"{row['nats']:.3f} nats/cell  {row['exact']:.1%} exact  {row['per_second']:.0f}/s"
            bar.update(task, completed=row["progress"], description=text + told_of_noise(row))

        yield show
