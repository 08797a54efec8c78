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

from arcsolve.inference.backend import Inputs
from arcsolve.inference.export import INPUTS, OUTPUTS, example_inputs
from arcsolve.inference.onnx_backend import NETWORK, OnnxBackend
from arcsolve.network.recursion import training_only
from arcsolve.network.weights import load_weights, shipped_weights


def fixed_graph(graph: Path) -> Path:
    """The graph with its parameters as constants, which may be folded, beside the weights that it points into."""
    model = onnx.load(str(graph), load_external_data=False)
    own = [one for one in model.graph.input if one.name in INPUTS]
    del model.graph.input[:]
    model.graph.input.extend(own)
    path = graph.with_name(f".{graph.stem}-fixed.onnx")
    onnx.save(model, path)
    return path


def rebuilt(graph: Path, tensors: dict[str, Any]) -> ort.InferenceSession:
    """A session with these values in place of the file's; replaced before constants are folded, so that it is exact."""
    options = ort.SessionOptions()
    values = [ort.OrtValue.ortvalue_from_numpy(value) for value in tensors.values()]
    options.add_external_initializers([NETWORK + name for name in tensors], values)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


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
        if name not in ("h0", "l0", "rotary") and not training_only(name)
    }
    *inputs, h, l, noise = example_inputs(weights, options.batch, options.side, options.side, 0)
    fixed = Inputs(*inputs)
    feeds = {**fixed._asdict(), "h": h, "l": l, "noise": noise}
    seconds: dict[str, list[float]] = {"rebuilt": [], "rebuilt_hand_over": [], "inputs": [], "inputs_hand_over": []}
    graph = fixed_graph(options.weights.with_suffix(".onnx"))
    try:
        for _ in range(options.rounds):
            began = time.perf_counter()
            session = rebuilt(graph, changed)
            seconds["rebuilt_hand_over"].append(time.perf_counter() - began)
            for _ in range(options.runs):
                one = session.run(OUTPUTS, feeds)[2]
            seconds["rebuilt"].append(time.perf_counter() - began)
            began = time.perf_counter()
            adapted = backend.adapted(changed)
            seconds["inputs_hand_over"].append(time.perf_counter() - began)
            for _ in range(options.runs):
                two = adapted.step(fixed, h, l, noise).logits
            seconds["inputs"].append(time.perf_counter() - began)
    finally:
        graph.unlink()
    assert np.abs(one - two).max() < 1e-3, "the two ways disagree"
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = median["rebuilt"] / median["inputs"]
    print(json.dumps({**median, "rebuilt_over_inputs": ratio, **vars(options)}, default=str))


if __name__ == "__main__":
    main()
