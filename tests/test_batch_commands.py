"""``batch``, ``submit`` and ``score`` as a user runs them: killed, interrupted, in several processes, on Ray."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_commands import ROOT, arcsolve

from arcsolve.arc.submission import read_submission
from arcsolve.cli.batch import _absolute

PUZZLES = sorted((ROOT / "puzzles").glob("*.json"))
STARTING = 5.0
"""Seconds to start and to end Python in, which a deadline cannot know."""
QUICK = ["--views", "2", "--samples", "1", "--adapt-steps", "2", "--networks", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six puzzles in a folder whose name is not ASCII."""
    folder = tmp_path_factory.mktemp("p") / "Rätsel 謎"
    folder.mkdir()
    for path in PUZZLES[:6]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(some: Path, weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "läuft"
    arcsolve("batch", some, "-o", folder, "--weights", weights_file, *QUICK)
    return folder


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "arcsolve", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def solutions(folder: Path) -> dict[str, object]:
    """What was solved, but for the seconds."""
    found = {}
    for line in (folder / "results.jsonl").read_text().splitlines():
        value = json.loads(line)
        value["solution"].pop("seconds")
        found[value["id"]] = value["solution"]
    return found


def test_killed_at_random_it_ends_with_the_same_submission(
    some: Path, weights_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    command = ["batch", some, "-o", tmp_path / "run", "--weights", weights_file, *QUICK]
    rng, results = random.Random(0), tmp_path / "run" / "results.jsonl"
    for _ in range(3):
        before = len(results.read_bytes()) if results.exists() else 0
        with start(*command) as process:
            while process.poll() is None and (not results.exists() or len(results.read_bytes()) <= before):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
    arcsolve(*command)
    assert (tmp_path / "run" / "submission.json").read_bytes() == (undisturbed / "submission.json").read_bytes()
    lines = results.read_text().splitlines()
    assert len(lines) == 6, "no task was solved twice"


def test_processes_give_what_one_gives_and_a_killed_one_costs_nothing(
    some: Path, weights_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    command = ["batch", some, "-o", tmp_path / "run", "--weights", weights_file, *QUICK, "--workers", "2"]
    with start(*command) as process:
        children: list[int] = []
        while process.poll() is None and len(children) < 2:
            time.sleep(0.05)
            children = workers_of(process.pid)
        os.kill(children[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert solutions(tmp_path / "run") == solutions(undisturbed)


def workers_of(pid: int) -> list[int]:
    """The worker processes of a batch, without the tracker that Python starts beside them."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.exists():
        pytest.skip("needs Linux's /proc")
    children = [int(child) for child in listed.read_text().split()]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_ends_cleanly(some: Path, weights_file: Path, tmp_path: Path, number: int, workers: int) -> None:
    long = [*QUICK, "--adapt-steps", "100000", "--workers", workers]
    with start("batch", some, "-o", tmp_path, "--weights", weights_file, *long) as process:
        while process.poll() is None and not (tmp_path / "summary.json").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        children = workers_of(process.pid)
        process.send_signal(number)
        try:
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # or, where it did not heed the signal, the test would wait for a hundred thousand steps
    assert process.returncode == 130 and out == ""
    assert "Traceback" not in errors and "0 of 6 tasks solved, 6 not reached" in errors
    assert errors.splitlines()[-1] == "arcsolve: interrupted"
    assert len(read_submission(tmp_path / "submission.json")) == 6
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_sigterm_while_workers_start_is_an_interrupt(some: Path, weights_file: Path, tmp_path: Path) -> None:
    for command in (["batch", some, "-o", tmp_path / "run"], ["eval", some, "--limit", "1"]):
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        with start(*command, "--weights", weights_file, *QUICK, env=environment) as process:
            while process.poll() is None and not workers_of(process.pid):
                time.sleep(0.01)
            process.terminate()
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and errors.splitlines()[-1] == "arcsolve: interrupted", errors
    assert not list(tmp_path.glob("tmp*")), "no temporary folder stays"


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.5, 2.0])
def test_an_interrupt_of_the_whole_group_while_workers_start_is_quiet(
    some: Path, weights_file: Path, tmp_path: Path, delay: float
) -> None:
    """As a terminal sends it: to the workers, too, which are still importing."""
    long = [*QUICK, "--adapt-steps", "100000", "--workers", "2"]
    with start("batch", some, "-o", tmp_path, "--weights", weights_file, *long, start_new_session=True) as process:
        while process.poll() is None and not workers_of(process.pid):
            time.sleep(0.01)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.splitlines()[-1] == "arcsolve: interrupted"
    assert "Traceback" not in errors and "File" not in errors, errors


def test_a_task_that_kills_its_process_ends_no_run(some: Path, weights_file: Path, tmp_path: Path) -> None:
    """The default, one worker: killed over one task, twice."""
    long = [*QUICK, "--adapt-steps", "100000", "--time-limit", "2"]
    results, summary = tmp_path / "results.jsonl", tmp_path / "summary.json"
    with start("batch", some, "-o", tmp_path, "--weights", weights_file, *long) as process:
        for solved in (0, 5):  # over the first task, which runs again as the last
            while process.poll() is None and not (summary.exists() and lines_of(results) == solved):
                time.sleep(0.02)
            time.sleep(0.3)
            os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert "5 of 6 tasks solved, 5 of them out of time, 1 failed" in errors
    failed = json.loads(results.read_text().splitlines()[-1])
    assert failed["error"] == "its worker was lost twice; is there enough memory?"


def lines_of(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def test_workers_end_with_a_killed_parent(some: Path, weights_file: Path, tmp_path: Path) -> None:
    long = [*QUICK, "--adapt-steps", "100000", "--workers", "2"]
    with start("batch", some, "-o", tmp_path, "--weights", weights_file, *long) as process:
        while process.poll() is None and len(workers_of(process.pid)) < 2:
            time.sleep(0.05)
        time.sleep(4)  # they have to import torch before they can watch
        children = workers_of(process.pid)
        process.kill()
    until = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_folder_in_use_is_refused(some: Path, weights_file: Path, undisturbed: Path) -> None:
    with (undisturbed / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = arcsolve("batch", some, "-o", undisturbed, "--weights", weights_file, *QUICK, check=False)
    assert done.returncode == 1 and done.stderr.endswith(
        ": in use by another arcsolve; wait for it or choose another folder\n"
    )
    assert arcsolve("batch", some, "-o", undisturbed, "--weights", weights_file, *QUICK).returncode == 0


def test_malformed_tasks_stop_nobody_and_cost_status_3(some: Path, weights_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    shutil.copy(PUZZLES[0], folder)
    (folder / "a.json").write_text("{")
    (folder / "z.json").write_text('{"train": [], "test": [{"input": [[1]]}, {"input": [[2]]}]}')
    command = ["batch", folder, "-o", tmp_path / "run", "--weights", weights_file, *QUICK]
    done = arcsolve(*command, "--json", check=False)
    assert done.returncode == 3 and "1 of 3 tasks solved, 2 failed" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == ["a", "z", PUZZLES[0].stem]
    assert "not JSON" in lines[0]["error"] and "no demonstrations" in lines[1]["error"]
    assert [len(value) for value in read_submission(tmp_path / "run" / "submission.json").values()] == [1, 1, 2]
    submitted = arcsolve("submit", tmp_path / "run", "-o", tmp_path / "s.json", check=False)
    assert submitted.returncode == 3 and "without an answer" in submitted.stderr
    assert (tmp_path / "s.json").read_bytes() == (tmp_path / "run" / "submission.json").read_bytes()


def test_a_task_replaced_during_a_run_is_noticed(some: Path, weights_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    shutil.copytree(some, folder)
    command = ["batch", folder, "-o", tmp_path / "run", "--weights", weights_file, *QUICK]
    with start(*command) as process:
        while process.poll() is None and not (tmp_path / "run" / "results.jsonl").exists():
            time.sleep(0.01)
        replaced = sorted(folder.iterdir())[0]
        shutil.copy(PUZZLES[-1], replaced)
        process.communicate(timeout=120)
    assert process.returncode == 0
    done = arcsolve("submit", tmp_path / "run", "-o", tmp_path / "s.json", check=False)
    assert done.returncode == 3 and f"{replaced.stem}: the task has changed since it was solved" in done.stderr
    again = arcsolve(*command)
    assert "5 of 6 tasks are solved already" in again.stderr
    assert arcsolve("submit", tmp_path / "run", "-o", tmp_path / "s.json").stderr == ""


def test_a_deadline_is_kept_and_leaves_a_whole_submission(weights_file: Path, tmp_path: Path) -> None:
    """The budgets would take hours; the clock decides."""
    command = ["batch", ROOT / "puzzles", "-o", tmp_path, "--weights", weights_file, "--adapt-steps", "1000000"]
    began = time.monotonic()
    done = arcsolve(*command, "--deadline", "20s", check=False)
    assert time.monotonic() - began < 20 + STARTING
    assert done.returncode in (0, 3) and "on a budget cut by the deadline" in done.stderr
    assert len(read_submission(tmp_path / "submission.json")) == 12
    assert json.loads((tmp_path / "summary.json").read_text())["deadline"] == "20s"
    refused = arcsolve(*command, "--deadline", "soon", check=False)
    assert refused.returncode == 1 and "'soon' is no duration" in refused.stderr


@pytest.mark.parametrize("starting", [False, True])
def test_a_hung_worker_is_not_waited_for_beyond_the_deadline(
    starting: bool, weights_file: Path, tmp_path: Path
) -> None:
    command = ["batch", PUZZLES[0], "-o", tmp_path, "--weights", weights_file, "--adapt-steps", "1000000"]
    began, summary = time.monotonic(), tmp_path / "summary.json"
    with start(*command, "--deadline", "15s") as process:
        while process.poll() is None and not (workers_of(process.pid) if starting else summary.exists()):
            time.sleep(0.02)
        for child in workers_of(process.pid):
            os.kill(child, signal.SIGSTOP)
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 15 + STARTING
    assert process.returncode == 3 and "0 of 1 tasks solved, 1 not reached" in errors
    assert ("no worker has started within the deadline" in errors) == starting
    assert len(read_submission(tmp_path / "submission.json")) == 1


def test_both_formats_score_alike(some: Path, undisturbed: Path, tmp_path: Path) -> None:
    for layout, name in (("kaggle", "s.json"), ("arc-agi-benchmarking", "folder")):
        arcsolve("submit", undisturbed, "--format", layout, "-o", tmp_path / name)
    found = [json.loads(arcsolve("score", tmp_path / name, some, "--json").stdout) for name in ("s.json", "folder")]
    assert found[0] == found[1] and len(found[0]["by_task"]) == 6
    text = arcsolve("score", tmp_path / "folder", some, "--per-task", "--against", tmp_path / "s.json").stdout
    assert "mean over test outputs" in text and PUZZLES[0].stem in text and "gained" in text


def test_an_odd_id_costs_no_other_task(weights_file: Path, tmp_path: Path) -> None:
    value = {"a": json.loads(PUZZLES[0].read_text()), "../b\n": {}}
    (tmp_path / "set.json").write_text(json.dumps(value))
    run = tmp_path / "run"
    done = arcsolve("batch", tmp_path / "set.json", "-o", run, "--weights", weights_file, *QUICK, check=False)
    assert done.returncode == 3 and "1 of 2 tasks solved, 1 failed" in done.stderr
    layout = ["--format", "arc-agi-benchmarking", "-o", tmp_path / "out"]
    done = arcsolve("submit", run, *layout, check=False)
    assert done.returncode == 3 and r"'../b\n' cannot be the name of a file: left out" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.json"]
    done = arcsolve("submit", run, "-o", tmp_path / "s.json", check=False)
    assert done.returncode == 3 and set(json.loads((tmp_path / "s.json").read_text())) == set(value)


def test_a_run_says_what_it_solved_or_wants_to_be_told(some: Path, weights_file: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "arcsolve",
        "batch",
        "-",
        "-o",
        tmp_path / "run",
        "--weights",
        weights_file,
        *QUICK,
    ]
    subprocess.run([*map(str, command)], input=PUZZLES[0].read_bytes(), capture_output=True, check=True, timeout=120)
    done = arcsolve("submit", tmp_path / "run", "-o", tmp_path / "s.json", check=False)
    assert done.returncode == 1 and "name them with --tasks" in done.stderr
    none = arcsolve("submit", some, "-o", tmp_path / "s.json", check=False)
    assert none.returncode == 1 and "is this a folder of `arcsolve batch`?" in none.stderr


def test_an_official_set_is_named_in_the_summary(weights_file: Path, tmp_path: Path) -> None:
    source = "arc-agi-1/training:25ff71a9"
    arcsolve("batch", source, "-o", tmp_path, "--weights", weights_file, *QUICK)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["source"], summary["protocol"], summary["solved"]) == (source, "per-task", 1)
    assert [_absolute(name) for name in ("arc-agi-1/training", "-")] == ["arc-agi-1/training", "-"]
    assert _absolute(os.path.relpath(PUZZLES[0]) + ":x") == f"{PUZZLES[0]}:x"
    assert "2 test inputs" in arcsolve("submit", tmp_path, "-o", tmp_path / "s.json").stdout


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head without CPUs and two workers with one each, all on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def test_a_cluster_gives_what_one_machine_gives_and_survives_a_lost_worker(
    cluster: object, some: Path, weights_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    address = cluster.address  # type: ignore[attr-defined]
    command = ["batch", some, "-o", tmp_path / "run", "--weights", weights_file, *QUICK, "--ray", address]
    results = tmp_path / "run" / "results.jsonl"
    with start(*command, "--adapt-steps", "60") as process:
        while process.poll() is None and not results.exists():
            time.sleep(0.05)
        lost = next(iter(cluster.worker_nodes))  # type: ignore[attr-defined]
        cluster.remove_node(lost, allow_graceful=False)  # type: ignore[attr-defined]
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    one = tmp_path / "one"
    arcsolve("batch", some, "-o", one, "--weights", weights_file, *QUICK, "--adapt-steps", "60")
    assert solutions(tmp_path / "run") == solutions(one)
    assert (tmp_path / "run" / "submission.json").read_bytes() == (one / "submission.json").read_bytes()


def test_a_cluster_that_is_not_there_is_named(some: Path, weights_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"):
        command = ["batch", some, "-o", tmp_path, "--weights", weights_file, "--ray", address]
        done = arcsolve(*command, check=False)
        assert done.returncode == 1 and f"--ray {address}: no such cluster" in done.stderr
        assert len(done.stderr.splitlines()) == 1
