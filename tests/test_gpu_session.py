"""The plan for a lent GPU: what travels stays within its limits, what comes back is whole, time is shared out."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "tools" / "gpu_session.py"
spec = importlib.util.spec_from_file_location("gpu_session", PATH)
assert spec is not None and spec.loader is not None
session = importlib.util.module_from_spec(spec)
sys.modules["gpu_session"] = session
spec.loader.exec_module(session)


@pytest.mark.skipif(not (PATH.parents[1] / ".git").exists(), reason="not a checkout")
def test_the_tree_leaves_room_for_what_must_be_carried(tmp_path: Path) -> None:
    """Tracked files, a pack of all pairs (6 MiB), weights of 7M parameters (36 MiB) and tasks must travel together."""
    tree = session.sent_bytes(tmp_path)
    assert tree > 100_000
    session.check_sent(tree + 44 * session.MIB)
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


def test_the_score_of_the_last_minute_works_on_trained_tasks(weights_file: Path, tmp_path: Path) -> None:
    """It runs at the end of a lent half hour: a name that has gone would be seen there first."""
    from conftest import little_pack

    pack = little_pack()
    pairs = [[{"input": a.tolist(), "output": b.tolist()} for a, b in (pack.pair(i),)] for i in range(len(pack))]
    tasks = {name: {"train": [], "test": []} for name in pack.ids}
    for number, pair in enumerate(pairs):
        task = tasks[pack.ids[pack.task[number]]]
        task["train"] += pair
        task["test"] = pair
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(tasks))
    found = session.score(weights_file, path, "cpu", 60.0)
    assert found["tasks"] == found["of_tasks"] == len(pack.ids)
    assert 0 <= found["pass_at_2_by_output"] <= 1
