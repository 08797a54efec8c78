"""The weights file: network, bank of task latents and what they were trained on, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from arcsolve.arc.dataset import read_json
from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.network.config import NetworkConfig

FORMAT = "arcsolve-weights-1"
NETWORK = "network."
BANK = "bank.rows"
SEEN = "bank.seen"
MANIFEST = "manifest.json"
MAX_BYTES = 2**30
"""Largest weights file read, in bytes; 7 million parameters and a bank of 3,000 tasks take 150 MB."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A loaded weights file.

    Attributes:
        path: where it came from; the ONNX graph reads its tensors from there.
        sha256: of the whole file.
        config: the network's sizes.
        tasks: ids of the bank's rows.
        network: the network's tensors by parameter name, float32.
        bank: task latents, float32 [tasks, P, C].
        seen: fingerprints of the official pairs trained on.
        training: how it was trained: protocol, data hash, presentations, updates, FLOP, seconds, device; and
            ``initial``, the same of the weights that the run started from, with their sha256.
    """

    path: Path
    sha256: str
    config: NetworkConfig
    tasks: tuple[str, ...]
    network: dict[str, NDArray[np.float32]]
    bank: NDArray[np.float32]
    seen: frozenset[bytes]
    training: dict[str, Any]

    @property
    def protocol(self) -> str:
        """What scores of these weights are to be called: ``per-task``, or ``transductive``."""
        return str(self.training.get("protocol", "per-task"))


def shipped_weights() -> Path:
    """The weights that come with the package: inside an installed one, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_weights" / "arcsolve.safetensors"
    return inside if inside.exists() else package.parent / "weights" / "arcsolve.safetensors"


def save_weights(
    path: Path,
    config: NetworkConfig,
    tasks: tuple[str, ...],
    network: dict[str, NDArray[np.float32]],
    bank: NDArray[np.float32],
    seen: frozenset[bytes],
    training: dict[str, Any],
) -> None:
    """Write a weights file by a rename, so that a reader never sees half of one.

    Raises:
        ArcsolveError: the file cannot be written.
    """
    tensors: dict[str, NDArray[Any]] = {NETWORK + name: np.ascontiguousarray(value) for name, value in network.items()}
    tensors[BANK] = np.ascontiguousarray(bank)
    tensors[SEEN] = np.frombuffer(b"".join(sorted(seen)), dtype=np.uint8).reshape(-1, 16)
    meta = {"format": FORMAT, "config": config.to_json(), "tasks": tasks, "training": training}
    temporary = path.with_name(path.name + ".part")
    try:
        save_file(tensors, temporary, {"arcsolve": json.dumps(meta)})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise ArcsolveError(f"{path}: cannot be written ({error})") from error


def load_weights(path: Path, *, verify: bool = True) -> Weights:
    """Read a weights file.

    Args:
        verify: whether a ``manifest.json`` beside the file that names it must have its hash, as it must for the
            shipped weights.

    Raises:
        FormatError: not a weights file of ours, cut short, another than its manifest names, or tensors that do not
            fit its configuration.
        ArcsolveError: the file cannot be read.
    """
    try:
        with path.open("rb") as content:
            if os.fstat(content.fileno()).st_size > MAX_BYTES:
                raise FormatError(f"{path}: larger than {MAX_BYTES // 2**20} MiB, so no weights of arcsolve")
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if verify:
            _verify(path, digest)
        with safe_open(path, "numpy") as file:
            meta = json.loads((file.metadata() or {}).get("arcsolve", "{}"))
            if not isinstance(meta, dict) or meta.get("format") != FORMAT:
                raise FormatError(f"{path}: not a weights file of arcsolve ({FORMAT})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            if odd := [name for name, tensor in tensors.items() if name != SEEN and tensor.dtype != np.float32]:
                raise FormatError(f"{path}: the tensor {odd[0]} is not of float32")
    except OSError as error:
        raise ArcsolveError(f"{path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:  # of a kind numpy lacks
        raise FormatError(f"{path}: not a weights file, or cut short ({error})") from error
    try:
        config = NetworkConfig.from_json(meta["config"], str(path))
        if missing := [name for name in ("h0", "l0", "rotary") if NETWORK + name not in tensors]:
            raise FormatError(f"{path}: the tensor {NETWORK}{missing[0]} is missing")
        bank, seen, training = tensors.pop(BANK), tensors.pop(SEEN), meta["training"]
        if not isinstance(training, dict) or seen.ndim != 2 or seen.dtype != np.uint8:
            raise FormatError(f"{path}: what it was trained on is not told as expected")
        if bank.shape != (len(meta["tasks"]), config.latents, config.width):
            raise FormatError(f"{path}: the bank has shape {bank.shape}, which does not fit its configuration")
        return Weights(
            path=path,
            sha256=digest,
            config=config,
            tasks=tuple(meta["tasks"]),
            network={name.removeprefix(NETWORK): tensor for name, tensor in tensors.items()},
            bank=bank,
            seen=frozenset(row.tobytes() for row in seen),
            training=training,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: the header lacks {error}") from error


def _verify(path: Path, digest: str) -> None:
    manifest = path.with_name(MANIFEST)
    if not manifest.exists():
        return
    value = read_json(str(manifest))
    try:
        named = value["sha256"] if value["file"] == path.name else digest
    except (KeyError, TypeError):
        raise FormatError(f"{manifest}: not a manifest of weights") from None
    if named != digest:
        raise FormatError(f"{path}: sha256 {digest[:12]} is not {str(named)[:12]} of {MANIFEST}: damaged or replaced")
