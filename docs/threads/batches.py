"""When a second thread pays: calls of this library on one thread and on two.

Knows: the public functions, what a caller does between two calls.
Must not know: how threads are chosen when nobody chooses, tables' layout.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from tables import number, table
from tqdm import tqdm

from xent_fast import softmax_cross_entropy_grad

CLASSES = (3, 10, 100, 1_000, 32_000)
LOGITS = tuple(2**power for power in range(12, 21))
ROUNDS, VISIT = 6, 6
WORTHWHILE = 1.05
CALLERS = (1, 2, 4, 8)
CALLERS_SECONDS, CALLERS_ROUNDS = 0.25, 5


def be_busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


CONDITIONS: dict[str, Callable[[], object]] = {
    "at once": lambda: None,
    "after 1 ms": lambda: be_busy(1e-3),
    "after 10 ms": lambda: be_busy(10e-3),
}


def batch(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, classes), np.float32), rng.integers(0, classes, rows)


Times = dict[int, list[float]]


def time_both(rows: int, classes: int, before: Callable[[], object], times: Times) -> None:
    """Add microseconds of calls to the lists, which are by number of threads."""
    pristine, labels = batch(rows, classes)
    logits = pristine.copy()
    for threads, samples in times.items():
        for visit in range(VISIT):
            np.copyto(logits, pristine)
            before()
            start = time.perf_counter()
            softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=threads)
            elapsed = time.perf_counter() - start
            if visit:
                samples.append(elapsed * 1e6)


def medians(shapes: list[tuple[int, int]]) -> dict[tuple[int, int, str], dict[int, float]]:
    """By rows, classes and condition: rounds over everything, so that a disturbance spoils one."""
    cells = [(*shape, name) for shape in shapes for name in CONDITIONS]
    times: dict[tuple[int, int, str], Times] = {cell: {1: [], 2: []} for cell in cells}
    gc.disable()
    for rows, classes, name in tqdm(ROUNDS * cells, unit="visit", leave=False):
        time_both(rows, classes, CONDITIONS[name], times[rows, classes, name])
    gc.enable()
    return {
        cell: {threads: median(samples) for threads, samples in both.items()}
        for cell, both in times.items()
    }


def pays_from(cells: dict[int, dict[int, float]]) -> str:
    """The smallest batch (time on one thread) from which on two threads are always faster."""
    first = ""
    for logits, times in sorted(cells.items()):
        if times[1] < WORTHWHILE * times[2]:
            first = ""
        elif not first:
            first = f"{logits:,} ({number(times[1])} µs)"
    return first or "beyond"


def crossover() -> str:
    """Time on one thread and on two, by shape and by what came before."""
    shapes = [(n // classes, classes) for classes in CLASSES for n in LOGITS if n >= 2 * classes]
    times = medians(shapes)
    summary = [
        [f"{classes:,}"]
        + [
            pays_from({r * c: times[r, c, name] for r, c in shapes if c == classes})
            for name in CONDITIONS
        ]
        for classes in CLASSES
    ]
    lines = []
    for rows, classes in shapes:
        both = [times[rows, classes, name] for name in CONDITIONS]
        ratios = [f"{number(t[1])} / {number(t[2])} = {t[1] / t[2]:.2f}" for t in both]
        lines.append([f"{classes:,}", f"{rows:,}", f"{rows * classes:,}", *ratios])
    return (
        f"Logits from which two threads are at least {WORTHWHILE} times as fast (time on one):\n\n"
        + table(["classes", *CONDITIONS], summary)
        + "\nMicroseconds on one thread / on two = ratio:\n\n"
        + table(["classes", "rows", "logits", *CONDITIONS], lines)
    )


def calls_a_second(callers: int, rows: int, classes: int, num_threads: int) -> float:
    counts = [0] * callers
    barrier = threading.Barrier(callers)
    logits, labels = batch(rows, classes)

    def work(caller: int) -> None:
        own = logits.copy()
        barrier.wait()
        end = time.perf_counter() + CALLERS_SECONDS
        while time.perf_counter() < end:
            softmax_cross_entropy_grad(own, labels, out=own, num_threads=num_threads)
            counts[caller] += 1

    threads = [threading.Thread(target=work, args=(caller,)) for caller in range(callers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def many_callers() -> str:
    """Calls a second by batch, callers, and threads of a call: medians of several rounds."""
    shapes = ((64, 10), (64, 1_000), (256, 1_000), (1_024, 1_000))
    cells = [
        (callers, *shape, threads) for shape in shapes for callers in CALLERS for threads in (1, 2)
    ]
    rates: dict[tuple[int, int, int, int], list[float]] = {cell: [] for cell in cells}
    for cell in tqdm(CALLERS_ROUNDS * cells, unit="visit", leave=False):
        rates[cell].append(calls_a_second(*cell))
    lines = [
        [f"{rows:,} x {classes:,}", str(callers)]
        + [f"{median(rates[callers, rows, classes, threads]):,.0f}" for threads in (1, 2)]
        for rows, classes in shapes
        for callers in CALLERS
    ]
    header = ["batch", "Python threads that call", "`num_threads=1`", "`num_threads=2`"]
    return "Calls a second, all callers together:\n\n" + table(header, lines)
