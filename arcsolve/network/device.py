"""Which torch device a ``--device`` means."""

from __future__ import annotations

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
