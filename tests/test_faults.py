"""Damaged, lying and hostile files, and disks that are full or read-only: one line, quickly, in bounded memory."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import save_file

from arcsolve.arc import dataset
from arcsolve.arc.dataset import Unreadable, load_tasks
from arcsolve.arc.submission import read_submission, write_submission
from arcsolve.cli.main import arcsolve
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.files import make_folder
from arcsolve.inference import health
from arcsolve.inference.health import Check, check_all
from arcsolve.inference.onnx_backend import OnnxBackend
from arcsolve.network.weights import load_weights, shipped_weights

MEMORY = 1_500 * 2**20
"""Address space that reading any file must fit into, numpy and the interpreter included."""


def copied(weights_file: Path, folder: Path) -> Path:
    for suffix in (".safetensors", ".onnx"):
        (folder / f"weights{suffix}").write_bytes(weights_file.with_suffix(suffix).read_bytes())
    return folder / "weights.safetensors"


def flip_a_tensor(data: bytearray) -> None:
    data[-40] ^= 1


def lie_about_the_header(data: bytearray) -> None:
    data[:8] = struct.pack("<Q", 2**60)


def header_beyond_the_file(data: bytearray) -> None:
    data[:8] = struct.pack("<Q", len(data) * 2)


def tensors_beyond_the_file(data: bytearray) -> None:
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].replace(b'"data_offsets":[0,', b'"data_offsets":[9,')
    data[8 : 8 + length] = header


def cut_short(data: bytearray) -> None:
    del data[len(data) // 2 :]


@pytest.mark.parametrize("damage", [lie_about_the_header, header_beyond_the_file, tensors_beyond_the_file, cut_short])
def test_damaged_weights_are_refused_by_name(
    damage: Callable[[bytearray], None], weights_file: Path, tmp_path: Path
) -> None:
    path = copied(weights_file, tmp_path)
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"weights\.safetensors: not a weights file, or cut short"):
        load_weights(path)


def test_tampered_weights_are_refused_by_their_graph_and_by_their_manifest(weights_file: Path, tmp_path: Path) -> None:
    path = copied(weights_file, tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"file": path.name, "sha256": load_weights(path).sha256}))
    load_weights(path)
    data = bytearray(path.read_bytes())
    flip_a_tensor(data)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"weights\.safetensors: sha256 .* of manifest\.json: damaged or replaced"):
        load_weights(path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(FormatError, match=r"manifest\.json: not a manifest"):
        load_weights(path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(FormatError, match=r"weights\.onnx: belongs to other weights"):
        OnnxBackend(load_weights(path), "cpu")


def test_huge_weights_are_refused_unread(weights_file: Path, tmp_path: Path) -> None:
    path = copied(weights_file, tmp_path)
    with path.open("r+b") as file:
        file.truncate(2**34)  # sparse: it takes no room
    began = time.monotonic()
    with pytest.raises(FormatError, match="larger than 1024 MiB"):
        load_weights(path)
    assert time.monotonic() - began < 1


def with_meta(path: Path, change: Callable[[Any], Any]) -> None:
    """Write the file's metadata anew, its tensors as they were."""
    with safe_open(path, "numpy") as file:
        meta = json.loads(file.metadata()["arcsolve"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    meta = change(meta)
    save_file(tensors, path, {"arcsolve": meta if isinstance(meta, str) else json.dumps(meta)})


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: [],
        lambda meta: "[" * 100_000,
        lambda meta: {**meta, "training": []},
        lambda meta: {**meta, "tasks": None},
        lambda meta: {**meta, "config": []},
        lambda meta: {**meta, "config": {**meta["config"], "width": "64"}},
        lambda meta: {**meta, "config": {**meta["config"], "noise": "x"}},
        lambda meta: {**meta, "config": {**meta["config"], "halting": 2}},
        lambda meta: {key: value for key, value in meta.items() if key != "training"},
    ],
)
def test_odd_metadata_is_refused_by_name(change: Callable[[Any], Any], weights_file: Path, tmp_path: Path) -> None:
    path = copied(weights_file, tmp_path)
    with_meta(path, change)
    with pytest.raises(FormatError, match=r"weights\.safetensors: "):
        load_weights(path)


@pytest.mark.parametrize("kind", ["F8_E4M3", "BF16", "F64", "I64"])
def test_tensors_of_another_kind_are_refused(kind: str, weights_file: Path, tmp_path: Path) -> None:
    path = copied(weights_file, tmp_path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name.startswith("network."))
    size = {"F8_E4M3": 1, "BF16": 2, "F64": 8, "I64": 8}[kind]
    low, high = header[name]["data_offsets"]
    header[name] = {"dtype": kind, "shape": [(high - low) // size], "data_offsets": [low, high]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(FormatError, match=r"weights\.safetensors: "):
        load_weights(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "\xff"])
def test_an_odd_manifest_is_refused_by_name(text: str, weights_file: Path, tmp_path: Path) -> None:
    path = copied(weights_file, tmp_path)
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(FormatError, match=r"manifest\.json: "):
        load_weights(path)


def test_the_shipped_weights_stand_beside_their_manifest() -> None:
    assert shipped_weights().with_name("manifest.json").exists()


@pytest.mark.parametrize("location", ["/etc/hostname", "../../secret.bin", "other.safetensors"])
def test_a_graph_that_reads_other_files_is_refused_before_they_are_opened(
    location: str, weights_file: Path, tmp_path: Path
) -> None:
    path = copied(weights_file, tmp_path)
    graph = tmp_path / "weights.onnx"
    model = onnx.load(graph, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = location
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=r"weights\.onnx: reads .* instead of weights\.safetensors"):
        OnnxBackend(load_weights(path), "cpu")
    # The same, hidden in a node's attribute.
    model = onnx.load(weights_file.with_suffix(".onnx"), load_external_data=False)
    constant = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
    model.graph.node.insert(0, constant)
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=r"weights\.onnx: reads"):
        OnnxBackend(load_weights(path), "cpu")
    # And in a function's.
    model = onnx.load(weights_file.with_suffix(".onnx"), load_external_data=False)
    opsets = [onnx.helper.make_opsetid("", 18)]
    model.functions.append(onnx.helper.make_function("local", "F", [], ["c"], [constant], opsets))
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=r"weights\.onnx: reads"):
        OnnxBackend(load_weights(path), "cpu")


def test_a_graph_with_its_own_weights_is_refused(weights_file: Path, tmp_path: Path) -> None:
    path = copied(weights_file, tmp_path)
    with (tmp_path / "weights.onnx").open("r+b") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(FormatError, match=r"weights\.onnx: larger than 16 MiB"):
        OnnxBackend(load_weights(path), "cpu")


BOMBS = {
    "deep": '{"train": ' + "[" * 5_000_000,
    "objects": '{"a":' * 3_000_000,
    "digits": '{"train": [{"input": [[' + "9" * 1_000_000 + "]]}]}",
    "float": '{"train": [{"input": [[1e999999]], "output": [[1]]}], "test": [{"input": [[1]]}]}',
    "rows": '{"train": [{"input": [' + "[0]," * 1_000_000 + "[0]]}]}",
    "cells": '{"train": [{"input": [[' + "0," * 20_000_000 + "0]]}]}",
    "lists": '{"train": [' + "[]," * 20_000_000 + "[]]}",
    "strings": '{"train": [' + '"ab",' * 12_000_000 + '"ab"]}',
    "pairs": '{"train": [' + '{"input": [[1]], "output": [[1]]},' * 700_000 + '{}], "test": []}',
    "keys": "{" + ",".join(f'"{number}":[]' for number in range(3_000_000)) + "}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_json_bombs_are_refused_quickly_in_bounded_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.json"
    path.write_text(BOMBS[name])
    program = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
    program += "import sys; sys.argv = ['arcsolve', 'show', 'bomb.json']\nfrom arcsolve.cli.main import main; main()"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False
    )
    assert done.returncode == 1, done.stderr[-500:]
    assert done.stderr.startswith("arcsolve: bomb.json: ") and len(done.stderr.splitlines()) == 1
    assert time.monotonic() - began < 30


def test_the_limit_of_values_leaves_room_for_ten_thousand_tasks() -> None:
    tasks = load_tasks("arc-agi-2/training")
    rows = sum(len(g) + 1 for t in tasks for p in t.train + t.test for g in (p.input, p.output) if g is not None)
    assert rows / len(tasks) * 10_000 < dataset.MAX_VALUES


def test_malformed_tasks_of_a_set_can_be_left_out(tmp_path: Path) -> None:
    good = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}
    bad = {"train": [], "test": [{}, {}, 3]}
    for name, value in (("set.json", {"b": good, "a": bad, "c": 3}), ("folder/b.json", good), ("folder/a.json", bad)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    found: list[Unreadable] = []
    assert [task.id for task in load_tasks(str(tmp_path / "set.json"), found)] == ["b"]
    assert [(one.id, one.test_inputs) for one in found] == [("a", 2), ("c", 1)]
    assert found[0].error.endswith("set.json: a.train: no demonstrations")
    found.clear()
    assert [task.id for task in load_tasks(str(tmp_path / "folder"), found)] == ["b"]
    assert [(one.id, one.test_inputs) for one in found] == [("a", 2)]
    (tmp_path / "folder" / "b.json").unlink()
    with pytest.raises(FormatError, match="no demonstrations"):
        load_tasks(str(tmp_path / "folder"), [])


def test_a_malformed_task_is_not_believed_to_have_a_million_tests(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"train": [], "test": [' + "{}," * 1_000_000 + "{}]}")
    (tmp_path / "b.json").write_text('{"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}')
    found: list[Unreadable] = []
    load_tasks(str(tmp_path), found)
    assert [(one.id, one.test_inputs) for one in found] == [("a", dataset.MAX_STAND_INS)]


def test_one_odd_id_costs_no_other_task(tmp_path: Path) -> None:
    good = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"a": good, "b\n\ud800": good, "": good, "c": {}}))
    found: list[Unreadable] = []
    assert [task.id for task in load_tasks(str(path), found)] == ["a"] and len(found) == 3
    assert [task.id for task in load_tasks(f"{path}:a")] == ["a"], "the others are not asked for"
    with pytest.raises(FormatError, match="c: missing key"):
        load_tasks(f"{path}:c")
    with pytest.raises(ArcsolveError, match="no task d among its 1"):
        load_tasks(f"{path}:d")


def test_a_damaged_solutions_file_costs_a_batch_nothing(tmp_path: Path) -> None:
    good = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}
    path = tmp_path / "x_challenges.json"
    path.write_text(json.dumps({"a": good}))
    (tmp_path / "x_solutions.json").write_text('{"a": [[[')
    with pytest.raises(FormatError, match=r"x_solutions\.json"):
        load_tasks(str(path))
    assert len(load_tasks(str(path), [])) == 1


def test_a_named_pipe_among_tasks_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}')
    with pytest.raises(ArcsolveError, match=r"a\.json: not a file"):
        load_tasks(str(tmp_path))
    found: list[Unreadable] = []
    assert len(load_tasks(str(tmp_path), found)) == 1 == len(found)


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to write anywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


QUICK = ["--views", "1", "--adapt-steps", "0", "--backend", "torch"]


def batch(weights_file: Path, output: Path) -> tuple[int, BaseException | None]:
    puzzle = str(Path(__file__).parents[1] / "puzzles" / "mirror-left-right.json")
    done = CliRunner().invoke(arcsolve, ["batch", puzzle, "-o", str(output), "--weights", str(weights_file), *QUICK])
    return done.exit_code, done.exception


def test_a_read_only_output_folder_is_said_before_any_work(weights_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o555)
    (tmp_path / "file").write_text("")
    # Nobody else may enter pytest's folders, but a path relative to where one is needs no leave.
    before = Path.cwd()
    os.chdir(tmp_path)
    tmp_path.chmod(0o755)
    try:
        with nobody(), pytest.raises(ArcsolveError, match="the folder run is not writable"):
            make_folder(Path("run"))
        with nobody(), pytest.raises(ArcsolveError, match="run/below: Permission denied"):
            make_folder(Path("run/below"))
    finally:
        os.chdir(before)
    status, error = batch(weights_file, tmp_path / "file" / "run")
    assert status == 1 and isinstance(error, ArcsolveError) and "Not a directory" in str(error)


def test_a_full_disk_is_named_and_the_submission_stands(weights_file: Path, tmp_path: Path) -> None:
    """Stood in for by a limit on files, which a result's line passes and the rest does not."""
    puzzle = Path(__file__).parents[1] / "puzzles" / "mirror-left-right.json"
    command = ["batch", str(puzzle), "-o", str(tmp_path), "--weights", str(weights_file), "--views", "8", *QUICK[2:]]
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
    program += f"import sys; sys.argv = ['arcsolve', *{command!r}]\nfrom arcsolve.cli.main import main; main()"
    for _ in range(2):  # what the first one leaves of a line must not disturb the second
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "results.jsonl: cannot be written (File too large); the lines before stand" in done.stderr
        assert json.loads((tmp_path / "submission.json").read_text()).keys() == {"mirror-left-right"}
    assert batch(weights_file, tmp_path) == (0, None)


def test_a_file_that_may_not_grow_keeps_the_submission_before(tmp_path: Path) -> None:
    """A quota, say: the rename never happens, and the old file is whole."""
    cell, large = np.zeros((1, 1), dtype=np.uint8), np.zeros((30, 30), dtype=np.uint8)
    write_submission(tmp_path / "s.json", {"a": [(cell, cell)]})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    errors: list[str] = []
    try:
        # Not a line of output in between: pytest's own files may not grow either.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        write_submission(tmp_path / "s.json", {"a": [(large, large)]})
    except ArcsolveError as error:
        errors.append(str(error))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert errors == [f"{tmp_path / 's.json'}: File too large"]
    assert read_submission(tmp_path / "s.json")["a"][0][0].shape == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_a_reader_that_goes_away_costs_nothing(weights_file: Path, tmp_path: Path) -> None:
    """``arcsolve batch ... --json | head -1``: the run stops as it does at Ctrl-C, and goes on later."""
    puzzles = Path(__file__).parents[1] / "puzzles"
    command = f'"{sys.executable}" -m arcsolve batch "{puzzles}" -o "{tmp_path}" --weights "{weights_file}" --json'
    pipe = f"{command} --views 2 --adapt-steps 1 --networks 1 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 141 and "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1 and next(iter(json.loads(done.stdout))) == "id"
    assert len(json.loads((tmp_path / "submission.json").read_text())) == 12


def checks(weights: Path | None) -> dict[str, Check]:
    return {check.name: check for check in check_all(weights)}


def test_the_doctor_finds_this_machine_well_and_says_why_it_would_not(
    weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checks(None)
    assert found["torch"].ok and found["onnxruntime"].ok and found["weights"].ok and found["inference"].ok
    path = copied(weights_file, tmp_path)
    (tmp_path / "weights.onnx").write_bytes(b"")
    path.write_bytes(path.read_bytes()[:100])
    found = checks(path)
    assert found["weights"].ok is False and "weights.safetensors" in found["weights"].detail
    assert found["inference"].ok is False
    monkeypatch.setattr(health.metadata, "version", lambda name: "1.0")
    assert "are both installed: pip uninstall" in health._onnxruntime().detail
    done = CliRunner().invoke(arcsolve, ["doctor", "--weights", str(path), "--json"])
    assert done.exit_code == 1 and json.loads(done.stdout)["ok"] is False


def test_the_doctor_outlives_a_package_without_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(name: str) -> str:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(health.metadata, "version", damaged)
    assert checks(None)["torch"].ok is False
    monkeypatch.setattr(health.metadata, "version", lambda name: None)
    assert checks(None)["torch"].detail == "installed without a version; install it again"


@pytest.mark.parametrize("package", ["onnxruntime", "torch", "onnx", "safetensors"])
def test_the_doctor_outlives_a_broken_package(package: str, tmp_path: Path) -> None:
    """In a process of its own, where a package of that name, found first, cannot be imported."""
    (tmp_path / f"{package}.py").write_text("raise ImportError('libbroken.so: no such file')")
    command = [sys.executable, "-m", "arcsolve", "doctor", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 1 and done.stderr == ""
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["inference"]["ok"] is False
    assert any("libbroken" in check["detail"] for check in found.values())


def test_the_doctor_knows_a_gpu_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_device_files", lambda: True)
    monkeypatch.setattr(health.shutil, "which", lambda name: name)
    answer = SimpleNamespace(returncode=9, stdout="NVIDIA-SMI has failed\n")
    monkeypatch.setattr(health.subprocess, "run", lambda *arguments, **options: answer)
    assert health._gpu() == Check("gpu", False, "none that nvidia-smi finds: NVIDIA-SMI has failed")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    found = health._providers()
    assert found.ok is False and "pip install onnxruntime-gpu" in found.detail
