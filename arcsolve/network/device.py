"""Which torch device a ``--device`` means, and what it can do."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch

from arcsolve.errors import ArcsolveError


def choose_device(name: str) -> torch.device:
    """The torch device of ``auto`` (CUDA where it is usable), ``cpu`` or ``cuda[:n]``.

    Raises:
        ArcsolveError: another name, or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise ArcsolveError(f"--device {name}: expected auto, cpu or cuda[:n]")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= count:
        raise ArcsolveError(f"--device {name}: this torch ({torch.__version__}) sees {count} such devices")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32.

    A CUDA one of 2020 or later, or a CPU with AMX or AVX512-BF16.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    # AVX-512 without its bfloat16 extension is slower in it than in float32. Not every torch that is allowed can say.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` finds what it generates code with: Triton for CUDA, a C++ compiler for a CPU."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return shutil.which(os.environ.get("CXX", "g++")) is not None
