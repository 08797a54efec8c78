"""The house rule: parts depend one way only."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "arcsolve"
ORDER = "errors files arc views canvas shapes network training inference render lab cli".split()


def part(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_one_way() -> None:
    """A module may import what stands before its own part in the order, and its own part."""
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own.startswith("__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arcsolve."):
                other = part(node.module or "")
                assert ORDER.index(other) <= ORDER.index(own), f"{path.name} imports {node.module}"


def test_modules_stay_small_enough_to_read() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path.name
