"""The product's backend: ONNX Runtime on a graph whose data is the weights file itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from arcsolve.errors import ArcsolveError, FormatError
from arcsolve.inference.backend import CPU_TOKENS, GPU_TOKENS, Array, Inputs, Step
from arcsolve.network.weights import NETWORK, Weights

CUDA = "CUDAExecutionProvider"
WEIGHTS_SHA256 = "weights_sha256"
MAX_GRAPH_BYTES = 16 * 2**20


class OnnxBackend:
    """Runs the exported supervision step in ONNX Runtime.

    Args:
        weights: a weights file with its graph (same name, ``.onnx``) beside it.
        device: ``auto``, ``cpu`` or ``cuda[:n]``. ``auto`` takes CUDA where it works; where there is a GPU and it does
            not, ``notice`` says so in a line.
        threads: of the CPU; 0 for one on each core.

    Raises:
        ArcsolveError: the graph is not there, or a device asked for by name is not usable.
        FormatError: the graph does not fit the weights.
    """

    def __init__(self, weights: Weights, device: str = "auto", threads: int = 0) -> None:
        self.config = weights.config
        self.start = (weights.network["h0"], weights.network["l0"])
        graph = weights.path.with_suffix(".onnx")
        if not graph.exists():
            raise ArcsolveError(f"{graph}: no such graph; make it with `arcsolve export {weights.path}`")
        _check_graph(graph, weights.path.name)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # a provider that cannot start is reported below, in one line
        options.intra_op_num_threads = threads
        self.session = _session(graph, options, device)
        # The graph points into the file by offset: into another file, or a later checkpoint, it would read nonsense.
        if self.session.get_modelmeta().custom_metadata_map.get(WEIGHTS_SHA256) != weights.sha256:
            raise FormatError(f"{graph}: belongs to other weights; make it anew with `arcsolve export {weights.path}`")
        # The network's tensors are inputs with the file's values as defaults, so that one session serves every network
        # that is adapted from it: faster than a session rebuilt for each (`tools/adapted_session.py`).
        self.shapes = {one.name: tuple(one.shape) for one in self.session.get_overridable_initializers()}
        self.tensors: dict[str, ort.OrtValue] = {}
        if not self.shapes:
            raise FormatError(f"{graph}: of an older kind; make it anew with `arcsolve export {weights.path}`")
        on_cuda = CUDA in self.session.get_providers()
        self.notice = None
        if device == "auto":
            device = "cuda" if on_cuda else "cpu"
            if cuda_present() and not on_cuda:
                self.notice = "there is a GPU, but ONNX Runtime's CUDA provider does not start; running on the CPU"
        self.device = device
        self.name = f"onnx:{device}"
        self.batch_tokens = GPU_TOKENS if on_cuda else CPU_TOKENS

    def step(self, inputs: Inputs, h: Array, l: Array, noise: Array) -> Step:
        """See :class:`~arcsolve.inference.backend.Backend`."""
        feeds = {**inputs._asdict(), "h": h, "l": l, "noise": noise, **self.tensors}
        return Step(*self.session.run(["h_next", "l_next", "logits", "halting"], feeds))

    def adapted(self, tensors: dict[str, NDArray[Any]]) -> OnnxBackend:
        """See :class:`~arcsolve.inference.backend.Backend`."""
        kind, _, number = self.device.partition(":")
        given = {}
        for name, value in tensors.items():
            if self.shapes.get(NETWORK + name) != value.shape:
                raise ValueError(f"{name} {value.shape} is no tensor of this network")
            array = np.ascontiguousarray(value, dtype=np.float32)
            given[NETWORK + name] = ort.OrtValue.ortvalue_from_numpy(array, kind, int(number or 0))
        other = copy.copy(self)
        other.tensors = self.tensors | given
        return other


def _check_graph(graph: Path, name: str) -> None:
    """Refuse a graph that reads tensors from elsewhere than the weights file, before anything opens that.

    Raises:
        FormatError: no ONNX file, too large for one without weights, or one with a path of its own.
    """
    try:
        if graph.stat().st_size > MAX_GRAPH_BYTES:
            raise FormatError(f"{graph}: larger than {MAX_GRAPH_BYTES // 2**20} MiB, though it should hold no weights")
        model = onnx.load(graph, load_external_data=False)
    except OSError as error:
        raise ArcsolveError(f"{graph}: {error.strerror or error}") from None
    except DecodeError as error:
        raise FormatError(f"{graph}: not an ONNX file, or cut short") from error
    steps = [part for info in model.training_info for part in (info.initialization, info.algorithm)]
    for tensor in chain.from_iterable(map(_tensors, [model.graph, *steps, *model.functions])):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value != name:
                where = f"reads {tensor.name!a} from {entry.value!a} instead of {name}"
                raise FormatError(f"{graph}: {where}; make it anew with `arcsolve export`")


def _tensors(part: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph or a function, those of graphs within it included."""
    attributes = [attribute for node in part.node for attribute in node.attribute]
    if isinstance(part, onnx.FunctionProto):
        attributes += part.attribute_proto
    else:
        yield from part.initializer
        for sparse in part.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in attributes:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (attribute.g, *attribute.graphs):
            if inner.ByteSize():
                yield from _tensors(inner)


def _session(graph: Path, options: ort.SessionOptions, device: str) -> ort.InferenceSession:
    """A session on the device; what providers a session has, not what was asked for, is the truth."""
    name, _, number = device.partition(":")
    if name not in ("auto", "cpu", "cuda") or (number and not (name == "cuda" and number.isdigit())):
        raise ArcsolveError(f"--device {device}: expected auto, cpu or cuda[:n]")
    providers: list[Any] = ["CPUExecutionProvider"]
    if name != "cpu" and cuda_present():
        providers.insert(0, (CUDA, {"device_id": number or "0"}))
    elif name == "cuda":
        raise ArcsolveError(f"--device {device}: ONNX Runtime {ort.__version__} finds no GPU with a CUDA provider here")
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises its own kinds, none with a common base
        raise FormatError(f"{graph}: ONNX Runtime cannot load it ({str(error).splitlines()[0][:200]})") from error
    if name == "cuda" and CUDA not in session.get_providers():
        raise ArcsolveError(f"--device {device}: there is a GPU, but ONNX Runtime's CUDA provider does not start")
    return session


def cuda_present() -> bool:
    """Whether it makes sense to ask for CUDA: asking without a GPU makes the library print to stdout."""
    return CUDA in ort.get_available_providers() and any(Path("/dev").glob("nvidia[0-9]*"))
