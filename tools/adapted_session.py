"""Which way adapted tensors reach ONNX Runtime faster: a session rebuilt with them, or one that takes them as inputs.

    python tools/adapted_session.py [WEIGHTS] [--batch 16] [--side 10] [--runs 4] [--rounds 5]

Both are exact. A task costs one hand-over and a few runs of a batch, so what counts is their sum; the two alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from arcsolve.inference.export import INPUTS, example_inputs
from arcsolve.inference.onnx_backend import NETWORK, OnnxBackend
from arcsolve.inference.solver import shipped_weights
from arcsolve.network.weights import load_weights


def overridable(graph: Path) -> ort.InferenceSession:
    """A session whose parameters are inputs with defaults, so that any run may bring its own."""
    model = onnx.load(str(graph), load_external_data=False)
    given = {one.name for one in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name.startswith(NETWORK) and tensor.name not in given:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns of every overridable parameter, which is what is wanted here
    temporary = graph.with_name(f".{graph.stem}-overridable.onnx")
    try:
        onnx.save(model, temporary)
        return ort.InferenceSession(temporary, options, providers=["CPUExecutionProvider"])
    finally:
        temporary.unlink()


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("weights", nargs="?", type=Path, default=shipped_weights())
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--side", type=int, default=10)
    made.add_argument("--runs", type=int, default=4, help="runs of a batch for each task")
    made.add_argument("--rounds", type=int, default=5)
    options = made.parse_args()
    weights = load_weights(options.weights)
    backend = OnnxBackend(weights, "cpu")
    rng = np.random.default_rng(0)
    changed = {
        name: array * rng.uniform(0.9, 1.1, array.shape).astype(np.float32)
        for name, array in weights.network.items()
        if name not in ("h0", "l0", "rotary", "hint")
    }
    feeds: dict[str, Any] = dict(
        zip(INPUTS, example_inputs(weights, options.batch, options.side, options.side, 0), strict=True)
    )
    session = overridable(options.weights.with_suffix(".onnx"))
    taken = {one.name for one in session.get_inputs()} | {one.name for one in session.get_overridable_initializers()}
    tensors = {NETWORK + name: value for name, value in changed.items() if NETWORK + name in taken}
    seconds: dict[str, list[float]] = {"rebuilt": [], "rebuilt_hand_over": [], "inputs": []}
    for _ in range(options.rounds):
        began = time.perf_counter()
        rebuilt = backend.adapted(changed)
        seconds["rebuilt_hand_over"].append(time.perf_counter() - began)
        for _ in range(options.runs):
            one = rebuilt.session.run(["logits"], feeds)[0]
        seconds["rebuilt"].append(time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(options.runs):
            two = session.run(["logits"], {**feeds, **tensors})[0]
        seconds["inputs"].append(time.perf_counter() - began)
    assert np.abs(one - two).max() < 1e-3, "the two ways disagree"
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = median["rebuilt"] / median["inputs"]
    print(json.dumps({**median, "rebuilt_over_inputs": ratio, **vars(options)}, default=str))


if __name__ == "__main__":
    main()
