"""What several test files need: a little pack, and a tiny network trained on it and exported, once for all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from arcsolve.arc.grid import Grid
from arcsolve.training.pack import Pack

# Tiny networks gain nothing from a second thread, and lose much where another process wants the core.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# `pytest tests/test_fuzz.py --hypothesis-profile=long` for a night.
for name, examples in (("default", 500), ("long", 10_000)):
    settings.register_profile(name, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


def little_pack(tasks: int = 4, pairs: int = 3, side: int = 4, seed: int = 0) -> Pack:
    """Tasks that mirror random grids, as a pack."""
    rng = np.random.default_rng(seed)
    grids: list[tuple[Grid, Grid]] = []
    for _ in range(tasks * pairs):
        given = rng.integers(0, 10, (side, side - 1), dtype=np.uint8)
        grids.append((given, given[:, ::-1].copy()))
    size = 2 * side * (side - 1)
    return Pack(
        ids=tuple(f"task{i}" for i in range(tasks)),
        cells=np.concatenate([grid.ravel() for pair in grids for grid in pair]),
        offsets=np.arange(len(grids), dtype=np.int64) * size,
        sizes=np.tile(np.array([side, side - 1, side, side - 1], dtype=np.uint8), (len(grids), 1)),
        task=np.repeat(np.arange(tasks), pairs).astype(np.int32),
        generated=np.arange(len(grids)) % pairs == pairs - 1,
    )


@pytest.fixture(scope="session")
def pack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "little.pack"
    little_pack().save(path)
    return path


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory, pack_file: Path) -> Path:
    """Weights of the ``tiny`` preset, trained for a few updates, with their graph beside them."""
    from arcsolve.inference.export import export
    from arcsolve.training.command import main

    folder = tmp_path_factory.mktemp("weights")
    assert main(["--pack", str(pack_file), "--preset", "tiny", "--out", str(folder), "--updates", "30"]) == 0
    export(folder / "weights.safetensors")
    return folder / "weights.safetensors"
