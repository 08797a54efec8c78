"""The plan for a lent GPU: what travels stays within its limits, what comes back is whole, time is shared out."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

PATH = Path(__file__).parents[1] / "tools" / "gpu_session.py"
spec = importlib.util.spec_from_file_location("gpu_session", PATH)
assert spec is not None and spec.loader is not None
session = importlib.util.module_from_spec(spec)
sys.modules["gpu_session"] = session
spec.loader.exec_module(session)


@pytest.mark.skipif(not (PATH.parents[1] / ".git").exists(), reason="not a checkout")
def test_the_tree_leaves_room_for_what_must_be_carried(tmp_path: Path) -> None:
    """Tracked files, a pack of all pairs (11 MiB), weights of 7M parameters (44 MiB) and two wheels travel together."""
    tree = session.sent_bytes(tmp_path)
    assert tree > 100_000
    weights = (PATH.parents[1] / "weights" / "arcsolve.safetensors").stat().st_size
    session.check_sent(tree - weights + 57 * session.MIB)
    (tmp_path / "carried").write_bytes(bytes(1000))
    assert session.sent_bytes(tmp_path) == tree + 1000


def test_too_much_to_send_and_too_large_a_result_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="at most 60 travel"):
        session.check_sent(60 * session.MIB + 1)
    monkeypatch.setattr(session, "MOST_FILE", 10)
    source = tmp_path / "weights.safetensors"
    source.write_bytes(bytes(range(61)))
    with pytest.raises(SystemExit, match="7 parts"):
        session.shards(source, tmp_path)


def test_parts_are_small_enough_to_come_back_and_join_to_the_same_weights(
    weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert session.MOST_FILE < 16 * session.MIB
    size = weights_file.stat().st_size
    monkeypatch.setattr(session, "MOST_FILE", size // 3)
    parts = session.shards(weights_file, tmp_path)
    assert max(part.stat().st_size for part in parts) <= size // 3
    session.join(tmp_path, tmp_path / "back" / "weights.safetensors")
    assert (tmp_path / "back" / "weights.safetensors").read_bytes() == weights_file.read_bytes()
    assert "sha256" in capsys.readouterr().out


def test_the_main_run_gets_the_time_that_is_left() -> None:
    plan = session.Plan()
    # One call more: its restart and the end's score and reserve are not the main run's.
    assert plan.main_left(1000, 560) == 1000 - plan.score - plan.reserve - plan.restart
    assert plan.main_left(500, 560) == 500 - plan.score - plan.reserve
    assert plan.main_left(50, 560) == 0


def test_what_the_session_trained_is_scored_by_the_command_itself(weights_file: Path, tmp_path: Path) -> None:
    """It runs at the end of a lease: an option that has gone would be seen there first."""
    found = {}
    for figure, arguments in session.SCORES.items():
        few = (*arguments, "--limit", "1", "--max-side", "5", "--views", "1")
        found[figure] = session.evaluate(figure, few, weights_file, "cpu", tmp_path, tmp_path, 300.0, workers="1")
    assert 0 <= found["meta-dev"]["pass_at_2"]["by_output"] <= 1
    assert json.loads((tmp_path / "meta-dev.json").read_text())["adapt_steps"] == 96
    # Three parts of weights, log and plan come back beside these, and eight files at the most.
    assert not list(tmp_path.glob("*.jsonl"))
    # The tests' weights know no task of the official sets.
    assert "unfinished" in found["development"]


def test_a_score_that_does_not_come_in_time_is_said_to_be_unfinished(weights_file: Path, tmp_path: Path) -> None:
    found = session.evaluate("meta-dev", (), weights_file, "cpu", tmp_path, tmp_path, 0.0)
    assert found == {"figure": "meta-dev", "unfinished": []}


def test_the_pack_travels_compressed(pack_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session.prepare(tmp_path / "carry", pack_file)
    assert gzip.decompress((tmp_path / "carry" / session.PACK).read_bytes()) == pack_file.read_bytes()
    assert "12 pairs of 4 tasks" in capsys.readouterr().out


def test_what_fails_the_check_is_left_out_and_the_call_begins_again(
    pack_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No GPU has run them yet, and a lease is too short to come back and think."""
    session.prepare(tmp_path / "carry", pack_file)
    tried, left = [], []

    def check(self: Any) -> NoReturn:
        tried.append((self.config.kernels, self.config.graphs))
        left.append(self.options.left)
        raise RuntimeError(f"attempt {len(tried)}")

    def start(program: str, arguments: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", arguments[1:])
        session.main()

    monkeypatch.setattr(session.Session, "disagreement", check)
    monkeypatch.setattr("os.execv", start)
    folders = ["--results", str(tmp_path / "back"), "--run", str(tmp_path / "run")]
    call = ["call", str(tmp_path / "carry"), "--left", "900", "--preset", "tiny", "--device", "cpu", *folders]
    monkeypatch.setattr(sys, "argv", [str(PATH), *call, "--graphs", "--kernels"])
    with pytest.raises(SystemExit, match="nothing was trained: attempt 3"):
        session.main()
    assert tried == [(True, True), (False, True), (False, False)]
    assert 900 == left[0] > left[1] > left[2]
    said = capsys.readouterr().out
    assert "without kernels: attempt 1" in said and "without graphs: attempt 2" in said
    # A later call knows it, and so does whoever reads the plan.
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["without"]["graphs"] == "attempt 2"
