"""The data pack and its guard: what must never be trained on is refused by content."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import little_pack
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from arcsolve.arc.dataset import load_tasks
from arcsolve.arc.grid import Grid
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.training.guard import Guard, fingerprint, fingerprints, split
from arcsolve.training.pack import Pack, build
from arcsolve.views import View

grids = arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 9))


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard.official()


@settings(max_examples=80, deadline=None)
@given(one=grids, two=grids, dihedral=st.integers(0, 7), colours=st.permutations(range(10)))
def test_a_fingerprint_survives_every_view(one: Grid, two: Grid, dihedral: int, colours: list[int]) -> None:
    view = View(dihedral, tuple(colours))
    assert fingerprint(view.apply(one), view.apply(two)) == fingerprint(one, two)


def test_fingerprints_tell_different_pairs_apart() -> None:
    tasks = load_tasks("arc-agi-1/training")
    pairs = [(p.input, p.output) for task in tasks for p in task.train if p.output is not None]
    marks = {fingerprint(*pair) for pair in pairs}
    # Within a task some pairs are views of each other (1,281 of 1,302 are left); a poor hash would lose far more.
    assert len(marks) > 0.97 * len(pairs)
    one = np.array([[1, 2, 3]], dtype=np.uint8)
    assert fingerprint(one, one) != fingerprint(one, one[:, ::-1])


def test_no_test_output_and_no_held_out_pair_reaches_a_pack(guard: Guard) -> None:
    """Everything offered, evaluation sets included: what comes through must share nothing with what is held out."""
    sources = [f"arc-agi-{n}/{part}" for n in (1, 2) for part in ("training", "evaluation")]
    pack, report = build(sources, None, guard)
    assert report.refused_tasks > 900 and report.refused_pairs > 0
    marks = {fingerprint(*pack.pair(i)) for i in range(len(pack))}
    for name in sources:
        for task in load_tasks(name):
            held_out = task.train + task.test if name.endswith("evaluation") else task.test
            assert marks.isdisjoint(fingerprints(held_out)), f"{name}: {task.id}"
    meta_dev = set(split("meta_dev"))
    for task in load_tasks("arc-agi-1/training"):
        if task.id in meta_dev:
            assert marks.isdisjoint(fingerprints(task.train + task.test)), task.id
    assert meta_dev.isdisjoint(pack.ids)
    assert set(split("pretrain")) >= set(build(sources[:1], frozenset(split("pretrain")), guard)[0].ids)


def test_a_transductive_pack_has_demonstrations_of_its_set_and_nothing_else_that_is_held_out(tmp_path: Path) -> None:
    """Its test pairs, the other evaluation set, meta-dev, and generated pairs of its tasks stay out."""
    chosen = "arc-agi-1/evaluation"
    guard = Guard.official([chosen])
    sources = [f"arc-agi-{n}/{part}" for n in (1, 2) for part in ("training", "evaluation")]
    pack, _ = build(sources, None, guard)
    marks = {fingerprint(*pack.pair(i)) for i in range(len(pack))}
    tasks = load_tasks(chosen).tasks
    assert sum(not marks.isdisjoint(fingerprints(task.train)) for task in tasks) > 380
    for name in sources:
        for task in load_tasks(name):
            other = name == "arc-agi-2/evaluation" or task.id in split("meta_dev")
            assert marks.isdisjoint(fingerprints(task.train + task.test if other else task.test)), f"{name}: {task.id}"
    shown = next(task.id for task in tasks if task.id in pack.ids)
    (tmp_path / f"{shown}.json").write_text(json.dumps([{"input": [[1]], "output": [[2]]}]))
    with pytest.raises(ArcsolveError, match="no pair is left"):
        build([str(tmp_path)], None, guard)
    path = tmp_path / "some.pack"
    small = replace(pack.select(np.arange(len(pack)) < 9), protocol="transductive")
    small.save(path)
    assert Pack.load(path).select(np.arange(9) < 5).protocol == "transductive"
    assert Pack.load(path).hash != replace(small, protocol="per-task").hash


def test_a_disguised_test_pair_is_refused(guard: Guard, tmp_path: Path) -> None:
    """Turned, recoloured and under another id, as ARC-1 test pairs that stand among ARC-2's demonstrations."""
    task = load_tasks("arc-agi-1/training").tasks[0]
    pair, view = task.test[0], View(5, (3, 1, 4, 0, 5, 9, 2, 6, 8, 7))
    assert pair.output is not None
    hidden = {"input": view.apply(pair.input).tolist(), "output": view.apply(pair.output).tolist()}
    honest = {"input": [[1, 2, 5]], "output": [[5], [2], [1]]}
    (tmp_path / "innocent.json").write_text(json.dumps([hidden, honest]))
    pack, report = build([str(tmp_path)], None, guard)
    assert (len(pack), report.refused_pairs) == (1, 1)
    assert pack.generated.all()


@pytest.mark.parametrize("task_id", [split("meta_dev")[0], "c9e6f938", "40853293", "caa06a1f"])
def test_generated_pairs_of_a_held_out_task_or_its_twin_are_refused_by_id(
    guard: Guard, tmp_path: Path, task_id: str
) -> None:
    """c9e6f938 is meta-dev's 8be77c9e on its side; the other two are evaluation tasks under a training id."""
    (tmp_path / f"{task_id}.json").write_text(json.dumps([{"input": [[1]], "output": [[2]]}]))
    with pytest.raises(ArcsolveError, match="no pair is left"):
        build([str(tmp_path)], None, guard)


def test_an_archive_of_generated_pairs_is_read(guard: Guard, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "made.npz",
        ids=np.array(["aaa", "bbb"]),
        task=np.array([0, 1, 1], dtype=np.int32),
        sizes=np.array([[1, 2, 2, 1], [1, 1, 1, 3], [2, 2, 1, 1]], dtype=np.uint8),
        inputs=np.array([1, 2, 3, 4, 5, 6, 7], dtype=np.uint8),
        outputs=np.array([8, 9, 1, 2, 2, 6], dtype=np.uint8),
    )
    pack, _ = build([str(tmp_path / "made.npz")], None, guard)
    assert pack.ids == ("aaa", "bbb")
    assert [[g.tolist() for g in pack.pair(i)] for i in range(3)] == [
        [[[1, 2]], [[8], [9]]],
        [[[3]], [[1, 2, 2]]],
        [[[4, 5], [6, 7]], [[6]]],
    ]
    kept, _ = build([str(tmp_path / "made.npz")], None, guard, per_task=1)
    assert len(kept) == 2
    assert kept.pair(1)[0].tolist() == [[3]]  # the smaller canvas of the two


def test_a_pack_comes_back_as_it_was_and_damage_is_named(tmp_path: Path) -> None:
    pack = little_pack()
    path = tmp_path / "a.pack"
    pack.save(path)
    again = Pack.load(path)
    assert again.hash == pack.hash and again.ids == pack.ids
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.pack: the content does not match"):
        Pack.load(path)
    path.write_bytes(data[:200])
    with pytest.raises(FormatError, match=r"a\.pack: not a data pack"):
        Pack.load(path)
    with pytest.raises(ArcsolveError, match=r"none\.pack"):
        Pack.load(tmp_path / "none.pack")


def test_selecting_drops_tasks_without_pairs() -> None:
    pack = little_pack()
    chosen = pack.select(pack.task != 1)
    assert chosen.ids == ("task0", "task2", "task3")
    assert chosen.pair(3)[0].tolist() == pack.pair(6)[0].tolist()
