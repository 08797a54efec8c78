"""``arcsolve lab width``: many trajectories against more steps, and against other ways to draw many answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arcsolve.cli.console import Consoles, color_option, plain_table
from arcsolve.lab.ambiguity import FAMILIES

if TYPE_CHECKING:
    from rich.table import Table

LEFT = ("way",)


@click.command(
    help="Puzzles with up to six right answers each: train small networks on each family of them, without chance, with "
    "a random start and with learned noise, and see how many of the answers 1 to 64 trajectories find, against "
    "test-time noise and more steps at equal forward passes, and output sampling, which needs fewer. Seven to "
    "seventeen hours on one core; networks and results are kept as they come, and the same command goes on where it "
    "was stopped."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the networks, width.jsonl, width.json and, with the extra `plot`, width.svg.",
)
@click.option(
    "--family",
    "families",
    type=click.Choice(FAMILIES),
    multiple=True,
    help="Only this family of puzzles, again for another (default: all). Families and seeds can go on in folders of "
    "their own at once: put the lines of their width.jsonl together in one folder, and run the command there.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Networks of each kind.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The first one's seed.")
@click.option("--updates", type=click.IntRange(1), help="Updates of each network (default: 2000 to 3500, by family).")
@click.option("--puzzles", type=click.IntRange(1), help="Puzzles of each family and split to judge by (default: 144).")
@click.option("--train-puzzles", type=click.IntRange(1), help="Puzzles of each family to train on (default: 6000).")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@color_option
def width(
    output: Path,
    families: tuple[str, ...],
    seeds: int,
    seed: int,
    updates: int | None,
    puzzles: int | None,
    train_puzzles: int | None,
    threads: int,
    as_json: bool,
    consoles: Consoles,
) -> None:
    from dataclasses import asdict

    import torch

    from arcsolve.cli.options import warn
    from arcsolve.files import lock_folder, make_folder, replace_file
    from arcsolve.inference.results import append
    from arcsolve.lab import rivals, width_runs, width_summary
    from arcsolve.lab import width as lab_width
    from arcsolve.render.width import plot
    from arcsolve.training.command import stop_signal, told_of_noise

    torch.set_num_threads(threads)
    chosen = tuple(dict.fromkeys(families)) or FAMILIES
    wanted = range(seed, seed + seeds)
    base = width_runs.Sizes()
    sizes = width_runs.Sizes(
        train=train_puzzles or base.train,
        test=puzzles or base.test,
        tune=min(puzzles or base.tune, base.tune),
        updates=dict.fromkeys(FAMILIES, updates) if updates else base.updates,
    )
    make_folder(output)
    with lock_folder(output):
        networks = {name: rivals.config_of(name, FAMILIES[0], 0).to_json() for name in rivals.NETWORKS}
        for config in networks.values():  # these are told by family or row
            del config["depth"], config["prior_from"], config["seed"]
        drawn = {name: getattr(lab_width, name) for name in ("WIDTHS", "DEPTHS", "NOISES", "TEMPERATURES")}
        courses = {family: asdict(course) for family, course in rivals.COURSES.items()}
        told = {"sizes": asdict(sizes), "networks": networks, "courses": courses, "drawn": drawn}
        head = json.loads(json.dumps(told))
        path = output / "width.jsonl"
        rows = width_runs.read(path, head)

        def trained(what: str, row: dict[str, Any]) -> None:
            if round(rivals.LINES * row["progress"]) % 20 == 0:
                told = f"{row['progress']:.0%}  {row['nats']:.3f} nats/cell  {row['exact']:.1%} right"
                click.echo(f"{what}: {told}{told_of_noise(row)}", err=True)

        def finished(row: dict[str, Any]) -> None:
            append(path, {**head, **row})
            coverage = [puzzle["coverage"][-1] for puzzle in row["puzzles"]]
            share = f"{sum(coverage) / len(coverage):.1%} of the answers found"
            click.echo(f"{row['family']}, seed {row['seed']}, {row['way']}, {row['split']}: {share}", err=True)

        with stop_signal() as stopped:
            whole = width_runs.run(
                chosen, wanted, sizes, output, rows, trained=trained, finished=finished, warn=warn, stopped=stopped
            )
        if not whole:
            warn(f"{output}: stopped; the same command goes on")
            raise SystemExit(130)
        own = [row for row in rows if row["seed"] in wanted and row["family"] in chosen]
        lines = width_summary.summary(own)
        hashes = {family: next(row["data_sha256"] for row in own if row["family"] == family) for family in chosen}
        facts = {**head, "data_sha256": hashes, "seeds": seeds, "ways": lines}
        replace_file(output / "width.json", json.dumps(facts) + "\n")
        if not plot(output / "width.svg", lines, lab_width.WIDTHS, width_runs.CLAIM):
            warn("no plot: matplotlib is not installed (the extra `plot`)")
    if as_json:
        click.echo(json.dumps(facts))
        return
    named = ", ".join(f"{family} {digest[:8]}" for family, digest in hashes.items())
    consoles.out.print(f"{seeds} networks of each kind for each family: {named}")
    consoles.out.print()
    for split in lab_width.SPLITS:
        own = [line for line in lines if line["split"] == split]
        consoles.out.print(f"{split}: {sizes.test * len(chosen)} puzzles; percent")
        consoles.out.print(_ways(own))
        consoles.out.print()
    held_out = [line for line in lines if line["split"] == "held-out"]
    for name, keys in (
        ("families", ("valid", "coverage", "vote")),
        ("answers", ("valid",)),
        ("answers", ("coverage",)),
    ):
        what = ", ".join({"valid": "valid", "coverage": "found by 20", "vote": "vote of 20"}[key] for key in keys)
        consoles.out.print(f"held-out, by {name}: {what}")
        consoles.out.print(_kinds(held_out, name, keys))
        consoles.out.print()
    learned = next(line for line in lines if line["way"] == width_runs.CLAIM)
    guided, single = learned["guided"], learned["single"]
    consoles.out.print("learned noise, right: led by the posterior (as it was told to), by the prior")
    for name, shares in {**learned["guided_families"], "all": guided}.items():
        consoles.out.print(f"{name}: {shares['posterior']:.1%} ({shares['told']:.1%}), {shares['prior']:.1%}")
    consoles.out.print()
    consoles.out.print(
        f"single-answer puzzles: {single['right']:.1%} right with learned noise, {single['base_right']:.1%} without; "
        f"of {single['puzzles']}, {single['gained']} gained, {single['lost']} lost, p = {single['p']:.2g}"
    )


def _ways(lines: list[dict[str, Any]]) -> Table:
    from arcsolve.lab.width import WIDTHS

    table = plain_table("way", "valid", "found by 1", "20", "64", "vote of 20", "balance", "single", left=LEFT)
    for line in lines:

        def at(key: str, k: int, line: dict[str, Any] = line) -> str:
            values = line[key]
            return f"{100 * values[WIDTHS.index(k)]:.1f}" if WIDTHS.index(k) < len(values) else ""

        balance = "" if line["balance"] is None else f"{100 * line['balance']:.1f}"
        single = "" if line["single"]["right"] is None else f"{100 * line['single']['right']:.1f}"
        cells = (at("coverage", 1), at("coverage", 20), at("coverage", 64), at("vote", 20), balance, single)
        table.add_row(line["way"], f"{100 * line['valid']:.1f}", *cells)
    return table


def _kinds(lines: list[dict[str, Any]], name: str, keys: tuple[str, ...]) -> Table:
    kinds = list(lines[0][name])
    table = plain_table("way", *kinds, left=LEFT)
    for line in lines:
        own = (line[name][kind] for kind in kinds)
        table.add_row(line["way"], *(" ".join(f"{100 * one[key]:3.0f}" for key in keys) for one in own))
    return table
