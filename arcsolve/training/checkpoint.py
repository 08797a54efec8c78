"""Checkpoints: all that a run needs to go on exactly where it stopped; the one before is kept as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from arcsolve.errors import ArcsolveError
from arcsolve.files import replace_file
from arcsolve.training.beta import Beta
from arcsolve.training.trainer import Counters, Trainer

STATE, PREVIOUS, WEIGHTS, LOG = "state.pt", "state.previous.pt", "weights.safetensors", "log.jsonl"

_KEYS = frozenset("config pack initial counters slowed beta window depth learned device host generator pool".split())


def learned(trainer: Trainer) -> dict[str, Any]:
    """What training changes: parameters, optimizers' states and the averaged weights (not copied)."""
    return {
        "network": trainer.network.state_dict(),
        "bank": trainer.bank.state_dict(),
        "average": trainer.average.tensors,
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
    }


def set_learned(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put back what :func:`learned` gave."""
    trainer.network.load_state_dict(state["network"])
    trainer.bank.load_state_dict(state["bank"])
    for name, tensor in trainer.average.tensors.items():
        tensor.copy_(state["average"][name])
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)


def save(trainer: Trainer, folder: Path) -> None:
    """Write ``state.pt`` to go on exactly and ``weights.safetensors`` (averaged) to use, both by a rename.

    Raises:
        ArcsolveError: the disk is full, or the folder not writable; the checkpoint before still stands.
    """
    state = {
        "config": json.dumps(trainer.config.to_json()),
        "pack": trainer.pack.hash,
        "initial": trainer.initial.sha256 if trainer.initial else None,
        "counters": asdict(trainer.counters),
        "slowed": trainer.slowed,
        "beta": asdict(trainer.beta),
        "window": trainer.tally,
        "depth": trainer.depth,
        "learned": learned(trainer),
        "device": trainer.device.type,
        "host": trainer.host.get_state(),
        "generator": trainer.generator.get_state(),
        "pool": trainer.pool,
    }
    path, temporary = folder / STATE, folder / (STATE + ".part")
    try:
        torch.save(state, temporary)
        if path.exists():
            path.replace(folder / PREVIOUS)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer raises a RuntimeError for a full disk
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise ArcsolveError(f"{path}: the checkpoint cannot be written ({reason}); the one before it stands") from error
    trainer.save_weights(folder / WEIGHTS)


def exists(folder: Path) -> bool:
    """Whether a run can go on from this folder."""
    return (folder / STATE).exists() or (folder / PREVIOUS).exists()


def load(trainer: Trainer, folder: Path, warn: Callable[[str], None] = lambda line: None) -> None:
    """Go on exactly from :func:`save`; lines of the log that were written after it are dropped.

    A damaged checkpoint is reported to ``warn`` and the one before it taken. On another kind of device the draws to
    come are new ones, since their generators have nothing in common.

    Raises:
        ArcsolveError: no checkpoint is readable, or it belongs to other settings, data or weights to start from.
    """
    try:
        state, path = _read(folder / STATE, trainer.device), folder / STATE
    except ArcsolveError as error:
        path = folder / PREVIOUS
        if not path.exists():
            raise
        warn(f"{error}; going on from the one before it, {path.name}")
        state = _read(path, trainer.device)
    if state["config"] != json.dumps(trainer.config.to_json()):
        raise ArcsolveError(f"{path}: made with other settings; use a new folder, or the same preset and options")
    if state["pack"] != trainer.pack.hash:
        raise ArcsolveError(f"{path}: made with another data pack")
    if state["initial"] != (trainer.initial.sha256 if trainer.initial else None):
        raise ArcsolveError(f"{path}: started from other weights; use a new folder")
    trainer.counters = Counters(**state["counters"])
    trainer.slowed, trainer.beta, trainer.depth = state["slowed"], Beta(**state["beta"]), tuple(state["depth"])
    trainer.tally.copy_(state["window"])
    set_learned(trainer, state["learned"])
    trainer.pool = state["pool"]
    trainer.host.set_state(state["host"].cpu())
    if state["device"] == trainer.device.type:
        trainer.generator.set_state(state["generator"].cpu())
    else:
        trainer.generator.manual_seed(hash((trainer.config.seed, trainer.counters.updates)))
        warn(f"{path}: was made on {state['device']}; the draws from here on are new ones")
    log = folder / LOG
    if log.exists() and not trainer.world.rank:
        # A kill may have cut the last line short.
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        kept = [line for line in lines if json.loads(line)["update"] <= trainer.counters.updates]
        replace_file(log, "".join(kept))


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise ArcsolveError(f"{path}: not a checkpoint, or cut short ({type(error).__name__})") from error
    if missing := sorted(_KEYS - state.keys()):
        raise ArcsolveError(f"{path}: lacks {missing[0]!r}; was it made by another version?")
    return state
