"""Loss and gradient of logits of 16 bits, in place, beside float32, PyTorch, and casts by chunks.

    python -m benchmarks.half_precision [--threads N]

Knows: the libraries' calls. Must not know: how results are kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import xent_fast

SHAPES = ((256, 1000), (65_536, 10), (8, 32_000), (512, 32_000))
CHUNK_LOGITS = 262_144


def best(call: Callable[[], object], seconds: float = 0.6) -> float:
    """Milliseconds of the fastest of some calls."""
    call()
    fastest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - start)
    return 1e3 * fastest


def ours(logits: Any, labels: Any, threads: int) -> Callable[[], object]:
    return lambda: xent_fast.softmax_cross_entropy_grad(
        logits, labels, reduction="sum", out=logits, num_threads=threads
    )


def by_chunks(logits: Any, labels: Any, threads: int) -> Callable[[], object]:
    """Some rows at a time through a buffer of float32, with NumPy's casts."""
    rows = max(1, CHUNK_LOGITS // logits.shape[1])
    buffer = np.empty((rows, logits.shape[1]), np.float32)

    def call() -> None:
        for first in range(0, len(logits), rows):
            some = logits[first : first + rows]
            wide = buffer[: len(some)]
            wide[...] = some
            xent_fast.softmax_cross_entropy_grad(
                wide,
                labels[first : first + rows],
                reduction="sum",
                out=wide,
                num_threads=threads,
            )
            some[...] = wide

    return call


def of_torch(logits: Any, labels: Any, dtype: str, threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    x = torch.from_numpy(logits).to(getattr(torch, dtype)).requires_grad_()
    y = torch.from_numpy(labels)

    def call() -> None:
        x.grad = None
        torch.nn.functional.cross_entropy(x, y, reduction="sum").backward()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    rng = np.random.default_rng(0)
    print(f"milliseconds, {threads} thread(s)")
    for shape in SHAPES:
        single = rng.standard_normal(shape, np.float32)
        labels = rng.integers(0, shape[1], shape[0])
        cells = [f"float32 {best(ours(single.copy(), labels, threads)):.3f}"]
        for dtype in (np.float16, ml_dtypes.bfloat16):
            name = np.dtype(dtype).name
            half = single.astype(dtype)
            cells.append(f"{name} {best(ours(half.copy(), labels, threads)):.3f}")
            cells.append(f"by chunks {best(by_chunks(half.copy(), labels, threads)):.3f}")
            cells.append(f"PyTorch {best(of_torch(single, labels, name, threads)):.3f}")
        print(f"{shape[0]} x {shape[1]}: " + ", ".join(cells))


if __name__ == "__main__":
    main()
