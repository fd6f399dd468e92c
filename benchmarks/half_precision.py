"""Loss and gradient of logits of 16 bits, in place, beside float32, other libraries and casts.

    python -m benchmarks.half_precision             the tables of docs/half_precision.md, printed
    python -m benchmarks.half_precision --write     the same, written to the page
    python -m benchmarks.half_precision --compiled  with PyTorch's compiler, which needs one of C++
    python -m benchmarks.half_precision --quick     few rows: whether it works

Every number of threads has a process of its own, in which the ways take turns; a time is the least
of its calls, each on the same logits. PyTorch, and JAX with optax, are there or left out.

Knows: the libraries' calls, and the page. Must not know: how a loss is computed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import xent_fast
from benchmarks.where import where
from scripts.pages import table, write_block

PAGE = Path(__file__).parent.parent / "docs" / "half_precision.md"
# The first two are as long rows, from memory and in cache.
SHAPES = ((512, 32_000), (8, 32_000), (256, 1000), (65_536, 10))
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
HALVES = ("float16", "bfloat16")
CHUNK_LOGITS = 262_144
LIBRARIES = ("ml_dtypes", "torch", "jax", "optax")
TURNS, TURN_SECONDS = 4, 0.15
QUICK = {"TURNS": 1, "TURN_SECONDS": 0.0, "SHAPES": tuple((r // 8, c) for r, c in SHAPES)}

Call = Callable[[], object]
Times = dict[str, float]


# --- ways to loss and gradient --------------------------------------------------------------------


def ours(logits: Any, labels: Any, threads: int) -> Call:
    return lambda: xent_fast.softmax_cross_entropy_grad(
        logits, labels, reduction="sum", out=logits, num_threads=threads
    )


def by_chunks(logits: Any, labels: Any, threads: int) -> Call:
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


def limit(logits: Any, labels: Any, threads: int) -> Call:
    """A pass over the memory on one thread: every word is read, and written where it lies."""
    words = logits.reshape(-1).view(np.uint64)
    return lambda: np.bitwise_not(words, out=words)


def of_torch(logits: Any, labels: Any, threads: int, *, is_compiled: bool = False) -> Call:
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


def of_jax(logits: Any, labels: Any, threads: int) -> Call:
    """optax's loss under jit; the threads are those that JAX was started with."""
    import jax
    import optax

    x, y = jax.numpy.asarray(logits), jax.numpy.asarray(labels)
    loss = optax.softmax_cross_entropy_with_integer_labels
    both = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y).sum()))
    return lambda: jax.block_until_ready(both(x, y))


OURS, LIMIT, CHUNKS, TORCH, JAX = "xent_fast", "its memory alone", "by chunks", "PyTorch", "JAX"
COMPILED = "PyTorch, compiled"
WAYS: dict[str, Callable[..., Call]] = {
    OURS: ours,
    LIMIT: limit,
    CHUNKS: by_chunks,
    TORCH: of_torch,
    JAX: of_jax,
    COMPILED: partial(of_torch, is_compiled=True),
}


# --- times ----------------------------------------------------------------------------------------


def cell(way: str, dtype: str) -> str:
    return f"{way}, {dtype}"


def calls_of(
    single: Any, labels: Any, threads: int, others: list[str]
) -> dict[str, tuple[Call, Any, Any]]:
    """By cell: a call, the array it may write to, and what must stand there before."""
    calls = {}
    for dtype, kind in DTYPES.items():
        pristine = single.astype(kind)
        for way in [OURS] if dtype == "float32" else [OURS, LIMIT, *others]:
            place = pristine.copy()
            try:
                calls[cell(way, dtype)] = WAYS[way](place, labels, threads), place, pristine
            except ImportError:
                continue
    return calls


def least_milliseconds(calls: dict[str, tuple[Call, Any, Any]]) -> Times:
    """Each call's least time over all turns, of which the first call does not count."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(TURNS):
        for name, (call, place, pristine) in calls.items():
            end, count = time.perf_counter() + TURN_SECONDS, 0
            while count < 2 or time.perf_counter() < end:
                np.copyto(place, pristine)
                start = time.perf_counter()
                call()
                if count:
                    least[name] = min(least[name], 1e3 * (time.perf_counter() - start))
                count += 1
    return dict(least)


def named(shape: tuple[int, int]) -> str:
    return f"{shape[0]:,} x {shape[1]:,}"


def measure(threads: int, others: list[str]) -> dict[str, Times]:
    """By shape and cell; runs in a process of its own."""
    found = {}
    for shape in SHAPES:
        rng = np.random.default_rng(0)
        single = rng.standard_normal(shape, np.float32)
        labels = rng.integers(0, shape[1], shape[0])
        found[named(shape)] = least_milliseconds(calls_of(single, labels, threads, others))
    return found


def in_a_process(threads: int, arguments: list[str]) -> dict[str, Times]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if threads == 1:  # read by JAX when it starts
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    command = [sys.executable, "-m", "benchmarks.half_precision", "--worker", str(threads)]
    finished = subprocess.run(
        [*command, *arguments], check=True, stdout=subprocess.PIPE, env=environment
    )
    result: dict[str, Times] = json.loads(finished.stdout.splitlines()[-1])
    return result


# --- the tables -----------------------------------------------------------------------------------


def milliseconds(times: Times, way: str, dtype: str) -> str:
    value = times.get(cell(way, dtype))
    return "–" if value is None else f"{value:.3f}" if value < 10 else f"{value:,.1f}"


def ratio(over: float | None, under: float | None) -> str:
    return "–" if over is None or under is None else f"{over / under:.2f}"


def own_line(times: Times, in_cache: Times | None) -> list[str]:
    """Times of this library, over float32 and over those of as many rows in cache."""
    line = [milliseconds(times, OURS, dtype) for dtype in DTYPES]
    line += [ratio(times[cell(OURS, h)], times[cell(OURS, "float32")]) for h in HALVES]
    more = SHAPES[0][0] / SHAPES[1][0]
    for dtype in DTYPES:
        name = cell(OURS, dtype)
        line.append("" if in_cache is None else ratio(times[name], more * in_cache[name]))
    return line


def own_table(found: dict[int, dict[str, Times]]) -> str:
    head = ["threads", "rows x classes", *DTYPES, *(f"{half} / float32" for half in HALVES)]
    head += [f"{dtype} / in cache" for dtype in DTYPES]
    first, second = map(named, SHAPES[:2])
    lines = [
        [str(threads), name, *own_line(times, of_shape[second] if name == first else None)]
        for threads, of_shape in found.items()
        for name, times in of_shape.items()
    ]
    return table(head, lines, 2)


def others_table(found: dict[int, dict[str, Times]], others: list[str]) -> str:
    """What takes the same 16 bits, of the ways that are here."""
    columns = [cell(way, half) for way in others for half in HALVES]
    columns = [c for c in columns if any(c in t for of in found.values() for t in of.values())]
    columns.append(cell(LIMIT, "bfloat16"))
    head = ["threads", "rows x classes", *columns, f"{cell(TORCH, 'bfloat16')} / {OURS}"]
    lines = []
    for threads, of_shape in found.items():
        for name, times in of_shape.items():
            line = [milliseconds(times, *column.rsplit(", ", 1)) for column in columns]
            peer = times.get(cell(TORCH, "bfloat16"))
            line.append(ratio(peer, times[cell(OURS, "bfloat16")]))
            lines.append([str(threads), name, *line])
    return table(head, lines, 2)


def slower(found: dict[int, dict[str, Times]]) -> str:
    """In words, where 16 bits take longer than float32."""
    cells = [
        f"{name} in {half} on {threads} thread{'s' * (threads > 1)} ({by:.0%})"
        for threads, of_shape in found.items()
        for name, times in of_shape.items()
        for half in HALVES
        if (by := times[cell(OURS, half)] / times[cell(OURS, "float32")] - 1) >= 0.01
    ]
    return f"Slower than float32 by 1 % and more: {'; '.join(cells) or 'nothing here'}."


def report(found: dict[int, dict[str, Times]], others: list[str]) -> str:
    parts = ["Milliseconds of `softmax_cross_entropy_grad`, in place:", own_table(found)]
    parts += [slower(found), "The same 16 bits by others:", others_table(found, others)]
    parts.append(where(*LIBRARIES))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    parser.add_argument("--compiled", action="store_true", help="PyTorch's compiler too")
    parser.add_argument("--quick", action="store_true", help="few rows, once")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--quick is too short a measurement for the page")
    if options.quick:
        globals().update(QUICK)
    others = [CHUNKS, TORCH, JAX, *([COMPILED] if options.compiled else [])]
    if options.worker:
        print(json.dumps(measure(options.worker, others)))
        return
    passed = [f"--{name}" for name in ("compiled", "quick") if getattr(options, name)]
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {n: in_a_process(n, passed) for n in sorted({1, every or 1})}
    text = report(found, others)
    if options.write:
        write_block(PAGE, "speed", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
