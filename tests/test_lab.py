"""``arcsolve lab recipe``: its proxy holds nothing that it is measured by, results resume, arms differ."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from arcsolve.arc.task import Task
from arcsolve.errors import ArcsolveError
from arcsolve.inference.adaptation import AdaptSettings
from arcsolve.lab import proxy, recipe
from arcsolve.lab.proxy import Proxy, ViewRows
from arcsolve.training.guard import Guard, fingerprint, fingerprints, split
from arcsolve.training.pack import Pack, build
from arcsolve.training.trainer import Trainer


@pytest.fixture(scope="module")
def pack() -> Pack:
    official = ("arc-agi-1/training", "arc-agi-2/training")
    return build(official, frozenset(split("pretrain")), Guard.official(), max_side=10)[0]


@pytest.fixture(scope="module")
def data(pack: Pack) -> Proxy:
    return Proxy.of(pack)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    network = replace(proxy.CONFIG.network, width=16, hidden=16, latents=2)
    config = replace(proxy.CONFIG, network=network, bf16=False, compile=False, most=4)
    for module in (proxy, recipe):
        monkeypatch.setattr(module, "CONFIG", config)
    monkeypatch.setattr(proxy, "ADAPT", AdaptSettings(steps=2))


def _tests(tasks: tuple[Task, ...]) -> set[bytes]:
    return set().union(*(fingerprints(task.test) for task in tasks))


def test_the_proxy_trains_on_no_output_that_it_is_measured_by(data: Proxy) -> None:
    trained = {fingerprint(*data.pack.pair(i)) for i in range(len(data.pack))}
    assert len(data.development) == len(data.pack.ids) == proxy.TASKS
    assert len(data.meta_dev) >= 20
    assert trained.isdisjoint(_tests(data.development))
    meta_dev = set().union(*(fingerprints(task.train + task.test) for task in data.meta_dev))
    assert trained.isdisjoint(meta_dev)


def test_the_proxy_needs_enough_tasks(pack: Pack) -> None:
    with pytest.raises(ArcsolveError, match=r"the proxy needs 40 tasks within 10 x 10; this has \d"):
        Proxy.of(pack.select(pack.task < 10))


def test_every_arm_differs_from_what_it_is_compared_with() -> None:
    for name, arm in recipe.ARMS.items():
        if name != recipe.BASE:
            other = recipe.ARMS[arm.against]
            same = (arm.config(0), arm.updates, arm.view_rows) == (other.config(0), other.updates, other.view_rows)
            assert not same, name


def test_runs_resume_and_are_compared_by_equal_seeds(small: None, data: Proxy, tmp_path: Path) -> None:
    path = tmp_path / "recipe.jsonl"
    runs = recipe.plan(["copy"], 2)
    assert runs == [("base", 0), ("copy", 0), ("base", 1), ("copy", 1)]

    def keep(row: dict[str, object]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    adapt = proxy.ADAPT
    recipe.run_recipe(data, runs[:3], [], updates=2, adapt=adapt, finished=keep)
    path.write_text(path.read_text() + '{"arm": "cop')
    done = recipe.read(path, data.pack.hash, 2, adapt)
    assert len(done) == 3
    made: list[dict[str, object]] = []
    rows = recipe.run_recipe(data, runs, done, updates=2, adapt=adapt, finished=made.append)
    assert [(row["arm"], row["seed"]) for row in made] == [("copy", 1)]
    base, copy = recipe.summary(rows)
    assert base["development_nats_difference"] is None
    differences = [
        next(r["development_nats"] for r in rows if (r["arm"], r["seed"]) == ("copy", seed))
        - next(r["development_nats"] for r in rows if (r["arm"], r["seed"]) == ("base", seed))
        for seed in range(2)
    ]
    assert copy["development_nats_difference"][0] == pytest.approx(sum(differences) / 2)
    for updates, settings in ((3, adapt), (2, AdaptSettings(steps=3))):
        with pytest.raises(ArcsolveError, match="line 1: made with other data, updates or refinement"):
            recipe.read(path, data.pack.hash, updates, settings)


def test_every_view_has_its_own_row_and_an_untold_network_sees_no_view(small: None, data: Proxy) -> None:
    config = recipe.ARMS["view-rows"].config(0)
    trainer = ViewRows(config, data.pack, torch.device("cpu"))
    batch = trainer.draw(0.9)
    task, view = batch.task // trainer.views, batch.task % trainer.views
    assert int(task.max()) < len(data.pack.ids)
    torch.testing.assert_close(view // config.pool, batch.dihedral)
    torch.testing.assert_close(trainer.pool[view % config.pool], batch.colours)
    latents = trainer.bank(batch.task)
    embed, cells = trainer.network.embed, batch.cells
    other = embed(cells, torch.zeros_like(batch.dihedral), batch.colours.flip(1), latents)
    torch.testing.assert_close(embed(cells, batch.dihedral, batch.colours, latents), other)
    figures = proxy.measure(data, config, updates=1, adapt=proxy.ADAPT, view_rows=True)
    assert figures["development_outputs"] >= proxy.TASKS
    assert figures["meta_dev_nats"] is None  # no single row to refine
    line = recipe.summary([{"arm": "view-rows", "seed": 0, **figures}])[0]
    assert line["meta_dev_nats"] is None
    assert line["meta_dev_nats_difference"] is None
    assert line["development_nats"] == figures["development_nats"]


def test_each_meta_dev_task_is_refined_alone(small: None, data: Proxy) -> None:
    weights = proxy.snapshot(Trainer(recipe.ARMS["base"].config(0), data.pack, torch.device("cpu")))
    one, two = data.meta_dev[:2]
    settings = AdaptSettings(steps=16)
    before, after = (proxy.refined(weights, (one,), replace(settings, steps=steps), 0) for steps in (1, 16))
    assert after.nats < before.nats  # it has learned from the demonstrations
    assert after.outputs == len(one.test)
    other = proxy.refined(weights, (two,), settings, 0)
    both = proxy.refined(weights, (two, one), settings, 0)
    total = after.nats * after.outputs + other.nats * other.outputs
    assert both.nats == pytest.approx(total / both.outputs, abs=1e-4)  # neither has seen the other


def test_the_longest_lines_of_the_comparison_fit_eighty_columns() -> None:
    from arcsolve.cli.lab import _table

    line = {
        "arm": max(recipe.ARMS, key=len),
        "against": max((arm.against for arm in recipe.ARMS.values()), key=len),
        "seeds": 3,
        "development_nats": 0.759,
        "development_nats_difference": (-0.104, 0.023),
        "meta_dev_nats": None,
        "meta_dev_nats_difference": (0.093, 0.013),
    }
    out = io.StringIO()
    Console(file=out, width=80).print(_table([line]))
    for whole in (line["arm"], line["against"], "-0.104 ± 0.023", "+0.093 ± 0.013"):
        assert whole in out.getvalue().splitlines()[1]


def test_the_command_keeps_results_and_names_a_wrong_arm(small: None, pack: Pack, tmp_path: Path) -> None:
    from arcsolve.cli.lab import lab

    file, results = tmp_path / "all.pack", tmp_path / "recipe.jsonl"
    pack.save(file)
    arguments = ["recipe", "--pack", str(file), "-o", str(results), "--updates", "1", "--seeds", "1"]
    made = CliRunner().invoke(lab, ["recipe", *arguments[1:], "base"], catch_exceptions=False)
    assert made.exit_code == 0
    assert "base" in made.output
    assert len(results.read_text().splitlines()) == 1
    wrong = CliRunner().invoke(lab, [*arguments, "nonsense"])
    assert isinstance(wrong.exception, ArcsolveError)
    assert "no arm 'nonsense'" in str(wrong.exception)
