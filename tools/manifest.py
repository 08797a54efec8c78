"""Write ``weights/manifest.json`` for a weights file from the JSON that ``arcsolve eval --json`` printed.

    python tools/manifest.py weights/arcsolve.safetensors --score meta_dev=meta.json --score development=dev.json

The ledger of earlier runs is kept; this run joins it, and those that it started from, unless they stand there. So does
a run whose weights are not shipped: ``--tried WEIGHTS=META.json``, with its score on meta-dev.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

from arcsolve.files import replace_file
from arcsolve.network.weights import load_weights

LEFT_OUT = frozenset("figure weights_sha256 pass_at_1 pass_at_2 seconds_per_task trajectories_per_second".split())
SPENT = ("seconds", "flop", "presentations", "updates", "supervision_steps")


def lineage(sha256: str, training: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The runs behind these weights, oldest first: each started from the one before it."""
    initial = training.get("initial")
    return [*(lineage(initial["sha256"], initial["training"]) if initial else ()), (sha256, training)]


def figures(name: str, path: Path, sha256: str) -> dict[str, Any]:
    """The part of an evaluation that belongs into the manifest."""
    value = json.loads(path.read_text())
    if value["figure"].replace("-", "_") != name or value["data"] != value["figure"]:
        raise SystemExit(f"{path}: this is {value['data']}, not the whole of {name}")
    if value["weights_sha256"] != sha256:
        raise SystemExit(f"{path}: this is the score of other weights ({value['weights_sha256'][:12]})")
    rates = {f"pass_at_{k}_{by}": value[f"pass_at_{k}"][by] for k in (1, 2) for by in ("by_output", "by_task")}
    return {"pass_at_2": rates["pass_at_2_by_output"], **rates, **{k: v for k, v in value.items() if k not in LEFT_OUT}}


def entry(sha256: str, training: dict[str, Any], before: float | None, after: float | None) -> dict[str, Any]:
    """A run's line in the ledger; ``before`` and ``after`` are meta-dev at two attempts by output."""
    return {
        "date": date.today().isoformat(),
        "sha256": sha256,
        "device": training["device"],
        **{name: training[name] for name in SPENT},
        "meta_dev_before": before,
        "meta_dev_after": after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--score", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--tried", action="append", default=[], metavar="WEIGHTS=FILE")
    options = parser.parse_args()
    weights = load_weights(options.weights, verify=False)  # the manifest is about to be that of these
    path = options.weights.with_name("manifest.json")
    before = json.loads(path.read_text()) if path.exists() else {"ledger": [], "scores": {}, "sha256": None}
    scores = dict(before["scores"]) if before["sha256"] == weights.sha256 else {}
    for item in options.score:
        name, _, file = item.partition("=")
        scores[name] = figures(name, Path(file), weights.sha256)
    runs = lineage(weights.sha256, weights.training)
    ledger = before["ledger"]
    listed = {line["sha256"]: line for line in ledger}

    def reached() -> float | None:
        return next((line["meta_dev_after"] for line in reversed(ledger) if line.get("shipped", True)), None)

    for sha256, training in runs:
        after = scores.get("meta_dev", {}).get("pass_at_2") if sha256 == weights.sha256 else None
        if sha256 not in listed:
            ledger.append(entry(sha256, training, reached(), after))
        elif after is not None:
            listed[sha256] |= {"meta_dev_after": after}
    for item in options.tried:
        name, _, file = item.partition("=")
        tried = load_weights(Path(name), verify=False)
        after = figures("meta_dev", Path(file), tried.sha256)["pass_at_2"]
        if tried.sha256 not in listed:
            ledger.append(entry(tried.sha256, tried.training, reached(), after) | {"shipped": False})
    manifest = {
        "file": options.weights.name,
        "sha256": weights.sha256,
        "protocol": weights.training["protocol"],
        "network": weights.config.to_json(),
        "parameters": sum(array.size for array in weights.network.values()),
        "bank": {"tasks": len(weights.tasks), "parameters": weights.bank.size},
        "data_sha256": weights.training["data_sha256"],
        "presentations": sum(training["presentations"] for _, training in runs),
        "flop": sum(training["flop"] for _, training in runs),
        "training": weights.training,
        "scores": scores,
        "ledger": ledger,
    }
    replace_file(path, json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
