"""Export: one supervision step as an ONNX graph whose data lies in the weights file."""

from __future__ import annotations

import json
import logging
import struct
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from arcsolve.canvas import OUTSIDE
from arcsolve.errors import ArcsolveError
from arcsolve.inference.backend import Inputs
from arcsolve.inference.onnx_backend import WEIGHTS_SHA256, OnnxBackend
from arcsolve.inference.torch_backend import TorchBackend, build_network
from arcsolve.network.recursion import RecursiveNetwork, State
from arcsolve.network.weights import NETWORK, Weights, load_weights

OPSET = 20
TOLERANCE = 1e-3
INPUTS = ("cells", "dihedral", "colours", "latents", "h", "l", "noise")
OUTPUTS = ("h_next", "l_next", "logits", "halting")


class _Step(nn.Module):
    """The exported function: tokens and state in, state, logits and halting logit out."""

    def __init__(self, network: RecursiveNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, cells: Tensor, dihedral: Tensor, colours: Tensor, latents: Tensor, h: Tensor, l: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.network.embed(cells, dihedral, colours, latents)
        _, height, width = cells.shape
        state, logits, halting = self.network.step(x, State(h, l), height, width, noise)
        return state.h, state.l, logits, halting


def export(path: Path) -> tuple[Path, float]:
    """Write ``<weights>.onnx`` beside a weights file, and check it against torch before it gets that name.

    The graph holds no weights: every initializer points into the safetensors file by offset, so there is one copy for
    torch and for ONNX Runtime, and only the two together are usable.

    Returns:
        The graph's path and the largest difference of a logit between torch and ONNX Runtime.

    Raises:
        ArcsolveError: the weights cannot be read, or the two disagree.
    """
    weights = load_weights(path)
    network = build_network(weights.config, weights.network).eval()
    example = example_inputs(weights, 2, 5, 4, seed=0)
    dynamic = torch.export.Dim.DYNAMIC
    batch = {0: dynamic}
    tokens = {0: dynamic, 1: dynamic}
    noise = batch if weights.config.noise_width else tokens
    canvas = {0: dynamic, 1: dynamic, 2: dynamic}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of a missing torchvision, which nobody needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Step(network),
            tuple(torch.from_numpy(array) for array in example),
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=(canvas, batch, batch, batch, tokens, tokens, noise),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # optimising renames and folds the parameters, which must keep their names
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _point_into(model, path)
    model.metadata_props.add(key=WEIGHTS_SHA256, value=weights.sha256)
    graph = path.with_suffix(".onnx")
    # The check needs graph and weights side by side, under one name: a trial pair lives in a folder of its own.
    trial = path.parent / f".{path.stem}-export"
    trial.mkdir(exist_ok=True)
    try:
        (trial / path.name).hardlink_to(path)
        onnx.save(model, trial / graph.name)
        difference = disagreement(load_weights(trial / path.name))
        if difference > TOLERANCE:
            raise ArcsolveError(f"{path}: the exported graph differs from torch by {difference:.2g}; not written")
        (trial / graph.name).replace(graph)
    finally:
        for file in trial.iterdir():
            file.unlink()
        trial.rmdir()
    return graph, difference


def _point_into(model: onnx.ModelProto, path: Path) -> None:
    """Turn every tensor of the network into an input whose default lies in the safetensors file.

    The exporter's notes on every node (stack traces with this machine's paths, a megabyte of them) go.
    """
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    for tensor in graph.initializer:
        entry = header.get(NETWORK + tensor.name.removeprefix("network."))
        if entry is None:
            continue  # a constant of the graph, not a parameter
        begin, end = entry["data_offsets"]
        del tensor.metadata_props[:]
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", path.name), ("offset", 8 + length + begin), ("length", end - begin)):
            tensor.external_data.add(key=key, value=str(value))
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def example_inputs(weights: Weights, batch: int, height: int, width: int, seed: int) -> tuple[np.ndarray, ...]:
    """Random inputs of a step, in the order of ``INPUTS``."""
    rng = np.random.default_rng(seed)
    config = weights.config
    tokens = config.prefix + height * width
    shapes = 2 * [(batch, tokens, config.width)] + [(batch, *config.noise_shape(tokens))]
    return (
        rng.integers(0, OUTSIDE + 1, (batch, height, width)),
        rng.integers(0, 8, batch),
        np.stack([rng.permutation(10) for _ in range(batch)]),
        rng.standard_normal((batch, config.latents, config.width), dtype=np.float32),
        *(rng.standard_normal(shape, dtype=np.float32) for shape in shapes),
    )


def disagreement(weights: Weights, tested: OnnxBackend | None = None) -> float:
    """Largest difference between torch and ONNX Runtime, both on a CPU, in the logits, over two steps on two canvases.

    Args:
        tested: of these weights, where it is to be another session than a new one on a CPU.
    """
    reference = TorchBackend(weights.config, weights.network, torch.device("cpu"))
    tested = tested or OnnxBackend(weights, "cpu")
    worst = 0.0
    for height, width in ((3, 3), (7, 11)):
        *fixed, h, l, noise = example_inputs(weights, 3, height, width, seed=height)
        inputs = Inputs(*fixed)
        for _ in range(2):
            a, b = reference.step(inputs, h, l, noise), tested.step(inputs, h, l, noise)
            worst = max(worst, float(np.abs(a.logits - b.logits).max()))
            h, l = a.h, a.l
    return worst
