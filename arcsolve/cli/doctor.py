"""``arcsolve doctor``: whether this machine can solve anything, and if not, why."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from arcsolve.cli.console import Consoles, color_option


@click.command("doctor")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file (default: the shipped one).")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as one JSON object.")
@color_option
def doctor(weights: Path | None, as_json: bool, consoles: Consoles) -> None:
    """Check versions, ONNX Runtime's providers, GPU and driver, the weights' hash, and a second of inference.

    Exit status 1 where something has to be mended.
    """
    from arcsolve.inference.health import check_all

    checks = []
    for check in check_all(weights):
        checks.append(check)
        if not as_json:
            mark, style = {True: ("ok", "green"), False: ("BAD", "bold red"), None: ("", "")}[check.ok]
            consoles.out.print(f"{mark:>3} ", style=style, end="")
            consoles.out.print(f"{check.name:<12} {check.detail}", soft_wrap=True)
    bad = [check for check in checks if check.ok is False]
    if as_json:
        click.echo(json.dumps({"ok": not bad, "checks": [asdict(check) for check in checks]}))
    elif bad:
        consoles.out.print(f"{len(bad)} to mend: {', '.join(check.name for check in bad)}")
    if bad:
        click.get_current_context().exit(1)
