"""The two consoles of a command: standard output for results, standard error for progress and remarks."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import click
from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table

Command = TypeVar("Command", bound=Callable[..., Any])


class Consoles:
    """Standard output and standard error, each opened on first use.

    Args:
        color: ``auto`` asks the terminal and the environment (``NO_COLOR``, ``TERM``), ``always`` colours even a pipe
            and despite ``NO_COLOR``, ``never`` writes no escape sequence at all.
    """

    def __init__(self, color: str = "auto") -> None:
        self.color = color

    @cached_property
    def out(self) -> Console:
        """Standard output."""
        return self._open(stderr=False)

    @cached_property
    def err(self) -> Console:
        """Standard error."""
        return self._open(stderr=True)

    def _open(self, *, stderr: bool) -> Console:
        force: bool | None = None
        no_color: bool | None = None
        system: Literal["auto", "256", "truecolor"] | None = "auto"
        if self.color == "always":
            force, no_color = True, False
            system = "truecolor" if os.environ.get("COLORTERM") in ("truecolor", "24bit") else "256"
        elif self.color == "never":
            no_color, system = True, None
        # Ids and file names are no markup: neither brackets nor colons nor numbers in them mean anything.
        return _PipeConsole(
            stderr=stderr,
            force_terminal=force,
            no_color=no_color,
            color_system=system,
            markup=False,
            emoji=False,
            highlight=False,
        )


def color_option(command: Command) -> Command:
    """Decorator: adds ``--color`` to a command, which receives the ``Consoles`` as its argument ``consoles``."""
    option = click.option(
        "--color",
        "consoles",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        callback=lambda context, parameter, value: Consoles(value),
        help="When to use colours. NO_COLOR is honoured.",
    )
    return option(command)


def plain_table(*names: str, left: Container[str]) -> Table:
    """A table without lines: columns of figures to the right, those named in ``left`` to the left."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


class _PipeConsole(Console):
    """A console that leaves a closed pipe to the command line's entry point; rich would exit with status 1."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError
