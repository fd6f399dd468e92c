"""Loss and gradient of logits of 16 bits, in place, beside float32, other libraries and casts.

    python -m benchmarks.half_precision [--threads N]

PyTorch, and JAX with optax, are there or left out; PyTorch's compiler needs one of C++. The limit
is what writing and reading as many bytes in place takes.

Knows: the libraries' calls. Must not know: how results are kept.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

import xent_fast
from benchmarks.where import where

SHAPES = ((256, 1000), (65_536, 10), (8, 32_000), (512, 32_000))
CHUNK_LOGITS = 262_144
SECONDS = 0.6  # of each cell
LIBRARIES = ("ml_dtypes", "torch", "jax", "optax")


def best(call: Callable[[], object]) -> float:
    """Milliseconds of the fastest of some calls, the first two of which do not count."""
    call()
    call()
    fastest, end = float("inf"), time.perf_counter() + SECONDS
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


def limit(logits: Any, labels: Any, threads: int) -> Callable[[], object]:
    """A pass over the memory on one thread: every word is read, and written where it lies."""
    words = logits.reshape(-1).view(np.uint64)
    return lambda: np.bitwise_not(words, out=words)


def of_torch(
    logits: Any, labels: Any, threads: int, *, is_compiled: bool = False
) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    dtype = getattr(torch, logits.dtype.name)
    x = torch.from_numpy(logits.astype(np.float32)).to(dtype).requires_grad_()
    y = torch.from_numpy(labels)

    def loss(x: Any) -> Any:
        return torch.nn.functional.cross_entropy(x, y, reduction="sum")

    if is_compiled:
        torch.compiler.reset()  # it compiles one function few times
        loss = torch.compile(loss, fullgraph=True, dynamic=False)

    def call() -> None:
        x.grad = None
        loss(x).backward()

    return call


def of_jax(logits: Any, labels: Any, threads: int) -> Callable[[], object]:
    """optax's loss under jit; the threads are those that JAX was started with."""
    import jax
    import optax

    x, y = jax.numpy.asarray(logits), jax.numpy.asarray(labels)
    loss = optax.softmax_cross_entropy_with_integer_labels
    both = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y).sum()))
    return lambda: jax.block_until_ready(both(x, y))


# Columns of the table.
WAYS: dict[str, Callable[..., Callable[[], object]]] = {
    "xent_fast": ours,
    "limit": limit,
    "by chunks": by_chunks,
    "PyTorch": of_torch,
    "compiled": partial(of_torch, is_compiled=True),
    "JAX": of_jax,
}


def cell(way: str, logits: Any, labels: Any, threads: int) -> str:
    """A time or, without the library, nothing."""
    if way == "by chunks" and logits.dtype == np.float32:
        return "–"
    try:
        return f"{best(WAYS[way](logits.copy(), labels, threads)):.3f}"
    except ImportError:
        return "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.threads == 1:  # read by JAX when it starts
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    rng = np.random.default_rng(0)
    print(f"Milliseconds, {options.threads} thread(s)\n\n{where(*LIBRARIES)}\n")
    print("| rows x classes | dtype | " + " | ".join(WAYS) + " |")
    print("|---|---|" + "---|" * len(WAYS))
    for shape in SHAPES:
        single = rng.standard_normal(shape, np.float32)
        labels = rng.integers(0, shape[1], shape[0])
        for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
            logits = single.astype(dtype)
            cells = [cell(way, logits, labels, options.threads) for way in WAYS]
            name = f"{shape[0]:,} x {shape[1]:,} | {logits.dtype.name}"
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
