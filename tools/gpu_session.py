"""Half an hour of one lent GPU, planned: what to send there, what each call does, what comes back.

Here, once:

    python tools/gpu_session.py prepare carry/ --pack all.pack --weights weights/arcsolve.safetensors

There, from the root of a copy of this repository, until it says that the plan is done (each call stops by itself, and
exact state stays in ``runs/gpu`` between calls; torch, numpy and safetensors are enough):

    python3 tools/gpu_session.py call carry/ --left 1700 --seconds 560 --results $OUT

The first call spends 90 s on correctness and throughput and 45 s on each of three learning rates; then the main run
goes on, its decay keyed to the time that is ``--left``; the last minute scores development on the GPU itself.
``--preset tiny --device cpu`` rehearses all of it in two minutes. Here again, to put the weights together:

    python tools/gpu_session.py join RESULTS/ runs/gpu/weights.safetensors
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MIB = 2**20
MOST_SENT, MOST_FILE, MOST_FILES = 60 * MIB, 15 * MIB, 8
PACK, WEIGHTS, TASKS = "train.pack", "start.safetensors", "development"
RATES = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Plan:
    """Seconds of each part; a rehearsal takes a twentieth of all."""

    check: float = 90.0
    trial: float = 45.0
    score: float = 60.0
    reserve: float = 75.0  # for bringing results back, and for starting
    restart: float = 40.0  # what a later call loses before it trains: imports, compiled code read back

    def main_left(self, left: float, call: float) -> float:
        """Seconds that the main run still gets, in this call and in those that follow."""
        rest = left - self.score - self.reserve
        later = max(0, -(-rest // call) - 1)
        return float(max(0.0, rest - later * self.restart))


def sent_bytes(carry: Path) -> int:
    """Bytes that travel: the tracked files of the tree and the carried folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    tracked = [ROOT / name for name in listed.decode().split("\0") if name]
    carried = [path for path in carry.rglob("*") if path.is_file()] if carry.is_dir() else []
    return sum(path.stat().st_size for path in (*tracked, *carried) if path.exists())


def check_sent(total: int) -> None:
    """Stop where more would travel than the machine takes."""
    if total > MOST_SENT:
        raise SystemExit(f"tree and carried files are {total / MIB:.1f} MiB; at most {MOST_SENT // MIB} travel")


def shards(source: Path, folder: Path) -> list[Path]:
    """Cut a file into parts that may come back: ``NAME.part0``, ``NAME.part1``, ..."""
    data = source.read_bytes()
    parts = [data[start : start + MOST_FILE] for start in range(0, len(data), MOST_FILE)]
    if len(parts) > MOST_FILES - 2:
        raise SystemExit(f"{source}: {len(parts)} parts of {MOST_FILE // MIB} MiB; at most {MOST_FILES - 2} come back")
    made = []
    for number, part in enumerate(parts):
        made.append(folder / f"{source.name}.part{number}")
        made[-1].write_bytes(part)
    return made


def join(folder: Path, target: Path) -> None:
    """Put the parts of the weights together again, and read them to see that they are whole."""
    from arcsolve.network.weights import load_weights

    parts = sorted(folder.glob("*.part*"), key=lambda path: int(path.suffix.removeprefix(".part")))
    if not parts:
        raise SystemExit(f"{folder}: no parts of weights in this folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    print(f"{target}: sha256 {load_weights(target).sha256}")


def prepare(carry: Path, pack: Path, weights: Path | None) -> None:
    """Gather what the GPU machine needs and cannot get there: pack, weights to start from, tasks to score."""
    from arcsolve.arc.dataset import load_tasks
    from arcsolve.training.pack import Pack

    (carry / TASKS).mkdir(parents=True, exist_ok=True)
    known = set(Pack.load(pack).ids)
    for name in ("arc-agi-2/training", "arc-agi-1/training"):
        for task in load_tasks(name):
            if task.id in known:
                pairs = {
                    part: [{"input": p.input.tolist(), "output": p.output.tolist()} for p in getattr(task, part)]
                    for part in ("train", "test")
                }
                (carry / TASKS / f"{task.id}.json").write_text(json.dumps(pairs))
    (carry / PACK).write_bytes(pack.read_bytes())
    if weights is not None:
        (carry / WEIGHTS).write_bytes(weights.read_bytes())
    total = sent_bytes(carry)
    check_sent(total)
    print(f"{carry}: {total / MIB:.1f} MiB travel with the tree")


class Session:
    """One call on the GPU machine: goes on with the plan where the last call stopped."""

    def __init__(self, options: argparse.Namespace) -> None:
        from arcsolve.network.device import choose_device
        from arcsolve.training.pack import Pack
        from arcsolve.training.presets import PRESETS

        self.began = time.monotonic()
        self.options = options
        scale = 0.05 if options.preset == "tiny" else 1.0
        self.plan = Plan(*(scale * seconds for seconds in astuple(Plan())))
        self.device, config = choose_device(options.device), PRESETS[options.preset]
        self.pack = Pack.load(options.carry / PACK)
        self.initial, self.config = self._start(options.carry / WEIGHTS, config)
        self.folder, self.results = options.run, options.results
        for made in (self.folder, self.results):
            made.mkdir(parents=True, exist_ok=True)
        self.notes = self.folder / "plan.json"
        self.facts: dict[str, Any] = json.loads(self.notes.read_text()) if self.notes.exists() else {}

    @staticmethod
    def _start(path: Path, config: Any) -> tuple[Any, Any]:
        """The weights to start from, where they fit, and the settings for it."""
        from arcsolve.network.weights import load_weights

        if not path.exists():
            return None, config
        loaded = load_weights(path)
        wide, narrow = config.network, loaded.config
        if wide.width % narrow.width or wide.latents != narrow.latents:
            return None, config
        config = replace(config, network=replace(wide, noise_width=narrow.noise_width))
        return loaded, config.at_full_views()

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:5.0f} s] {line}", flush=True)

    def trainer(self, rate: float, **changes: Any) -> Any:
        import torch

        from arcsolve.training.trainer import Trainer

        torch._dynamo.reset()
        return Trainer(replace(self.config.with_rates(rate), **changes), self.pack, self.device, self.initial)

    def call(self) -> None:
        """Everything that this call has time for."""
        from arcsolve.training import checkpoint
        from arcsolve.training.bench import bench_train
        from arcsolve.training.loop import Budget, run

        if "bench" not in self.facts:
            self.facts["disagreement"] = self.disagreement()
            seconds = self.plan.check / 3
            self.facts["bench"] = bench_train(
                self.options.preset, self.config, self.pack, self.device, seconds=seconds, report=self.say
            )
            self.say(json.dumps(self.facts["bench"]))
        if "rate" not in self.facts:
            self.facts["trials"] = {str(rate): self.trial(rate) for rate in RATES}
            self.facts["rate"] = float(min(self.facts["trials"], key=self.facts["trials"].get))
        self.notes.write_text(json.dumps(self.facts))
        trainer = self.trainer(self.facts["rate"])
        if checkpoint.exists(self.folder):
            checkpoint.load(trainer, self.folder, self.say)
            self.say(f"going on from update {trainer.counters.updates}")
        spent = time.monotonic() - self.began
        left, here = self.options.left - spent, self.options.seconds - spent
        # The score is the last call's; earlier calls train to their end.
        final = left - self.plan.score - self.plan.reserve <= here
        here -= self.plan.reserve / 3 + (self.plan.score if final else 0.0)
        budget = Budget(seconds=trainer.counters.seconds + self.plan.main_left(left, self.options.seconds))
        report = lambda row: self.say(json.dumps(row))  # noqa: E731
        done = run(trainer, budget, folder=self.folder, every=120.0, report=report, warn=self.say, stopped=_clock(here))
        weights = self.folder / checkpoint.WEIGHTS
        # Before anything else can go wrong: what was trained is what must come back.
        shards(weights, self.results)
        log = self.folder / checkpoint.LOG
        if log.exists():
            (self.results / log.name).write_bytes(log.read_bytes())
        if final or done:
            self.facts["development"] = score(weights, self.options.carry / TASKS, self.device, self.plan.score)
            self.say(json.dumps(self.facts["development"]))
        (self.results / "plan.json").write_text(json.dumps(self.facts, indent=1))
        self.say("the plan is done" if final or done else "the plan goes on: make the next call at once")

    def disagreement(self) -> float:
        """Largest relative difference of a loss between this device, as it trains, and a CPU in float32."""
        import torch

        from arcsolve.training.objective import normal_from, objective
        from arcsolve.training.pairs import Batch

        trainer = self.trainer(1.0)
        # Learned noise is left out: the two devices would not draw the same.
        batch = trainer.draw(0.5)._replace(commit=None)
        inner, steps = trainer.depth
        normal = normal_from(torch.Generator(), torch.device("cpu"))
        for losses in trainer.learn(batch):
            fast = losses.nats.float().cpu()
        home = Batch(*(None if tensor is None else tensor.cpu() for tensor in batch))
        network, rows = trainer.network.cpu(), trainer.bank.rows.detach().cpu()
        with torch.no_grad():
            how = {"steps": steps, "inner_steps": inner, "normal": normal, "still": True}
            exact = objective(network, rows[home.task], home, **how).nats
        difference = float(((fast - exact).abs() / exact).max())
        if not difference < 0.05:
            raise SystemExit(f"the loss differs by {difference:.1%} from a CPU's in float32; nothing was trained")
        self.say(f"largest relative difference of a loss to a CPU's in float32: {difference:.2%}")
        return difference

    def trial(self, rate: float) -> float:
        """Nats at the end of a short run: constant rates, since the question is which learns fastest."""
        from arcsolve.training.loop import Budget, run

        rows: list[dict[str, Any]] = []
        trainer = self.trainer(rate, decay=0.0)
        run(trainer, Budget(seconds=1e9), log_updates=20, report=rows.append, stopped=_clock(self.plan.trial))
        last = [row["nats"] for row in rows[-max(1, len(rows) // 4) :]]
        nats = sum(last) / len(last) if last else float("inf")
        self.say(f"rate x{rate:g}: {nats:.4f} nats after {trainer.counters.presentations} presentations")
        return nats


def _clock(seconds: float) -> Any:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def score(weights: Path, tasks: Path, device: Any, seconds: float) -> dict[str, Any]:
    """Development on as many of the tasks as the time allows, spread evenly over them: one task in each round."""
    from arcsolve.arc.dataset import load_tasks
    from arcsolve.inference.adaptation import AdaptSettings
    from arcsolve.inference.evaluation import Outcome
    from arcsolve.inference.settings import Settings
    from arcsolve.inference.solver import Solver

    solver = Solver.from_weights(weights, backend="torch", device=str(device))
    known = [task for task in load_tasks(str(tasks)) if solver.trained_row(task) is not None]
    settings = Settings(views=16, leave_one_out=0, adapt=AdaptSettings(steps=0))
    out_of_time, right, outputs = _clock(0.9 * seconds), 0, 0
    for number in range(len(known)):
        # A step coprime to the count visits every task once, and any first part of the way is spread evenly.
        task = known[number * 97 % len(known)] if len(known) % 97 else known[number]
        found = Outcome.of(task, solver.solve(task.blind, settings)).right
        right, outputs = right + sum(found), outputs + len(found)
        if out_of_time():
            break
    return {
        "figure": "development",
        "weights_sha256": solver.weights.sha256,
        "views": 16,
        "tasks": number + 1,
        "of_tasks": len(known),
        "test_outputs": outputs,
        "pass_at_2_by_output": right / outputs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    here = commands.add_parser("prepare", help="here: gather what travels")
    here.add_argument("carry", type=Path)
    here.add_argument("--pack", type=Path, required=True)
    here.add_argument("--weights", type=Path)
    here.set_defaults(act=lambda options: prepare(options.carry, options.pack, options.weights))
    there = commands.add_parser("call", help="there: go on with the plan")
    there.add_argument("carry", type=Path)
    there.add_argument("--left", type=float, required=True, help="seconds of the machine that are left in all")
    there.add_argument("--seconds", type=float, default=560.0, help="seconds that this call may take (560)")
    there.add_argument("--results", type=Path, required=True, help="folder whose files come back")
    there.add_argument("--preset", default="gpu")
    there.add_argument("--device", default="auto")
    there.add_argument("--run", type=Path, default=Path("runs/gpu"), help="run folder on that machine")
    there.set_defaults(act=lambda options: Session(options).call())
    back = commands.add_parser("join", help="here: put the weights together")
    back.add_argument("results", type=Path)
    back.add_argument("target", type=Path)
    back.set_defaults(act=lambda options: join(options.results, options.target))
    options = parser.parse_args()
    options.act(options)


if __name__ == "__main__":
    main()
