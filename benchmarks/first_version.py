"""float64 beside the first version of the kernels, which lies in a folder of its own.

Each version is a process that prints its times, on one thread, the best of each; they take turns.

    python -P benchmarks/first_version.py    what one version takes, as JSON

Knows: how a process gets one version. Must not know: goals, tables.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SHAPES = ((1_024, 10), (65_536, 10), (256, 1_000), (64, 32_000))
SECONDS, FEWEST = 0.25, 3  # of each shape in a turn


def measure(folder: Path, isa: str, rounds: int) -> dict[str, list[float]]:
    """Of every shape the seconds of the version in the folder, and of the one installed."""
    best = [[float("inf")] * 2 for _ in SHAPES]
    for _ in range(rounds):
        for version, path in enumerate((str(folder), "")):
            environment = os.environ | {"XENT_FAST_ISA": isa, "PYTHONPATH": path}
            command = [sys.executable, "-P", __file__]
            output = subprocess.check_output(command, env=environment, text=True)
            for times, seconds in zip(best, json.loads(output), strict=True):
                times[version] = min(times[version], seconds)
    return {
        f"{rows:,} x {classes:,}": times
        for (rows, classes), times in zip(SHAPES, best, strict=True)
    }


def seconds_of_call(rows: int, classes: int) -> float:
    """The fastest of some calls in place, each on fresh logits."""
    from xent_fast import softmax_cross_entropy_grad

    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.standard_normal((rows, classes)), rng.integers(0, classes, rows)
    buffer, seconds, end = np.empty_like(logits), [], time.perf_counter() + SECONDS
    while len(seconds) < FEWEST or time.perf_counter() < end:
        np.copyto(buffer, logits)
        start = time.perf_counter()
        softmax_cross_entropy_grad(buffer, labels, out=buffer, num_threads=1)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    print(json.dumps([seconds_of_call(*shape) for shape in SHAPES]))
