"""The official ARC colours, and whether a terminal can show them."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

COLOURS = (
    "#000000",
    "#0074D9",
    "#FF4136",
    "#2ECC40",
    "#FFDC00",
    "#AAAAAA",
    "#F012BE",
    "#FF851B",
    "#7FDBFF",
    "#870C25",
)
"""The colour of each cell value 0..9."""

FRAME = "#555555"
"""Frames in colour: neither a cell's colour nor the background of a light or dark terminal."""


@dataclass(frozen=True)
class Style:
    """How grids are drawn.

    Attributes:
        colour: coloured blocks; otherwise digits.
        unicode: whether frames and arrows may leave ASCII.
    """

    colour: bool
    unicode: bool


def style_for(console: Console) -> Style:
    """The style that ``console`` can show.

    Digits where there are no colours (not a terminal, a dumb one, ``NO_COLOR``), where the output's encoding has no
    half blocks, and on 16-colour terminals, whose red and orange coincide.
    """
    unicode = console.encoding.startswith("utf")
    colours = console.color_system in ("256", "truecolor") and not console.no_color
    return Style(colour=colours and unicode, unicode=unicode)
