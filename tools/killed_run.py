"""Kill a batch run at random, again and again, and see whether it ends with the submission of an undisturbed one.

    python tools/killed_run.py arc-agi-1/training --kills 10 -o runs/killed -- --views 2 --adapt-steps 1

What follows ``--`` goes to ``arcsolve batch``. Prints a JSON object; exit status 1 where the two submissions differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def batch(arguments: argparse.Namespace, folder: Path) -> list[str]:
    return [sys.executable, "-m", "arcsolve", "batch", arguments.source, "-o", str(folder), *arguments.options]


def lines(folder: Path) -> int:
    path = folder / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ended within this time."""
    try:
        process.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = [*sys.argv[1:], "--"]
    arguments = parser.parse_args(given[: given.index("--")])
    arguments.options = given[given.index("--") + 1 : -1]
    whole, killed = arguments.output / "whole", arguments.output / "killed"
    began = time.monotonic()
    subprocess.run(batch(arguments, whole), check=True)
    seconds, tasks = time.monotonic() - began, lines(whole)
    rng = random.Random(arguments.seed)
    # As many moments spread over the whole run, the seconds to start again added to each.
    moments = sorted(rng.uniform(0, seconds) for _ in range(arguments.kills))
    seen: list[dict[str, Any]] = []
    for before, moment in zip([0.0, *moments], moments, strict=False):
        so_far = lines(killed)
        process = subprocess.Popen(batch(arguments, killed), stderr=subprocess.DEVNULL)
        ended = wait_for(process, 3.0 + moment - before)
        process.kill()
        process.wait()
        seen.append(
            {"after": round(3.0 + moment - before, 1), "tasks": lines(killed) - so_far, "ended_by_itself": ended}
        )
    subprocess.run(batch(arguments, killed), check=True)
    hashes = [hashlib.sha256((folder / "submission.json").read_bytes()).hexdigest() for folder in (whole, killed)]
    report = {
        "source": arguments.source,
        "tasks": tasks,
        "seconds": round(seconds, 1),
        "kills": seen,
        "lines_killed": lines(killed),
        "submission_sha256": hashes,
        "same": hashes[0] == hashes[1],
    }
    print(json.dumps(report, indent=1))
    return 0 if hashes[0] == hashes[1] else 1


if __name__ == "__main__":
    sys.exit(main())
