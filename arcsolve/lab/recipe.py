"""Which training recipe is best: one change at a time against a base, at equal updates, over several seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.adaptation import AdaptSettings
from arcsolve.inference.results import whole_lines
from arcsolve.lab.proxy import CONFIG, UPDATES, Proxy, measure
from arcsolve.training.presets import RATES, TrainConfig

BASE = "base"


@dataclass(frozen=True)
class Arm:
    """One change to the base.

    Attributes:
        question: what it helps to settle.
        change: fields of the run's configuration; those of the network under ``network``.
        against: the arm to compare with.
        updates: factor on the number of updates (where batches differ in size, presentations are kept equal instead).
        view_rows: a row for each view of a task.
    """

    question: str
    change: dict[str, Any]
    against: str = BASE
    updates: float = 1.0
    view_rows: bool = False

    def config(self, seed: int) -> TrainConfig:
        """The base's configuration with this change."""
        change = dict(self.change)
        network = replace(CONFIG.network, **change.pop("network", {}))
        return replace(CONFIG, network=network, seed=seed, **change)


_CAPPED = ((0.0, "identity"), (0.02, "dihedral"), (0.08, "pool"))
_BATCH_64 = {"most": 64, "tokens": 8_000}


def _faster(factor: float, names: Sequence[str] = RATES) -> dict[str, float]:
    """These rates, so many times the base's."""
    return {name: factor * getattr(CONFIG, name) for name in names}


_TWO_STEPS = {"network": {"steps": 2}, "depth": ((0.0, 1, 2),)}

ARMS = {
    BASE: Arm("(told, views ramp, n=1 N=1, Muon 1e-3, batch 16, convolution, 8 latents, 30% generated)", {}),
    "untold-capped": Arm("identity", {"network": {"told": False}, "views": _CAPPED}),
    "view-rows": Arm("identity", {"network": {"told": False}, "views": _CAPPED}, view_rows=True),
    "told-capped": Arm("identity", {"views": _CAPPED}),
    "views-full": Arm("ramps", {"views": ((0.0, "all"),)}),
    "depth-full": Arm("ramps", _TWO_STEPS),
    "depth-ramp": Arm("ramps", {"network": {"steps": 2}, "depth": ((0.0, 1, 1), (0.6, 1, 2))}, against="depth-full"),
    "update-each": Arm("updates", {**_TWO_STEPS, "update_each_step": True}, against="depth-full"),
    "no-convolution": Arm("convolution", {"network": {"convolution": False}}),
    "adamw": Arm("optimizer", {"optimizer": "adamw"}),
    "adamw-3e-3": Arm("optimizer", {"optimizer": "adamw", "muon_rate": 3e-3}),
    "batch-8": Arm("batch", {"most": 8}, updates=2.0),
    "batch-32": Arm("batch", {"most": 32, "tokens": 4_000}, updates=0.5),
    "batch-64": Arm("batch", _BATCH_64, updates=0.25),
    "batch-64-rate-2": Arm("batch", {**_BATCH_64, **_faster(2)}, updates=0.25),
    "batch-64-rate-4": Arm("batch", {**_BATCH_64, **_faster(4)}, updates=0.25),
    "batch-64-rate-8": Arm("batch", {**_BATCH_64, **_faster(8)}, updates=0.25),
    "rate-2": Arm("rates", _faster(2)),
    "rate-4": Arm("rates", _faster(4)),
    "rate-8": Arm("rates", _faster(8)),
    "muon-rate-3-others-2": Arm("rates", {**_faster(2), **_faster(3, ["muon_rate"])}),
    "muon-rate-4": Arm("rates", _faster(4, ["muon_rate"])),
    "adam-rate-4": Arm("rates", _faster(4, ["adam_rate"])),
    "latent-rate-4": Arm("rates", _faster(4, ["latent_rate"])),
    "generated-0": Arm("generated", {"generated_share": 0.0}),
    "generated-60": Arm("generated", {"generated_share": 0.6}),
    "latents-4": Arm("latents", {"network": {"latents": 4}}),
    "latents-16": Arm("latents", {"network": {"latents": 16}}),
    "copy": Arm("copy", {"network": {"copy": True}}),
    "latent-noise": Arm("latents as distributions", {"latent_noise": 0.3, "latent_kl": 1e-3}),
    "latent-noise-1": Arm("latents as distributions", {"latent_noise": 1.0, "latent_kl": 1e-3}),
    "reset": Arm("meta-adaptation", {"reset": (60, 0.1)}),
    # As often for each row, in 4,800 updates, as the reset arm above in 1,200.
    "reset-rare": Arm("meta-adaptation", {"reset": (240, 0.1)}),
    "hints": Arm("hints", {"network": {"hints": True}, "hint_share": 0.3}),
    "turned": Arm("turned outputs", {"network": {"turns": True}, "turned_share": 0.35}),
}

FIGURES = ("train_nats", "development_nats", "development_exact", "meta_dev_nats", "meta_dev_exact")


def plan(arms: Iterable[str], seeds: int) -> list[tuple[str, int]]:
    """The runs in order: all arms with one seed first, so that an early stop leaves every question half answered.

    Raises:
        ArcsolveError: an arm that is not known.
    """
    names = list(arms) or list(ARMS)
    if unknown := [name for name in names if name not in ARMS]:
        raise ArcsolveError(f"no arm {unknown[0]!r}: expected {', '.join(ARMS)}")
    needed = {ARMS[name].against for name in names} - set(names)
    return [(name, seed) for seed in range(seeds) for name in [*sorted(needed), *names]]


def read(path: Path, data: str, updates: int, adapt: AdaptSettings) -> list[dict[str, Any]]:
    """Results of earlier runs; a last line that a kill cut short is dropped from the file.

    Raises:
        ArcsolveError: the file is of other data, updates or refinement steps, or cannot be read.
    """
    rows = []
    for number, line in enumerate(whole_lines(path), 1):
        try:
            row = json.loads(line)
            # Without steps, it is of before the meta-dev tasks were refined one by one: they were fitted together.
            if (row["data_sha256"], row["base_updates"], row.get("adapt_steps")) != (data, updates, adapt.steps):
                raise ArcsolveError(
                    f"{path}: line {number}: made with other data, updates or refinement; choose another file"
                )
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path}: line {number}: not a result of `arcsolve lab recipe` ({error})") from error
        rows.append(row)
    return rows


def run_recipe(
    data: Proxy,
    runs: Sequence[tuple[str, int]],
    done: list[dict[str, Any]],
    *,
    adapt: AdaptSettings,
    updates: int = UPDATES,
    finished: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Make those of the runs that are not yet ``done``; ``finished`` is called with each new row.

    Returns:
        All rows: ``arm``, ``seed``, ``data_sha256``, ``base_updates``, ``adapt_steps`` and what :func:`measure` gives.
    """
    rows = list(done)
    known = {(row["arm"], row["seed"]) for row in rows}
    for name, seed in runs:
        if (name, seed) in known:
            continue
        arm = ARMS[name]
        figures = measure(
            data,
            arm.config(seed),
            updates=max(1, round(arm.updates * updates)),
            adapt=adapt,
            view_rows=arm.view_rows,
        )
        made = {"data_sha256": data.pack.hash, "base_updates": updates, "adapt_steps": adapt.steps}
        row = {"arm": name, "seed": seed, **made, **figures}
        rows.append(row)
        finished(row)
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each arm: means over its seeds, and its paired differences to the arm it is compared with.

    Differences are of equal seeds: ``development_nats`` and ``meta_dev_nats`` as (mean, standard error), ``None`` below
    two seeds. Figures that an arm does not have are ``None``.
    """
    by_run = {(row["arm"], row["seed"]): row for row in rows}
    lines = []
    for name, arm in ARMS.items():
        own = [row for row in rows if row["arm"] == name]
        if not own:
            continue
        line: dict[str, Any] = {"arm": name, "question": arm.question, "against": arm.against, "seeds": len(own)}
        for key in (*FIGURES, "presentations", "flop"):
            values = [row[key] for row in own]
            line[key] = None if None in values else statistics.fmean(values)
        for key in ("development_nats", "meta_dev_nats"):
            pairs = [(row, by_run.get((arm.against, row["seed"]))) for row in own]
            differences = [row[key] - other[key] for row, other in pairs if other is not None and line[key] is not None]
            line[f"{key}_difference"] = None
            if name != arm.against and len(differences) > 1:
                error = statistics.stdev(differences) / len(differences) ** 0.5
                line[f"{key}_difference"] = (statistics.fmean(differences), error)
        lines.append(line)
    return lines
