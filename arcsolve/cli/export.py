"""``arcsolve export``: the ONNX graph beside a weights file."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(help="Export WEIGHTS (a .safetensors file) to an ONNX graph beside it, checked against torch.")
@click.argument("weights", type=click.Path(path_type=Path))
def export(weights: Path) -> None:
    from arcsolve.inference.export import export as write

    graph, difference = write(weights)
    click.echo(f"{graph}: logits differ from torch by at most {difference:.1e}")
