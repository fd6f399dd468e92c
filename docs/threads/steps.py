"""A second thread in a training step: NumPy's matrix products, whose threads wait too, and a call.

    python docs/threads/steps.py        one process's medians, as JSON

Knows: the public functions, NumPy's products, the settings of both run-time libraries.
Must not know: how threads are chosen when nobody chooses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from tables import number, table

from xent_fast import softmax_cross_entropy_grad

MATRIX = 384
PRODUCTS = 4
SHAPES = ((1_024, 10), (64, 1_000), (256, 1_000), (1_024, 1_000), (4_096, 1_000), (256, 32_000))
ROUNDS, VISIT = 3, 10
SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "`OMP_WAIT_POLICY=passive`": {"OMP_WAIT_POLICY": "passive"},
    "`OPENBLAS_NUM_THREADS=1`": {"OPENBLAS_NUM_THREADS": "1"},
}


def time_steps(rows: int, classes: int) -> dict[int, tuple[float, float]]:
    """Median microseconds of the products and of the call, by the call's threads."""
    left = np.ones((MATRIX, MATRIX), np.float32)
    product = np.empty_like(left)
    rng = np.random.default_rng(0)
    pristine = rng.standard_normal((rows, classes), np.float32)
    labels = rng.integers(0, classes, rows)
    logits = pristine.copy()
    times: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for threads, samples in times.items():
            for visit in range(VISIT):
                np.copyto(logits, pristine)
                start = time.perf_counter()
                for _ in range(PRODUCTS):
                    np.matmul(left, left, out=product)
                middle = time.perf_counter()
                softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=threads)
                end = time.perf_counter()
                if visit > 1:
                    samples.append((1e6 * (middle - start), 1e6 * (end - middle)))
    return {
        threads: (median(sample[0] for sample in samples), median(sample[1] for sample in samples))
        for threads, samples in times.items()
    }


def in_a_process(**settings: str) -> list[dict[str, tuple[float, float]]]:
    command = [sys.executable, Path(__file__)]
    environment = os.environ | settings
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def training_steps() -> str:
    """The products and the call, by setting, batch, and threads of the call."""
    lines = []
    for name, settings in SETTINGS.items():
        for (rows, classes), times in zip(SHAPES, in_a_process(**settings), strict=True):
            figures = [number(one) for threads in ("1", "2") for one in times[threads]]
            lines.append([name, f"{rows:,} x {classes:,}", *figures])
    header = ["setting", "batch", "1 thread: products", "call", "2 threads: products", "call"]
    return (
        f"Microseconds of {PRODUCTS} products of {MATRIX} x {MATRIX} matrices, and of the call "
        "after them:\n\n" + table(header, lines)
    )


if __name__ == "__main__":
    print(json.dumps([time_steps(*shape) for shape in SHAPES]))
