"""``arcsolve train``: hands its options to the trainer, which also runs without click."""

from __future__ import annotations

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
    help="Train the network on a data pack, or run the learning gate. `arcsolve train --help` lists the options.",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def train(ctx: click.Context, options: tuple[str, ...]) -> None:
    from arcsolve.training.command import main

    ctx.exit(main(options))
