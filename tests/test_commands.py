"""The commands in a row, as a user runs them: pack, train, export, solve, eval."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from arcsolve.cli.main import arcsolve as command_line
from arcsolve.inference.batch import Batch
from arcsolve.inference.onnx_backend import OnnxBackend
from arcsolve.inference.pool import Failure, Pool
from arcsolve.inference.settings import Settings
from arcsolve.network.config import NetworkConfig
from arcsolve.network.weights import Weights, load_weights

ROOT = Path(__file__).parents[1]
PUZZLE = str(ROOT / "puzzles" / "mirror-left-right.json")
QUICK = ["--views", "4", "--samples", "1", "--adapt-steps", "2"]


def arcsolve(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arcsolve", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data pack``, ``train --preset tiny`` and ``export`` on official data, from the command line."""
    folder = tmp_path_factory.mktemp("run")
    packed = arcsolve("data", "pack", "-o", folder / "a.pack", "arc-agi-1/training", "--max-side", "5")
    assert "guard:" in packed.stdout and "sha256" in packed.stdout
    trained = arcsolve("train", "--pack", folder / "a.pack", "--preset", "tiny", "--out", folder, "--updates", "20")
    assert "weights.safetensors" in trained.stderr
    exported = arcsolve("export", folder / "weights.safetensors")
    assert "logits differ from torch by at most" in exported.stdout
    return folder / "weights.safetensors"


def test_transductive_weights_are_trained_and_scored_as_such_only(tmp_path: Path) -> None:
    """The whole way from the command line: what was trained on an evaluation set's demonstrations cannot hide it."""
    chosen, pack = "arc-agi-1/evaluation", tmp_path / "a.pack"
    arcsolve("data", "pack", "-o", pack, "arc-agi-1/training", "--max-side", "5", "--transductive", chosen)
    arcsolve("train", "--pack", pack, "--preset", "tiny", "--out", tmp_path, "--updates", "5")
    score = ["eval", chosen, "--weights", tmp_path / "weights.safetensors", "--backend", "torch", "--max-side", "8"]
    quick = ["--limit", "1", "--views", "2", "--adapt-steps", "0", "--json"]
    refused = arcsolve(*score, *quick, check=False)
    assert refused.returncode == 1 and "these weights are transductive; score them with" in refused.stderr
    done = arcsolve(*score, *quick, "--protocol", "transductive")
    assert json.loads(done.stdout)["protocol"] == "transductive"


def test_train_export_and_solve_work_in_a_row(trained: Path) -> None:
    done = arcsolve("solve", PUZZLE, "--weights", trained, *QUICK)
    for part in ("mirror-left-right", "of 3 demonstrations", "attempt 1", "attempt 2", "votes", "step 1"):
        assert part in done.stdout, part
    assert "refine network 2: 2 steps" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_json_has_the_fixed_keys_on_either_backend(trained: Path, tmp_path: Path) -> None:
    answers = []
    for backend in ("onnx", "torch"):
        out = tmp_path / f"{backend}.json"
        done = arcsolve("solve", PUZZLE, "--weights", trained, *QUICK, "--json", "-o", out, "--backend", backend)
        value = json.loads(done.stdout)
        assert json.loads(out.read_text()) == value
        assert list(value) == [
            "task",
            "protocol",
            "weights_sha256",
            "seed",
            "truncated",
            "seen_in_training",
            "demonstrations",
            "recalled",
            "adapt_steps",
            "test",
            "seconds",
        ]
        assert set(value["demonstrations"]) == {"reproduced", "of", "best_steps", "checks"}
        assert set(value["recalled"]) == {"source", "nats", "mean_nats", "nearest"}
        assert set(value["recalled"]["nearest"][0]) == {"task", "nats"}
        assert set(value["test"][0]) == {"attempt_1", "attempt_2", "candidates", "steps", "trajectories"}
        assert set(value["test"][0]["candidates"][0]) == {"grid", "votes", "confidence", "plausible"}
        assert value["weights_sha256"] == load_weights(trained).sha256
        answers.append((value["test"][0]["attempt_1"], value["test"][0]["attempt_2"]))
    assert answers[0] == answers[1], "ONNX Runtime and torch vote alike"


def test_a_task_can_come_from_a_pipe(trained: Path) -> None:
    command = [sys.executable, "-m", "arcsolve", "solve", "-", "--weights", str(trained), *QUICK, "--json"]
    done = subprocess.run(command, input=Path(PUZZLE).read_bytes(), capture_output=True, check=True, timeout=120)
    assert json.loads(done.stdout)["task"] == "stdin"


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["solve", "none.json"], "none.json", 1),
        (["train", "--pack", "none.pack"], "arcsolve: none.pack: No such file or directory\n", 1),
        (["solve", PUZZLE, "--weights", "none.safetensors"], "none.safetensors: No such file", 1),
        (["solve", PUZZLE, "--device", "tpu"], "--device tpu: expected auto, cpu or cuda", 1),
        (["solve", PUZZLE, "--views", "0"], "--views", 2),
        (["solve", PUZZLE, "--noise", "nan"], "nan is no finite number", 2),
        (["batch", PUZZLE, "-o", "x", "--time-limit", "inf"], "inf is no finite number", 2),
        (["eval", "no-such-figure"], "no figure 'no-such-figure'", 1),
        (["train", "--pack", "x", "--updates", "0"], "0 is not a number above 0", 2),
        (["train", "--pack", "x", "--minutes", "nan"], "nan is not a number above 0", 2),
        (["solve", PUZZLE, "-o", "no/such/folder/x.json"], "there is no folder no/such/folder", 1),
        (["data", "pack", "-o", "no/such/x.pack"], "there is no folder no/such", 1),
        (["export", "none.safetensors"], "none.safetensors", 1),
        (["data", "pack", "-o", "x.pack", "no/such/folder.npz"], "no/such/folder.npz", 1),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments: list[str], message: str, status: int) -> None:
    done = arcsolve(*arguments, check=False)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stdout == ""
    assert status == 2 or len(done.stderr.splitlines()) == 1


def test_ctrl_c_while_solving_leaves_no_traceback(trained: Path) -> None:
    command = [sys.executable, "-m", "arcsolve", "solve", PUZZLE, "--weights", str(trained), "--adapt-steps", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "recall" in process.stderr.readline()
        assert "leave out demonstration 1" in process.stderr.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "" and errors.strip() == "arcsolve: interrupted"


def test_an_evaluation_names_all_that_its_score_depends_on_and_resumes(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    results = folder / "results.jsonl"
    command = ["eval", "meta-dev", "--weights", trained, *QUICK, "--no-leave-one-out", "--max-side", "6"]
    first = arcsolve(*command, "--limit", "2", "-o", folder, "--json")
    value = json.loads(first.stdout)
    for key in (
        "protocol",
        "data_sha256",
        "weights_sha256",
        "views",
        "samples",
        "noise",
        "steps",
        "adapt_steps",
        "networks",
        "seed",
    ):
        assert key in value
    assert value["protocol"] == "per-task" and value["tasks"] == 2
    assert set(value["pass_at_2"]) == {"by_output", "by_task", "by_output_95", "by_task_95"}
    assert set(value["seconds_per_task"]) == {"recall", "leave_one_out", "refine", "sample", "total"}
    assert json.loads((folder / "summary.json").read_text()) == value
    assert "| pass@2 |" in (folder / "table.md").read_text()
    assert (folder / "accuracy.svg").read_text().startswith("<?xml")
    lines = results.read_text().splitlines(keepends=True)
    results.write_text(lines[0] + lines[1][:40])  # as a kill leaves it
    second = arcsolve(*command, "--limit", "2", "-o", folder, "--json", "--workers", "2")
    assert second.stderr.count("outputs right") == 1, "the finished task is not solved again"
    again = json.loads(second.stdout)
    for key in value.keys() - {"seconds_per_task", "trajectories_per_second"}:
        assert again[key] == value[key], key
    submission = (folder / "submission.json").read_bytes()
    other = arcsolve(*command, "--limit", "1", "-o", folder, check=False)
    assert other.returncode == 1 and "made from other tasks than meta-dev, sides <= 6" in other.stderr
    assert (folder / "submission.json").read_bytes() == submission, "a refusal writes nothing"
    other = arcsolve(*command, "--limit", "2", "-o", folder, "--adapt-steps", "3", check=False)
    assert other.returncode == 1 and "made with other weights, settings, backend or protocol" in other.stderr


def test_an_evaluation_with_a_failed_task_has_no_score(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.json").write_text(Path(PUZZLE).read_text())

    def fail(run: Batch, pool: Pool, settings: Settings, *, finished: Callable[..., None]) -> None:
        (task,) = run.todo
        finished(task, run.record(task, Failure("RuntimeError: no", ""), False), 1.0)

    monkeypatch.setattr("arcsolve.inference.batch.solve_all", fail)
    command = ["eval", str(tmp_path / "one.json"), "--weights", str(trained), *QUICK]
    done = CliRunner().invoke(command_line, [*command, "-o", str(tmp_path / "run")])
    assert "0/1  one  failed: RuntimeError: no" in done.stderr and not done.stdout
    assert str(done.exception) == "1 tasks failed, so there is no score; one: RuntimeError: no"
    done = CliRunner().invoke(command_line, command)
    assert str(done.exception) == "one: RuntimeError: no; with -o the others would be solved all the same"


def test_an_evaluation_solves_a_task_with_damaged_lines_anew(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(Path(PUZZLE).read_text())
    command = ["eval", str(tmp_path / "one.json"), "--weights", str(trained), *QUICK, "-o", str(tmp_path / "run")]
    options = ["--no-leave-one-out", "--json", "--threads", "1"]
    first = arcsolve(*command, *options)
    path = tmp_path / "run" / "results.jsonl"
    line = json.loads(path.read_text())
    text = ""
    for name, value in {"candidates": [], "seconds": {"total": 1.0}, "recalled": None, "test": []}.items():
        odd = json.loads(json.dumps(line))
        if name == "candidates":
            odd["solution"]["test"][0][name] = value
        else:
            odd["solution"][name] = value
        text += json.dumps(odd) + "\n"
    path.write_text(text)
    again = arcsolve(*command, *options)
    assert again.stderr.count("outputs right") == 1
    assert json.loads(again.stdout)["pass_at_2"] == json.loads(first.stdout)["pass_at_2"]


def test_a_joint_evaluation_adapts_once_and_goes_on_where_it_stopped(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["eval", "meta-dev", "--weights", trained, "--views", "2", "--max-side", "6", "--limit", "2"]
    command += ["--joint", "--joint-presentations", "8", "-o", folder, "--json"]
    value = json.loads(arcsolve(*command).stdout)
    assert (value["protocol"], value["joint_presentations"], value["adapt_steps"]) == ("joint", 8, 0)
    assert value["weights_sha256"] == load_weights(trained).sha256
    results = folder / "results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    assert {json.loads(line)["solution"]["recalled"]["source"] for line in lines} == {
        json.loads(line)["id"] for line in lines
    }, "every task starts from its own row"
    results.write_text(lines[0])
    again = arcsolve(*command)
    assert again.stderr.count("outputs right") == 1
    assert json.loads(again.stdout)["pass_at_2"] == value["pass_at_2"]
    other = arcsolve(*command, "--per-task", check=False)
    assert other.returncode == 1 and "made with other weights, settings, backend or protocol" in other.stderr


def test_a_folder_of_tasks_is_a_figure_too(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(Path(PUZZLE).read_text())
    done = arcsolve("eval", tmp_path, "--weights", trained, *QUICK, "--no-leave-one-out")
    assert "1 tasks, 1 test outputs" in done.stdout and "pass@2" in done.stdout and "protocol: per-task" in done.stdout
    hidden = json.loads(Path(PUZZLE).read_text())
    del hidden["test"][0]["output"]
    (tmp_path / "one.json").write_text(json.dumps(hidden))
    done = arcsolve("eval", tmp_path, "--weights", trained, *QUICK, check=False)
    assert done.returncode == 1 and "one: the test output is hidden" in done.stderr


def test_development_solves_trained_tasks_from_their_own_rows(trained: Path) -> None:
    done = arcsolve("eval", "development", "--weights", trained, "--views", "2", "--limit", "3", "--json")
    value = json.loads(done.stdout)
    assert value["protocol"] == "development" and value["adapt_steps"] == 0 and value["tasks"] == 3


def test_weights_that_have_seen_a_task_may_not_be_scored_on_it(trained: Path, tmp_path: Path) -> None:
    """Weights that claim an evaluation task's demonstration among what they saw are refused as per-task weights."""
    from arcsolve.arc.dataset import load_tasks
    from arcsolve.network.weights import save_weights
    from arcsolve.training.guard import fingerprints

    weights = load_weights(trained)
    seen = fingerprints(load_tasks("arc-agi-1/evaluation").tasks[0].train)
    path = tmp_path / "weights.safetensors"
    save_weights(
        path,
        weights.config,
        weights.tasks,
        weights.network,
        np.asarray(weights.bank),
        frozenset(seen),
        weights.training,
    )
    done = arcsolve("eval", "arc-agi-1/evaluation", "--weights", path, "--backend", "torch", check=False)
    assert done.returncode == 1 and "these weights were trained on" in done.stderr


def test_the_shipped_weights_are_what_the_manifest_says() -> None:
    from arcsolve.network.weights import shipped_weights

    manifest = json.loads((ROOT / "weights" / "manifest.json").read_text())
    weights = load_weights(shipped_weights())
    assert manifest["sha256"] == weights.sha256
    assert NetworkConfig.from_json(manifest["network"], "manifest") == weights.config
    assert manifest["presentations"] >= weights.training["presentations"] > 0
    assert [line["sha256"] for line in manifest["ledger"] if line.get("shipped", True)][-1] == weights.sha256
    for name in ("meta_dev", "development"):
        assert 0 <= manifest["scores"][name]["pass_at_2"] <= 1


def test_the_shipped_weights_solve_a_puzzle_on_onnx_runtime() -> None:
    """What a new user does first; the answer itself is the network's own affair, and is reported, not asserted."""
    done = arcsolve("solve", PUZZLE, "--views", "2", "--adapt-steps", "1", "--no-leave-one-out", "--json")
    value = json.loads(done.stdout)
    assert not value["seen_in_training"]
    assert np.array(value["test"][0]["attempt_1"]).ndim == 2


def test_a_solve_takes_the_threads_that_it_is_given(weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, int] = {}
    start = OnnxBackend.__init__

    def spy(self: OnnxBackend, weights: Weights, device: str = "auto", threads: int = 0) -> None:
        taken["onnx"] = threads
        start(self, weights, device, threads)

    monkeypatch.setattr(OnnxBackend, "__init__", spy)
    monkeypatch.setattr("torch.set_num_threads", lambda count: taken.update(torch=count))
    command = ["solve", PUZZLE, "--weights", str(weights_file), *QUICK, "--leave-one-out", "0", "--threads", "1"]
    done = CliRunner().invoke(command_line, command)
    assert done.exit_code == 0, done.output
    assert taken == {"torch": 1, "onnx": 1}


@pytest.mark.parametrize("width", [50, 120])
def test_trajectories_are_drawn_on_request(weights_file: Path, width: int) -> None:
    command = ["solve", PUZZLE, "--weights", str(weights_file), "--views", "4", "--samples", "2", "--noise", "0.5"]
    command += ["--adapt-steps", "2", "--networks", "1", "--leave-one-out", "0", "--steps", "3"]

    def output(*options: str) -> str:
        done = CliRunner().invoke(command_line, [*command, *options], env={"COLUMNS": str(width)})
        assert done.exit_code == 0, done.stderr
        return done.stdout

    plain, drawn = (output(*options).splitlines() for options in ((), ("--show-trajectories",)))
    start = drawn.index("trajectories, test 1: 8 over 3 steps")
    seconds = plain.index("")  # they end the headline
    assert drawn[seconds : start - 1] == plain[seconds:], "all else stays as it is"
    assert drawn[start + 1].split() == ["rank", "step", "1", "step", "2", "step", "3"]
    assert drawn[start + 2].startswith("1 attempt 1  ")
    assert max(map(len, drawn)) <= width
    values = [json.loads(output("--json", *options)) for options in ((), ("--show-trajectories",))]
    assert values[0]["test"] == values[1]["test"]
    assert [step["step"] for step in values[0]["test"][0]["trajectories"]] == [1, 2, 3]
